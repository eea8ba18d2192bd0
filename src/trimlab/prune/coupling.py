"""Which layers lose channels together, and which cannot lose any: torch-pruning's graph, with reshapes understood.

torch-pruning takes a reshape for one that leaves channels as they are, and fails at torch 2's `chunk`. A channel
shuffle, attention heads and windows split channels: removing the same positions before and after would take away
different ones, without an error.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trimlab import config


class Importance:
    """A criterion that does not rank groups with a layer that keeps its channels: torch-pruning leaves them whole.

    Args:
        criterion: torch-pruning's, maps a group to one value a channel.
        kept: layers that keep all output channels.
    """

    def __init__(self, criterion: Callable[[Any], Tensor], kept: Sequence[nn.Module]) -> None:
        self.whole: set[nn.Module] = set(kept)
        """Layers that keep all output channels: the given ones, those coupled with them, and those whose channels a
        reshape or nn.MultiheadAttention splits."""
        self.parts: dict[nn.Module, int] = {}
        """How many equal parts each other layer's channels have, all pruned alike: grouped convolutions ask for it."""
        self.groups: list[set[nn.Module]] = []
        """The layers of each group that can lose channels; they lose them together."""
        self._criterion = criterion

    def __call__(self, group: Any) -> Tensor | None:
        """Return one value a channel of a group, None for a group that stays whole."""
        layers = {dep.target.module for dep, _ in group if _loses_outputs(group, dep)}
        # The graph knows reshapes by the widths it was traced with: a later step has others.
        known = layers and layers <= self.parts.keys()
        if layers & self.whole or (not known and any(_splits(dep.target, len(indices)) for dep, indices in group)):
            self.whole |= layers
            return None
        most = max(_parts(dep.target.module) for dep, _ in group)
        self.parts |= {layer: max(most, self.parts.get(layer, 1)) for layer in layers}
        self.groups.append(layers)
        return self._criterion(group)


