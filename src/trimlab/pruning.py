"""Structured pruning (torch-pruning), fine-tuning, and the eager latency that the study's table shows."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from trimlab import checkpoint, data, machine, models, paths, records, training
from trimlab import params as schema
from trimlab.errors import UserError

LATENCY_WARMUP = 20
LATENCY_REPEATS = 100


def prune_variant(study: schema.Params, variant: str, seed: int, on_epoch: training.OnEpoch) -> records.Pruning:
    """Prune and fine-tune one variant with one seed; write weights, predicted labels and record.

    Args:
        study: the whole params.
        variant: a key of `variants`.
        seed: one of the study's.
        on_epoch: called after every epoch of fine-tuning.

    Raises:
        UserError: `round_to` would leave a layer whole.
    """
    point, workload = study.point(variant), study.variants[variant].workload
    dataset = data.load(study.workloads[workload].dataset)
    baseline = paths.weights_file(paths.trained(workload), seed)
    trained = records.read(paths.record_file(paths.trained(workload), seed))
    assert isinstance(trained, records.Training)
    model = checkpoint.load(baseline)
    section = study.pruning_of(variant)
    prune(model, point.ratio, section, dataset.image_shape, seed)
    with machine.exclusive(f"prune {variant}") as watch:
        tuned = _fine_tuned(model, study, variant, dataset, seed, on_epoch)
    path = paths.weights_file(paths.pruned(variant), seed)
    checkpoint.save(model, path, {"model": trained.model, "num_classes": str(dataset.num_classes)})
    np.save(paths.torch_labels_file(variant, seed), tuned.labels.numpy().astype(np.uint16))
    record = records.Pruning(
        **training.lineage(study, workload, dataset, seed, path),
        params_digest=study.pruning_digest(variant),
        contended=watch.contended,
        variant=variant,
        baseline_sha256=trained.weights_sha256,
        ratio=point.ratio,
        importance=section.importance,
        scope=section.scope,
        round_to=section.round_to,
        epochs=point.epochs,
        learning_rate=point.learning_rate,
        schedule=point.schedule,
        distillation=point.distillation,
        precision=training.resolve(study.workloads[workload].precision),
        top1_unpruned=trained.top1_accuracy,
        top1_before=tuned.top1_before,
        top1_accuracy=training.accuracy(tuned.labels, dataset, study.data.split),
        widths=widths(model),
        num_params=training.count_params(model),
        size_bytes=training.size_bytes(model),
        macs=training.count_macs(model, dataset.image_shape),
        eager_latency=tuned.latency,
        train_seconds=sum(epoch.seconds for epoch in tuned.done.curve),
        resumptions=tuned.done.resumptions,
        peak_memory_bytes=training.peak_memory_bytes(),
        curve=tuned.done.curve,
    )
    records.write(record, paths.record_file(paths.pruned(variant), seed))
    training.finish(tuned.scratch)
    return record


def prune(
    model: nn.Module, ratio: float, section: schema.Pruning, image_shape: tuple[int, int, int], seed: int = 0
) -> None:
    """Remove channels of every layer but the classifier's outputs, in place.

    Args:
        model: on the CPU.
        ratio: share of the output channels to remove, in [0, 1): of each layer, or with scope `global` of all.
        section: criterion, scope and rounding.
        image_shape: channels, height, width.
        seed: decides the `random` criterion.

    Raises:
        UserError: `round_to` leaves a layer whole that the ratio would prune.
    """
    if ratio == 0:
        return
    before = widths(model)
    torch.manual_seed(seed)
    pruner = tp.pruner.BasePruner(
        model,
        torch.zeros(1, *image_shape),
        importance=_IMPORTANCES[section.importance](),
        global_pruning=section.scope == "global",
        pruning_ratio=ratio,
        # Ranked together, a whole layer could go: then the network is cut in two.
        max_pruning_ratio=1.0 if section.scope == "uniform" else max(0.95, ratio),
        ignored_layers=[models.classifier(model)],  # its outputs are the classes
        round_to=section.round_to,
    )
    pruner.step()
    model.zero_grad(set_to_none=True)
    _refuse_whole_layers(model, before, ratio, section)


def widths(model: nn.Module) -> dict[str, int]:
    """Return the output channels of every convolution and linear layer, by name."""
    return {
        name: module.weight.shape[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def eager_latency(model: nn.Module, image_shape: tuple[int, int, int]) -> records.Latency:
    """Time the eager model at batch 1 in strict FP32, copies left out: the study's column."""
    device = training.device()
    image = torch.zeros(1, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    # All points alike: fine-tuning leaves its models in channels_last, the unpruned one was never tuned.
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    times = []
    with torch.no_grad(), training.computing_in("fp32"):
        for _ in range(LATENCY_WARMUP + LATENCY_REPEATS):
            _synchronise(device)
            start = time.perf_counter()
            model(image)
            _synchronise(device)
            times.append(1000 * (time.perf_counter() - start))
    p50, p90, p99 = np.percentile(times[LATENCY_WARMUP:], (50, 90, 99)).tolist()
    return records.Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, n=LATENCY_REPEATS, batch_size=1)


@dataclass
class _Tuned:
    """What fine-tuning left behind."""

    top1_before: float
    labels: torch.Tensor
    latency: records.Latency
    done: training.Position
    scratch: Path


def _fine_tuned(
    model: nn.Module,
    study: schema.Params,
    variant: str,
    dataset: data.Dataset,
    seed: int,
    on_epoch: training.OnEpoch,
) -> _Tuned:
    point, workload, split = study.point(variant), study.variants[variant].workload, study.data.split
    baseline = paths.weights_file(paths.trained(workload), seed)
    scratch = training.scratch_file(
        study.pruning_digest(variant), records.sha256_of(baseline), dataset.sha256, str(seed)
    )
    before = training.predict(model, dataset, split)
    done = training.Position()
    if point.epochs:
        done = training.fit(
            model,
            dataset,
            split,
            training.fine_tune_recipe(study.recipe(workload), point),
            training.resolve(study.workloads[workload].precision),
            seed,
            scratch=scratch,
            label=f"prune {variant}",
            on_epoch=on_epoch,
            teacher=_teacher(baseline, point),
        )
    labels = training.predict(model, dataset, split) if point.epochs else before
    return _Tuned(
        top1_before=training.accuracy(before, dataset, split),
        labels=labels,
        latency=eager_latency(model, dataset.image_shape),
        done=done,
        scratch=scratch,
    )


def _teacher(baseline: Path, point: schema.PruningPoint) -> training.Teacher | None:
    if point.distillation == 0:
        return None
    return training.Teacher(checkpoint.load(baseline), point.distillation, point.temperature)


def _refuse_whole_layers(model: nn.Module, before: dict[str, int], ratio: float, section: schema.Pruning) -> None:
    """torch-pruning skips a layer that rounding would leave with nothing; that would not be the asked ratio."""
    if section.scope == "global" or section.round_to is None:
        return
    last = next(name for name, module in model.named_modules() if module is models.classifier(model))
    whole = [name for name, width in widths(model).items() if width == before[name] and name != last]
    if whole:
        kept = int(before[whole[0]] * (1 - ratio))
        raise UserError(
            f"pruning.round_to {section.round_to} leaves {whole[0]} whole: at ratio {ratio} it keeps {kept} of "
            f"{before[whole[0]]} channels: set pruning.round_to to at most {kept}, or a lower ratio"
        )


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


_IMPORTANCES = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(p=2),
    "bn_scale": lambda: tp.importance.BNScaleImportance(),
    "random": lambda: tp.importance.RandomImportance(),
}
