"""Progress of a stage: lines and a progress bar on standard error."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def say(message: str) -> None:
    """Print one line of progress."""
    print(message, file=sys.stderr, flush=True)


def wrote(output: Path) -> None:
    """Print where a stage's output is: the last line of every stage."""
    say(f"wrote {output}/" if output.is_dir() else f"wrote {output}")


def bar(items: Iterable[T], label: str, start: int = 0, total: int | None = None) -> Iterable[T]:
    """Wrap `items` in a progress bar: redrawn on a terminal, otherwise one line every half minute."""
    interval = 0.5 if sys.stderr.isatty() else 30.0
    return tqdm(items, desc=label, initial=start, total=total, mininterval=interval, leave=False, ncols=100)
