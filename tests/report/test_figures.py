import itertools
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import factories
from trimlab import formats
from trimlab.records import Pruning
from trimlab.report import figures, findings
from trimlab.report.intervals import wilson
from trimlab.report.results import Results


def results(**changes: Any) -> Results:
    study = factories.study(**changes)
    return Results.of(study, factories.everything(study))


@cache
def drawn() -> dict[str, Figure]:
    """The figures of the synthetic study, which no test changes."""
    return figures.draw(results())


def labels(of: Results, name: str) -> list[str]:
    axes = figures.draw(of)[name].axes[0]
    return [str(line.get_label()) for line in axes.get_lines()]


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_the_same_results_draw_the_same_bytes(tmp_path: Path, seeds: list[int]) -> None:
    for run in ("first", "second"):
        for name, figure in figures.draw(results(seeds=seeds)).items():
            figures.save(figure, tmp_path / f"{run}-{name}.svg")
    first = sorted(tmp_path.glob("first-*.svg"))
    assert len(first) == 8
    for path in first:
        assert path.read_bytes() == path.with_name(path.name.replace("first", "second")).read_bytes()


def test_a_users_own_style_changes_nothing(tmp_path: Path) -> None:
    figures.save(figures.draw(results())["training"], tmp_path / "plain.svg")
    with matplotlib.rc_context({"font.size": 31, "axes.facecolor": "red", "svg.fonttype": "none"}):
        figures.save(figures.draw(results())["training"], tmp_path / "styled.svg")
        assert matplotlib.rcParams["font.size"] == 31
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "styled.svg").read_bytes()


def test_figures_carry_no_date_and_no_version(tmp_path: Path) -> None:
    figures.save(figures.draw(results())["training"], tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "dc:date" not in text
    assert matplotlib.__version__ not in text


def test_published_points_are_drawn_for_their_own_dataset_alone() -> None:
    assert "published, after" in labels(results(), "pruning-large")
    others = results(datasets={"cifar10": {"source": "digits", "path": "data/none"}})
    assert "published, after" not in labels(others, "pruning-large")
    lines = [figures.draw(of)["accuracy-by-size-cifar10"].axes[0].get_lines() for of in (results(), others)]
    hollow = [sum(line.get_fillstyle() == "none" for line in drawn) for drawn in lines]
    assert hollow[0] - hollow[1] == 24


def test_every_axis_says_what_it_shows() -> None:
    for figure in drawn().values():
        for axes in figure.axes:
            assert axes.get_xlabel()
        assert figure.axes[0].get_ylabel() or figure.axes[0].get_yticklabels()


def test_the_drawn_accuracy_is_that_of_the_records() -> None:
    of = results()
    after = figures.draw(of)["pruning-large"].axes[0].get_lines()[0]
    recorded = {100 * r.ratio: 100 * r.top1_accuracy for r in of.prunings if r.workload == "large"}
    assert dict(zip(map(float, after.get_xdata()), map(float, after.get_ydata()), strict=True)) == pytest.approx(
        recorded
    )


def test_a_point_with_rounded_widths_lies_beside_the_line() -> None:
    study = factories.rounded_study()
    of = Results.of(study, factories.everything(study))
    lines = {str(line.get_label()): line for line in figures.draw(of)["pruning-large"].axes[0].get_lines()}
    assert list(map(float, lines["after fine-tuning"].get_xdata())) == [0, 50, 60, 80]
    assert list(map(float, lines["rounded widths, after"].get_xdata())) == [50]
    assert list(map(float, lines["published, after"].get_xdata())) == [0, 50, 60, 80]


def test_latencies_are_drawn_a_line_a_process_where_their_calls_are_kept() -> None:
    assert "latency-1" not in figures.draw(results())
    of = results(benchmark={"processes": 3})
    lines = figures.draw(of)["latency-1"].axes[0].get_lines()
    assert len(lines) == 3 * 4  # unpruned FP32, and the candidate in three precisions
    (first, *_) = (r for r in of.measurements if (r.variant, r.precision) == ("large", "fp32"))
    drawn = [float(x) for x in lines[0].get_xdata()]
    calls = first.processes[0].latency.calls_ms
    assert (drawn[0], drawn[-1]) == pytest.approx((min(calls), max(calls)))
    assert drawn[100] == pytest.approx(first.processes[0].latency.p50_ms, rel=1e-4)


def test_accuracy_stands_over_latency_and_throughput_with_its_interval() -> None:
    of = results()
    left, right = (drawn()[f"accuracy-by-{name}-cifar10"].axes[0] for name in ("latency", "throughput"))
    small = next(r for r in of.measurements if (r.variant, r.precision) == ("small", "int8"))
    low, high = wilson(round(small.top1_accuracy * small.num_images), small.num_images)
    for axes, x in ((left, small.latency.p50_ms), (right, small.batch_latency.images_per_second)):
        bars = [path for bar in axes.containers for path in bar[2][0].get_segments() if path[0][0] == pytest.approx(x)]
        ends = [(float(bar[0][1]), float(bar[1][1])) for bar in bars]
        assert pytest.approx((100 * low, 100 * high)) in ends


def test_the_front_of_throughput_rises_in_accuracy_as_it_falls_in_speed() -> None:
    axes = drawn()["accuracy-by-throughput-cifar10"].axes[0]
    front = next(line for line in axes.get_lines() if line.get_drawstyle() == "steps-post")
    rates, top1 = list(front.get_xdata()), list(front.get_ydata())
    assert rates == sorted(rates, reverse=True) and top1 == sorted(top1)
    assert len(rates) > 2 and max(rates) == max(r.batch_latency.images_per_second for r in results().measurements)


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """The names of points that lie on each other."""
    figure.draw_without_rendering()
    boxes = [(text.get_text(), text.get_window_extent()) for text in figure.axes[0].texts]
    return [(a, b) for (a, box), (b, other) in itertools.combinations(boxes, 2) if box.overlaps(other)]


@pytest.mark.parametrize("name", ["size", "latency", "throughput"])
def test_names_of_points_say_the_model_and_do_not_collide(name: str) -> None:
    figure = drawn()[f"accuracy-by-{name}-cifar10"]
    names = [text.get_text() for text in figure.axes[0].texts]
    assert "candidate: ResNet-18 60 %" in names and len(names) == len(set(names)) > 2
    assert overlapping(figure) == []


def test_a_title_says_what_was_found_and_ranks_nothing_that_cannot_be_told_apart() -> None:
    of = results()
    bench = of.benches()[0]
    title = drawn()["accuracy-by-size-cifar10"].axes[0].get_title(loc="left")
    assert " ".join(title.split()).startswith(findings.shrunk(of, bench))
    assert "points of top-1 lost" in findings.shrunk(of, bench)
    study = of.study
    alike = factories.measurement(study, "candidate", "int8", top1_accuracy=0.9195)
    others = [
        r
        for r in of.records
        if (r.kind, getattr(r, "variant", ""), getattr(r, "precision", "")) != ("measurement", "candidate", "int8")
    ]
    assert "a top-1 that cannot be told apart" in findings.shrunk(Results.of(study, [*others, alike]), bench)


def test_bars_are_limited_to_what_carries_the_message() -> None:
    variants = factories.study().model_dump()["variants"]
    variants |= {f"large-{n}": {"workload": "large", "pruning": "sweep.r50"} for n in range(8)}
    of = results(variants=variants)
    axes = figures.draw(of)["speed-1"].axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert len(of.by_file(of.measurements)) > len(names) <= 18
    assert {"large  FP32", "candidate  INT8", "small  FP32"} <= set(names)


def test_no_colour_of_a_precision_is_too_faint_on_white() -> None:
    def luminance(colour: str) -> float:
        channels = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in to_rgb(colour))
        return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), channels, strict=True))

    contrasts = {known.name: 1.05 / (luminance(known.colour) + 0.05) for known in formats.FORMATS}
    assert min(contrasts.values()) > 2, contrasts
    assert len({known.colour for known in formats.FORMATS}) == len(formats.FORMATS)


