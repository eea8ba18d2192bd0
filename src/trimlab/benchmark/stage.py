"""The stage `benchmark`: every file of a variant, measured by `trimlab.measure` in a clean process of its own."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from trimlab import config, dvc_files, formats, machine, paths, progress, records
from trimlab.benchmark import interpreters, runner
from trimlab.benchmark.targets import Target, targets
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.measure import weights
from trimlab.measure.contract import Request, SevenBit
from trimlab.measure.errors import NoRuntimeError, UnavailableError
from trimlab.quantize import onnx_files

_LINEAGE = (records.fields_with(records.Pruning, records.OF_WEIGHTS) & set(records.Measurement.model_fields)) - {
    *("top1_accuracy", "top5_accuracy", "macro_f1", "per_class"),  # of the torch model there, of the file here
}
"""What a measurement has from its variant's weights."""


def benchmark_variant(study: config.Params, variant: str) -> list[records.Measurement]:
    """Measure a variant's file of each seed and precision; write records and, beside them, predicted labels.

    Only what was asked otherwise before is measured: another runtime, or another setting of one runtime, leaves the
    other records as they are. Where nothing is asked otherwise, the cell was forced: everything is measured again.

    A variant without precisions gets an empty list of records, which is what DVC finds as its output. What this
    machine can't measure is reported and skipped. Where one file fails, the others are still measured, and kept for the
    next call; the same holds where this call is killed.

    Raises:
        UserError: a file cannot be measured, or not by the interpreter that TRIMLAB_PYTHON names; or nothing can.
    """
    measured: list[_Measured] = []
    asked: set[str] = set()
    if study.variants[variant].precisions:
        here = interpreters.found_runtimes(study.benchmark.runtimes)
        with tempfile.TemporaryDirectory() as scratch:
            measured, asked = _measure_all(study, variant, list(targets(study, variant, here)), Path(scratch))
        if not measured:
            raise UserError(f"{variant}: {', '.join(here)} can't measure any of its precisions here: add a runtime")
    _write_index(variant, measured)
    _put_aside(study, variant, measured, asked)
    return [each.record for each in measured]


class _Measured(NamedTuple):
    """A record, and what it answers."""

    record: records.Measurement
    request: str
    """The request's digest."""
    kept: Path
    """Where the record is kept for the next call, until all of the variant's are there."""


def request(study: config.Params, target: Target, pack: Path, scratch: Path) -> Request:
    """Return what `trimlab.measure` is asked of a target; the predicted labels go beside its record.

    Args:
        study: the whole params.
        target: what to measure.
        pack: what `runner.write_pack` wrote.
        scratch: folder for the labels that `runner.score` writes.
    """
    timing, workload = study.benchmark, study.variants[target.variant].workload
    onnx_labels, exact_labels = runner.labels(target, target.file, scratch)
    return Request(
        model=str(target.file),
        precision=target.precision,
        baseline=str(onnx_files.baseline_file(workload, target.seed)),
        runtime=target.runtime,
        images=str(runner.images_file(pack)),
        pack=str(pack),
        predictions=str(paths.measurement_file(*target).with_suffix(".npy")),
        torch_labels=str(paths.torch_labels_file(target.variant, target.seed)),
        onnx_labels=onnx_labels,
        exact_labels=exact_labels,
        seven_bit=_seven_bit(target, scratch),
        calibration=str(onnx_files.calibration_file(workload)) if target.precision == "int8-entropy" else None,
        engines=str(paths.project_root() / paths.STATE / "engines") if target.on_gpu else None,
        batch_size=timing.gpu_batch_size if target.on_gpu else timing.batch_size,
        warmup=timing.warmup,
        repeats=timing.repeats,
        batch_repeats=timing.batch_repeats,
        processes=timing.processes,
        threads=timing.threads,
        builds=timing.builds if target.on_gpu else 1,
        lineage=_lineage(study, target),
    )


def _measure_all(
    study: config.Params, variant: str, todo: list[Target], scratch: Path
) -> tuple[list[_Measured], set[str]]:
    """Return what was measured, and the digests of all requests: some may not be available here."""
    pack, failed, measured = scratch / "pack.npz", list[str](), list[_Measured]()
    runner.write_pack(study.workload_of(variant), study.data.split, pack)
    asked: dict[Target, tuple[Request, str]] = {}
    for target in todo:
        try:
            wanted = weights.fitted(request(study, target, pack, scratch))
            asked[target] = wanted, runner.digest(wanted)
        except UserError as error:
            progress.say(f"error: {error}")
            failed.append(str(error))
    digests = {digest for _, digest in asked.values()}
    former = _asked_before(study, variant, digests)
    for target, (wanted, digest) in asked.items():
        try:
            measured.append(_measure(target, wanted, digest, former, scratch))
        except NoRuntimeError as error:
            # It was there when `runtimes` looked: without it this would become the result of machines that have it.
            failed.append(f"{target.runtime} is no longer available here ({error}): run `dvc repro -f -s runtimes`")
            progress.say(f"error: {failed[-1]}")
        except UserError as error:
            progress.say(f"error: {error}")
            failed.append(str(error))
        except UnavailableError as error:
            progress.say(f"{target.runtime} {target.precision} is not measured here: {error}")
    if failed:
        more = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; what was measured is kept for the next call")
    return measured, digests


