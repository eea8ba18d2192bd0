"""The stage `train`: a workload's weights, trained or given, and their record."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from trimlab import machine, paths
from trimlab.config import Params, Workload
from trimlab.data.dataset import Dataset, calibration_images, dataset_for
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.records import Training, commit, now, write, write_outcome
from trimlab.train import evaluate, hardware, loop, resume
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
    if any(variant.workload == workload and variant.precisions for variant in study.variants.values()):
        calibration_images(dataset, study.quantization.calibration_images)  # refuse too many now, not after hours
    given = Path(spec.weights) != paths.NO_FILE
    if given:
        model = checkpoint.rebuild(spec.model, dataset.num_classes, checkpoint.read_weights(Path(spec.weights)))
    else:
        model = registry.build(spec.model, dataset.num_classes, seed)
    _probe(model, spec, dataset)
    recipe, precision = study.recipe(workload), resolve(spec.precision)
    resumable = resume.resumable_file(__name__, precision, study.training_digest(workload), dataset.sha256, str(seed))
    with machine.exclusive(f"train {workload}") as watch:
        done = Position() if given else loop.fit(
            model, dataset, study.data.split, recipe, precision, seed,
            resumable=resumable, label=f"train {workload}", on_epoch=on_epoch,
        )  # fmt: skip
        labels = evaluate.predict(model, dataset, study.data.split)
    path = paths.weights_file(paths.trained(workload), seed)
    checkpoint.save(model, path, {"model": spec.model, "num_classes": str(dataset.num_classes)})
    record = Training(
        **lineage(study, workload, dataset, seed, path),
        params_digest=study.training_digest(workload),
        contended=watch.contended,
        origin="file" if given else "trained",
        precision=precision,
        epochs=len(done.curve),
        batch_size=recipe.batch_size,
        learning_rate=recipe.learning_rate,
        schedule=recipe.schedule,
        top1_accuracy=evaluate.accuracy(labels, dataset, study.data.split),
        num_params=count_params(model),
        size_bytes=size_bytes(model),
        macs=count_macs(model, dataset.image_shape),
        train_seconds=sum(epoch.seconds for epoch in done.curve),
        resumptions=done.resumptions,
        peak_memory_bytes=hardware.peak_memory_bytes(),
        curve=done.curve,
    )
    write_outcome(record, paths.outcome_file(paths.trained(workload), seed))
    write(record, paths.record_file(paths.trained(workload), seed))
    resume.finish(resumable)
    return record


def _probe(model: nn.Module, spec: Workload, dataset: Dataset) -> None:
    """Refuse what does not go through the model: weights that fit nowhere, images too small for it."""
    shape = dataset.image_shape
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(1, *shape))
        if not logits.isfinite().all():
            raise ValueError("its outputs are not finite")
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0][:120]
        given = f" with weights {spec.weights}" if Path(spec.weights) != paths.NO_FILE else ""
        raise UserError(
            f"{spec.model}{given} does not take {shape[1]}×{shape[2]} images of {shape[0]} channels ({reason}): "
            "give weights of this model, or another model"
        ) from None


def lineage(study: Params, workload: str, dataset: Dataset, seed: int, weights: Path) -> dict[str, Any]:
    """Return the fields that a Training and a Pruning record share."""
    return {
        "study": study.study,
        "workload": workload,
        "model": study.workloads[workload].model,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "split": study.data.split,
        "num_classes": dataset.num_classes,
        "num_images": len(dataset.scored(study.data.split)[1]),
        "seed": seed,
        "weights_sha256": sha256_of(weights),
        "commit": commit(),
        "created": now(),
        "device": hardware.device_record(),
        "versions": machine.versions("torch", "torchvision", "torch-pruning") | hardware.gpu_versions(),
        "normalisation": {"mean": dataset.mean.tolist(), "std": dataset.std.tolist()},
    }
