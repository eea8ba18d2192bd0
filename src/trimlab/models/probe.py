"""What goes through a model, found out before it is trained: its outputs have to be logits, finite, one a class."""

import copy
import re
from pathlib import Path

import torch
from torch import nn

from trimlab import paths
from trimlab.config import Workload
from trimlab.errors import UserError, one_line


def probe(model: nn.Module, workload: Workload, image_shape: tuple[int, int, int], num_classes: int) -> None:
    """Refuse a model that does not map images to logits, in evaluation and in training.

    Args:
        model: left as it is.
        workload: says in messages what the model is.
        image_shape: channels, height, width.
        num_classes: outputs that the model has to have.

    Raises:
        UserError: it raises, as with images of a size that it does not take, or its outputs are not logits.
    """
    given = f" with weights {workload.weights}" if Path(workload.weights) != paths.NO_FILE else ""
    name = f"{workload.model}{given}"
    for training in (False, True):
        outputs = _outputs(model, training, name, workload, image_shape)
        _check(outputs, name, num_classes, training)


def _outputs(
    model: nn.Module, training: bool, name: str, workload: Workload, image_shape: tuple[int, int, int]
) -> object:
    twin = copy.deepcopy(model).train(training)  # training changes the averages of BatchNorm
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return twin(torch.zeros(2, *image_shape))
    except Exception as error:  # whatever a model raises
        channels, height, width = image_shape
        raise UserError(
            _fixed_size(str(error), name, workload, height, width)
            or f"{name} does not take {height}×{width} images of {channels} channels ({one_line(error, 120)}): "
            "give images of another size, or weights of this model, or another model"
        ) from None


def _check(outputs: object, name: str, num_classes: int, training: bool) -> None:
    when = " in training" if training else ""
    if not isinstance(outputs, torch.Tensor):
        raise UserError(f"{name} returns {_kind(outputs)}{when}: it has to return the logits alone")
    if outputs.shape != (2, num_classes):
        raise UserError(
            f"{name} returns {tuple(outputs.shape)} for 2 images and {num_classes} classes{when}: it has to return "
            f"logits (N, {num_classes})"
        )
    if not training and not outputs.isfinite().all():
        raise UserError(f"{name}: its outputs are not finite: give weights of this model, or another model")


def _kind(outputs: object) -> str:
    several = f" of {len(outputs)}" if isinstance(outputs, tuple | list | dict) else ""
    return f"{type(outputs).__name__}{several}"


_FIXED = re.compile(r"Expected (\d+) but got|doesn't match model \((\d+)\)")
"""What torchvision's and timm's transformers say of images of another size."""
_SIZE_ARGUMENTS = {"torchvision": "image_size", "timm": "img_size"}


def _fixed_size(reason: str, name: str, workload: Workload, height: int, width: int) -> str | None:
    """Say which size a model is fixed at, if that is why it does not take the images."""
    found, library = _FIXED.search(reason), workload.model.partition("/")[0]
    if not found or library not in _SIZE_ARGUMENTS:
        return None
    size = found[1] or found[2]
    remedies = [f"set datasets.{workload.dataset}.image_size to {size}"]
    if height == width:
        remedies.append(f"give the model arguments: {{{_SIZE_ARGUMENTS[library]}: {width}}}")
    return f"{name} fixes its input size at {size}, and the images are {height}×{width}: {', or '.join(remedies)}"
