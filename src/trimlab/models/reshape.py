"""Give a fresh model the widths that a pruned one has: the tensors' shapes say all of it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimlab.errors import UserError


def fit_to(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a model the shapes and values of `weights`, in place.

    Args:
        model: fresh, as its factory makes it.
        weights: a tensor for each of the model's own, by name, of as many dimensions.

    Raises:
        UserError: a layer of this kind cannot have these shapes.
    """
    for prefix, module in model.named_modules():
        _reshape(module, {key: weights[_join(prefix, key)] for key in _own_tensors(module)})
    # Not load_state_dict: torchvision's MNASNet refuses one that lacks torch's own metadata.
    for name, tensor in model.state_dict().items():
        tensor.copy_(weights[name])


def _own_tensors(module: nn.Module) -> list[str]:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    return [key for key, _ in own if key not in module._non_persistent_buffers_set]


def _join(prefix: str, key: str) -> str:
    return f"{prefix}.{key}" if prefix else key


def _reshape(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Give one module the shapes of `given`, its attributes with them."""
    changed = [key for key, tensor in given.items() if tensor.shape != getattr(module, key).shape]
    if not changed:
        return
    _set_widths(module, given)
    for key in changed:
        old = getattr(module, key)
        empty = torch.empty(given[key].shape, dtype=old.dtype)
        setattr(module, key, nn.Parameter(empty, old.requires_grad) if isinstance(old, nn.Parameter) else empty)


def _set_widths(module: nn.Module, given: Mapping[str, Tensor]) -> None:
    """Set what a layer's attributes say of its widths; a module of another kind has bare tensors alone."""
    if isinstance(module, nn.Conv2d):
        if module.weight.shape[2:] != given["weight"].shape[2:]:
            raise UserError(
                f"the weights do not fit: kernel {tuple(given['weight'].shape)}, not {tuple(module.weight.shape)}"
            )
        depthwise = module.groups == module.in_channels == module.out_channels > 1
        module.out_channels = given["weight"].shape[0]
        module.groups = module.out_channels if depthwise else module.groups
        module.in_channels = given["weight"].shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        module.num_features = given["weight"].shape[0]
    elif isinstance(module, nn.GroupNorm):
        module.num_channels = given["weight"].shape[0]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = given["weight"].shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = given["weight"].shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(given["weight"].shape)
