"""The stage `prune`: prune, fine-tune (or train the pruned shape from scratch), score, and record."""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from trimlab import config, machine, paths, progress, records
from trimlab.data.dataset import Dataset, dataset_for
from trimlab.digests import digest_of, sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.prune import batchnorm, pruner, sensitivity
from trimlab.prune.allocated import prune_as_measured
from trimlab.prune.eager_latency import eager_latency
from trimlab.prune.gradients import gradients_for
from trimlab.prune.point import Done, prune_at
from trimlab.prune.scratch import from_scratch
from trimlab.prune.sparsity import GroupSparsity
from trimlab.prune.target import Meter
from trimlab.train import evaluate, hardware, loop, resume
from trimlab.train import stage as train_stage
from trimlab.train.budget import training_macs
from trimlab.train.distill import Teacher
from trimlab.train.precision import resolve
from trimlab.train.schedule import fine_tune_recipe

MeterOf = Callable[[config.Target, tuple[int, int, int]], Meter]
"""Returns what measures a target's latency for images of (channels, height, width)."""


def prune_variant(
    study: config.Params, variant: str, seed: int, on_epoch: loop.OnEpoch, meter_of: MeterOf | None = None
) -> records.Pruning:
    """Prune and fine-tune one variant with one seed; write weights, predicted labels and record.

    Args:
        study: the whole params.
        variant: a key of `variants`.
        seed: one of the study's.
        on_epoch: called after every epoch of fine-tuning.
        meter_of: needed where the target is a latency. It is given, so that this stage does not depend on the code that
            makes files and times them.

    Raises:
        UserError: the model cannot be pruned so.
    """
    hardware.forget_peak_memory()
    point, workload = study.point(variant), study.variants[variant].workload
    dataset = dataset_for(study.workloads[workload])
    baseline = paths.weights_file(paths.trained(workload), seed)
    trained = records.read_outcome(paths.outcome_file(paths.trained(workload), seed))
    unpruned = checkpoint.load(baseline, study.workloads[workload])
    architecture, section = checkpoint.architecture(baseline), study.pruning_of(variant)
    model = copy.deepcopy(unpruned)
    sparse = _sparsely_trained(model, study, variant, dataset, seed) if point.sparsity else None
    done = _pruned(model, study, variant, dataset, seed, meter_of)
    if point.initial == "scratch":
        model = from_scratch(model, architecture, seed)
    teacher = _teacher(study, variant, baseline, unpruned, dataset)
    recipe = _recipe(study, variant, dataset, model, unpruned, teacher)
    tuning_macs = training_macs(model, dataset, study.data.split, recipe, teacher)
    with machine.exclusive(f"prune {variant}", hardware.lock_name()) as watch:
        tuned = _fine_tuned(model, study, variant, dataset, seed, recipe, teacher, on_epoch)
    path = paths.weights_file(paths.pruned(variant), seed)
    checkpoint.save(model, path, architecture.metadata())
    np.save(paths.torch_labels_file(variant, seed), tuned.predicted.labels.numpy().astype(np.uint16))
    record = records.Pruning(
        **train_stage.lineage(study, workload, dataset, seed, path),
        code_sha256=architecture.code_sha256,
        params_digest=study.pruning_digest(variant),
        contended=watch.contended,
        variant=variant,
        baseline_sha256=trained["weights_sha256"],
        ratio=done.ratio,
        target=None if point.target is None else records.Target(**{point.target.quantity: point.target.value}),
        target_latency=done.latency,
        sparsity=None if sparse is None else sparse.record,
        steps=point.steps,
        importance=section.importance,
        scope=section.allocation,
        round_to=section.round_to,
        rounding=section.rounding,
        keep=point.keep,
        reached_ratio=done.removed.ratio,
        initial=point.initial,
        epochs=recipe.epochs,
        learning_rate=point.learning_rate,
        schedule=point.schedule,
        distillation=point.distillation,
        temperature=point.temperature if point.distillation else None,
        soft_labels=point.soft_labels if point.distillation else None,
        precision=resolve(study.workloads[workload].precision),
        top1_unpruned=trained["top1_accuracy"],
        top1_before=tuned.top1_before,
        top1_reestimated=tuned.top1_reestimated,
        **evaluate.figures(tuned.predicted, dataset, study.data.split),
        widths=pruner.widths(model),
        layer_ratios=dict(done.layer_ratios),
        num_params=count_params(model),
        size_bytes=size_bytes(model),
        macs=count_macs(model, dataset.image_shape),
        training_macs=tuning_macs + (sparse.record.training_macs if sparse else 0),
        eager_latency=tuned.latency,
        train_seconds=sum(epoch.seconds for epoch in tuned.done.curve),
        resumptions=tuned.done.resumptions,
        peak_memory_bytes=hardware.peak_memory_bytes(),
        curve=tuned.done.curve,
    )
    records.write_outcome(record, paths.outcome_file(paths.pruned(variant), seed))
    records.write(record, paths.record_file(paths.pruned(variant), seed))
    resume.finish(tuned.resumable)
    if sparse:
        resume.finish(sparse.resumable)
    return record


