"""Weights on disk, without pickle, and the one way to rebuild a pruned model from them.

A safetensors header says every tensor's shape, so the factory's model is given those shapes and then the values: it
serves whoever pruned it, and any model whose forward does not hard-code widths.
"""

import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimlab import paths
from trimlab.config import Workload
from trimlab.errors import UserError, one_line, short
from trimlab.models import registry
from trimlab.models.architecture import Architecture
from trimlab.models.reshape import fit_to

LARGEST = 1e8
"""Magnitude that no weight of a trained model has; products of larger ones soon exceed float32."""


class Weights(NamedTuple):
    """A user's or a released file of weights, as it was read."""

    tensors: dict[str, Tensor]
    """A state dict in float32."""
    dtype: str
    """What the file holds, such as `float16`; of several types, all of them."""
    training: str | None
    """The digest of the record of the training that made them; None where the file names none."""


def save(model: nn.Module, path: Path, metadata: Mapping[str, str]) -> None:
    """Write a model's weights; the file appears whole or not at all.

    Args:
        model: any module.
        path: where to.
        metadata: strings kept in the file's header; `Architecture.metadata` lets `load` rebuild the model.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    # One entry: safetensors writes several in random order, and equal weights must be equal files.
    save_file(tensors, temporary, metadata={"trimlab": json.dumps(dict(metadata), sort_keys=True)})
    temporary.replace(path)


def load(path: Path, workload: Workload | None = None) -> nn.Module:
    """Return the model that `save` wrote, in eval mode, with its pruned shapes.

    Args:
        path: where from.
        workload: what the params say of the model. A model by import path needs it: its code runs only because the
            params name it, not because a file of weights does.

    Raises:
        UserError: the file is missing, damaged, or not written by trimlab; or it is of other code than the params name.
    """
    built_from = architecture(path)
    if ":" in built_from.model:
        _check_is_named(path, built_from, workload)
    return rebuild(built_from, load_file(path)).eval()


def _check_is_named(path: Path, built_from: Architecture, workload: Workload | None) -> None:
    named = workload and Architecture.of(workload, built_from.num_classes)
    if named == built_from:
        return
    if named and named._replace(code_sha256=built_from.code_sha256) == built_from:
        raise UserError(f"{named.code} has changed since {path} was written: run `dvc repro`, which trains again")
    raise UserError(f"{path} holds {built_from.model}, which the params do not name like that: run `dvc repro`")


def architecture(path: Path) -> Architecture:
    """Return what the model in a file is built from.

    Raises:
        UserError: the file is missing, damaged, or not written by trimlab.
    """
    try:
        metadata = _metadata(path)
        if metadata is None:
            raise ValueError("its metadata does not say what it is")
        return Architecture.read(metadata)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `dvc repro`") from None
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is damaged, or was not written by trimlab ({one_line(error, 100)}): run `dvc checkout "
            f"{path.parent}`, or remove it and run `dvc repro`"
        ) from None


def _metadata(path: Path) -> Any:
    """Return what `save` wrote into a safetensors header; None where something else wrote the file."""
    paths.regular_status(path)
    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("trimlab", "null"))


def rebuild(architecture: Architecture, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a factory's model with the shapes and values of `weights`.

    Raises:
        UserError: names or shapes do not fit the model.
    """
    model = registry.build_from(architecture)
    check_names(architecture.model, model.state_dict(), weights)
    fit_to(model, weights)
    outputs, classes = registry.classifier(model).weight.shape[0], architecture.num_classes
    if outputs != classes:
        raise UserError(f"the weights have {outputs} classes, the dataset {classes}: give weights of this dataset")
    return model


