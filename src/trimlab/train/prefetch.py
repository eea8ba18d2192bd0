"""Items made ahead of their use, in a thread."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

K = TypeVar("K")
T = TypeVar("T")

AHEAD = 2
"""Items that are made while one is used."""


def ahead(make: Callable[[K], T], keys: Iterable[K]) -> Generator[T, None, None]:
    """Yield `make(key)` for every key, in order. What `make` raises is raised here; the thread ends with the iterator.

    `map` does the same without a thread.
    """
    # One thread for torch's work as well (the setting is this thread's own): the other cores are for the training.
    pool = ThreadPoolExecutor(1, "prefetch", initializer=lambda: torch.set_num_threads(1))
    pending: deque[Future[T]] = deque()
    try:
        for key in keys:
            pending.append(pool.submit(make, key))
            if len(pending) > AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
