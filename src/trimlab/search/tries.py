"""Tries, each an experiment of DVC in the work tree, and what is kept of them so that a search goes on."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, get_args

from trimlab import config, paths, progress
from trimlab.errors import UserError
from trimlab.records import loaded
from trimlab.report import pick, recommendation
from trimlab.report.pick import File, Limits, Objective
from trimlab.report.results import Results
from trimlab.report.text import MIB, precision_name, pretty
from trimlab.search import proposals
from trimlab.search.proposals import Change, Try


class Kept(NamedTuple):
    """What is kept of a try."""

    ratio: float
    change: dict[str, Any]
    cost: float | None
    """Of the best file within the limits, see `proposals.Try`."""
    seconds: float
    """That the try took."""
    files: list[dict[str, Any]]
    """Each of the candidate's files: precision, runtime, points kept, MiB, ms, images/s."""
    problem: str = ""
    """Why the point cannot be pruned; empty where it can."""


class Search(NamedTuple):
    """A search that goes on where it was interrupted."""

    study: config.Params
    """As the params were before."""
    limits: Limits
    objective: Objective
    runtimes: Sequence[str]
    kept: list[Kept]


def begin(limits: Limits, objective: Objective, runtimes: Sequence[str]) -> Search:
    """Return the search of the study in params.yaml, with the tries that it has already.

    Raises:
        UserError: the candidate has a target instead of a ratio, or it would be chosen on the test set.
    """
    _put_back()
    study = config.load()
    if study.data.split == "test":
        raise UserError(
            "data.split test: a search would choose on the test set: set data.split to holdout, and show the study "
            "that is found on the test set"
        )
    point = study.point(study.report.candidate)
    if study.variants[study.report.candidate].pruning != "prune" or not point.ratio:
        raise UserError(
            f"report.candidate {study.report.candidate!r} is not pruned by `prune` with a ratio above 0: a search "
            "changes that point"
        )
    file = _file(study, limits, objective, runtimes)
    try:
        kept = [Kept(**each) for each in json.loads(file.read_text())]
    except (FileNotFoundError, ValueError, TypeError):
        kept = []
    return Search(study, limits, objective, runtimes, kept)


def run(search: Search, hours: float) -> Iterator[Kept]:
    """Try points until nothing improves, or until another try might take longer than what is left of the time.

    A call makes one try at least.

    Yields:
        Each try when it is done.

    Raises:
        UserError: the first try fails.
    """
    point = search.study.point(search.study.report.candidate)
    assert point.ratio  # `begin` has seen to it
    allocation = point.allocation or search.study.pruning.allocation
    changes = list(proposals.other_ways(point, get_args(config.Allocation), allocation))
    started, longest = time.monotonic(), 0.0
    with _params_put_back():
        while True:
            asked = proposals.proposed(point.ratio, changes, [Try(*one[:3]) for one in search.kept])
            left = 3600 * hours - (time.monotonic() - started)
            if asked is None or (longest and longest > left):
                progress.say("search: nothing improves any more" if asked is None else "search: the time is over")
                return
            kept = _try(search, *asked)
            search.kept.append(kept)
            _keep(search)
            longest = max(longest, kept.seconds)
            yield kept


def named(ratio: float, change: Change) -> str:
    """Return how a point is called."""
    return ", ".join([f"ratio {ratio:g}", *(f"{key} {value}" for key, value in change.items())])


def described(one: Kept) -> str:
    """Say what came out of a try."""
    if one.problem:
        return f"{named(one.ratio, one.change)}: {one.problem}"
    said = "; ".join(
        f"{precision_name(file['precision'])} in {pretty(file['runtime'])} {file['size_mib']:.3g} MiB, "
        f"{file['latency_ms']:.3g} ms, surely loses at most {file['points_lost_at_most']:.2f} points"
        for file in one.files
    )
    return f"{named(one.ratio, one.change)}: {'within' if one.cost is not None else 'not within'} the limits ({said})"


