"""What `dvc plots show` draws: dvc.yaml's plots with the templates in .dvc/plots and the report's CSV files."""

import csv
import io
import re

import pytest
import vl_convert
from dvc_render.vega import VegaRenderer
from ruamel.yaml import YAML

import factories
from trimlab.report.results import Results
from trimlab.report.series import plot_data

STUDY = factories.study()
RECORDS = factories.everything(STUDY)


def plots(project):
    """The plots of dvc.yaml by title: (file's name, properties with plain columns)."""
    found = {}
    for entry in YAML(typ="safe").load(project / "dvc.yaml")["plots"]:
        ((name, properties),) = entry.items()
        ((x_file, x),) = properties["x"].items()
        ((y_file, y),) = properties["y"].items()
        assert x_file == y_file
        found[name] = re.fullmatch(r"report/plots/(\w+)\.csv", x_file)[1], {**properties, "x": x, "y": y}
    return found


def rows(text):
    return list(csv.DictReader(io.StringIO(text)))


@pytest.mark.parametrize("name", ["Accuracy by size", "Accuracy by latency", "Pruning", "Training"])
def test_a_plot_has_axis_titles_and_names_its_points(name, project):
    file, properties = plots(project)[name]
    shown = rows(plot_data(Results.of(STUDY, RECORDS))[file])
    assert shown
    points = [{**row, "rev": rev} for rev in ("main", "workspace") for row in shown]
    renderer = VegaRenderer(points, name, template_dir=str(project / ".dvc/plots"), **properties)
    # The oldest version that the library has; DVC's page loads 5.2.
    drawn = vl_convert.vegalite_to_svg(renderer.get_filled_template(), vl_version="5.8")
    texts = set(re.findall(r">([^<>]+)</text>", drawn))
    assert {properties["title"], properties["y_label"], "main", "workspace"} <= texts
    assert any(text.startswith(properties["x_label"]) for text in texts)
    labels = {row["label"] for row in shown if row.get("label")}
    assert labels <= texts
    assert (name == "Training") == (not labels)


def test_the_named_points_are_beaten_by_none():
    for file, cost, accuracy in (
        ("accuracy_by_size", "size_mib", "top1_percent"),
        ("accuracy_by_latency", "latency_ms", "top1_percent"),
        ("pruning", "params_millions", "top1_after_percent"),
    ):
        points = rows(plot_data(Results.of(STUDY, RECORDS))[file])
        for named in (row for row in points if row["label"]):
            for other in points:
                cheaper = float(other[cost]) < float(named[cost])
                assert not (cheaper and float(other[accuracy]) > float(named[accuracy]))


def test_every_file_of_the_candidates_dataset_is_a_point():
    points = rows(plot_data(Results.of(STUDY, RECORDS))["accuracy_by_latency"])
    measured = Results.of(STUDY, RECORDS)
    bench = measured.main_bench()
    dataset = measured.dataset_of(STUDY.report.candidate)
    found = {(r.variant, r.precision): r.latency.p50_ms for r in measured.at(bench) if r.dataset == dataset}
    assert {(row["variant"], row["precision"]): float(row["latency_ms"]) for row in points} == pytest.approx(
        found, abs=5e-4
    )
