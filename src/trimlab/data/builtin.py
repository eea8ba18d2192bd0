"""CIFAR-10 and CIFAR-100 by torchvision, and scikit-learn's digits."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from trimlab.config import Data, DatasetSource
from trimlab.data.parts import Part, part_of_array
from trimlab.data.splits import drawn
from trimlab.errors import UserError, one_line


def read_cifar(kind: str) -> Callable[[DatasetSource, Data], tuple[Part, Part, list[str]]]:
    """Return the reader of `cifar10` or `cifar100`: files found, or downloaded, by torchvision."""

    def read(source: DatasetSource, data: Data) -> tuple[Part, Part, list[str]]:
        from torchvision import datasets

        root = os.environ.get("DATA_ROOT") or data.root
        cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
        train, test = (_open_cifar(cifar, root, part) for part in (True, False))
        parts = [part_of_array(each.data, torch.tensor(each.targets), source) for each in (train, test)]
        return parts[0], parts[1], list(train.classes)

    return read


def _open_cifar(cifar: Any, root: str, train: bool) -> Any:
    try:
        return cifar(root, train=train, download=False)
    except RuntimeError:
        pass  # not found, or damaged
    try:
        return cifar(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{Path(root).resolve()} holds no complete {cifar.base_folder}, and it cannot be downloaded "
            f"({one_line(error)}): put the official {cifar.base_folder} folder there, or set data.root or DATA_ROOT "
            "to where it is"
        ) from None


def read_digits(source: DatasetSource, _: Data) -> tuple[Part, Part, list[str]]:
    """Read scikit-learn's digits, enlarged to 32×32, a fifth of each class as the test set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    labels = torch.from_numpy(digits.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    equally = torch.ones(10, dtype=torch.int64)
    test[drawn(labels, torch.arange(len(labels)), equally, seed=0)[: len(labels) // 5]] = True
    parts = [part_of_array(images[which.numpy()], labels[which], source) for which in (~test, test)]
    return parts[0], parts[1], [str(digit) for digit in range(10)]
