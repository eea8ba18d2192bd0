"""The stage `train`: a workload's weights, trained or given, and their record."""

from pathlib import Path
from typing import Any

import torch

from trimlab import machine, paths, progress, records
from trimlab.config import Normalisation, Params
from trimlab.data.dataset import Dataset, calibration_images, dataset_for
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.architecture import Architecture
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.models.probe import probe
from trimlab.models.start import Initial, starting_model
from trimlab.records import Training, commit, now, write, write_outcome
from trimlab.train import evaluate, hardware, loop, resume
from trimlab.train.budget import training_macs
from trimlab.train.loop import OnEpoch
from trimlab.train.precision import resolve
from trimlab.train.resume import Position


def train_workload(study: Params, workload: str, seed: int, on_epoch: OnEpoch) -> Training:
    """Train one workload with one seed, or take its given weights; write weights and record.

    Args:
        study: the whole params.
        workload: a key of `workloads`.
        seed: one of the study's.
        on_epoch: called after every epoch.

    Raises:
        UserError: the dataset is missing or too small to calibrate with, or the given weights do not fit.
    """
    hardware.forget_peak_memory()
    spec = study.workloads[workload]
    dataset = dataset_for(spec)
    if any(study.variants[key].precisions for key in study.variants_of(workload)):
        calibration_images(dataset, study.quantization.calibration_images)  # refuse too many now, not after hours
    architecture = Architecture.of(spec, dataset.num_classes)
    model, initial = starting_model(spec, architecture, seed)
    probe(model, spec, dataset.image_shape, dataset.num_classes)
    progress.say(f"train {workload}: {registry.describe_classifier(model)}")
    if initial:
        _check_normalisation(workload, initial, dataset)
        _check_unseen(study.data.split, initial, dataset)
        progress.say(f"train {workload}: {initial.redrawn or _started(initial)}")
    given, recipe, precision = Path(spec.weights) != paths.NO_FILE, study.recipe(workload), resolve(spec.precision)
    files = [digest for digest in (architecture.code_sha256, initial and initial.sha256) if digest]
    resumable = resume.resumable_file(
        __name__, precision, study.training_digest(workload), dataset.sha256, str(seed), *files
    )
    with machine.exclusive(f"train {workload}", hardware.lock_name()) as watch:
        done = Position() if given else loop.fit(
            model, dataset, study.data.split, recipe, precision, seed,
            resumable=resumable, label=f"train {workload}", on_epoch=on_epoch,
        )  # fmt: skip
        predicted = evaluate.predict(model, dataset, study.data.split)
    path = paths.weights_file(paths.trained(workload), seed)
    checkpoint.save(model, path, architecture.metadata())
    record = Training(
        **lineage(study, workload, dataset, seed, path),
        code_sha256=architecture.code_sha256,
        initial=initial.name if initial else None,
        initial_sha256=initial.sha256 if initial else None,
        initial_dtype=initial.dtype if initial else None,
        initial_training=initial.training if initial else None,
        params_digest=study.training_digest(workload),
        contended=watch.contended,
        origin="file" if given else "trained",
        precision=precision,
        epochs=len(done.curve),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        **evaluate.figures(predicted, dataset, study.data.split),
        num_params=count_params(model),
        size_bytes=size_bytes(model),
        macs=count_macs(model, dataset.image_shape),
        training_macs=None if given else training_macs(model, dataset, study.data.split, recipe),
        train_seconds=sum(epoch.seconds for epoch in done.curve),
        resumptions=done.resumptions,
        peak_memory_bytes=hardware.peak_memory_bytes(),
        curve=done.curve,
    )
    write_outcome(record, paths.outcome_file(paths.trained(workload), seed))
    write(record, paths.record_file(paths.trained(workload), seed))
    resume.finish(resumable)
    return record


def _started(initial: Initial) -> str:
    """Say where weights start, and in what a file holds them, if that is not what is computed with."""
    other = f", which holds {initial.dtype}: computed in float32" if initial.dtype not in (None, "float32") else ""
    return f"every weight starts from {initial.name}{other}"


def _check_unseen(split: str, initial: Initial, dataset: Dataset) -> None:
    """Refuse to score a hold-out that released weights were trained on."""
    made = initial.training
    if made and split == "holdout" and (made.split, made.dataset_sha256) != (split, dataset.sha256):
        raise UserError(
            f"{initial.name} was trained on images of the hold-out (data.split {made.split} there): set data.split to "
            "test, or train without these weights"
        )


def _check_normalisation(workload: str, initial: Initial, dataset: Dataset) -> None:
    """Refuse images that are normalised in another way than those of published weights."""
    own = initial.normalisation or (initial.training and initial.training.normalisation)
    if own and not _equal(own, dataset):
        raise UserError(
            f"{initial.name} was trained with images normalised by mean {own.mean} and std {own.std}: set the "
            f"normalisation of workloads.{workload} to these values"
        )


def _equal(normalisation: Normalisation | records.Normalisation, dataset: Dataset) -> bool:
    values = torch.tensor([normalisation.mean, normalisation.std])
    return values.shape[1] == len(dataset.mean) and torch.allclose(values, torch.stack([dataset.mean, dataset.std]))


def lineage(study: Params, workload: str, dataset: Dataset, seed: int, weights: Path) -> dict[str, Any]:
    """Return the fields that a Training and a Pruning record share."""
    packages = ["torch", "torchvision", "torch-pruning"]
    packages += ["timm"] * study.workloads[workload].model.startswith("timm/")
    return {
        "study": study.study,
        "workload": workload,
        "model": study.workloads[workload].model,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "split": study.data.split,
        "num_classes": dataset.num_classes,
        "class_names": dataset.classes,
        "num_images": len(dataset.scored(study.data.split)),
        "seed": seed,
        "weights_sha256": sha256_of(weights),
        "commit": commit(),
        "created": now(),
        "device": hardware.device_record(),
        "versions": machine.versions(*packages) | hardware.gpu_versions(),
        "normalisation": {"mean": dataset.mean.tolist(), "std": dataset.std.tolist()},
    }
