"""A small project with the outputs of every stage up to `benchmark`, for tests of what comes after."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import factories
import onnx_examples
from trimlab import paths, records
from trimlab.benchmark import interpreters
from trimlab.benchmark import stage as benchmark_stage
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset
from trimlab.digests import sha256_of
from trimlab.models import checkpoint
from trimlab.quantize import stage as quantize_stage

WORKLOAD = {"model": "resnet20", "dataset": "digits", "training": "training.short", "precision": "fp32"}
SECTIONS = {
    "datasets": {"digits": {"source": "digits", "path": "data/none"}},
    "workloads": {"small": {**WORKLOAD, **dict.fromkeys(("code", "initial", "weights"), "data/none")}},
    "variants": {
        "small": {"workload": "small", "pruning": "sweep.none"},
        "small-r50": {"workload": "small", "pruning": "sweep.r50", "precisions": ["int8"]},
        "small-r80": {"workload": "small", "pruning": "sweep.r80", "precisions": []},
        "small-mixed": {"workload": "small", "pruning": "sweep.r50", "precisions": ["int8-mixed"]},
        "unmade": {"workload": "small", "pruning": "sweep.r80"},
    },
    "quantization": {"calibration_images": 20},
    "benchmark": {"batch_size": 64, "warmup": 1, "repeats": 10, "batch_repeats": 5, "threads": 1},
    "report": {"title": "A small study", "baseline": "small", "candidate": "small-r50"},
}
STUDY = factories.study(**SECTIONS)
NORMALISATION = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
"""What the pruning records say; a measurement has it from them."""
MADE = ("small", "small-r50", "small-r80")


@contextmanager
def measured(folder: Path) -> Iterator[Path]:
    """Yield a folder, the working directory meanwhile, with what the stages write of the variants in `MADE`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        patch.setenv("TRIMLAB_LOCK", str(folder / "lock"))  # its own: these timings need no quiet machine
        data_stage.prepare("digits", STUDY.datasets["digits"], STUDY.data)
        trained = onnx_examples.model("resnet20")
        metadata = {"model": "resnet20", "num_classes": "10"}
        checkpoint.save(trained, paths.weights_file(paths.trained("small"), 0), metadata)
        write_pruned("small", trained)
        write_pruned("small-r50", onnx_examples.model("resnet20", seed=1))
        interpreters.find_runtimes(["onnxruntime", "openvino"])
        quantize_stage.export_workload(STUDY, "small")
        for variant in MADE:
            quantize_stage.quantize_variant(STUDY, variant)
            benchmark_stage.benchmark_variant(STUDY, variant)
        yield folder


def write_pruned(variant, model):
    dataset = load_dataset("digits")
    weights = paths.weights_file(paths.pruned(variant), 0)
    checkpoint.save(model, weights, {"model": "resnet20", "num_classes": "10", "variant": variant})
    images = dataset.test_images
    labels = model(dataset.normalise(images)).argmax(1).numpy().astype(np.uint16)
    np.save(paths.torch_labels_file(variant, 0), labels)
    sha256 = sha256_of(weights)
    scored = {"num_images": len(images), "dataset_sha256": dataset.sha256, "normalisation": NORMALISATION}
    record = factories.pruning(STUDY, variant, weights_sha256=sha256, **scored)
    records.write_outcome(record, paths.outcome_file(paths.pruned(variant), 0))
    records.write(record, paths.record_file(paths.pruned(variant), 0))
