"""Structured pruning (torch-pruning), fine-tuning, and the eager latency that the study's table shows."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch_pruning as tp
from torch import nn

from trimlab import checkpoint, data, machine, models, paths, records, training
from trimlab import params as schema
from trimlab.errors import UserError

LATENCY_WARMUP = 20
LATENCY_REPEATS = 100
GLOBAL_TOLERANCE = 0.05
"""Share of all channels that may stay beyond the request, with scope `global`: coupled layers count once there."""


def prune_variant(study: schema.Params, variant: str, seed: int, on_epoch: training.OnEpoch) -> records.Pruning:
    """Prune and fine-tune one variant with one seed; write weights, predicted labels and record.

    Args:
        study: the whole params.
        variant: a key of `variants`.
        seed: one of the study's.
        on_epoch: called after every epoch of fine-tuning.

    Raises:
        UserError: ratio and rounding would leave a layer whole.
    """
    training.forget_peak_memory()
    point, workload = study.point(variant), study.variants[variant].workload
    dataset = data.load_for(study.workloads[workload])
    baseline = paths.weights_file(paths.trained(workload), seed)
    trained = records.read(paths.record_file(paths.trained(workload), seed))
    assert isinstance(trained, records.Training)
    model = checkpoint.load(baseline)
    section = study.pruning_of(variant)
    prune(model, point.ratio, section, dataset.image_shape, seed, keys_of(study, variant))
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


class Keys(NamedTuple):
    """Where params say ratio and rounding, for error messages."""

    ratio: str = "ratio"
    round_to: str = "round_to"


_PLAIN = Keys()


def keys_of(study: schema.Params, variant: str) -> Keys:
    """Return the keys that decide a variant's ratio and rounding."""
    point = study.variants[variant].pruning
    return Keys(f"{point}.ratio", f"{point}.round_to" if study.point(variant).round_to else "pruning.round_to")


def prune(
    model: nn.Module,
    ratio: float,
    section: schema.Pruning,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    keys: Keys = _PLAIN,
) -> None:
    """Remove channels of every layer but the classifier's outputs, in place.

    Args:
        model: on the CPU.
        ratio: share of the output channels to remove, in [0, 1): of each layer, or with scope `global` of all.
        section: criterion, scope and rounding.
        image_shape: channels, height, width.
        seed: decides the `random` criterion.
        keys: what the params call ratio and rounding.

    Raises:
        UserError: the ratio would not be reached: a layer stays whole, or with scope `global` too many channels do.
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
    _check_reached(model, before, ratio, section, keys)


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
    precision = training.resolve(study.workloads[workload].precision)
    scratch = training.scratch_file(
        __name__, precision, study.pruning_digest(variant), records.sha256_of(baseline), dataset.sha256, str(seed)
    )
    before = training.predict(model, dataset, split)
    done = training.Position()
    if point.epochs:
        done = training.fit(
            model,
            dataset,
            split,
            training.fine_tune_recipe(study.recipe(workload), point),
            precision,
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


def _check_reached(model: nn.Module, before: dict[str, int], ratio: float, section: schema.Pruning, keys: Keys) -> None:
    """Refuse a ratio that torch-pruning did not reach: it silently skips a layer of which nothing would be left."""
    modules, last = dict(model.named_modules()), models.classifier(model)
    kept = {name: width for name, width in widths(model).items() if modules[name] is not last}
    if section.scope == "global":
        share = sum(kept.values()) / sum(before[name] for name in kept)
        if share > 1 - ratio + GLOBAL_TOLERANCE:
            raise UserError(
                f"{keys.ratio} {ratio:g} is not reached: ranked together, {share:.0%} of all channels would stay, "
                f"because a layer whose channels all rank low stays whole: lower {keys.ratio}, or set pruning.scope to "
                "uniform"
            )
        return
    missed = [_Missed.of(name, modules[name], before[name]) for name in kept if kept[name] > before[name] * (1 - ratio)]
    if missed:
        raise UserError(min(missed, key=lambda layer: layer.width).message(ratio, section.round_to, keys))


class _Missed(NamedTuple):
    """A layer that keeps more channels than the ratio asks for."""

    name: str
    width: int
    """Output channels before pruning; of one group, where the convolution has groups that are pruned alike."""
    groups: int

    @classmethod
    def of(cls, name: str, module: nn.Module, width: int) -> "_Missed":
        groups = module.groups if isinstance(module, nn.Conv2d) else 1
        depthwise = groups == width
        return cls(name, width, 1) if depthwise else cls(name, width // groups, groups)

    def message(self, ratio: float, round_to: int | None, keys: Keys) -> str:
        """Say why the layer cannot be pruned so, and what can be changed."""
        kept, step = int(self.width * (1 - ratio)), round_to or 1
        remedies = [f"{keys.round_to} to at most {kept}"] if round_to and kept > 1 else []
        if step < self.width:
            remedies.append(f"{keys.ratio} to at most {self._most(step):g}")
        if not remedies:
            half = self.width // 2
            remedies = [f"{keys.round_to} to at most {half} and {keys.ratio} to at most {self._most(half):g}"]
        of = f" in each of its {self.groups} groups" if self.groups > 1 else ""
        rounded = f", fewer than {keys.round_to} {round_to}" if round_to else ""
        return (
            f"{keys.ratio} {ratio:g} leaves {self.name} whole: {kept} of {self.width} channels would stay{of}"
            f"{rounded}: set {' or '.join(remedies)}"
        )

    def _most(self, kept: int) -> float:
        """Return the largest ratio, in hundredths, at which so many channels stay."""
        return math.floor(100 * (1 - kept / self.width) + 1e-9) / 100


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
