"""Cells as Ray tasks, each with the answers of the cells that it depends on as arguments.

Ray orders, places and retries them. Nothing here knows what a cell is.
"""

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trimlab import execution
from trimlab.errors import one_line
from trimlab.execution.node import CellError, KilledError
from trimlab.progress import say

RETRIES = 3
"""How often a cell is tried again whose node, worker or process was killed."""
SAY_EVERY_SECONDS = 30.0

Body = Callable[[str, dict[str, Any], dict[str, str]], Any]
"""What a cell does, of its name, the answers of the cells that it depends on, and variables of its own."""


@dataclass(frozen=True)
class Cell:
    """A cell and what it takes."""

    name: str
    needs: tuple[str, ...] = ()
    cpus: float = 1
    gpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    node_id: str | None = None
    """The one node that it may run on; None leaves that to Ray."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """The answers by cell, and the cells without one."""

    answers: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Path] = field(default_factory=dict)
    """The logs of cells that failed."""
    not_run: list[str] = field(default_factory=list)
    """Cells that need one that failed."""


class _Board:
    """Where cells say that they run."""

    def __init__(self) -> None:
        self.nodes: dict[str, str] = {}

    def start(self, cell: str, node: str) -> None:
        self.nodes[cell] = node

    def all(self) -> dict[str, str]:
        return self.nodes


def run(cells: Sequence[Cell], body: Body, given: Mapping[str, Any], logs: Path) -> Outcome:
    """Run cells on the cluster that Ray is connected to; say how far they are.

    A cell that fails spares those that do not need it.

    Args:
        cells: sorted so that a cell comes after those that it needs.
        body: a function that can be sent to nodes.
        given: the answers of cells that need not run.
        logs: the folder for what failed cells printed.
    """
    ray.cloudpickle.register_pickle_by_value(execution)  # type: ignore[no-untyped-call]
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = ray.remote(_Board).options(num_cpus=0, scheduling_strategy=here).remote()
    sent = ray.put(body)
    refs: dict[str, Any] = {}
    for cell in cells:
        answers = [refs[name] if name in refs else _Done(given[name], "", 0) for name in cell.needs]
        where = NodeAffinitySchedulingStrategy(cell.node_id, soft=False) if cell.node_id else "DEFAULT"
        task = ray.remote(_run_one).options(
            name=cell.name,
            num_cpus=cell.cpus,
            num_gpus=cell.gpus,
            resources=dict(cell.resources),
            scheduling_strategy=where,
            max_retries=RETRIES,
            retry_exceptions=[KilledError],
        )
        refs[cell.name] = task.remote(board, sent, cell.name, dict(cell.env), cell.needs, *answers)
    return _Watch(cells, refs, board, logs).to_the_end()


def _run_one(board: Any, body: Body, cell: str, env: dict[str, str], needs: tuple[str, ...], *done: "_Done") -> "_Done":
    node, began = f"{socket.gethostname()}/{ray.get_runtime_context().get_node_id()[:4]}", time.monotonic()
    board.start.remote(cell, node)
    answer = body(cell, {name: each.answer for name, each in zip(needs, done, strict=True)}, env)
    return _Done(answer, node, time.monotonic() - began)


class _Done(NamedTuple):
    """What a cell gave, where, and how long it took."""

    answer: Any
    node: str
    seconds: float


@dataclass
class _Watch:
    """Collects what tasks give, and says how far they are."""

    cells: Sequence[Cell]
    refs: dict[str, Any]
    board: Any
    logs: Path
    outcome: Outcome = field(default_factory=Outcome)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    """How long the finished cells of each stage took."""
    began: float = field(default_factory=time.monotonic)

    def to_the_end(self) -> Outcome:
        left, due = list(self.cells), 0.0
        while left:
            found, _ = ray.wait([self.refs[cell.name] for cell in left], num_returns=len(left), timeout=1.0)
            ready = set(found)
            # In their order: whether a cell failed itself is known by those that it needs.
            for cell in [cell for cell in left if self.refs[cell.name] in ready]:
                left.remove(cell)
                self._take(cell, len(left))
            if left and time.monotonic() >= due:
                say(self._progress(left))
                due = time.monotonic() + SAY_EVERY_SECONDS
        return self.outcome

    def _take(self, cell: Cell, left: int) -> None:
        try:
            done: _Done = ray.get(self.refs[cell.name])
        except RayError as error:
            lacking = {*self.outcome.failed, *self.outcome.not_run}
            if lacking & set(cell.needs):
                self.outcome.not_run.append(cell.name)
            else:
                self._note_failure(cell.name, getattr(error, "cause", error))
            return
        self.outcome.answers[cell.name] = done.answer
        self.seconds.setdefault(stage(cell.name), []).append(done.seconds)
        say(f"{cell.name}: done on {done.node} in {duration(done.seconds)}, {left} cells are left")

    def _note_failure(self, cell: str, error: Exception) -> None:
        said = error.log if isinstance(error, CellError) else str(error)
        log = self.outcome.failed[cell] = self.logs / f"{cell.replace('/', '-')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(said)
        node = ray.get(self.board.all.remote()).get(cell, "no node")
        last = [line for line in said.splitlines() if line.strip()][-1:]
        say(f"{cell}: failed on {node}: {one_line(''.join(last))}; see {log}")

    def _progress(self, left: Sequence[Cell]) -> str:
        """Return a line: how many cells are done, run on which nodes, wait and failed, and how long the rest takes."""
        started = ray.get(self.board.all.remote())
        nodes: dict[str, list[str]] = {}
        for cell in left:
            if cell.name in started:
                nodes.setdefault(started[cell.name], []).append(cell.name)
        running = sum(map(len, nodes.values()))
        where = "; ".join(f"{node}: {', '.join(names)}" for node, names in sorted(nodes.items()))
        counts = f"{len(self.outcome.answers)} done, {running} running{f' ({where})' if where else ''}, "
        counts += f"{len(left) - running} waiting, {len(self.outcome.failed)} failed"
        elapsed = time.monotonic() - self.began
        remaining = seconds_left(self.seconds, [cell.name for cell in left], elapsed)
        if not running and elapsed > SAY_EVERY_SECONDS:
            counts += f"; {left[0].name} waits for a node with {_wanted(left[0])}"
        return counts if remaining is None else f"{counts}; about {duration(remaining)} left"


def seconds_left(done: Mapping[str, Sequence[float]], left: Sequence[str], elapsed: float) -> float | None:
    """Return how long the rest takes if it goes on as before; None before the first cell is done.

    Args:
        done: how long the finished cells took, by stage.
        left: the cells that are not finished.
        elapsed: seconds since the start.
    """
    if not done:
        return None
    typical = fmean(seconds for each in done.values() for seconds in each)
    work = sum(fmean(done[stage(name)]) if stage(name) in done else typical for name in left)
    return elapsed * work / sum(seconds for each in done.values() for seconds in each)


def stage(cell: str) -> str:
    """Return a cell's stage."""
    return cell.partition("@")[0]


def duration(seconds: float) -> str:
    """Return seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _wanted(cell: Cell) -> str:
    wanted = {"CPU": cell.cpus, "GPU": cell.gpus, **cell.resources}
    return ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount)
