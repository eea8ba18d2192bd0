"""What is counted of a model: parameters, bytes, multiply-accumulates."""

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_params(model: nn.Module) -> int:
    """Return the number of parameters, buffers left out."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


def count_macs(model: nn.Module, image_shape: tuple[int, int, int]) -> int:
    """Return the multiply-accumulates of convolutions and linear layers for one image."""
    was_training, where = model.training, next(model.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.zeros(1, *image_shape, device=where))
    model.train(was_training)
    return int(counter.get_total_flops()) // 2
