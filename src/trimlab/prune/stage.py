"""The stage `prune`: prune, fine-tune, score, and record."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn

from trimlab import config, machine, paths, progress, records
from trimlab.data.dataset import Dataset, dataset_for
from trimlab.digests import sha256_of
from trimlab.models import checkpoint
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.prune import pruner
from trimlab.prune.eager_latency import eager_latency
from trimlab.train import evaluate, hardware, loop, resume
from trimlab.train import stage as train_stage
from trimlab.train.distill import Teacher
from trimlab.train.precision import UsedPrecision, resolve
from trimlab.train.schedule import fine_tune_recipe


def prune_variant(study: config.Params, variant: str, seed: int, on_epoch: loop.OnEpoch) -> records.Pruning:
    """Prune and fine-tune one variant with one seed; write weights, predicted labels and record.

    Args:
        study: the whole params.
        variant: a key of `variants`.
        seed: one of the study's.
        on_epoch: called after every epoch of fine-tuning.

    Raises:
        UserError: the model cannot be pruned so.
    """
    hardware.forget_peak_memory()
    point, workload = study.point(variant), study.variants[variant].workload
    dataset = dataset_for(study.workloads[workload])
    baseline = paths.weights_file(paths.trained(workload), seed)
    trained = records.read_outcome(paths.outcome_file(paths.trained(workload), seed))
    model = checkpoint.load(baseline, study.workloads[workload])
    section = study.pruning_of(variant)
    keys = study.pruning_keys(variant)
    whole = pruner.prune(model, point.ratio, section, dataset.image_shape, seed, keys, point.keep)
    if whole:
        progress.say(f"prune {variant}: {', '.join(whole)} keep all channels")
    with machine.exclusive(f"prune {variant}") as watch:
        tuned = _fine_tuned(model, study, variant, dataset, seed, on_epoch)
    path = paths.weights_file(paths.pruned(variant), seed)
    architecture = checkpoint.architecture(baseline)
    checkpoint.save(model, path, architecture.metadata())
    np.save(paths.torch_labels_file(variant, seed), tuned.predicted.labels.numpy().astype(np.uint16))
    record = records.Pruning(
        **train_stage.lineage(study, workload, dataset, seed, path),
        code_sha256=architecture.code_sha256,
        params_digest=study.pruning_digest(variant),
        contended=watch.contended,
        variant=variant,
        baseline_sha256=trained["weights_sha256"],
        ratio=point.ratio,
        importance=section.importance,
        scope=section.scope,
        round_to=section.round_to,
        keep=point.keep,
        epochs=point.epochs,
        learning_rate=point.learning_rate,
        schedule=point.schedule,
        distillation=point.distillation,
        precision=resolve(study.workloads[workload].precision),
        top1_unpruned=trained["top1_accuracy"],
        top1_before=tuned.top1_before,
        **evaluate.figures(tuned.predicted, dataset, study.data.split),
        widths=pruner.widths(model),
        num_params=count_params(model),
        size_bytes=size_bytes(model),
        macs=count_macs(model, dataset.image_shape),
        eager_latency=tuned.latency,
        train_seconds=sum(epoch.seconds for epoch in tuned.done.curve),
        resumptions=tuned.done.resumptions,
        peak_memory_bytes=hardware.peak_memory_bytes(),
        curve=tuned.done.curve,
    )
    records.write_outcome(record, paths.outcome_file(paths.pruned(variant), seed))
    records.write(record, paths.record_file(paths.pruned(variant), seed))
    resume.finish(tuned.resumable)
    return record


@dataclass
class _Tuned:
    """What fine-tuning left behind."""

    top1_before: float
    predicted: evaluate.Predictions
    latency: records.Latency
    done: resume.Position
    resumable: Path


def _fine_tuned(
    model: nn.Module,
    study: config.Params,
    variant: str,
    dataset: Dataset,
    seed: int,
    on_epoch: loop.OnEpoch,
) -> _Tuned:
    point, workload, split = study.point(variant), study.variants[variant].workload, study.data.split
    baseline = paths.weights_file(paths.trained(workload), seed)
    precision = resolve(study.workloads[workload].precision)
    resumable = resume.resumable_file(
        __name__, precision, study.pruning_digest(variant), sha256_of(baseline), dataset.sha256, str(seed)
    )
    before = evaluate.predict(model, dataset, split)
    done = resume.Position()
    if point.epochs:
        done = loop.fit(
            model,
            dataset,
            split,
            fine_tune_recipe(study.recipe(workload), point),
            precision,
            seed,
            resumable=resumable,
            label=f"prune {variant}",
            on_epoch=on_epoch,
            teacher=_teacher(study, variant, baseline, dataset, precision),
        )
    after = evaluate.predict(model, dataset, split) if point.epochs else before
    return _Tuned(
        top1_before=evaluate.top1_accuracy(before, dataset, split),
        predicted=after,
        latency=eager_latency(model, dataset.image_shape),
        done=done,
        resumable=resumable,
    )


def _teacher(
    study: config.Params, variant: str, baseline: Path, dataset: Dataset, precision: UsedPrecision
) -> Teacher | None:
    point, workload = study.point(variant), study.variants[variant].workload
    if point.distillation == 0:
        return None
    cache = None
    if point.soft_labels == "cached":
        # By nothing of the point: all variants of a workload share it, until the report is rendered.
        identity = (study.training_digest(workload), sha256_of(baseline), dataset.sha256)
        cache = paths.finished(resume.resumable_file(__name__, precision, *identity))
    model = checkpoint.load(baseline, study.workloads[workload])
    return Teacher(model, point.distillation, point.temperature, cache)
