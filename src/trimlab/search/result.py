"""What a search ends with: a study file, and a figure of the front as it grew."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ruamel.yaml import YAML

from trimlab import formats, paths
from trimlab.errors import UserError
from trimlab.report import figures, pick
from trimlab.report.findings import pareto
from trimlab.report.pick import Objective
from trimlab.report.text import MIB, precision_name
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
    """Draw all files that were tried, loss over the objective, and the front after each try that found a better file.

    Files that lose too much are faint.
    """
    key, axis = _AXES[search.objective]
    with figures.style():
        figure = Figure(figsize=(8, 5), layout="constrained")
        axes = figure.subplots()
        found, fronts = best(search), _fronts(search, key)
        for number, (front, label) in enumerate(fronts, start=1):
            shade = str(0.75 * (1 - number / len(fronts)))
            axes.step(*zip(*front, strict=True), where="post", color=shade, linewidth=1, label=label, zorder=1)
        for file in (file for one in search.kept for file in one.files):
            kept = file["points_lost_at_most"] <= search.limits.max_drop
            axes.plot(
                file[key],
                file["points_lost_at_most"],
                "o",
                color=formats.BY_NAME[file["precision"]].colour,
                alpha=1.0 if kept else 0.35,
                markersize=5,
            )
        axes.axhline(search.limits.max_drop, color=figures.GREY, linestyle="--", linewidth=1)
        figures.log_axis(axes)
        axes.set_xlabel(axis)
        axes.set_ylabel("Points that a file surely loses at most")
        of = f": {named(found.ratio, found.change)} is the best" if found else ": none within the limits"
        axes.set_title(f"{len(search.kept)} tries{of}")
        precisions = dict.fromkeys(file["precision"] for one in search.kept for file in one.files)
        dots = [
            Line2D([], [], marker="o", linestyle="", color=formats.BY_NAME[p].colour, label=precision_name(p))
            for p in precisions
        ]
        axes.legend(handles=[*dots, *axes.get_legend_handles_labels()[0]])
        path.parent.mkdir(parents=True, exist_ok=True)
        figures.save(figure, path)


def _fronts(search: Search, key: str) -> list[tuple[list[figures.Point], str]]:
    """Return the front after the first try, after each that found a better file and after the last, and their names."""
    fronts: list[tuple[list[figures.Point], str]] = []
    points: list[figures.Point] = []
    ahead = None
    for number, one in enumerate(search.kept, start=1):
        points += [(file[key], file["points_lost_at_most"]) for file in one.files]
        found = proposals.best(search.kept[:number])
        if points and (number in (1, len(search.kept)) or found is not ahead):
            front = [points[at] for at in pareto([(cost, -lost) for cost, lost in points])]
            fronts.append((front, f"front after try {number}"))
        ahead = found
    return fronts
