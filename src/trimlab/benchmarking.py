"""Measurements of exported files, each by `trimlab.measure` in a clean process of its own."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trimlab import fingerprint, interpreters, machine, onnx_files, params, paths, progress, records
from trimlab.errors import UserError
from trimlab.measure import dataset, device, runtimes, weights
from trimlab.measure.errors import MeasureError, NoRuntimeError, UnavailableError
from trimlab.measure.session import Settings
from trimlab.records import MADE_FROM, Computed

_LINEAGE = {
    "workload", "model", "dataset", "dataset_sha256", "split", "num_classes", "num_images", "seed",
    "weights_sha256", "normalisation", "variant", "ratio", "num_params", "macs",
}  # fmt: skip
"""What a measurement has from its variant's pruning record."""


_FILES = ("model", "yardstick", "torch_labels", "calibration")
"""Files of a request whose content decides the measurement; the dataset's digest is in the lineage."""

_PLACES = ("dataset", "onnx_labels", "exact_labels", "engines")
"""Entries of a request that only say where something lies: they follow from the files."""


class Cell(NamedTuple):
    """One file in one runtime."""

    variant: str
    seed: int
    precision: Computed
    runtime: str

    @property
    def file(self) -> Path:
        """The ONNX file: TensorRT has an INT8 file of its own; what a runtime converts itself is the FP32 one."""
        symmetric = self.precision == "int8" and self.on_gpu
        stored = "fp32" if self.precision in ("tf32", "bf16", "int8-entropy") else self.precision
        return paths.onnx_file(self.variant, self.seed, stored, onnx_files.SYMMETRIC if symmetric else "")

    @property
    def seven_bit_file(self) -> Path | None:
        """The INT8 file for processors that saturate with 8-bit weights; None where it is not needed."""
        if self.precision != "int8" or self.on_gpu:
            return None
        return paths.onnx_file(self.variant, self.seed, "int8", onnx_files.SEVEN_BIT)

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU computes."""
        return self.runtime == "tensorrt"


def cells(study: params.Params, variant: str, wanted: Sequence[params.Runtime]) -> Iterator[Cell]:
    """Yield what is measured of a variant: its seeds, in its precisions as each wanted runtime computes them."""
    precisions = study.variants[variant].precisions
    for seed, runtime in product(study.seeds, wanted):
        for precision in runtimes.PRECISIONS[runtime]:
            if MADE_FROM.get(precision, precision) in precisions:
                yield Cell(variant, seed, precision, runtime)  # type: ignore[arg-type]


def benchmark_variant(study: params.Params, variant: str) -> list[records.Measurement]:
    """Measure a variant's file of each seed and precision; write records and, beside them, predicted labels.

    A variant without precisions gets an empty list of records, which is what DVC finds as its output. What this
    machine can't measure is reported and skipped. Where one file fails, the others are still measured, and kept for the
    next call; the same holds where this call is killed.

    Raises:
        UserError: a file cannot be measured, or not by the interpreter that TRIMLAB_PYTHON names; or nothing can.
    """
    measured: list[tuple[records.Measurement, Path]] = []
    if study.variants[variant].precisions:
        here = interpreters.found_runtimes(study.benchmark.runtimes)
        with tempfile.TemporaryDirectory() as scratch:
            measured = list(_measure_all(study, list(cells(study, variant, here)), Path(scratch)))
        if not measured:
            raise UserError(f"{variant}: {', '.join(here)} can't measure any of its precisions here: add a runtime")
    found = [record for record, _ in measured]
    _write_index(variant, found)
    for _, kept in measured:
        # Those alone: another process may be at work on the same variant with other params.
        kept.unlink(missing_ok=True)
        kept.with_suffix(".npy").unlink(missing_ok=True)
    return found


def request(study: params.Params, cell: Cell, pack: Path, scratch: Path) -> dict[str, Any]:
    """Return what `trimlab.measure` is asked of a cell, but for where the predicted labels go (`predictions`).

    Args:
        study: the whole params.
        cell: what to measure.
        pack: what `write_pack` wrote.
        scratch: folder for the labels that `score` writes.
    """
    timing = study.benchmark
    return {
        "model": str(cell.file),
        "precision": cell.precision,
        "yardstick": str(onnx_files.yardstick_file(cell.variant, cell.seed)),
        "runtime": cell.runtime,
        "dataset": str(pack),
        "torch_labels": str(paths.torch_labels_file(cell.variant, cell.seed)),
        **_labels(cell, cell.file, scratch),
        "seven_bit": _seven_bit(cell, scratch),
        "calibration": str(onnx_files.calibration_file(cell.variant)) if cell.precision == "int8-entropy" else None,
        "engines": str(paths.project_root() / paths.SCRATCH / "engines") if cell.on_gpu else None,
        "batch_size": timing.gpu_batch_size if cell.on_gpu else timing.batch_size,
        **timing.model_dump(include={"warmup", "repeats", "batch_repeats", "threads", "builds"}),
        "lineage": _lineage(study, cell),
    }


def score(asked: dict[str, Any]) -> None:
    """Write the labels that ONNX Runtime predicts, once per file: for a request's file and its 7-bit variant.

    An INT8 file is computed as it is written, in float between Q and DQ: the reference that a runtime's kernels, or
    another runtime, are compared with must not depend on this machine's processor.

    Raises:
        UserError: a file is missing or broken.
    """
    for part in filter(None, (asked, asked["seven_bit"])):
        labels = part["exact_labels"] or part["onnx_labels"]
        if labels and not Path(labels).exists():
            _score(Path(part["model"]), Path(asked["dataset"]), Path(labels), exact=bool(part["exact_labels"]))


def write_pack(workload: params.Workload, split: str, path: Path) -> None:
    """Write what `trimlab.measure` scores on: images (N, C, H, W) uint8, labels (N,), mean and std (C,)."""
    from trimlab import data  # torch: not for a variant without precisions

    prepared = data.load_for(workload)
    images, labels = prepared.scored(split)
    np.savez(
        path,
        images=images.numpy(),
        labels=labels.numpy(),
        mean=prepared.mean.numpy(),
        std=prepared.std.numpy(),
    )


def _measure_all(study: params.Params, todo: list[Cell], scratch: Path) -> Iterator[tuple[records.Measurement, Path]]:
    """Yield records, each with the file in which it is kept for the next call."""
    pack = scratch / "dataset.npz"
    if todo:
        write_pack(study.workload_of(todo[0].variant), study.data.split, pack)
    failed: list[str] = []
    for cell in todo:
        try:
            yield _measure(study, cell, pack, scratch)
        except NoRuntimeError as error:
            # It was there when `runtimes` looked: without it this would become the result of machines that have it.
            failed.append(f"{cell.runtime} is no longer available here ({error}): run `dvc repro -f -s runtimes`")
            progress.say(f"error: {failed[-1]}")
        except UserError as error:
            progress.say(f"error: {error}")
            failed.append(str(error))
        except UnavailableError as error:
            progress.say(f"{cell.runtime} {cell.precision} is not measured here: {error}")
    if failed:
        more = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; what was measured is kept for the next call")


def _measure(study: params.Params, cell: Cell, pack: Path, scratch: Path) -> tuple[records.Measurement, Path]:
    path = paths.measurement_file(*cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    progress.say(f"benchmark {cell.variant}: seed {cell.seed}, {cell.precision}, {cell.runtime}")
    with machine.exclusive(f"benchmark {cell.variant} {cell.precision}"):
        asked = weights.fitted(request(study, cell, pack, scratch))
        kept = paths.kept_measurement(cell.variant, _digest(asked))
        record = _take(kept, path)
        if record is None:
            score(asked)
            measured = interpreters.run_measure({**asked, "predictions": str(path.with_suffix(".npy"))})
            record = _checked(measured, cell)
            records.write(record, path)
            _keep(path, kept)
    if cell.runtime == "onnxruntime" and not asked["exact_labels"]:
        shutil.copyfile(path.with_suffix(".npy"), _labels_file(cell.file, scratch))
    return record, kept


def _checked(measured: dict[str, Any], cell: Cell) -> records.Measurement:
    record = records.parse(json.dumps(measured), f"what {cell.runtime} gave for {cell.file}")
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
    if not isinstance(record, records.Measurement) or records.sha256_of(labels) != record.predictions_sha256:
        return None
    records.write(record, path)
    return record


def _keep(path: Path, kept: Path) -> None:
    """Copy a record and its labels to where the next call looks; the record last, whole or not at all."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".npy", ".json"):
        scratch = kept.with_suffix(f"{suffix}.tmp")
        shutil.copyfile(path.with_suffix(suffix), scratch)
        scratch.replace(kept.with_suffix(suffix))


