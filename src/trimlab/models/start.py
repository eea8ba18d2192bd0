"""The model that a training starts from, or that takes the place of one."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trimlab import paths, records
from trimlab.config import Normalisation, Workload
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint, factories, registry
from trimlab.models.architecture import Architecture
from trimlab.records import Training

_AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Where torchvision's published weights hold second heads, which no model here has."""


class Initial(NamedTuple):
    """Weights from which a training starts."""

    name: str
    """The file, or what a library calls its weights."""
    sha256: str
    """Of the file, or of a library's tensors."""
    redrawn: str | None
    """One line where the classifier's weights are not used."""
    normalisation: Normalisation | None
    """Of the images that a library's weights were trained with; None for a file."""
    dtype: str | None = None
    """What the file holds; None for a library's weights."""
    training: Training | None = None
    """The record of the training that made them, where the file has one."""


class Start(NamedTuple):
    """A model, and where its weights come from."""

    model: nn.Module
    initial: Initial | None
    """None where they are random."""


def starting_model(workload: Workload, architecture: Architecture, seed: int) -> Start:
    """Return a workload's model with its weights: random, initial, or those that take the place of training.

    Raises:
        UserError: the model cannot be built, or the weights cannot be read or do not fit it.
    """
    if Path(workload.weights) != paths.NO_FILE:
        file = paths.given_weights(Path(workload.weights), seed)
        weights = checkpoint.read_weights(file)
        return Start(checkpoint.rebuild(architecture, weights.tensors), _of_file(file, weights))
    model = registry.build_from(architecture, seed)
    if Path(workload.initial) == paths.NO_FILE:
        return Start(model, None)
    if Path(workload.initial) == paths.PRETRAINED:
        return Start(model, _fill_from_library(model, architecture))
    file = paths.given_weights(Path(workload.initial), seed)
    weights = checkpoint.read_weights(file)
    return Start(model, _of_file(file, weights, fill(model, weights.tensors, str(file))))


def _of_file(file: Path, weights: checkpoint.Weights, redrawn: str | None = None) -> Initial:
    training = _training_of(file, weights.training) if weights.training else None
    return Initial(str(file), sha256_of(file), redrawn, None, weights.dtype, training)


def _training_of(file: Path, digest: str) -> Training:
    """Read the record beside released weights, which names their origin.

    Raises:
        UserError: it is missing, or not the one that the file of weights names.
    """
    beside = file.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{beside} does not exist: put it there, the record of the training that made {file}")
    record = records.read(beside)
    if not isinstance(record, Training) or record.digest != digest:
        raise UserError(f"{beside} is not the record of the training that made {file}: copy both again")
    return record


def fill(model: nn.Module, weights: Mapping[str, Tensor], name: str) -> str | None:
    """Give a model the values of `weights`, in place; a classifier of other outputs keeps its own.

    Args:
        model: from `registry.build`.
        weights: a state dict.
        name: what messages call the weights.

    Returns:
        One line where the classifier keeps its own values, else None.

    Raises:
        UserError: names or shapes do not fit the model.
    """
    own, classifier = model.state_dict(), registry.classifier_name(model)
    values = {key: value for key, value in weights.items() if key in own or not key.startswith(_AUXILIARY)}
    theirs = values.get(f"{classifier}.weight", torch.empty(0))
    outputs = registry.classifier(model).weight.shape[0]
    redrawn = theirs.ndim > 0 and theirs.shape[0] not in (0, outputs)
    if redrawn:
        values |= {key: value for key, value in own.items() if key.startswith(f"{classifier}.")}
    checkpoint.check_names(f"the model (initial {name})", own, values)
    for key, value in values.items():
        if value.shape != own[key].shape:
            raise UserError(
                f"initial {name} does not fit the model: {key} is {tuple(value.shape)}, not {tuple(own[key].shape)}: "
                "give weights of this model with the same arguments"
            )
    model.load_state_dict(values)
    if not redrawn:
        return None
    return f"{name} has {theirs.shape[0]} classes, the dataset {outputs}: {classifier} starts from random weights"


def _fill_from_library(model: nn.Module, architecture: Architecture) -> Initial:
    published = factories.pretrained(architecture.model, dict(architecture.arguments))
    if getattr(published.model, "transform_input", False) and not getattr(model, "transform_input", True):
        raise UserError(
            f"the published weights of {architecture.model} expect images that the model normalises once more: set "
            "arguments to {transform_input: true}"
        )
    weights = published.model.state_dict()
    redrawn = fill(model, weights, published.name)
    return Initial(published.name, _sha256(weights), redrawn, published.normalisation)


def _sha256(weights: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key, value in sorted(weights.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
