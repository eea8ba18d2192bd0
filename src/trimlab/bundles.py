"""Bundles: a zip that measures a study's files on another device, with Python, numpy and a runtime there."""

import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trimlab import benchmarking, measure, params, paths, progress, records
from trimlab.errors import UserError
from trimlab.measure.bundle import FILES, INDEX

_MAIN = """import sys

from trimlab.measure.bundle import main

sys.exit(main(sys.argv[0], sys.argv[1:]))
"""


def write(study: params.Params, variants: Sequence[str], wanted: Sequence[params.Runtime], path: Path) -> int:
    """Write a bundle; return how many measurements it asks for. The file appears whole or not at all.

    Args:
        study: the whole params.
        variants: keys of `variants`, already exported by `dvc repro`.
        wanted: runtimes to measure in, where the device has them.
        path: the zip file.

    Raises:
        UserError: a variant is unknown, has no precisions, or was not exported.
    """
    _check(study, variants)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as bundle:
        asked = _requests(study, variants, wanted, Path(folder))
        for request in asked:
            _store_files(bundle, request)
        bundle.writestr(INDEX, json.dumps(asked, indent=1))
        bundle.writestr("__main__.py", _MAIN)
        _store_source(bundle)
    scratch.replace(path)
    return len(asked)


def _check(study: params.Params, variants: Sequence[str]) -> None:
    for variant in variants:
        if variant not in study.variants:
            raise UserError(f"variant {variant!r} is not in the study: use some of {', '.join(study.variants)}")
        if not study.variants[variant].precisions:
            raise UserError(f"variants.{variant}.precisions [] leaves nothing to measure: name another variant")
        if not paths.quantized(variant).is_dir():
            raise UserError(f"{paths.quantized(variant)} does not exist: run `dvc repro quantize@{variant}`")


def _requests(
    study: params.Params, variants: Sequence[str], wanted: Sequence[params.Runtime], folder: Path
) -> list[dict[str, Any]]:
    found = []
    for variant in variants:
        dataset = study.workload_of(variant).dataset
        pack = folder / f"{dataset}.npz"
        if not pack.exists():
            benchmarking.write_pack(dataset, study.data.split, pack)
        labels = folder / variant
        labels.mkdir()
        for cell in benchmarking.cells(study, variant, wanted):
            progress.say(f"bundle {variant}: seed {cell.seed}, {cell.precision}, {cell.runtime}")
            found.append(benchmarking.request(study, cell, pack, labels))
    return found


def _store_files(bundle: zipfile.ZipFile, request: dict[str, Any]) -> None:
    """Store what a request needs, each content once, and name it there."""
    for key in FILES:
        if request[key]:
            file = Path(request[key])
            name = f"files/{records.sha256_of(file)[:16]}{file.suffix}"
            if name not in bundle.namelist():
                bundle.write(file, name)
            request[key] = name


def _store_source(bundle: zipfile.ZipFile) -> None:
    package = Path(measure.__file__).parent
    for file in [package.parent / "__init__.py", *sorted(package.glob("*.py"))]:
        bundle.write(file, file.relative_to(package.parents[1]))