def _digest(asked: dict[str, Any]) -> str:
    """Return the sha256 of what decides a measurement: files by their content, because their paths change.

    The code that measures is part of it: what older code measured is not a result of the current code.
    """
    files = {key: asked[key] and sha256_of_input(Path(asked[key])) for key in _FILES}
    values = {key: value for key, value in asked.items() if key not in _PLACES} | files
    values["code"] = fingerprint.of("trimlab.measure.__main__")
    values["processor"] = device.identity(device.cpu(asked["threads"] or device.cores()))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of_input(path: Path) -> str:
    """Return the sha256 of a file that a former stage wrote.

    Raises:
        UserError: it is missing.
    """
    try:
        return records.sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `dvc repro`, which makes it again") from None


def _lineage(study: params.Params, cell: Cell) -> dict[str, Any]:
    pruning = records.read(paths.record_file(paths.pruned(cell.variant), cell.seed))
    assert isinstance(pruning, records.Pruning)
    calibrated = cell.precision in ("int8", "int8-entropy")
    return {
        "kind": "measurement",
        **pruning.model_dump(include=_LINEAGE),
        "study": study.study,
        "params_digest": study.measurement_digest(cell.variant),
        "commit": records.commit(),
        "versions": machine.versions("torch", "onnx"),
        "weight_bytes": onnx_files.weight_bytes(cell.file),
        "weight_bits": 8 if cell.precision == "int8" else None,
        "torch_top1_accuracy": pruning.top1_accuracy,
        "calibration_sha256": onnx_files.read_manifest(cell.variant)["calibration_sha256"] if calibrated else None,
    }