def trace(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model so that torch-pruning sees what each reshape does. Returns the model's outputs."""
    with _Reshapes():
        outputs: Tensor = model(images)
    return outputs


def rounded(kept: int, width: int, round_to: int, rounding: config.Rounding) -> int:
    """Return a multiple of `round_to` near `kept`, in the direction that is asked for; at most the width.

    `nearest` takes the larger of two that are equally near. It and `up` leave at least one multiple.
    """
    below = kept - kept % round_to
    if rounding == "down":
        return below
    up = kept > below if rounding == "up" else 2 * (kept - below) >= round_to
    return min(width, max(round_to, below + round_to * up))


class _Pruner(tp.pruner.BasePruner):  # type: ignore[misc]  # torch-pruning has no types
    """torch-pruning's pruner, which only rounds down."""

    rounding: config.Rounding = "down"

    def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
        kept = current_channels - n_pruned
        return current_channels - rounded(kept, current_channels, round_to, self.rounding)


def pruner(
    model: nn.Module, images: Tensor, importance: Importance, rounding: config.Rounding = "down", **settings: Any
) -> tp.pruner.BasePruner:
    """Return torch-pruning's pruner of a model."""
    made = _made(_Pruner, model, images, importance, **settings)
    made.rounding = rounding
    return made


def regularizing(
    model: nn.Module, images: Tensor, importance: Importance, regularizer: config.Regularizer, strength: float
) -> tp.pruner.BasePruner:
    """Return the pruner of torch-pruning that adds a penalty to gradients: on the groups that can lose channels."""
    if regularizer == "growing":
        made = _made(tp.pruner.GrowingRegPruner, model, images, importance, reg=strength, delta_reg=strength)
    else:
        made = _made(tp.pruner.GroupNormPruner, model, images, importance, reg=strength)
    # A group of one channel has no smallest one: its penalty would be not-a-number.
    made._groups = [group for group in made._groups if len(group[0].idxs) > 1 and importance(group) is not None]
    return made


def _made(kind: Any, model: nn.Module, images: Tensor, importance: Importance, **settings: Any) -> tp.pruner.BasePruner:
    with warnings.catch_warnings():
        # It says which bare parameters it found, and prunes their last dimension: what is meant.
        warnings.filterwarnings("ignore", message="Unwrapped parameters detected")
        return kind(
            model,
            images,
            importance=importance,
            forward_fn=trace,
            in_channel_groups={},  # its defaults are shared by all pruners
            out_channel_groups={},
            num_heads={},
            **settings,
        )


def coupled(model: nn.Module, images: Tensor, kept: Sequence[nn.Module]) -> Importance:
    """Return what says which layers of a model lose channels together, and in how many equal parts.

    Args:
        model: stays as it is.
        images: (1, C, H, W), for which its graph is followed.
        kept: layers that keep all output channels.
    """
    seen = Importance(lambda group: torch.ones(len(group[0].idxs)), kept)
    list(pruner(model, images, seen, pruning_ratio=0.0).step(interactive=True))
    return seen


def _loses_outputs(group: Any, dep: Any) -> bool:
    layer = isinstance(dep.target.module, nn.Conv2d | nn.Linear)
    return layer and bool(group._DG.is_out_channel_pruning_fn(dep.handler))


def _parts(module: Any) -> int:
    if isinstance(module, nn.GroupNorm):
        return module.num_groups
    depthwise = isinstance(module, nn.Conv2d) and module.groups == module.out_channels
    return module.groups if isinstance(module, nn.Conv2d) and not depthwise else 1


def _splits(node: Any, channels: int) -> bool:
    """Return whether a node of the graph mixes the channels that flow through it."""
    if isinstance(node.module, nn.MultiheadAttention):
        return True
    kept = getattr(node.grad_fn, "kept", None)
    if kept is not None:
        return channels not in kept
    return "shuffle" in (node.grad_fn.name().lower() if node.grad_fn else "")


def kept_by_reshape(before: Sequence[int], after: Sequence[int]) -> set[int]:
    """Return the sizes of dimensions that a reshape leaves as they are, wherever it has them."""
    factors = list(_factors(before, after))
    whole = {left[0] for left, right in factors if len(left) == len(right) == 1}
    return whole - {size for left, right in factors if len(left) + len(right) > 2 for size in left}


def kept_by_split(before: Sequence[int], after: Sequence[int]) -> set[int]:
    """Return the sizes of dimensions that a cut into parts leaves as they are."""
    pairs = list(zip(before, after, strict=True))
    return {old for old, new in pairs if old == new} - {old for old, new in pairs if old != new}


def _factors(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield the smallest runs of dimensions that a reshape turns into one another; dimensions of 1 are left out."""
    old, new = ([size for size in reversed(shape) if size > 1] for shape in (before, after))
    while old and new:
        left, right = [old.pop()], [new.pop()]
        while math.prod(left) != math.prod(right):
            if math.prod(left) < math.prod(right):
                left.append(old.pop())
            else:
                right.append(new.pop())
        yield left, right


class _Regrouped(torch.autograd.Function):
    """The result of a reshape or a split, under a name that torch-pruning takes for an element-wise operation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, result: Tensor, kept: set[int]) -> Tensor:
        ctx.kept = kept
        return result.clone()


_RESHAPES = {
    torch.reshape, torch.flatten, torch.unflatten, torch.Tensor.view, torch.Tensor.reshape, torch.Tensor.flatten,
    torch.Tensor.unflatten, torch.Tensor.view_as, torch.Tensor.reshape_as,
}  # fmt: skip
_SPLITS = {torch.chunk, torch.split, torch.Tensor.chunk, torch.Tensor.split}


class _Reshapes(TorchFunctionMode):
    """Replaces splits and reshapes, but for those between a convolution's output and a linear layer's input."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _SPLITS | _RESHAPES:
            return result
        x: Tensor = args[0]
        if func in _SPLITS:
            return tuple(_Regrouped.apply(x, part.detach(), kept_by_split(x.shape, part.shape)) for part in result)
        if {x.ndim, result.ndim} != {2, 4}:
            return _Regrouped.apply(x, result.detach(), kept_by_reshape(x.shape, result.shape))
        return result
