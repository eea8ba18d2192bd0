"""What a search ends with: a study file, and a figure of the front as it grew."""

from pathlib import Path

from matplotlib.figure import Figure
from ruamel.yaml import YAML

from trimlab import paths
from trimlab.errors import UserError
from trimlab.report import figures, pick
from trimlab.report.pick import Objective
from trimlab.report.text import MIB
from trimlab.search import proposals
from trimlab.search.tries import Kept, Search, named

_AXES: dict[Objective, tuple[str, str]] = {
    "size": ("size_mib", "Size of the file, MiB"),
    "latency": ("latency_ms", "Latency at batch 1, ms"),
    "throughput": ("batch_ms", "Latency at the large batch, ms"),
}


def best(search: Search) -> Kept | None:
    """Return the try with the best file within the limits; None where there is none."""
    found = proposals.best(search.kept)
    return found if found and found.within else None


def finish(search: Search) -> str:
    """Write what a search found, and say what it is.

    Raises:
        UserError: no file was within the limits.
    """
    figure, path = paths.SEARCHES / f"{search.study.study}.svg", _found(search)
    draw(search, figure)
    found = best(search)
    if found is None:
        path.unlink(missing_ok=True)
        files = [file for one in search.kept for file in one.files]
        lowest = pick.lowest(
            search.limits,
            [file["points_lost_at_most"] for file in files],
            [file["size_mib"] * MIB for file in files],
            [file["latency_ms"] for file in files],
        )
        raise UserError(
            f"none of {len(search.kept)} tries is within the limits (wrote {figure}): alone they could be as low as "
            f"{lowest}"
        )
    write_study(search, found)
    return (
        f"the best of {len(search.kept)} tries has {named(found.ratio, found.change)}: wrote {path} and {figure}; "
        f"`cp {path} {paths.PARAMS} && dvc repro` shows it on the test set"
    )


def _found(search: Search) -> Path:
    """Return where the study goes that a search found; a study's name has 64 characters at most."""
    return paths.STUDIES / f"{search.study.study[:58]}-found.yaml"


def write_study(search: Search, found: Kept) -> None:
    """Write the study with the best point, to be shown on the test set: `studies/NAME-found.yaml`.

    Comments of params.yaml stay. What an earlier call wrote is replaced.
    """
    path = _found(search)
    path.parent.mkdir(exist_ok=True)
    yaml = YAML()
    yaml.width = 4096
    text = yaml.load(paths.PARAMS.read_text())
    text["study"] = path.stem
    text["data"]["split"] = "test"
    text["prune"].update({"ratio": found.ratio, **found.change})
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(text, file)


def draw(search: Search, path: Path) -> None:
    """Draw all files that were tried: loss over the objective, the front after each try, the later the darker."""
    key, axis = _AXES[search.objective]
    with figures.style():
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        front: list[tuple[float, float]] = []
        for number, one in enumerate(search.kept, start=1):
            points = [(file[key], file["points_lost_at_most"]) for file in one.files]
            shade = str(0.75 - 0.75 * number / len(search.kept))
            axes.plot(*zip(*points, strict=True), "o", color=shade, markersize=4) if points else None
            grown = _front([*front, *points])
            if grown != front:
                axes.step(
                    *zip(*grown, strict=True), where="post", color=shade, linewidth=1, label=f"after try {number}"
                )
                front = grown
        axes.axhline(search.limits.max_drop, color=figures.GREY, linestyle="--", linewidth=1)
        axes.set_xscale("log")
        axes.set_xlabel(axis)
        axes.set_ylabel("Points that a file surely loses at most")
        found = best(search)
        of = f": {named(found.ratio, found.change)} is the best" if found else ": none within the limits"
        axes.set_title(f"{len(search.kept)} tries{of}")
        if front:
            axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figures.save(figure, path)


def _front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other one beats in both, by rising cost."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
