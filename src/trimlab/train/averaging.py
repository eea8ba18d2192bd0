"""A moving average of a model's weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """Return an exponential moving average of a model, which `update_parameters` feeds after each optimizer step.

    After n steps the decay is at most (1 + n) / (10 + n): the average of a short training forgets its start as well.
    Buffers are averaged too: BatchNorm's statistics then are of the steps that the averaged weights are of.

    Args:
        model: is copied, with its device and memory format.
        decay: in (0, 1).
    """

    def update(averages: PARAM_LIST, values: PARAM_LIST, _: Tensor | int) -> None:
        if not averages[0].is_floating_point():  # counters and indices, which have no average
            torch._foreach_copy_(averages, values)
            return
        steps = int(average.n_averaged)  # it lies on the CPU; the argument's copy on a GPU would have to be waited for
        weight = min(decay, (1 + steps) / (10 + steps))
        torch._foreach_mul_(averages, weight)
        torch._foreach_add_(averages, values, alpha=1 - weight)

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    return average
