"""Sources of datasets by name."""

from collections.abc import Callable
from pathlib import Path

from trimlab.config import Data
from trimlab.data.builtin import read_cifar, read_digits
from trimlab.data.dataset import Split
from trimlab.data.folder import read_folder
from trimlab.data.npz import read_npz

READERS: dict[str, Callable[[Path, Data], tuple[Split, Split, list[str]]]] = {
    "cifar10": read_cifar("cifar10"),
    "cifar100": read_cifar("cifar100"),
    "digits": read_digits,
    "folder": read_folder,
    "npz": read_npz,
}
