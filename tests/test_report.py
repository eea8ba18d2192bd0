"""The whole report against a golden file.

`TRIMLAB_GOLDEN=write python -m pytest tests/test_report.py` writes tests/golden anew: read the diff before
you commit it.
"""

import csv
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

import factories
from trimlab import archive, conclusions, paths, report
from trimlab.records import Measurement, Pruning, Record, Training
from trimlab.results import Results

GOLDEN = Path(__file__).parent / "golden"
FOLDER = paths.REPORTS / "synthetic"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def everywhere() -> list[Record]:
    """The CPU's whole study with two seeds, and what a GPU timed of the same weights."""
    study = factories.study(seeds=[0, 1])
    elsewhere = [
        factories.engine_measurement(study, "candidate", precision, seed=seed, count=3)
        for precision in ("fp32", "tf32", "int8", "int8-entropy")
        for seed in study.seeds
    ]
    return [*factories.everything(study), *elsewhere]


CASES = {
    "one-seed": (factories.study(), factories.everything(factories.study())),
    "two-devices": (factories.study(seeds=[0, 1]), everywhere()),
}


def contents() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(FOLDER.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ["report.md", "metrics.json"])
def test_the_report_equals_its_golden_file(case: str, name: str) -> None:
    report.render(*CASES[case])
    golden = GOLDEN / f"{case}-{name}"
    if os.environ.get("TRIMLAB_GOLDEN") == "write":
        golden.write_bytes((FOLDER / name).read_bytes())
    assert (FOLDER / name).read_text() == golden.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_same_records_in_any_order_give_the_same_bytes(case: str) -> None:
    study, records = CASES[case]
    report.render(study, records)
    first = contents()
    shuffled = list(records)
    random.Random(0).shuffle(shuffled)
    report.render(study, shuffled)
    assert contents() == first


def test_committed_records_alone_give_the_stages_report() -> None:
    study = factories.study()
    paths.PARAMS.write_text(json.dumps(study.model_dump()))
    for number, record in enumerate(factories.everything(study)):
        factories.write(record, Path("from-elsewhere") / f"{number}.json")
    archive.import_records([Path("from-elsewhere")])
    report.render(study, factories.everything(study))
    first = contents()
    loaded = archive.load_study("synthetic")
    report.render(loaded, archive.select(loaded, archive.committed_records("synthetic")))
    assert contents() == first


def test_figures_that_the_study_no_longer_has_are_removed() -> None:
    stale = FOLDER / "figures" / "speed-9.svg"
    stale.parent.mkdir(parents=True)
    stale.write_text("stale")
    report.render(*CASES["one-seed"])
    assert not stale.exists()


def test_every_linked_figure_exists_and_every_figure_is_linked() -> None:
    report.render(*CASES["two-devices"])
    linked = set(re.findall(r"\]\((figures/[^)]+)\)", (FOLDER / "report.md").read_text()))
    assert linked == {f"figures/{path.name}" for path in (FOLDER / "figures").iterdir()}
    assert linked


def test_metrics_are_at_most_twelve_scalars() -> None:
    report.render(*CASES["one-seed"])
    metrics = json.loads((FOLDER / "metrics.json").read_text())
    values = [value for group in metrics.values() for value in group.values()]
    assert 0 < len(values) <= 12
    assert all(isinstance(value, int | float) for value in values)


def test_plot_data_holds_the_records_figures() -> None:
    study, records = CASES["one-seed"]
    report.render(study, records)
    with (FOLDER / "plots" / "pruning.csv").open() as file:
        found = {row["variant"]: float(row["top1_after_percent"]) for row in csv.DictReader(file)}
    recorded = {r.variant: 100 * r.top1_accuracy for r in records if isinstance(r, Pruning) and r.workload == "large"}
    assert found == pytest.approx(recorded, abs=0.005)


def markdown(records: list[Record]) -> str:
    return report.markdown(Results.of(factories.study(), records), [])


def test_a_study_without_measurements_says_so_in_one_line() -> None:
    text = markdown([r for r in factories.everything(factories.study()) if not isinstance(r, Measurement)])
    for line in (
        "The records hold no measurement of unpruned variants.",
        "The records hold no measurement of pruned variants.",
        "The candidate was measured nowhere.",
        "The records hold no measurement.",
    ):
        assert line in text.splitlines()


def test_a_study_of_trainings_alone_says_so_in_one_line() -> None:
    text = markdown([r for r in factories.everything(factories.study()) if isinstance(r, Training)])
    assert "The records hold no pruned model." in text.splitlines()
    assert "so there is nothing to compare. Cited by" in text


def test_a_study_in_progress_is_rendered_and_names_what_is_missing() -> None:
    study = factories.study()
    made = factories.everything(study)
    for number in range(1, len(made)):
        report.render(study, made[:number])
    early = [r for r in made if r.workload == "large" and getattr(r, "variant", "large") != "large-r50"]
    text = markdown(early)
    assert (
        "- **Not measured yet**: training of large-amp, small; pruning of large-r50, small, small-r50; measurement of "
        "large-r50 FP32, large-r50 FP16, large-r50 INT8, small FP32, small FP16, small INT8, small-r50 FP32, "
        "small-r50 FP16, small-r50 INT8."
    ) in text.splitlines()
    assert "Not measured yet" not in markdown(made)


def trained_on_a_gpu() -> Results:
    """A study trained and pruned on a GPU, whose more numerous files a CPU measured."""
    study = factories.study()
    worked = [r for r in factories.everything(study, factories.GPU) if not isinstance(r, Measurement)]
    measured = [
        r.model_copy(update={"device": factories.CPU})
        for r in factories.everything(study, factories.GPU)
        if isinstance(r, Measurement)
    ]
    return Results.of(study, [*worked, *measured])


def test_what_training_says_is_of_the_device_that_trained() -> None:
    of, at_home = trained_on_a_gpu(), Results.of(*CASES["one-seed"])
    assert (of.devices()[0], of.training_device()) == (factories.CPU.name, factories.GPU.name)
    assert conclusions.closing(of)
    for said in (conclusions.closing, conclusions.ratio_explained, report.plot_data):
        assert said(of) == said(at_home)


def test_without_trainings_the_training_device_is_the_one_with_most_records() -> None:
    study, records = CASES["one-seed"]
    of = Results.of(study, [r for r in records if isinstance(r, Measurement)])
    assert of.training_device() == factories.CPU.name


def test_each_table_says_whether_its_times_hold_copies() -> None:
    text = markdown(factories.everything(factories.study()))
    assert all("copies left out" in line for line in text.splitlines() if "Eager latency: torch" in line)
    assert all("Copies are included" in line for line in text.splitlines() if "Images/s: p50" in line)


def test_notes_of_the_study_are_printed() -> None:
    settings = {
        "title": "T",
        "baseline": "large",
        "candidate": "candidate",
        "notes": ["Batch 128 is our assumption."],
    }
    study = factories.study(report=settings)
    text = report.markdown(Results.of(study, factories.everything(study)), [])
    assert "- Batch 128 is our assumption." in text.splitlines()


def test_the_report_imports_neither_torch_nor_mlflow() -> None:
    heavy = "[name for name in ('torch', 'mlflow') if name in sys.modules]"
    code = f"import sys; from trimlab import archive, report; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
