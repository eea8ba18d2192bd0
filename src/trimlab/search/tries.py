"""Tries, each an experiment of DVC in the work tree, and what is kept of them so that a search goes on."""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trimlab import config, machine, paths, progress
from trimlab.config.choices import unresolved
from trimlab.errors import UserError
from trimlab.records import loaded
from trimlab.report import pick
from trimlab.report.pick import File, Limits, Objective
from trimlab.report.results import Results
from trimlab.report.text import MIB, precision_name, pretty
from trimlab.search import proposals
from trimlab.search.proposals import Change, Try

_OF_THE_POINT = re.compile(r"error: .*\bprun(?:e|ing)\.\w")
"""What a stage prints that refuses a point: it names a key. A full disk, for example, says nothing about the point."""


@dataclass(frozen=True)
class Kept(Try):
    """What is kept of a try."""

    seconds: float
    """That the try took."""
    files: list[dict[str, Any]]
    """Each of the candidate's files: precision, runtime, points that it surely loses at most, MiB, both latencies."""
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


@contextmanager
def begun(limits: Limits, objective: Objective, runtimes: Sequence[str]) -> Iterator[Search]:
    """Give the search of the study in params.yaml, with the tries that it has already.

    Raises:
        UserError: another search is running here; the candidate has a target instead of a ratio, or would be chosen on
            the test set; the study does not use a runtime.
    """
    with machine.alone(_folder() / "lock", "another search is running in this folder: wait until it has ended"):
        _put_back()
        study = config.load()
        _check(study, runtimes)
        file = _file(study, limits, objective, runtimes)
        try:
            kept = [Kept(**each) for each in json.loads(file.read_text())]
        except (FileNotFoundError, ValueError, TypeError):
            kept = []
        yield Search(study, limits, objective, runtimes, kept)


def _check(study: config.Params, runtimes: Sequence[str]) -> None:
    if study.data.split == "test":
        raise UserError(
            "data.split test: a search would choose on the test set: set data.split to holdout, and show the study "
            "that is found on the test set"
        )
    candidate = study.report.candidate
    if study.variants[candidate].pruning != "prune" or not study.point(candidate).ratio:
        raise UserError(
            f"report.candidate {candidate!r} is not pruned by `prune` with a ratio above 0: a search changes that point"
        )
    problems = [unresolved("--runtime", runtime, study.benchmark.runtimes) for runtime in runtimes]
    if said := [problem for problem in problems if problem]:
        raise UserError("\n".join(said))


def run(search: Search, hours: float) -> Iterator[Kept]:
    """Try points until nothing improves, or until another try might take longer than what is left of the time.

    A call makes one try at least.

    Yields:
        Each try when it is done.

    Raises:
        UserError: the baseline or the first try fails; a later one fails, but not because of its point.
    """
    point = search.study.point(search.study.report.candidate)
    assert point.ratio  # `begun` has seen to it
    allocation = point.allocation or search.study.pruning.allocation
    changes = list(proposals.other_ways(point, get_args(config.Allocation), allocation))
    end = time.monotonic() + 3600 * hours
    new: list[Kept] = []
    with _params_put_back():
        _baseline(search)
        while (asked := proposals.proposed(point.ratio, changes, search.kept)) is not None:
            if new and time.monotonic() + _longest(new, point.epochs, asked[1]) > end:
                progress.say("search: the time is over")
                return
            new.append(_try(search, *asked))
            search.kept.append(new[-1])
            _keep(search)
            yield new[-1]
    progress.say("search: nothing improves any more")


def _longest(known: Sequence[Kept], epochs: int, change: Change) -> float:
    """Return how many seconds a try may take: as long as the longest one, and longer with more epochs."""

    def trained(change: Change) -> int:
        return max(1, int(change.get("epochs", epochs)))

    return max(one.seconds * max(1, trained(change) / trained(one.change)) for one in known)


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
    return f"{named(one.ratio, one.change)}: {'within' if one.within else 'not within'} the limits ({said})"


def _baseline(search: Search) -> None:
    """Train and measure the baseline, if that is not done yet: that it takes long says nothing about a try."""
    baseline = search.study.report.baseline
    progress.say(f"search: the baseline, {baseline}")
    code, printed = _run(["repro", f"benchmark@{baseline}"])
    if code:
        raise UserError(f"the baseline failed: {_problem(printed)}")


