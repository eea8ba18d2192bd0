"""Sources of datasets by name."""

from collections.abc import Callable

from trimlab.config import Data, DatasetSource
from trimlab.data.builtin import read_cifar, read_digits
from trimlab.data.folder import read_folder
from trimlab.data.index import read_index
from trimlab.data.npz import read_npz
from trimlab.data.parts import Part

READERS: dict[str, Callable[[DatasetSource, Data], tuple[Part, Part, list[str]]]] = {
    "cifar10": read_cifar("cifar10"),
    "cifar100": read_cifar("cifar100"),
    "digits": read_digits,
    "folder": read_folder,
    "index": read_index,
    "npz": read_npz,
}