def read_weights(path: Path) -> Weights:
    """Read a user's file of weights: safetensors, or a state dict without code in it.

    Everything is returned as float32: float16 and bfloat16 lose nothing, float64 is rounded. The prefix that
    DistributedDataParallel or torch.compile puts before every name is removed.

    Raises:
        UserError: the file is missing, truncated, or a pickle that holds more than tensors; a tensor is not a
            dense floating-point one, or has values that no trained model has (not finite, huge, a negative variance).
    """
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"weights {path} {what}: name an existing file, or `data/none` to train")
    is_safetensors = path.suffix == ".safetensors"
    state: Any = _load_safetensors(path) if is_safetensors else _load_pickle(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    named = isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())
    if not named or not state:
        raise UserError(f"weights {path} holds no state dict: save `model.state_dict()`")
    tensors = {key: _sane(path, key, tensor.detach()) for key, tensor in _unwrapped(state).items()}
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in state.values() if t.is_floating_point()})
    return Weights(tensors, ", ".join(dtypes), _training(path) if is_safetensors else None)


def _training(path: Path) -> str | None:
    """Return the digest of the training record that a file's header names."""
    try:
        metadata = _metadata(path)
    except ValueError:  # another program's metadata under the same name
        return None
    return str(metadata["training"]) if isinstance(metadata, dict) and "training" in metadata else None


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:  # SafetensorError, and whatever an odd header provokes
        raise UserError(
            f"weights {path} is not a complete safetensors file ({one_line(error, 100)}): copy it again"
        ) from None


def _load_pickle(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused in a line
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        reason = str(error)
    code = re.search(r"GLOBAL (\S+)", reason)
    if code or "TorchScript" in reason:
        held = short(code[1]) if code else "a TorchScript archive"
        raise UserError(
            f"weights {path} cannot be read without running code (it holds {held}): save `model.state_dict()` instead "
            "of the whole model"
        )
    reason = one_line(reason.split(". ")[0], 100) if path.stat().st_size else "it is empty"
    raise UserError(f"weights {path} cannot be read ({reason}): copy it again, or save `model.state_dict()` again")


_WRAPPERS = ("module.", "_orig_mod.")


def _unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = dict(state)
    while prefix := next((wrapper for wrapper in _WRAPPERS if all(key.startswith(wrapper) for key in state)), ""):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _sane(path: Path, key: str, tensor: Tensor) -> Tensor:
    """Return a tensor as float32, or refuse it; counts of batches stay whole numbers."""
    name = f"weights {path}: {short(key)}"
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized or tensor.is_nested:
        kind = "a meta tensor" if tensor.is_meta else f"quantized or sparse ({tensor.dtype}, {tensor.layout})"
        raise UserError(f"{name} is {kind}: save dense floating-point weights")
    if key.endswith("num_batches_tracked") and not tensor.is_complex():
        return tensor
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64) or not tensor.numel():
        raise UserError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}: save floating-point weights")
    low = 0.0 if key.endswith("running_var") else -LARGEST
    wide = tensor.double()  # in float16 the bounds would be infinite
    odd = wide[~((wide >= low) & (wide <= LARGEST))]  # NaN is in no range
    if odd.numel():
        raise UserError(
            f"{name} holds {odd[0].item():.3g}, not in [{low:g}, {LARGEST:g}]: give weights of a training that did not "
            "diverge, and save them again"
        )
    return tensor.float()


def check_names(name: str, expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that has other names than a model's, or tensors of other ranks.

    Raises:
        UserError: in one line, with an example of each.
    """
    missing, extra = expected.keys() - given.keys(), given.keys() - expected.keys()
    if missing or extra:
        examples = [f"lacks {key}" for key in sorted(missing)[:1]] + [f"has {short(key)}" for key in sorted(extra)[:1]]
        raise UserError(
            f"the weights do not fit {name}: {len(missing)} of {len(expected)} tensors missing, {len(extra)} unknown "
            f"(the file {' and '.join(examples)}): give weights of this model"
        )
    ranks = [key for key in expected if expected[key].ndim != given[key].ndim]
    if ranks:
        key = ranks[0]
        raise UserError(
            f"the weights do not fit {name}: {key} is {tuple(given[key].shape)}, not {tuple(expected[key].shape)}"
        )