def _try(search: Search, ratio: float, change: Change) -> Kept:
    progress.say(f"search: try {len(search.kept) + 1}, {named(ratio, change)}")
    started = time.monotonic()
    values = {"ratio": ratio, **_unchanged(search), **change}
    # "++": the params may leave a key out.
    settings = (part for key, value in values.items() for part in ("-S", f"++prune.{key}={value}"))
    target = f"benchmark@{search.study.report.candidate}"
    code, printed = _run(["exp", "run", "-m", f"search: {named(ratio, change)}", *settings, target])
    if code:
        problem = _problem(printed)
        if not search.kept or not any(map(_OF_THE_POINT.match, printed)):
            raise UserError(f"try {len(search.kept) + 1} failed, {named(ratio, change)}: {problem}")
        return Kept(ratio, dict(change), None, None, False, False, time.monotonic() - started, [], problem)
    files = _candidates(search)
    within, accurate = (
        pick.pick(files, limits, search.objective) for limits in (search.limits, Limits(search.limits.max_drop))
    )
    cost = min(pick.cost(file, search.objective) for file in ([within or accurate] if accurate else files))
    return Kept(
        ratio,
        dict(change),
        cost,
        min(file.surely_lost for file in files),
        accurate is not None,
        within is not None,
        time.monotonic() - started,
        [_shown(file) for file in files],
    )


def _run(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Run DVC; return its exit code and what it printed, which is shown as progress."""
    command = [sys.executable, "-m", "dvc", *arguments]
    printed = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                printed.append(line.rstrip())
                progress.say(printed[-1])
        except KeyboardInterrupt:
            process.wait()  # until DVC, which has the same signal, no longer writes into params.yaml
            raise
    return process.returncode, printed


def _problem(printed: Sequence[str]) -> str:
    found = next((line for line in printed if line.lower().startswith("error: ")), "")
    return found[len("error: ") :] or " ".join(printed[-3:])


def _unchanged(search: Search) -> dict[str, Any]:
    """Return the params' own values of everything that a try of this search has changed: they are not left over."""
    point = search.study.point(search.study.report.candidate)
    changed = {key for one in search.kept for key in one.change}
    return {key: "null" if (value := getattr(point, key)) is None else value for key in sorted(changed)}


def _candidates(search: Search) -> list[File]:
    """Return the candidate's files, compared with the baseline's.

    Raises:
        UserError: another device measured the baseline.
    """
    study = config.load()  # with the values of the try
    baseline, candidate = study.report.baseline, study.report.candidate
    variants = {name: study.variants[name] for name in (baseline, candidate)}
    workloads = {variant.workload: study.workloads[variant.workload] for variant in variants.values()}
    # Nothing else need have run.
    ran = study.model_copy(update={"variants": variants, "workloads": workloads})
    results = Results.of(*loaded.of_stages(ran))
    device = next((record.device for record in results.measurements if record.variant == candidate), None)
    found = pick.files(results, device.identity) if device else []
    if not found:
        raise UserError(
            f"this device has not measured {baseline} in FP32: run `dvc repro -f -s benchmark@{baseline}` here"
        )
    own = [file for file in found if file.records[0].variant == candidate]
    chosen = [file for file in own if not search.runtimes or file.records[0].runtime in search.runtimes]
    if not chosen:
        there = ", ".join(dict.fromkeys(file.records[0].runtime for file in own))
        raise UserError(
            f"--runtime {' '.join(search.runtimes)}: {candidate} has files in {there} here: use one of these"
        )
    return chosen


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


def _folder() -> Path:
    return paths.project_root() / paths.STATE / "search"


def _file(study: config.Params, limits: Limits, objective: str, runtimes: Sequence[str]) -> Path:
    """Return where tries are kept: by everything that decides them, but for the ratio that they change."""
    asked = study.model_dump(mode="json") | {"limits": limits, "objective": objective}
    del asked["prune"]["ratio"]
    digest = hashlib.sha256(json.dumps([asked, list(runtimes)], sort_keys=True).encode()).hexdigest()
    return _folder() / f"{study.study}-{digest[:12]}.json"


def _keep(search: Search) -> None:
    file = _file(search.study, search.limits, search.objective, search.runtimes)
    _replace(file, json.dumps([asdict(one) for one in search.kept], indent=1).encode())


def _replace(file: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"{file.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(file)


def _original() -> Path:
    return _folder() / "params.yaml"


@contextmanager
def _params_put_back() -> Iterator[None]:
    """Leave params.yaml as it was, however the search ends: each experiment writes its values into it."""
    _replace(_original(), paths.PARAMS.read_bytes())
    try:
        yield
    finally:
        _put_back()


def _put_back() -> None:
    """Undo what experiments wrote into params.yaml, also those of a search that was killed.

    Raises:
        UserError: something else in it was changed since.
    """
    if not _original().exists():
        return
    if _but_for_the_point(_original()) != _but_for_the_point(paths.PARAMS):
        raise UserError(
            f"{paths.PARAMS} was edited since a search began, whose last try left its values under `prune`: compare it "
            f"with {_original()}, the params before that search, and delete that file"
        )
    _replace(paths.PARAMS, _original().read_bytes())
    _original().unlink()


def _but_for_the_point(file: Path) -> Any:
    """Return the values of a params file, which a try may have made invalid, without those that a search changes."""
    try:
        values = YAML(typ="safe").load(file)
    except YAMLError:
        return None
    return {**values, "prune": None} if isinstance(values, dict) else None