def test_layers_by_time_start_with_the_longest() -> None:
    axes = drawn()["layers-1"].axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv2  64", "conv1  64", "reorder"]
    title = axes.get_title(loc="left")
    assert "1 of 3 layers takes 60 % of the time" in " ".join(title.split())
    assert max(map(len, title.splitlines())) <= 48, "cut at the figure's edge where names are long"


def test_an_unpruned_study_has_no_pruning_figure() -> None:
    study = factories.study()
    unpruned = [r for r in factories.everything(study) if not isinstance(r, Pruning) or r.ratio == 0]
    assert not [name for name in figures.draw(Results.of(study, unpruned)) if name.startswith("pruning")]


def test_each_device_has_its_own_speeds() -> None:
    study = factories.study()
    both = [*factories.everything(study), *factories.everything(study, factories.GPU)]
    drawn = figures.draw(Results.of(study, both))
    assert {name for name in drawn if name.startswith("speed")} == {"speed-1", "speed-2"}


def test_a_training_that_was_evaluated_once_is_a_dot() -> None:
    study = factories.study()
    first, *_, last = factories.curve(3, 0.9, seconds=1.0)
    once = factories.training(study, "large", curve=[first.model_copy(update={"top1_accuracy": None}), last])
    of = Results.of(study, [once, factories.training(study, "small")])
    assert [line.get_marker() for line in figures.draw(of)["training"].axes[1].get_lines()] == ["o", ""]


def test_epochs_are_whole_numbers_where_all_were_evaluated_at_one() -> None:
    study = factories.study()
    first, *_, last = factories.curve(3, 0.9, seconds=1.0)
    once = factories.training(study, "large", curve=[first.model_copy(update={"top1_accuracy": None}), last])
    axes = figures.draw(Results.of(study, [once]))["training"].axes[1]
    assert [tick for tick in axes.get_xticks() if tick % 1] == []


def test_a_name_with_dollar_signs_is_drawn_as_it_is() -> None:
    study = factories.study()
    odd = factories.CPU.model_copy(update={"name": r"CPU $\frac{$"})
    made = [r.model_copy(update={"device": odd}) for r in factories.everything(study)]
    for figure in figures.draw(Results.of(study, made)).values():
        figure.draw_without_rendering()
