"""Measurements of exported files, each by `trimlab.measure` in a clean process of its own."""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trimlab import machine, measure, onnx_files, params, paths, progress, records
from trimlab.errors import UserError
from trimlab.measure import dataset, isolated, runtimes
from trimlab.measure.errors import MeasureError, UnavailableError
from trimlab.measure.session import Settings
from trimlab.records import MADE_FROM, Computed

_LINEAGE = {
    "workload", "model", "dataset", "dataset_sha256", "split", "num_classes", "num_images", "seed",
    "weights_sha256", "variant", "ratio", "num_params", "macs",
}  # fmt: skip
"""What a measurement has from its variant's pruning record."""


_FILES = ("model", "yardstick", "torch_labels", "calibration")
"""What of a request decides a measurement by its content; the dataset's is in the lineage."""

_SOURCE = Path(measure.__file__).parents[2]
"""The folder that holds the package `trimlab`, for the interpreter that measures."""


class Cell(NamedTuple):
    """One file in one runtime."""

    variant: str
    seed: int
    precision: Computed
    runtime: str

    @property
    def file(self) -> Path:
        """The ONNX file: TensorRT has an INT8 file of its own; what a runtime converts itself is the FP32 one."""
        symmetric = self.precision == "int8" and self.runtime == "tensorrt"
        stored = "fp32" if self.precision in ("tf32", "bf16", "int8-entropy") else self.precision
        return paths.onnx_file(self.variant, self.seed, stored, onnx_files.SYMMETRIC if symmetric else "")


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
    machine can't measure is said and left out. Where one file fails, the others are measured all the same, and kept
    for the next call; so they are where this one is killed.

    Raises:
        UserError: a file cannot be measured, or not by the interpreter that TRIMLAB_PYTHON names; or nothing can.
    """
    measured: list[records.Measurement] = []
    if study.variants[variant].precisions:
        here = [runtime for runtime in study.benchmark.runtimes if _available(runtime)]
        with tempfile.TemporaryDirectory() as scratch:
            measured = list(_measure_all(study, list(cells(study, variant, here)), Path(scratch)))
        if not measured:
            raise UserError(
                f"{variant}: no runtime of {', '.join(study.benchmark.runtimes)} is to be had here: add one"
            )
    _write_index(variant, measured)
    for kept in paths.kept_measurements(variant):
        kept.unlink()
        kept.with_suffix(".npy").unlink()
    return measured


def request(study: params.Params, cell: Cell, pack: Path, scratch: Path) -> dict[str, Any]:
    """Return what `trimlab.measure` is asked of a cell, but for where the predicted labels go (`predictions`).

    Args:
        study: the whole params.
        cell: what to measure.
        pack: what `write_pack` wrote.
        scratch: folder for the labels that ONNX Runtime gives, where it isn't the one that is measured.
    """
    timing = study.benchmark
    on_gpu = cell.runtime == "tensorrt"
    return {
        "model": str(cell.file),
        "precision": cell.precision,
        "yardstick": str(onnx_files.yardstick_file(cell.variant, cell.seed)),
        "runtime": cell.runtime,
        "dataset": str(pack),
        "torch_labels": str(paths.torch_labels_file(cell.variant, cell.seed)),
        "onnx_labels": None if cell.runtime == "onnxruntime" else str(_onnx_labels(cell.file, pack, scratch)),
        "calibration": str(onnx_files.calibration_file(cell.variant)) if cell.precision == "int8-entropy" else None,
        "engines": str(paths.project_root() / paths.SCRATCH / "engines") if on_gpu else None,
        "batch_size": timing.gpu_batch_size if on_gpu else timing.batch_size,
        **timing.model_dump(include={"warmup", "repeats", "batch_repeats", "threads", "builds"}),
        "lineage": _lineage(study, cell),
    }


def write_pack(dataset: str, split: str, path: Path) -> None:
    """Write what `trimlab.measure` scores on: images (N, C, H, W) uint8, labels (N,), mean and std (C,)."""
    from trimlab import data  # torch: not for a variant without precisions

    prepared = data.load(dataset)
    images, labels = prepared.scored(split)
    np.savez(
        path,
        images=images.numpy(),
        labels=labels.numpy(),
        mean=prepared.mean.numpy(),
        std=prepared.std.numpy(),
    )


def run_measure(request: dict[str, Any]) -> dict[str, Any]:
    """Measure in a clean process and return the record as JSON has it; its progress is shown.

    The interpreter is TRIMLAB_PYTHON_RUNTIME's (a runtime may need a Python of its own), TRIMLAB_PYTHON's, or this.

    Raises:
        UnavailableError: this machine can't measure that.
        UserError: it failed, or the interpreter is none.
    """
    try:
        return isolated.run(_interpreter(request["runtime"]), _SOURCE, request)
    except UnavailableError:
        raise
    except MeasureError as error:
        raise UserError(str(error)) from None


def _available(runtime: str) -> bool:
    """Ask before anything is loaded or scored: that takes long."""
    try:
        return isolated.available(_interpreter(runtime), _SOURCE, runtime)
    except MeasureError as error:
        raise UserError(str(error)) from None


def _interpreter(runtime: str) -> str:
    own = os.environ.get(f"TRIMLAB_PYTHON_{runtime.upper()}")
    return own or os.environ.get("TRIMLAB_PYTHON") or sys.executable


def _measure_all(study: params.Params, todo: list[Cell], scratch: Path) -> Iterator[records.Measurement]:
    pack = scratch / "dataset.npz"
    if todo:
        write_pack(study.workload_of(todo[0].variant).dataset, study.data.split, pack)
    failed: list[str] = []
    for cell in todo:
        try:
            yield _measure(study, cell, pack, scratch)
        except UserError as error:
            progress.say(f"error: {error}")
            failed.append(str(error))
        except UnavailableError as error:
            progress.say(f"{cell.runtime} {cell.precision} is not measured here: {error}")
    if failed:
        more = f", and {len(failed) - 1} more failed" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; what was measured is kept for the next call")


def _measure(study: params.Params, cell: Cell, pack: Path, scratch: Path) -> records.Measurement:
    path = paths.measurement_file(*cell)
    progress.say(f"benchmark {cell.variant}: seed {cell.seed}, {cell.precision}, {cell.runtime}")
    with machine.exclusive(f"benchmark {cell.variant} {cell.precision}"):
        asked = request(study, cell, pack, scratch)
        kept = paths.kept_measurement(cell.variant, _digest(asked))
        labels = kept.with_suffix(".npy")
        if not kept.exists():
            measured = run_measure({**asked, "predictions": str(labels)})
            records.write(records.Measurement.model_validate(measured), kept)
    if cell.runtime == "onnxruntime":
        shutil.copyfile(labels, _onnx_labels_file(cell.file, scratch))
    path.parent.mkdir(parents=True, exist_ok=True)
    for source, target in ((labels, path.with_suffix(".npy")), (kept, path)):
        shutil.copyfile(source, target)
    record = records.read(path)
    assert isinstance(record, records.Measurement)
    return record


def _digest(asked: dict[str, Any]) -> str:
    """Return the sha256 of what decides a measurement: files by their content, for some lie elsewhere each time."""
    files = {key: asked[key] and records.sha256_of(Path(asked[key])) for key in _FILES}
    folders = ("dataset", "onnx_labels", "engines")
    values = {key: value for key, value in asked.items() if key not in folders} | files
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


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
        "torch_top1_accuracy": pruning.top1_accuracy,
        "calibration_sha256": onnx_files.read_manifest(cell.variant)["calibration_sha256"] if calibrated else None,
    }


def _onnx_labels_file(file: Path, scratch: Path) -> Path:
    return scratch / f"{file.stem}-labels.npy"


def _onnx_labels(file: Path, pack: Path, scratch: Path) -> Path:
    """Return the labels that ONNX Runtime gives the images, scored once a file: an engine is compared with them."""
    path = _onnx_labels_file(file, scratch)
    if not path.exists():
        progress.say(f"scoring {file.name} in ONNX Runtime")
        settings = Settings("fp32", runtimes.cores(), 64)
        session = runtimes.open_file("onnxruntime", str(file), settings)
        np.save(path, dataset.predict(session, dataset.load(str(pack), session.image_shape), settings.batch_size))
    return path


def _write_index(variant: str, measured: list[records.Measurement]) -> None:
    names = [paths.measurement_file(variant, item.seed, item.precision, item.runtime).name for item in measured]
    index = paths.index_file(variant)
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps({"variant": variant, "records": names}, indent=1) + "\n")
