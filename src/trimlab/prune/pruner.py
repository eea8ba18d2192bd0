"""Structured pruning by torch-pruning, and the check that the ratio was reached."""

import math
from typing import NamedTuple

import torch
import torch_pruning as tp
from torch import nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.models import registry

GLOBAL_TOLERANCE = 0.05
"""Share of all channels that may stay beyond the request, with scope `global`: coupled layers count once there."""


class Keys(NamedTuple):
    """Where params say ratio and rounding, for error messages."""

    ratio: str = "ratio"
    round_to: str = "round_to"


_PLAIN = Keys()


def prune(
    model: nn.Module,
    ratio: float,
    section: config.PruningSettings,
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
        ignored_layers=[registry.classifier(model)],  # its outputs are the classes
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


def _check_reached(
    model: nn.Module, before: dict[str, int], ratio: float, section: config.PruningSettings, keys: Keys
) -> None:
    """Refuse a ratio that torch-pruning did not reach: it silently skips a layer of which nothing would be left."""
    modules, last = dict(model.named_modules()), registry.classifier(model)
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


_IMPORTANCES = {
    "l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(p=2),
    "bn_scale": lambda: tp.importance.BNScaleImportance(),
    "random": lambda: tp.importance.RandomImportance(),
}