def _pruned(
    model: nn.Module, study: config.Params, variant: str, dataset: Dataset, seed: int, meter_of: MeterOf | None
) -> Done:
    """Prune a variant's model in place; say what is not in the params."""
    point, section, keys = study.point(variant), study.pruning_of(variant), study.pruning_keys(variant)
    gradients = gradients_for(section.importance, model, dataset) if point.prunes else None
    measured = None
    if study.measures_sensitivity(variant):
        measured = _sensitivity(study, variant, seed, model, dataset, gradients)

    def prune(meter: Meter | None) -> Done:
        asked = point, model, section, dataset.image_shape, seed, keys, gradients
        return prune_as_measured(*asked, measured, meter) if measured else prune_at(*asked, meter)

    if point.target and point.target.latency_ms:
        assert meter_of
        progress.say(f"prune {variant}: layers and files are timed until one takes {point.target}")
        meter = meter_of(point.target, dataset.image_shape)
        with machine.exclusive(f"latency of {variant}") as watch:
            done = prune(meter)
        if watch.contended:
            progress.say(f"prune {variant}: other processes disturbed that: delete {meter.kept} to time again")
    else:
        done = prune(None)
    if done.latency:
        progress.say(
            f"prune {variant}: its file takes {done.latency.latency.p50_ms:.3g} ms, predicted were "
            f"{done.latency.predicted_ms:.3g} ms"
        )
    if point.target:
        progress.say(f"prune {variant}: ratio {done.ratio:g} meets the target")
    if done.removed.whole:
        progress.say(f"prune {variant}: {', '.join(done.removed.whole)} keep all channels")
    return done


@dataclass
class _Sparse:
    """What training before pruning left behind."""

    record: records.SparseTraining
    resumable: Path


def _sparsely_trained(model: nn.Module, study: config.Params, variant: str, dataset: Dataset, seed: int) -> _Sparse:
    """Train a variant's model in place with a penalty on what will be pruned."""
    point, split, workload = study.point(variant), study.data.split, study.variants[variant].workload
    sparsity, keys = point.sparsity, study.pruning_keys(variant)
    assert sparsity
    regularizer = GroupSparsity(model, sparsity, dataset.image_shape, point.keep, keys)
    recipe, precision = fine_tune_recipe(study.recipe(workload), sparsity), resolve(study.workloads[workload].precision)
    # By nothing else of the point: variants that differ in the ratio alone share it, until the report is rendered.
    decisive = digest_of(study.training_digest(workload), sparsity.model_dump(), point.keep)
    weights = sha256_of(paths.weights_file(paths.trained(workload), seed))
    resumable = resume.resumable_file(__name__, precision, "sparsity", decisive, weights, dataset.sha256, str(seed))
    label = f"sparsity of {variant}"
    with machine.exclusive(label, hardware.lock_name()) as watch:
        done = loop.fit(
            model, dataset, split, recipe, precision, seed,
            resumable=resumable, label=label, on_epoch=lambda _: None, regularizer=regularizer,
        )  # fmt: skip
    model.to("cpu")
    top1 = done.curve[-1].top1_accuracy
    assert top1 is not None  # the last epoch is always evaluated
    record = records.SparseTraining(
        regularizer=sparsity.regularizer,
        strength=sparsity.strength,
        epochs=recipe.epochs,
        learning_rate=sparsity.learning_rate,
        schedule=sparsity.schedule,
        top1_accuracy=top1,
        training_macs=training_macs(model, dataset, split, recipe),
        train_seconds=sum(epoch.seconds for epoch in done.curve),
        resumptions=done.resumptions,
        contended=watch.contended,
    )
    return _Sparse(record, resumable)


def _sensitivity(
    study: config.Params,
    variant: str,
    seed: int,
    unpruned: nn.Module,
    dataset: Dataset,
    gradients: Mapping[str, Tensor] | None,
) -> sensitivity.Measured:
    """Return a workload's sensitivity, measured unless it is kept, and write its record beside the variant's own.

    By nothing of the point but criterion and kept layers: all variants of a workload share it.
    """
    workload = study.variants[variant].workload
    identity = (study.sensitivity_digest(variant), dataset.sha256, str(seed), workload)
    weights = sha256_of(paths.weights_file(paths.trained(workload), seed))
    kept = resume.resumable_file(__name__, "fp32", weights, *identity).with_suffix(".json")
    record = None
    with suppress(UserError):  # there is none yet, or one of an earlier version
        record = records.read(kept)
    if not isinstance(record, records.Sensitivity):
        record = _measured_sensitivity(study, variant, seed, unpruned, dataset, gradients)
        records.write(record, kept)
    records.write(record, paths.sensitivity_file(variant, seed))
    return sensitivity.Measured(record.unpruned, record.groups)


