"""Measurements of exported files, each by `trimlab.measure` in a clean process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import trimlab.measure
from trimlab import machine, onnx_files, params, paths, progress, records
from trimlab.errors import UserError
from trimlab.params import Precision

# fmt: off
_LINEAGE = {
    "workload", "model", "dataset", "dataset_sha256", "split", "num_classes", "num_images", "seed",
    "weights_sha256", "variant", "ratio", "num_params", "macs",
}
"""What a measurement has from its variant's pruning record."""
_MEASURED = (
    "runtime", "runtime_version", "file_sha256", "file_bytes", "top1_accuracy", "predictions_sha256",
    "latency", "batch_latency", "yardstick_sha256", "yardstick_latency", "yardstick_batch_latency",
    "peak_memory_bytes",
)
"""What it has from `trimlab.measure`."""
# fmt: on


def benchmark_variant(study: params.Params, variant: str) -> list[records.Measurement]:
    """Measure a variant's file of each seed and precision; write records and, beside them, predicted labels.

    A variant without precisions gets an empty list of records, which is what DVC finds as its output.

    Raises:
        UserError: a file cannot be measured, or not by the interpreter that TRIMLAB_PYTHON names.
    """
    measured: list[records.Measurement] = []
    if study.variants[variant].precisions:
        with tempfile.TemporaryDirectory() as scratch:
            pack = Path(scratch) / "dataset.npz"
            write_pack(study.workload_of(variant).dataset, study.data.split, pack)
            for cell in product(study.seeds, study.variants[variant].precisions, paths.STAGE_RUNTIMES):
                measured.append(_measure(study, variant, *cell, pack))
    _write_index(variant, measured)
    return measured


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
    """Run `python -m trimlab.measure` on a request and return what it measured.

    Raises:
        UserError: it failed, and the message has its exit code and last line; or TRIMLAB_PYTHON names no Python.
    """
    interpreter = os.environ.get("TRIMLAB_PYTHON") or sys.executable
    source = Path(trimlab.measure.__file__).parents[2]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "request.json"
        file.write_text(json.dumps(request))
        try:
            done = subprocess.run(
                [interpreter, "-m", "trimlab.measure", str(file)],
                env={**os.environ, "PYTHONPATH": str(source)},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise UserError(f"TRIMLAB_PYTHON {interpreter!r} does not run ({error}): name a Python") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["nothing said"])[-1].removeprefix("error: ")
        raise UserError(f"measuring {request['model']} failed with exit code {done.returncode}: {last}")
    try:
        measured: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise UserError(f"TRIMLAB_PYTHON {interpreter!r} printed no JSON: name a Python") from None
    return measured


def _measure(
    study: params.Params, variant: str, seed: int, precision: Precision, runtime: str, pack: Path
) -> records.Measurement:
    model = paths.onnx_file(variant, seed, precision)
    path = paths.measurement_file(variant, seed, precision, runtime)
    predictions = path.with_suffix(".npy")
    predictions.parent.mkdir(parents=True, exist_ok=True)
    request = {
        "model": str(model),
        "yardstick": str(onnx_files.yardstick_file(variant, seed)),
        "runtime": runtime,
        "dataset": str(pack),
        "predictions": str(predictions),
        **study.benchmark.model_dump(),
    }
    progress.say(f"benchmark {variant}: seed {seed}, {precision}, {runtime}")
    with machine.exclusive(f"benchmark {variant} {precision}") as watch:
        measured = run_measure(request)
    pruning = records.read(paths.record_file(paths.pruned(variant), seed))
    assert isinstance(pruning, records.Pruning)
    labels = np.load(paths.torch_labels_file(variant, seed))
    int8 = precision == "int8"
    record = records.Measurement(
        **pruning.model_dump(include=_LINEAGE),
        **{key: measured[key] for key in _MEASURED},
        study=study.study,
        params_digest=study.measurement_digest(variant),
        commit=records.commit(),
        created=records.now(),
        device=machine.cpu(measured["threads"], measured["python"]),
        versions={
            **machine.versions("torch", "onnx"),
            "numpy": measured["numpy"],
            measured["runtime"]: measured["runtime_version"],
        },
        contended=watch.contended,
        precision=precision,
        weight_bytes=onnx_files.weight_bytes(model),
        torch_top1_accuracy=pruning.top1_accuracy,
        torch_agreement=float(np.mean(np.load(predictions) == labels)),
        calibration_sha256=onnx_files.read_manifest(variant)["calibration_sha256"] if int8 else None,
    )
    records.write(record, path)
    return record


def _write_index(variant: str, measured: list[records.Measurement]) -> None:
    names = [paths.measurement_file(variant, item.seed, item.precision, item.runtime).name for item in measured]
    index = paths.measured(variant) / "index.json"
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_text(json.dumps({"variant": variant, "records": names}, indent=1) + "\n")
