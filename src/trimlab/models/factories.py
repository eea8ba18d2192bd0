"""What a model's name stands for: the CIFAR ResNets here, torchvision's and timm's models, and users' own."""

import importlib
import inspect
from collections.abc import Callable, Collection
from functools import partial
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from trimlab.config import LIBRARIES, OWN_MODELS, Normalisation
from trimlab.config.choices import choice, guess
from trimlab.errors import UserError, one_line, short
from trimlab.models import code as user_code
from trimlab.models.cifar_resnet import cifar_resnet

Factory = Callable[..., Any]

_OWN = {"resnet18": ((64, 128, 256, 512), 2), "resnet20": ((16, 32, 64), 3)}
assert tuple(_OWN) == OWN_MODELS

_WITH_AUXILIARY_HEADS = ("googlenet", "inception_v3")
"""In training, their outputs would be several tensors."""


def find(name: str, code: Path | None = None) -> Factory:
    """Return the function or class that builds a model.

    Args:
        name: `resnet18`, `resnet20`, `torchvision/NAME`, `timm/NAME` or `MODULE:FACTORY`.
        code: the file or package folder of MODULE; None where it belongs to an installed package.

    Raises:
        UserError: there is no such model, or the code that should hold it fails.
    """
    if name in _OWN:
        return partial(_own, name)
    library, _, inner = name.partition("/")
    if library in LIBRARIES:
        return _torchvision(inner) if library == "torchvision" else _timm(inner)
    return _of_module(name, code)


def call(name: str, factory: Factory, arguments: dict[str, Any]) -> nn.Module:
    """Return the model that a factory makes.

    Raises:
        UserError: it does not take the arguments, or raises, or returns no module.
    """
    _check_arguments(name, factory, arguments)
    try:
        model = factory(**arguments)
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise UserError(
            f"model {name} cannot be built ({type(error).__name__}: {one_line(error, 120)}): correct its arguments or "
            "its code"
        ) from None
    if not isinstance(model, nn.Module):
        raise UserError(f"model {name}: its factory returns {short(model)}: return a torch.nn.Module")
    return model


def takes_classes(factory: Factory) -> bool:
    """Say whether a factory takes `num_classes`."""
    parameters = _parameters(factory)
    return "num_classes" in parameters or _takes_any(parameters)


class Published(NamedTuple):
    """A library's model with its published weights."""

    model: nn.Module
    """With its own number of classes."""
    name: str
    """What the library calls the weights."""
    normalisation: Normalisation
    """Of the images that they were trained with."""


def pretrained(name: str, arguments: dict[str, Any]) -> Published:
    """Download a library's published weights of a model, or take them from its cache.

    Raises:
        UserError: the model is unknown or has no published weights, or its hub is not reached.
    """
    factory, (library, _, inner) = find(name), name.partition("/")
    try:
        return _torchvision_weights(inner, arguments) if library == "torchvision" else _timm_weights(factory, arguments)
    except Exception as error:  # of urllib, of a hub's client, of the model itself
        if isinstance(error, ValueError | TypeError) and not isinstance(error, OSError):
            raise UserError(
                f"the published weights of {name} do not fit its arguments ({one_line(error, 120)}): leave those out"
            ) from None
        raise UserError(
            f"the published weights of {name} cannot be loaded ({one_line(error, 100)}): save the pretrained model's "
            "state dict on a machine with a network, and name that file as `initial`"
        ) from None


def _own(name: str, num_classes: int) -> nn.Module:
    widths, blocks = _OWN[name]
    return cifar_resnet(widths, blocks, num_classes)


def _torchvision(name: str) -> Factory:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        if name in models.list_models():
            raise UserError(
                f"model torchvision/{name} is not an image classifier that computes in floating point: "
                f"of torchvision, {choice(known)}"
            )
        raise UserError(_unknown("torchvision", name, known))
    builder: Factory = models.get_model_builder(name)
    return partial(builder, aux_logits=False, init_weights=True) if name in _WITH_AUXILIARY_HEADS else builder


def _torchvision_weights(name: str, arguments: dict[str, Any]) -> Published:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    rest = {key: value for key, value in arguments.items() if key != "aux_logits"}  # the published ones have such heads
    model = models.get_model(name, weights=weights, **rest)
    preset = weights.transforms()
    return Published(model, str(weights), Normalisation(mean=list(preset.mean), std=list(preset.std)))


def _timm(name: str) -> Factory:
    try:
        import timm
    except ModuleNotFoundError:
        raise UserError(f"model timm/{name} needs timm: run `pip install --editable '.[timm]'`") from None
    if not timm.is_model(name):
        raise UserError(_unknown("timm", name, timm.list_models()))
    return partial(timm.create_model, name)


def _timm_weights(factory: Factory, arguments: dict[str, Any]) -> Published:
    model = factory(pretrained=True, **arguments)
    about = model.pretrained_cfg
    called = ".".join(filter(None, (f"timm/{about['architecture']}", about.get("tag"))))
    return Published(model, called, Normalisation(mean=list(about["mean"]), std=list(about["std"])))


def _of_module(name: str, code: Path | None) -> Factory:
    module_name, _, attribute = name.partition(":")
    module = user_code.load(code, module_name) if code else _installed(name, module_name)
    try:
        factory: Factory = attrgetter(attribute)(module)
    except AttributeError:
        offered = _offered(module)
        listed = f": it offers {', '.join(offered[:8])}" if offered else ""
        raise UserError(
            f"model {name}: module {module_name} has no {attribute}{listed}{guess(attribute, offered)}"
        ) from None
    if not callable(factory):
        raise UserError(f"model {name} is no function or class: name one that returns a torch.nn.Module")
    return factory


def _installed(name: str, module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UserError(
            f"model {name}: package {error.name} is not installed: install it, or name your file as `code`"
        ) from None
    except (Exception, SystemExit) as error:  # whatever a package raises
        raise UserError(
            f"model {name}: {module} cannot be imported ({type(error).__name__}: {one_line(error, 120)}): install it "
            "again"
        ) from None


def _offered(module: ModuleType) -> list[str]:
    """Return the functions and classes that a module defines itself."""
    own = (key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return [key for key in own if callable(vars(module)[key]) and not key.startswith("_")]


def _check_arguments(name: str, factory: Factory, arguments: dict[str, Any]) -> None:
    parameters = _parameters(factory)
    try:
        inspect.Signature(list(parameters.values())).bind(**arguments)
    except TypeError as error:
        taken = [key for key, each in parameters.items() if each.kind in _BY_NAME and key != "num_classes"]
        offer = f"it takes {', '.join(taken)}" if taken else "it takes none besides num_classes"
        raise UserError(f"model {name} does not take its arguments ({one_line(error, 100)}): {offer}") from None


_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ANY = {
    "args": inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL),
    "kwargs": inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
}


def _parameters(factory: Factory) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(factory).parameters)
    except (ValueError, TypeError):  # of a function that is not written in Python
        return _ANY


def _takes_any(parameters: dict[str, inspect.Parameter]) -> bool:
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())


def _unknown(library: str, name: str, known: Collection[str]) -> str:
    return f"model {library}/{name} is unknown: of {library}, {choice(known)}{guess(name, known)}"