def _measured_sensitivity(
    study: config.Params,
    variant: str,
    seed: int,
    unpruned: nn.Module,
    dataset: Dataset,
    gradients: Mapping[str, Tensor] | None,
) -> records.Sensitivity:
    workload, point, section = study.variants[variant].workload, study.point(variant), study.pruning_of(variant)
    images = sensitivity.Images.of(dataset, section.sensitivity_images, study.data.seed)
    keys, label, began = study.pruning_keys(variant), f"sensitivity of {workload}, seed {seed}", time.monotonic()
    progress.say(f"{label}: each group of coupled layers is pruned alone, {len(images.scored)} images are scored")
    with machine.exclusive(label, hardware.lock_name()) as watch:
        measured = sensitivity.measure(unpruned, section, images, seed, keys, point.keep, gradients, label)
    lineage = train_stage.lineage(study, workload, dataset, seed, paths.weights_file(paths.trained(workload), seed))
    given = study.workloads[workload].weights != str(paths.NO_FILE)
    return records.Sensitivity(
        **(lineage | {"split": "holdout", "num_images": len(images.scored)}),
        params_digest=study.sensitivity_digest(variant),
        contended=watch.contended,
        importance=section.importance,
        keep=point.keep,
        trained_on_images=None if given else study.data.split == "test",
        unpruned=measured.unpruned,
        groups=measured.groups,
        seconds=time.monotonic() - began,
    )


def _recipe(
    study: config.Params,
    variant: str,
    dataset: Dataset,
    model: nn.Module,
    unpruned: nn.Module,
    teacher: Teacher | None,
) -> config.Recipe:
    """Return the recipe of a variant's fine-tuning, or of its training from scratch with the budget asked for."""
    point, training, split = study.point(variant), study.recipe(study.variants[variant].workload), study.data.split
    if point.budget == "epochs":
        return fine_tune_recipe(training, point)
    once, twice = (
        training_macs(model, dataset, split, fine_tune_recipe(training, point, epochs), teacher) for epochs in (1, 2)
    )
    more = max(1, round(training_macs(unpruned, dataset, split, training) / (twice - once)))
    progress.say(
        f"prune {variant}: {point.epochs + more} epochs from scratch, of which {more} take the multiply-accumulates of "
        "the unpruned model's training"
    )
    return fine_tune_recipe(training, point, point.epochs + more)


@dataclass
class _Tuned:
    """What fine-tuning left behind."""

    top1_before: float
    top1_reestimated: float | None
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
    recipe: config.Recipe,
    teacher: Teacher | None,
    on_epoch: loop.OnEpoch,
) -> _Tuned:
    workload, split = study.variants[variant].workload, study.data.split
    baseline = paths.weights_file(paths.trained(workload), seed)
    precision = resolve(study.workloads[workload].precision)
    resumable = resume.resumable_file(
        __name__,
        precision,
        study.pruning_digest(variant),
        digest_of(pruner.widths(model)),  # a latency may ask for others on another day
        sha256_of(baseline),
        dataset.sha256,
        str(seed),
    )
    before = evaluate.predict(model, dataset, split)
    reestimated = _reestimated(model, study.point(variant), dataset, split)
    done = resume.Position()
    if recipe.epochs:
        done = loop.fit(
            model,
            dataset,
            split,
            recipe,
            precision,
            seed,
            resumable=resumable,
            label=f"prune {variant}",
            on_epoch=on_epoch,
            teacher=teacher,
        )
    after = evaluate.predict(model, dataset, split) if recipe.epochs else before
    return _Tuned(
        top1_before=evaluate.top1_accuracy(before, dataset, split),
        top1_reestimated=reestimated,
        predicted=after,
        latency=eager_latency(model, dataset.image_shape),
        done=done,
        resumable=resumable,
    )


def _teacher(
    study: config.Params, variant: str, baseline: Path, unpruned: nn.Module, dataset: Dataset
) -> Teacher | None:
    point, workload = study.point(variant), study.variants[variant].workload
    if point.distillation == 0:
        return None
    cache = None
    if point.soft_labels == "cached":
        # By nothing of the point: all variants of a workload share it, until the report is rendered.
        identity = (study.training_digest(workload), sha256_of(baseline), dataset.sha256)
        precision = resolve(study.workloads[workload].precision)
        cache = paths.finished(resume.resumable_file(__name__, precision, *identity))
    return Teacher(unpruned, point.distillation, point.temperature, cache)


def _reestimated(model: nn.Module, point: config.PruningPoint, dataset: Dataset, split: str) -> float | None:
    """Return the top-1 of a pruned model whose BatchNorm statistics are estimated anew; None where there are none."""
    if not point.prunes or point.initial == "scratch":
        return None
    twin = batchnorm.reestimated(model, dataset)
    return None if twin is None else evaluate.top1_accuracy(evaluate.predict(twin, dataset, split), dataset, split)
