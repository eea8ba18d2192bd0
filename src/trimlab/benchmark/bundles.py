"""Bundles: a zip that measures a study's files on another device, with Python, numpy and a runtime there."""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trimlab import config, paths, progress
from trimlab.benchmark import interpreters, runner
from trimlab.benchmark.stage import request
from trimlab.benchmark.targets import targets
from trimlab.errors import UserError
from trimlab.measure import contract
from trimlab.measure.bundle import INDEX
from trimlab.measure.contract import Request

_MAIN = """import sys

from trimlab.measure.bundle import main

sys.exit(main(sys.argv[0], sys.argv[1:]))
"""


def write(study: config.Params, variants: Sequence[str], wanted: Sequence[config.Runtime], path: Path) -> int:
    """Write a bundle; return how many measurements it asks for. The file appears whole or not at all.

    Args:
        study: the whole params.
        variants: keys of `variants`, already exported by `dvc repro`.
        wanted: runtimes to measure in, where the device has them.
        path: the zip file.

    Raises:
        UserError: a variant is unknown, has no precisions, or was not exported; or the file cannot be written.
    """
    _check(study, variants)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        _check_place(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
            count = _fill(bundle, study, variants, wanted)
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"--out {path} cannot be written ({error.strerror}): name a file in another folder") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return count


def _check_place(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"--out {path} is a folder: name a file in it, such as {path / 'bundle.zip'}")
    if path.exists() and not path.is_file():  # a device or a pipe, which the bundle would replace
        raise UserError(f"--out {path} is no regular file: name another one")


def _fill(
    bundle: zipfile.ZipFile, study: config.Params, variants: Sequence[str], wanted: Sequence[config.Runtime]
) -> int:
    """Fill a bundle; return how many requests it has."""
    with tempfile.TemporaryDirectory() as folder:
        asked = _requests(study, variants, wanted, Path(folder))
        stored = [contract.moved(request, lambda file: _store(bundle, Path(file))) for request in asked]
    bundle.writestr(INDEX, json.dumps([contract.to_json(request) for request in stored], indent=1))
    bundle.writestr("__main__.py", _MAIN)
    for file, name in interpreters.sources():
        bundle.write(file, name)
    return len(stored)


def _check(study: config.Params, variants: Sequence[str]) -> None:
    for variant in variants:
        if variant not in study.variants:
            raise UserError(f"variant {variant!r} is not in the study: use some of {', '.join(study.variants)}")
        if not study.variants[variant].precisions:
            raise UserError(f"variants.{variant}.precisions [] leaves nothing to measure: name another variant")
        if not paths.quantized(variant).is_dir():
            raise UserError(f"{paths.quantized(variant)} does not exist: run `dvc repro quantize@{variant}`")


def _requests(
    study: config.Params, variants: Sequence[str], wanted: Sequence[config.Runtime], folder: Path
) -> list[Request]:
    found = []
    for variant in variants:
        pack = folder / f"{study.variants[variant].workload}.npz"
        if not pack.exists():
            runner.write_pack(study.workload_of(variant), study.data.split, pack)
        labels = folder / variant
        labels.mkdir()
        for target in targets(study, variant, wanted):
            progress.say(f"bundle {variant}: seed {target.seed}, {target.precision}, {target.runtime}")
            found.append(request(study, target, pack, labels))
            runner.score(found[-1])
    return found


def _store(bundle: zipfile.ZipFile, file: Path) -> str:
    """Store a file, each content once; return its name in the bundle."""
    name = f"files/{runner.sha256_of_input(file)[:16]}{file.suffix}"
    if name not in bundle.namelist():
        bundle.write(file, name)
    return name