def _seven_bit(cell: Cell, scratch: Path) -> dict[str, Any] | None:
    """Return the entries of a request that change where the file with 7-bit weights is run."""
    file = cell.seven_bit_file
    if file is None:
        return None
    lineage = {"weight_bytes": onnx_files.weight_bytes(file), "weight_bits": 7}
    return {"model": str(file), **_labels(cell, file, scratch), "lineage": lineage}


def _labels(cell: Cell, file: Path, scratch: Path) -> dict[str, str | None]:
    """Return the paths of the labels that a file's are compared with; see `score`."""
    labels = str(_labels_file(file, scratch))
    return {
        "onnx_labels": None if cell.runtime == "onnxruntime" else labels,
        "exact_labels": labels if cell.precision == "int8" else None,
    }


def _labels_file(file: Path, scratch: Path) -> Path:
    return scratch / f"{file.stem}-labels.npy"


def _score(file: Path, pack: Path, labels: Path, exact: bool) -> None:
    how = "ONNX Runtime, without fused kernels" if exact else "ONNX Runtime"
    progress.say(f"scoring {file.name} in {how}")
    settings = Settings("int8" if exact else "fp32", device.cores(), 64, exact=exact)
    try:
        session = runtimes.open_file("onnxruntime", str(file), settings)
        predicted = dataset.predict(session, dataset.load(str(pack), session.image_shape), settings.batch_size)
    except MeasureError as error:
        raise UserError(str(error)) from None
    np.save(labels, predicted)


def _write_index(variant: str, measured: list[records.Measurement]) -> None:
    names = [paths.measurement_file(variant, item.seed, item.precision, item.runtime).name for item in measured]
    index = paths.index_file(variant)
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps({"variant": variant, "records": names}, indent=1) + "\n")
