"""A user's model file, the workload that names it, and the one line with which something is refused."""

import textwrap

import pytest

from trimlab.config import Workload
from trimlab.errors import UserError

NET = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes, width=8):
            super().__init__()
            self.stem = nn.Conv2d(3, width, 3, padding=1)
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(width, num_classes))

        def forward(self, x):
            return self.head(self.stem(x).mean((2, 3)))

    def net(num_classes, width=8):
        return Net(num_classes, width)

    def hard_coded():
        return Net(1000)

    def ignores(num_classes):
        return Net(1000)

    def raises(num_classes):
        raise RuntimeError("no such file: \\x1b[31mweights.bin")

    def leaves(num_classes):
        import sys
        sys.exit("bye")

    def no_module(num_classes):
        return [1, 2]

    def no_layer(num_classes):
        return nn.Flatten()

    def lazy(num_classes):
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(num_classes))

    def anything(**kwargs):
        return Net(**kwargs)

    number = 3
"""


def write(folder, source=NET, name="my_models.py"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(source))
    return file


def workload(model, **changes):
    files = dict.fromkeys(("code", "initial", "weights"), "data/none")
    return Workload(**{"model": model, "dataset": "mine", "training": "training.mine", **files, **changes})


def refusal(act):
    """The one line with which something is refused."""
    with pytest.raises(UserError) as error:
        act()
    said = str(error.value)
    assert said.isprintable()
    assert len(said) <= 320
    return said
