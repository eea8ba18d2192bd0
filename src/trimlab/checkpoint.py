"""Weights on disk, without pickle, and the one way to rebuild a pruned model from them.

A safetensors header says every tensor's shape, so the factory's model is given those shapes and then the values: it
serves whoever pruned it, and any model whose forward does not hard-code widths.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimlab import models
from trimlab.errors import UserError


def save(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model's weights; the file appears whole or not at all.

    Args:
        model: any module.
        path: where to.
        metadata: strings kept in the file's header; `model` and `num_classes` let `load` rebuild it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One entry: safetensors writes several in random order, and equal weights must be equal files.
    save_file(tensors, scratch, metadata={"trimlab": json.dumps(dict(metadata), sort_keys=True)})
    scratch.replace(path)


def load(path: Path) -> nn.Module:
    """Return the model that `save` wrote, in eval mode, with its pruned shapes."""
    with safe_open(path, framework="pt") as file:
        metadata = json.loads(file.metadata()["trimlab"])
    return rebuild(metadata["model"], int(metadata["num_classes"]), load_file(path)).eval()


def rebuild(name: str, num_classes: int, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a factory's model with the shapes and values of `weights`.

    Raises:
        UserError: names or shapes do not fit the model.
    """
    model = models.build(name, num_classes)
    _check_names(name, model.state_dict(), weights)
    for prefix, module in model.named_modules():
        _reshape(module, {key: weights[_join(prefix, key)] for key in _own_tensors(module)})
    outputs = models.classifier(model).out_features
    if outputs != num_classes:
        raise UserError(f"the weights have {outputs} classes, the dataset {num_classes}: give weights of this dataset")
    model.load_state_dict(dict(weights))
    return model


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read somebody's file of weights: safetensors, or a state dict without code in it.

    Raises:
        UserError: the file is missing, truncated, or a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"weights {path} does not exist: name an existing file, or `data/none` to train")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise UserError(f"weights {path} is no whole safetensors file ({error}): copy it again") from None
    except Exception as error:  # torch.load raises whatever the bytes provoke
        reason = str(error).splitlines()[0][:120]
        raise UserError(
            f"weights {path} cannot be read without running code ({reason}): give a safetensors file or a state dict"
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"weights {path} holds no state dict: save `model.state_dict()`")
    return state


def _check_names(name: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
    if missing or extra:
        example = f"lacks {min(missing)}" if missing else f"has {min(extra)} too"
        raise UserError(
            f"the weights do not fit {name}: {len(missing)} of {len(expected)} tensors missing, {len(extra)} unknown "
            f"(it {example}): give weights of this model"
        )
    ranks = [key for key in expected if expected[key].ndim != given[key].ndim]
    if ranks:
        key = ranks[0]
        raise UserError(
            f"the weights do not fit {name}: {key} is {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
        )


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
    if isinstance(module, nn.Conv2d):
        if module.weight.shape[2:] != given["weight"].shape[2:]:
            raise UserError(
                f"the weights do not fit: kernel {tuple(given['weight'].shape)}, not {tuple(module.weight.shape)}"
            )
        depthwise = module.groups == module.in_channels > 1
        module.out_channels = given["weight"].shape[0]
        module.groups = module.out_channels if depthwise else module.groups
        module.in_channels = given["weight"].shape[1] * module.groups
    elif isinstance(module, nn.BatchNorm2d):
        module.num_features = given["weight"].shape[0]
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = given["weight"].shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(given["weight"].shape)
    else:
        raise UserError(f"a pruned {type(module).__name__} cannot be rebuilt: give weights with its usual shapes")
