"""Fresh models by name, and the layer of a model whose outputs are the classes."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from trimlab.errors import UserError, short
from trimlab.models import factories
from trimlab.models.architecture import Architecture

Classifier = nn.Linear | nn.Conv2d
"""A convolution is one of 1×1."""


def build(
    name: str,
    num_classes: int,
    seed: int = 0,
    *,
    code: Path | None = None,
    arguments: Mapping[str, Any] | None = None,
    classifier: str | None = None,
) -> nn.Module:
    """Return a freshly initialised model in training mode.

    Args:
        name: `resnet18`, `resnet20`, `torchvision/NAME`, `timm/NAME` or `MODULE:FACTORY`.
        num_classes: outputs of the classifier.
        seed: decides the initial weights.
        code: the file or package folder of MODULE; None where it belongs to an installed package.
        arguments: passed to the factory, besides `num_classes`.
        classifier: the name of the layer whose outputs are the classes; None for the last linear one.

    Raises:
        UserError: there is no such model, it cannot be built, or it has no classifier of so many outputs.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        factory, passed = factories.find(name, code), copy.deepcopy(dict(arguments or {}))
        takes_classes = factories.takes_classes(factory)
        if takes_classes:
            passed["num_classes"] = num_classes
        model = factories.call(name, factory, passed).train()
        _refuse_lazy(name, model)
        _choose_classifier(name, model, classifier, num_classes, takes_classes)
        return model


def build_from(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Return a freshly initialised model in training mode, as `build` does."""
    return build(
        architecture.model,
        architecture.num_classes,
        seed,
        code=architecture.code,
        arguments=architecture.arguments,
        classifier=architecture.classifier,
    )


def classifier(model: nn.Module) -> Classifier:
    """Return the layer whose outputs are the classes: the one that `build` chose, or else the last linear one."""
    return _layer(model, classifier_name(model))


def classifier_name(model: nn.Module) -> str:
    """Return the name of the layer whose outputs are the classes."""
    chosen = model.__dict__.get(_CHOSEN)
    return chosen.name if chosen else _last(model)


def describe_classifier(model: nn.Module) -> str:
    """Say which layer of a model that `build` made is its classifier, and whether it was replaced."""
    chosen: _Chosen = model.__dict__[_CHOSEN]
    outputs = _outputs(_layer(model, chosen.name))
    replaced = "" if chosen.outputs == outputs else f", in place of {chosen.outputs}"
    return f"the classifier is {chosen.name}, with {outputs} outputs{replaced}"


class _Chosen(NamedTuple):
    """Which layer is the classifier."""

    name: str
    outputs: int
    """As the factory made it."""


_CHOSEN = "trimlab_classifier"
"""The attribute of a model that holds which layer is its classifier; copies of the model keep it."""


def _choose_classifier(name: str, model: nn.Module, named: str | None, num_classes: int, takes_classes: bool) -> None:
    """Find or check the classifier, and give it the right number of outputs where the factory could not."""
    chosen = _named(name, model, named) if named else _last(model)
    if not chosen:
        raise UserError(f"model {name} has no linear layer and no 1×1 convolution: end it in one, its classifier")
    layer = _layer(model, chosen)
    outputs = _outputs(layer)
    if outputs != num_classes and takes_classes and not named:
        raise UserError(
            f"model {name}: its last layer, {chosen}, has {outputs} outputs, and the dataset {num_classes} classes: "
            "name the right layer as `classifier`, or let the factory use its num_classes"
        )
    if outputs != num_classes:
        model.set_submodule(chosen, _resized(layer, num_classes))
    model.__dict__[_CHOSEN] = _Chosen(chosen, outputs)


def _named(name: str, model: nn.Module, wanted: str) -> str:
    modules = dict(model.named_modules())
    if wanted not in modules:
        layers = ", ".join(_candidates(model)[-5:])
        raise UserError(f"classifier {short(wanted)} is not a layer of {name}: its last ones are {layers}")
    if wanted not in _candidates(model):
        kind = type(modules[wanted]).__name__
        raise UserError(f"classifier {wanted} of {name} is a {kind}: name a Linear or a 1×1 Conv2d")
    return wanted


def _candidates(model: nn.Module) -> list[str]:
    """Return the names of the layers that could be a classifier: linear ones, 1×1 convolutions."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear) or _is_pointwise(module)]


def _is_pointwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and set(module.kernel_size) == {1} and module.groups == 1


def _last(model: nn.Module) -> str:
    """Return the name of the last linear layer, or else of the last 1×1 convolution, or an empty string."""
    candidates = _candidates(model)
    linear = [name for name in candidates if isinstance(model.get_submodule(name), nn.Linear)]
    return (linear or candidates or [""])[-1]


def _layer(model: nn.Module, name: str) -> Classifier:
    layer = model.get_submodule(name)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    return layer


def _outputs(layer: Classifier) -> int:
    return layer.weight.shape[0]


def _resized(layer: Classifier, outputs: int) -> Classifier:
    """Return a fresh layer of the same inputs."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, outputs, bias)
    return nn.Conv2d(layer.in_channels, outputs, 1, layer.stride, layer.padding, bias=bias)  # type: ignore[arg-type]


def _refuse_lazy(name: str, model: nn.Module) -> None:
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise UserError(f"model {name}: {key} has no shape before the first call: give its layer its input size")