def _try(search: Search, ratio: float, change: Change) -> Kept:
    progress.say(f"search: try {len(search.kept) + 1}, {named(ratio, change)}")
    started = time.monotonic()
    values = {"ratio": ratio, **_unchanged(search), **change}
    # "++": the params may leave a key out.
    settings = (part for key, value in values.items() for part in ("-S", f"++prune.{key}={value}"))
    report = search.study.report
    targets = (f"benchmark@{variant}" for variant in (report.baseline, report.candidate))
    code, printed = _run(["exp", "run", "-m", f"search: {named(ratio, change)}", *settings, *targets])
    if code:
        problem = next((line for line in printed if line.startswith("error: ")), " ".join(printed[-3:]))
        if not search.kept:
            raise UserError(f"the first try failed: {problem.removeprefix('error: ')}")
        return Kept(ratio, dict(change), None, time.monotonic() - started, [], problem.removeprefix("error: "))
    files = _candidates(search)
    best = pick.pick(files, search.limits, search.objective)
    cost = None if best is None else pick.cost(best, search.objective)
    return Kept(ratio, dict(change), cost, time.monotonic() - started, [_shown(file) for file in files])


def _run(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run DVC; return its exit code and what it printed, which is shown as progress."""
    command = [sys.executable, "-m", "dvc", *arguments]
    printed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            printed.append(line.rstrip())
            progress.say(printed[-1])
    return process.returncode, printed


def _unchanged(search: Search) -> dict[str, Any]:
    """Return the params' own values of everything that a try of this search has changed: they are not left over."""
    point = search.study.point(search.study.report.candidate)
    changed = {key for one in search.kept for key in one.change}
    return {key: "null" if (value := getattr(point, key)) is None else value for key in sorted(changed)}


def _candidates(search: Search) -> list[File]:
    study = config.load()  # with the values of the try
    variants = {name: study.variants[name] for name in (study.report.baseline, study.report.candidate)}
    workloads = {variant.workload: study.workloads[variant.workload] for variant in variants.values()}
    # Nothing else need have run.
    run = study.model_copy(update={"variants": variants, "workloads": workloads})
    results = Results.of(*loaded.of_stages(run))
    found = pick.files(results, recommendation.devices(results)[0], tuple(search.runtimes))
    return [file for file in found if file.records[0].variant == study.report.candidate]


def _shown(file: File) -> dict[str, Any]:
    record = file.records[0]
    return {
        "precision": record.precision,
        "runtime": record.runtime,
        "points_lost_at_most": file.surely_lost,
        "size_mib": file.size_bytes / MIB,
        "latency_ms": file.latency_ms.mean,
        "batch_ms": file.batch_ms.mean,
    }


def _file(study: config.Params, limits: Limits, objective: str, runtimes: Sequence[str]) -> Path:
    """Return where tries are kept: by everything that decides them, but for the point that they change."""
    asked = study.model_dump(mode="json") | {"prune": None, "limits": limits, "objective": objective}
    digest = hashlib.sha256(json.dumps([asked, list(runtimes)], sort_keys=True).encode()).hexdigest()
    return paths.project_root() / paths.STATE / "search" / f"{study.study}-{digest[:12]}.json"


def _keep(search: Search) -> None:
    file = _file(search.study, search.limits, search.objective, search.runtimes)
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    temporary.write_text(json.dumps([one._asdict() for one in search.kept], indent=1))
    temporary.replace(file)


def _original() -> Path:
    return paths.project_root() / paths.STATE / "search" / "params.yaml"


@contextmanager
def _params_put_back() -> Iterator[None]:
    """Leave params.yaml as it was, however the search ends: each experiment writes its values into it."""
    _original().parent.mkdir(parents=True, exist_ok=True)
    _original().write_bytes(paths.PARAMS.read_bytes())
    try:
        yield
    finally:
        _put_back()


def _put_back() -> None:
    if _original().exists():
        paths.PARAMS.write_bytes(_original().read_bytes())
        _original().unlink()
