"""The stages `export`, for what the variants of a workload share, and `quantize`, for a variant's own ONNX files."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trimlab import config, formats, machine, paths, progress, records
from trimlab.digests import digest_of, sha256_of
from trimlab.errors import UserError
from trimlab.quantize import int8, mixed, onnx_files
from trimlab.quantize.calibration import Floats

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor

    from trimlab.data.dataset import Dataset

MANIFEST = "manifest.json"
_AT_ONCE = 100
"""Images that are normalised together."""
HELD_OUT = 5000
"""Hold-out images that decide which layers of `int8-mixed` stay in float, at most."""


def export_workload(study: config.Params, workload: str) -> None:
    """Write a workload's baseline file for each seed and its calibration images, if a variant of it is exported."""
    folder = paths.exported(workload)
    folder.mkdir(parents=True, exist_ok=True)
    dataset_sha256 = None  # so that `quantize` runs again where the hold-out changed
    if any(study.variants[key].precisions for key in study.variants_of(workload)):
        from trimlab.data.dataset import calibration_images, dataset_for

        dataset = dataset_for(study.workloads[workload])
        dataset_sha256 = dataset.sha256
        chosen = calibration_images(dataset, study.quantization.calibration_images)
        _write_calibration(dataset, chosen, onnx_files.calibration_file(workload))
        for seed in study.seeds:
            progress.say(f"export {workload}: seed {seed}")
            weights = paths.weights_file(paths.trained(workload), seed)
            _export(weights, study.workloads[workload], dataset, onnx_files.baseline_file(workload, seed))
    # Always there: an empty folder would be no output that DVC can pull.
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    manifest = {"workload": workload, "dataset_sha256": dataset_sha256, "files_sha256": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _write_calibration(dataset: "Dataset", chosen: "Tensor", file: Path) -> None:
    """Write the chosen training images, normalised, as (N, C, H, W) float32. They need not fit into memory."""
    images = np.lib.format.open_memmap(file, "w+", np.float32, (len(chosen), *dataset.image_shape))
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        images[start : start + _AT_ONCE] = dataset.normalise(dataset.train_images[part]).numpy()


def quantize_variant(study: config.Params, variant: str) -> None:
    """Write a variant's ONNX files for each seed and precision, and the manifest."""
    learns = study.variants[variant].is_trained_quantized
    manifest: dict[str, Any] = {
        "variant": variant,
        "quantization": study.quantization.model_dump(exclude=set() if learns else {"qat"}),
        "calibration_sha256": None,
        "weights_sha256": {},
        "files_sha256": {},
        "mixed": {},
        "qat": {},
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
        about = _write_seed(study, variant, seed, dataset, images)
        weights = paths.weights_file(paths.pruned(variant), seed)
        files = sorted(paths.quantized(variant).glob(f"seed{seed}-*.onnx"))
        manifest["weights_sha256"][str(seed)] = sha256_of(weights)
        manifest["files_sha256"].update({file.name: sha256_of(file) for file in files})
        for key, value in about.items():
            manifest[key].update(value)
    if set(formats.QUANTIZED) & set(study.variants[variant].precisions):
        manifest["calibration_sha256"] = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()


def _write_seed(
    study: config.Params, variant: str, seed: int, dataset: "Dataset", images: Floats
) -> dict[str, dict[str, Any]]:
    """Write the files of one seed; return what the manifest says of `int8-mixed` and `int8-qat`."""
    precisions, about = study.variants[variant].precisions, dict[str, dict[str, Any]]()
    fp32, fp16 = (paths.onnx_file(variant, seed, precision) for precision in ("fp32", "fp16"))
    _export(paths.weights_file(paths.pruned(variant), seed), study.workload_of(variant), dataset, fp32)
    if "fp16" in precisions:
        from trimlab.quantize import export

        export.to_fp16(fp32, fp16)
    if not set(formats.QUANTIZED) & set(precisions):
        return about
    model, calibrated = onnx.load(fp32), int8.calibrate(fp32, images, study.quantization)
    if "int8-qat" in precisions:
        learned, how = _learned(study, variant, seed, dataset, model, calibrated)
        int8.write(learned, calibrated, _files(variant, seed, "int8-qat"))
        about["qat"] = {str(seed): how.model_dump()}
    if study.quantization.bias_correction:  # training finds biases of its own
        calibrated = int8.with_bias_correction(model, calibrated, images)
    if "int8" in precisions:
        int8.write(model, calibrated, _files(variant, seed, "int8"))
    if "int8-mixed" in precisions:
        ranked = mixed.ranked(model, calibrated, images)
        files = _files(variant, seed, "int8-mixed")
        about["mixed"] = _write_mixed(ranked, files, dataset, study.quantization.max_drop)
    return about


def _files(variant: str, seed: int, precision: str) -> int8.Files:
    flavours = ("", onnx_files.SEVEN_BIT, onnx_files.SYMMETRIC)
    return int8.Files(*(paths.onnx_file(variant, seed, precision, flavour) for flavour in flavours))


def _write_mixed(
    ranked: mixed.Ranked, files: int8.Files, dataset: "Dataset", max_drop: float
) -> dict[str, dict[str, Any]]:
    """Write the files in which some layers stay in float; return for each file's name how they were chosen.

    That is what `records.Mixed` holds.
    """
    held = _held_out(dataset)
    fp32 = mixed.score(ranked.model, held)
    sensitivity = [{"layer": layer, "divergence": value} for layer, value in ranked.divergences.items()]
    about = {"max_drop": max_drop, "sensitivity": sensitivity}
    chosen = {}
    for flavour, file in files._asdict().items():
        choice = mixed.choose(ranked, flavour, held, fp32, max_drop)
        onnx_files.save(int8.rounded(ranked.model, ranked.calibrated, flavour, choice.float_layers), file)
        progress.say(_said(file, choice, len(sensitivity), max_drop))
        chosen[file.name] = {"float_layers": choice.float_layers, **choice.loss._asdict(), **about}
    return chosen


def _said(file: Path, choice: mixed.Choice, count: int, max_drop: float) -> str:
    """Say in one line which layers a file leaves in float, and what it loses."""
    kept, loss = choice.float_layers, choice.loss
    if kept and len(kept) == count:
        return (
            f"{file.name}: with any of its {count} layers in INT8 it loses more points than quantization.max_drop "
            f"{max_drop:g}, so all are float: raise max_drop, or take int8-mixed out"
        )
    named = f" ({', '.join(kept[:4])}{f' and {len(kept) - 4} more' if len(kept) > 4 else ''})" if kept else ""
    return (
        f"{file.name}: {len(kept)} of {count} layers stay in float{named}, {loss.drop_points:.2f} points lost on "
        f"{loss.num_images:,} hold-out images"
    )


def _held_out(dataset: "Dataset") -> mixed.HeldOut:
    """Return the hold-out, of many images evenly spaced ones.

    Raises:
        UserError: it has fewer than two images.
    """
    from trimlab.data.dataset import Subset

    whole = dataset.scored("holdout")
    if len(whole) < 2:
        raise UserError(
            f"int8-mixed is decided on hold-out images, and {dataset.name} has {len(whole)}: raise "
            "data.holdout_fraction"
        )
    every = -(-len(whole) // HELD_OUT)
    held = Subset(whole.images, whole.indices[::every], whole.labels[::every])
    return mixed.HeldOut(
        lambda: (dataset.normalise(images).numpy() for images in held.chunks(_AT_ONCE)), held.labels.numpy()
    )


def _learned(
    study: config.Params, variant: str, seed: int, dataset: "Dataset", model: "ModelProto", calibrated: int8.Calibration
) -> "tuple[ModelProto, records.QuantizationAwareTraining]":
    """Return a seed's FP32 model with weights that were trained with INT8's rounding, and how that went."""
    from trimlab.models import checkpoint
    from trimlab.quantize import export, onnx_torch
    from trimlab.quantize.qat import Simulation
    from trimlab.train import hardware, loop, resume
    from trimlab.train.budget import training_macs
    from trimlab.train.distill import Teacher
    from trimlab.train.schedule import fine_tune_recipe

    section, split = study.quantization.qat, study.data.split
    weights = paths.weights_file(paths.pruned(variant), seed)
    decisive = digest_of(study.quantization.model_dump(exclude_defaults=True))
    resumable = resume.resumable_file(
        __name__, "fp32", study.pruning_digest(variant), decisive, sha256_of(weights), dataset.sha256, str(seed)
    )
    # Before hours of training: whatever of an operator is not known here would change the logits.
    export.check_parity(onnx_torch.Graph(model), dataset.image_shape, paths.onnx_file(variant, seed, "fp32"))
    teacher = None
    if section.distillation:
        unrounded = checkpoint.load(weights, study.workload_of(variant))
        teacher = Teacher(unrounded, section.distillation, section.temperature)
    simulation = Simulation(model, calibrated.ranges, calibrated.kept, section.weight_bits)
    tuning = fine_tune_recipe(study.recipe(study.variants[variant].workload), section)
    recipe = tuning.model_copy(update={"clip_norm": section.clip_norm})
    # Strict FP32: bf16 has as many bits as the steps of INT8, and would round them again.
    with machine.exclusive(f"quantize {variant}", hardware.lock_name()) as watch:
        done = loop.fit(
            simulation, dataset, split, recipe, "fp32", seed,
            resumable=resumable, label=f"quantize {variant}", on_epoch=lambda _: None, teacher=teacher,
        )  # fmt: skip
    top1 = done.curve[-1].top1_accuracy
    assert top1 is not None  # the last epoch is always evaluated
    learned = records.QuantizationAwareTraining(
        epochs=recipe.epochs,
        learning_rate=section.learning_rate,
        schedule=section.schedule,
        distillation=section.distillation,
        weight_bits=section.weight_bits,
        top1_accuracy=top1,
        training_macs=training_macs(simulation, dataset, split, recipe, teacher),
        train_seconds=sum(epoch.seconds for epoch in done.curve),
        resumptions=done.resumptions,
        contended=watch.contended,
    )
    resume.finish(resumable)
    return simulation.model(), learned


def _export(weights: Path, workload: config.Workload, dataset: "Dataset", path: Path) -> None:
    from trimlab.models import checkpoint
    from trimlab.quantize import export

    export.export(checkpoint.load(weights, workload), dataset.image_shape, path, export.metadata(dataset))