def _measure(target: Target, asked: Request, digest: str, former: set[str], scratch: Path) -> _Measured:
    path = paths.measurement_file(*target)
    path.parent.mkdir(parents=True, exist_ok=True)
    progress.say(f"benchmark {target.variant}: seed {target.seed}, {target.precision}, {target.runtime}")
    with machine.exclusive(f"benchmark {target.variant} {target.precision}"):
        kept = paths.kept_measurement(target.variant, digest)
        record = _take(kept, path)
        if record is None and digest in former:
            record = _take(paths.answer(target.variant, digest), path)
        if record is None:
            runner.score(asked)
            measured = interpreters.run_measure(asked)
            record = _checked(measured, target)
            records.write(record, path)
            _keep(path, kept)
    if target.runtime == "onnxruntime" and not asked.exact_labels:
        shutil.copyfile(path.with_suffix(".npy"), runner.labels_file(target.file, scratch))
    return _Measured(record, digest, kept)


def _checked(measured: dict[str, Any], target: Target) -> records.Measurement:
    record = records.parse(json.dumps(measured), f"what {target.runtime} gave for {target.file}")
    assert isinstance(record, records.Measurement)
    return record


def _take(kept: Path, path: Path) -> records.Measurement | None:
    """Copy a kept record and its labels; return None where they are missing, or another process deletes them."""
    labels = path.with_suffix(".npy")
    try:
        record = records.read(kept)
        shutil.copyfile(kept.with_suffix(".npy"), labels)
    except (UserError, OSError):
        return None
    if not isinstance(record, records.Measurement) or sha256_of(labels) != record.predictions_sha256:
        return None
    records.write(record, path)
    return record


def _keep(path: Path, kept: Path) -> None:
    """Copy a record and its labels to where the next call looks; the record last, whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".npy", ".json"):
        temporary = kept.with_suffix(f"{suffix}.tmp")
        shutil.copyfile(path.with_suffix(suffix), temporary)
        temporary.replace(kept.with_suffix(suffix))


def _file(record: records.Measurement) -> Path:
    return paths.measurement_file(record.variant, record.seed, record.precision, record.runtime)


def _asked_before(study: config.Params, variant: str, asked: set[str]) -> set[str]:
    """Return the requests of the variant's last run; none if this run asks the same: the cell was forced.

    Where DVC was killed before it saved what that run made, dvc.lock still says what it said then: nothing was forced.
    """
    try:
        answered = json.loads(paths.answers_file(variant).read_text())
        before = set(answered["requests"])
        saved = answered.get("lock") is None or answered["lock"] != _lock_entry(variant)
        forced = saved and answered["benchmark"] == study.benchmark.model_dump() and before == asked
    except (OSError, ValueError, TypeError, LookupError):
        return set()  # there was none, or the file is not as it was written
    return set() if forced else before


def _put_aside(study: config.Params, variant: str, measured: list[_Measured], asked: set[str]) -> None:
    """Move what was kept to where the variant's next run finds it. DVC deletes the stage's output before that."""
    file = paths.answers_file(variant)
    file.parent.mkdir(parents=True, exist_ok=True)
    for each in measured:
        for suffix in (".npy", ".json"):
            if each.kept.with_suffix(suffix).exists():
                each.kept.with_suffix(suffix).replace(paths.answer(variant, each.request).with_suffix(suffix))
    answered = {"benchmark": study.benchmark.model_dump(), "requests": sorted(asked), "lock": _lock_entry(variant)}
    file.write_text(json.dumps(answered) + "\n")
    for path in file.parent.iterdir():
        if path != file and path.stem not in asked:
            path.unlink(missing_ok=True)


def _lock_entry(variant: str) -> str | None:
    return dvc_files.entry(f"benchmark@{variant}")


def _write_index(variant: str, measured: list[_Measured]) -> None:
    index = paths.index_file(variant)
    index.parent.mkdir(parents=True, exist_ok=True)
    names = [_file(each.record).name for each in measured]
    index.write_text(json.dumps({"variant": variant, "records": names}, indent=1) + "\n")


def _lineage(study: config.Params, target: Target) -> dict[str, Any]:
    outcome = records.read_outcome(paths.outcome_file(paths.pruned(target.variant), target.seed))
    known = formats.BY_NAME[target.precision]
    manifest = onnx_files.read_manifest(target.variant) if known.calibrated else {}
    return {
        "kind": "measurement",
        **{key: value for key, value in outcome.items() if key in _LINEAGE},
        "study": study.study,
        "params_digest": study.measurement_digest(target.variant, target.runtime, target.precision),
        "commit": records.commit(),
        "versions": machine.versions("torch", "onnx"),
        "weight_bytes": onnx_files.weight_bytes(target.file),
        "weight_bits": 8 if known.quantized else None,
        "torch_top1_accuracy": outcome["top1_accuracy"],
        "calibration_sha256": manifest.get("calibration_sha256"),
        "mixed": _mixed(target, target.file),
        **({"qat": manifest["qat"][str(target.seed)]} if known.trained else {}),
    }


def _seven_bit(target: Target, scratch: Path) -> SevenBit | None:
    """Return the file that is run where 8-bit weights would saturate; None where it has none."""
    file = target.seven_bit_file
    if file is None:
        return None
    lineage = {"weight_bytes": onnx_files.weight_bytes(file), "weight_bits": 7, "mixed": _mixed(target, file)}
    return SevenBit(str(file), *runner.labels(target, file, scratch), lineage)


def _mixed(target: Target, file: Path) -> dict[str, Any] | None:
    """Return how the layers were chosen that a file computes in float; None where none were."""
    if not formats.BY_NAME[target.precision].quantized:
        return None
    chosen: dict[str, Any] | None = onnx_files.read_manifest(target.variant).get("mixed", {}).get(file.name)
    return chosen
