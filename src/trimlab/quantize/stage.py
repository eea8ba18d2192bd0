"""The stages `export`, for what the variants of a workload share, and `quantize`, for a variant's own ONNX files."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trimlab import config, paths, progress
from trimlab.digests import sha256_of
from trimlab.quantize import onnx_files
from trimlab.quantize.calibration import Floats
from trimlab.quantize.int8 import Files, quantize

if TYPE_CHECKING:
    from torch import Tensor

    from trimlab.data.dataset import Dataset

MANIFEST = "manifest.json"
_AT_ONCE = 100
"""Images that are normalised together."""


def export_workload(study: config.Params, workload: str) -> None:
    """Write a workload's baseline file for each seed and its calibration images, if a variant of it is exported."""
    folder = paths.exported(workload)
    folder.mkdir(parents=True, exist_ok=True)
    if any(study.variants[key].precisions for key in study.variants_of(workload)):
        from trimlab.data.dataset import calibration_images, dataset_for

        dataset = dataset_for(study.workloads[workload])
        chosen = calibration_images(dataset, study.quantization.calibration_images)
        _write_calibration(dataset, chosen, onnx_files.calibration_file(workload))
        for seed in study.seeds:
            progress.say(f"export {workload}: seed {seed}")
            weights = paths.weights_file(paths.trained(workload), seed)
            _export(weights, study.workloads[workload], dataset, onnx_files.baseline_file(workload, seed))
    # Always there: an empty folder would be no output that DVC can pull.
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    (folder / MANIFEST).write_text(json.dumps({"workload": workload, "files_sha256": files}, indent=1) + "\n")


def _write_calibration(dataset: "Dataset", chosen: "Tensor", file: Path) -> None:
    """Write the chosen training images, normalised, as (N, C, H, W) float32. They need not fit into memory."""
    images = np.lib.format.open_memmap(file, "w+", np.float32, (len(chosen), *dataset.image_shape))
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        images[start : start + _AT_ONCE] = dataset.normalise(dataset.train_images[part]).numpy()


def quantize_variant(study: config.Params, variant: str) -> None:
    """Write a variant's ONNX files for each seed and precision, and the manifest."""
    manifest: dict[str, Any] = {
        "variant": variant,
        "quantization": study.quantization.model_dump(),
        "calibration_sha256": None,
        "weights_sha256": {},
        "files_sha256": {},
    }
    if study.variants[variant].precisions:
        _write_files(study, variant, manifest)
    onnx_files.write_manifest(variant, manifest)


def _write_files(study: config.Params, variant: str, manifest: dict[str, Any]) -> None:
    from trimlab.data.dataset import calibration_images, dataset_for

    dataset = dataset_for(study.workload_of(variant))
    chosen = calibration_images(dataset, study.quantization.calibration_images)
    images = onnx_files.read_calibration(study.variants[variant].workload)
    paths.quantized(variant).mkdir(parents=True, exist_ok=True)
    for seed in study.seeds:
        progress.say(f"quantize {variant}: seed {seed}")
        files = _write_seed(study, variant, seed, dataset, images)
        weights = paths.weights_file(paths.pruned(variant), seed)
        manifest["weights_sha256"][str(seed)] = sha256_of(weights)
        manifest["files_sha256"].update({file.name: sha256_of(file) for file in files})
    if "int8" in study.variants[variant].precisions:
        manifest["calibration_sha256"] = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()


def _write_seed(study: config.Params, variant: str, seed: int, dataset: "Dataset", images: Floats) -> list[Path]:
    precisions = study.variants[variant].precisions
    fp32, fp16 = (paths.onnx_file(variant, seed, precision) for precision in ("fp32", "fp16"))
    flavours = ("", onnx_files.SEVEN_BIT, onnx_files.SYMMETRIC)
    int8 = Files(*(paths.onnx_file(variant, seed, "int8", flavour) for flavour in flavours))
    _export(paths.weights_file(paths.pruned(variant), seed), study.workload_of(variant), dataset, fp32)
    if "fp16" in precisions:
        from trimlab.quantize import export

        export.to_fp16(fp32, fp16)
    if "int8" in precisions:
        quantize(fp32, images, study.quantization, int8)
    return [file for file in (fp32, fp16, *int8) if file.exists()]


def _export(weights: Path, workload: config.Workload, dataset: "Dataset", path: Path) -> None:
    from trimlab.models import checkpoint
    from trimlab.quantize import export

    export.export(checkpoint.load(weights, workload), dataset.image_shape, path, export.metadata(dataset))
