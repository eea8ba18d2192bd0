"""The control of pruning: a pruned model's shape with fresh weights (Liu et al. 2019)."""

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trimlab.models import registry
from trimlab.models.architecture import Architecture
from trimlab.models.reshape import fit_to


def from_scratch(pruned: nn.Module, architecture: Architecture, seed: int) -> nn.Module:
    """Return a model with a pruned one's widths and fresh weights.

    The factory draws the unpruned model; its first channels are taken. Their values are scaled as the factory's own
    layers differ with their width, because an initial weight is drawn for the number of its inputs or outputs.

    Args:
        pruned: says the widths alone.
        architecture: what both are built from.
        seed: decides the weights.
    """
    model = registry.build_from(architecture, seed)
    scales = _scales(model, pruned)
    state, drawn = pruned.state_dict(), model.state_dict()
    weights = {name: _first(drawn[name], tensor.shape) for name, tensor in state.items()}
    fit_to(model, {name: tensor * scales[name] if name in scales else tensor for name, tensor in weights.items()})
    return model


def _first(tensor: Tensor, shape: torch.Size) -> Tensor:
    """Return the first positions along every dimension, as a tensor of its own."""
    return tensor[tuple(slice(size) for size in shape)].clone()


def _inputs(shape: torch.Size) -> int:
    return math.prod(shape[1:])


def _outputs(shape: torch.Size) -> int:
    return shape[0] * math.prod(shape[2:])


def _nothing(shape: torch.Size) -> int:
    return 1


def _scales(model: nn.Module, pruned: nn.Module) -> dict[str, float]:
    """Return by what the weights of each convolution and linear layer are multiplied for their new widths."""
    scales: dict[str, float] = {}
    for kind in (nn.Conv2d, nn.Linear):
        wide, narrow = (
            {f"{name}.weight": layer.weight for name, layer in of.named_modules() if isinstance(layer, kind)}
            for of in (model, pruned)
        )
        fan = _fan(list(wide.values()))
        scales |= {name: math.sqrt(fan(weight.shape) / fan(narrow[name].shape)) for name, weight in wide.items()}
    return scales


def _fan(weights: Sequence[Tensor]) -> Callable[[torch.Size], int]:
    """Return what a factory divides the variance of its weights by: inputs, outputs or nothing, whatever fits best."""

    def misfit(fan: Callable[[torch.Size], int]) -> float:
        drawn = [weight for weight in weights if weight.numel() > 1 and weight.std() > 0]
        logs = [math.log(float(weight.detach().var()) * fan(weight.shape)) for weight in drawn]
        return statistics.pstdev(logs) if logs else 0.0

    return min((_inputs, _outputs, _nothing), key=misfit)
