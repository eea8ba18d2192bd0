"""Architectures by name: the CIFAR ResNets here, and torchvision's."""

import torch
from torch import nn

from trimlab.config import OWN_MODELS
from trimlab.errors import UserError
from trimlab.models.cifar_resnet import CifarResNet, initialise

_OWN = {"resnet18": ((64, 128, 256, 512), 2), "resnet20": ((16, 32, 64), 3)}
assert tuple(_OWN) == OWN_MODELS


def build(name: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Return a freshly initialised model in training mode.

    Args:
        name: `resnet18`, `resnet20` or `torchvision/NAME`.
        num_classes: outputs of the classifier.
        seed: decides the initial weights.

    Raises:
        UserError: torchvision has no such classification model.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name in _OWN:
            widths, blocks = _OWN[name]
            model: nn.Module = CifarResNet(widths, blocks, num_classes)
            initialise(model)
            return model
        return _torchvision(name.removeprefix("torchvision/"), num_classes)


def classifier(model: nn.Module) -> nn.Linear:
    """Return the layer whose outputs are the classes: the last linear one."""
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


def _torchvision(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"model 'torchvision/{name}' is unknown: torchvision offers {', '.join(known)}")
    model: nn.Module = models.get_model(name, weights=None, num_classes=num_classes)
    return model
