"""The whole report against a golden file.

`TRIMLAB_GOLDEN=write python -m pytest tests/report/test_report.py` writes tests/report/golden anew: read the diff
before you commit it.
"""

import csv
import errno
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factories
from trimlab import cli, paths
from trimlab.errors import UserError
from trimlab.measure import timing
from trimlab.records import Measurement, Pruning, Record, Training, archive, imports
from trimlab.records.select import select
from trimlab.report import anatomy, figures, findings, tables
from trimlab.report import stage as report_stage
from trimlab.report.markdown import table as shown
from trimlab.report.results import Results, device_labels
from trimlab.report.sections import report
from trimlab.report.series import metrics, plot_data

GOLDEN = Path(__file__).parent / "golden"
FOLDER = Path("rendered")


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
    return [*map(with_exact_arithmetic, factories.everything(study)), *elsewhere]


def with_exact_arithmetic(record: Record) -> Record:
    """Add the exact arithmetic to an INT8 file's record: the candidate's second seed loses by its kernels."""
    if not isinstance(record, Measurement) or record.precision != "int8":
        return record
    lost, unlike = (0.0195, 0.03) if (record.variant, record.seed) == ("candidate", 1) else (-0.0002, 0.002)
    exact = {"exact_top1_accuracy": record.top1_accuracy + lost, "exact_agreement": 1 - unlike, "weight_bits": 8}
    return record.model_copy(update=exact)


REPLICATED = factories.study(benchmark={"processes": 3})
CASES = {
    "one-seed": (factories.study(), factories.everything(factories.study())),
    "three-processes": (REPLICATED, factories.everything(REPLICATED)),
    "two-devices": (factories.study(seeds=[0, 1]), everywhere()),
}
CLASSIFIED = {name: factories.classified(CASES[name][1]) for name in ("one-seed", "three-processes")} | {
    "two-devices": None
}
"""What the files took the images for; where that is None, the true labels are not stored."""


def contents(folder: Path = FOLDER) -> dict[str, bytes]:
    """Return every file of a report, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written() -> str:
    """Return all markdown of the rendered report, report.md first."""
    return "\n".join(path.read_text() for path in (FOLDER / "report.md", *sorted((FOLDER / "tables").iterdir())))


@pytest.mark.parametrize("case", CASES)
def test_the_report_equals_its_golden_files(case: str) -> None:
    report_stage.render(*CASES[case], FOLDER, CLASSIFIED[case])
    shown = {name: (FOLDER / name).read_text() for name in ("report.md", "metrics.json")}
    shown["tables.md"] = written().removeprefix(shown["report.md"])
    for name, text in shown.items():
        golden = GOLDEN / f"{case}-{name}"
        if os.environ.get("TRIMLAB_GOLDEN") == "write":
            golden.write_text(text)
        assert text == golden.read_text(), name


@pytest.mark.parametrize("case", CASES)
def test_the_same_records_in_any_order_give_the_same_bytes(case: str) -> None:
    study, records = CASES[case]
    report_stage.render(study, records, FOLDER)
    first = contents()
    shuffled = list(records)
    random.Random(0).shuffle(shuffled)
    report_stage.render(study, shuffled, FOLDER)
    assert contents() == first


def test_committed_records_alone_give_the_stages_report() -> None:
    study = factories.study()
    paths.PARAMS.write_text(json.dumps(study.model_dump()))
    for number, record in enumerate(factories.everything(study)):
        factories.write(record, Path("from-elsewhere") / f"{number}.json")
    imports.import_records([Path("from-elsewhere")])
    report_stage.render(study, factories.everything(study), paths.REPORT)
    first = contents()
    loaded = archive.load_study("synthetic")
    report_stage.render(loaded, select(loaded, archive.committed_records("synthetic")), paths.REPORTS / "synthetic")
    assert contents() == first


def test_figures_and_tables_that_the_study_no_longer_has_are_removed() -> None:
    stale = [FOLDER / "figures" / "speed-9.svg", FOLDER / "tables" / "former.md"]
    for path in stale:
        path.parent.mkdir(parents=True)
        path.write_text("stale")
    report_stage.render(*CASES["one-seed"], FOLDER)
    assert not any(path.exists() for path in stale)


@pytest.mark.parametrize("case", CASES)
def test_the_report_is_two_screens_and_links_every_table_once(case: str) -> None:
    report_stage.render(*CASES[case], FOLDER, CLASSIFIED[case])
    text = (FOLDER / "report.md").read_text()
    assert len(text.splitlines()) <= 120
    words = re.findall(r"[\w×%±−.]+", re.sub(r"\]\([^)]*\)|\|[-| ]+\|", " ", text))
    assert len(words) <= 1100
    linked = re.findall(r"\]\((tables/[^)]+)\)", text)
    assert sorted(linked) == sorted(f"tables/{path.name}" for path in (FOLDER / "tables").iterdir())
    for path in (FOLDER / "tables").iterdir():
        heads = re.findall(r"^(\|.*\|)\n\|[-|]+\|$", path.read_text(), re.M)
        grids = re.findall(r"(?:^\|.*\n)+", path.read_text(), re.M)
        assert len(heads) == len(grids) == len(set(grids)), path


def test_every_linked_figure_exists_and_every_figure_is_linked() -> None:
    report_stage.render(*CASES["two-devices"], FOLDER)
    linked = {
        (path.parent / target).resolve().relative_to(FOLDER.resolve()).as_posix()
        for path in (FOLDER / "report.md", *(FOLDER / "tables").iterdir())
        for target in re.findall(r"\]\(([^)]*figures/[^)]+)\)", path.read_text())
    }
    assert linked == {f"figures/{path.name}" for path in (FOLDER / "figures").iterdir()}
    assert linked


def test_metrics_are_at_most_thirteen_scalars() -> None:
    report_stage.render(*CASES["one-seed"], FOLDER)
    metrics = json.loads((FOLDER / "metrics.json").read_text())
    values = [value for group in metrics.values() for value in group.values()]
    assert 0 < len(values) <= 13
    assert all(isinstance(value, int | float) for value in values)


def test_plot_data_holds_the_records_figures() -> None:
    study, records = CASES["one-seed"]
    report_stage.render(study, records, FOLDER)
    with (FOLDER / "plots" / "pruning.csv").open() as file:
        found = {row["variant"]: float(row["top1_after_percent"]) for row in csv.DictReader(file)}
    recorded = {r.variant: 100 * r.top1_accuracy for r in records if isinstance(r, Pruning) and r.workload == "large"}
    assert found == pytest.approx(recorded, abs=0.005)


def markdown(records: list[Record]) -> str:
    return factories.document(report(Results.of(factories.study(), records), []))


def headings(text: str) -> list[str]:
    return [line.lstrip("# ") for line in text.splitlines() if re.match("##? ", line)]


def chapters(records: list[Record]) -> list[str]:
    return [chapter.name for chapter in report(Results.of(factories.study(), records), []).chapters]


def test_what_the_records_do_not_hold_has_no_section() -> None:
    made = factories.everything(factories.study())
    trained = [r for r in made if isinstance(r, Training)]
    assert chapters(trained) == ["training", "devices", "reading"]
    opening = ["What was found", "How it was measured"]
    assert [
        section.heading[0].text for section in report(Results.of(factories.study(), trained), []).opening
    ] == opening
    pruned = [r for r in made if not isinstance(r, Measurement)]
    assert chapters(pruned) == ["training", "pruning", "devices", "models", "reading"]
    assert "runtimes" not in chapters(made) and "speed" in chapters(made)


def test_a_study_that_proposes_nothing_reports_its_trainings() -> None:
    base = factories.study().model_dump()
    variants = {"large": base["variants"]["large"] | {"precisions": ["fp32"]}}
    only = factories.study(
        report={"title": "T", "baseline": "large", "candidate": "large"},
        variants=variants,
        sweep={"none": base["sweep"]["none"]},
        prune=None,
    )
    text = document(only, [r for r in factories.everything(only) if isinstance(r, Training)])
    assert "- large reaches 92.00 (91.5–92.5) % top-1 after 3 epochs;" in text
    measured = document(only, factories.everything(only))
    assert "The study proposes no other file." in measured
    assert anatomy.QUESTION not in measured.split("## Details")[0]


def document(study: factories.Params, records: list[Record]) -> str:
    return factories.document(report(Results.of(study, records), []))


def another_pair(**changes: str) -> str:
    """Render a study of two models on one dataset."""
    base = factories.study().model_dump()
    workloads = {key: value | {"model": changes.get(key, value["model"])} for key, value in base["workloads"].items()}
    dataset = {"source": changes.get("source", "cifar10"), "path": "data/none"}
    study = factories.study(workloads=workloads, datasets={"cifar10": dataset})
    return factories.document(report(Results.of(study, factories.everything(study)), []))


def test_models_that_are_compared_are_in_the_heading_and_cited_beside_their_own_alone() -> None:
    both = another_pair()
    assert "ResNet-18 against ResNet-20" in headings(both) and "Tiny ImageNet" in both
    others = another_pair(small="torchvision/resnet34")
    assert "ResNet-18 against torchvision/resnet34" in headings(others) and "Tiny ImageNet" not in others
    digits = another_pair(source="digits")
    assert "ResNet-18 against ResNet-20" in headings(digits) and "Tiny ImageNet" not in digits
    alone = another_pair(small="resnet18")
    assert not [heading for heading in headings(alone) if " against R" in heading] and "Tiny ImageNet" not in alone


def test_a_study_in_progress_is_rendered_and_names_what_is_missing() -> None:
    study = factories.study()
    made = factories.everything(study)
    for number in range(1, len(made)):
        report_stage.render(study, made[:number], FOLDER)
    early = [r for r in made if r.workload == "large" and getattr(r, "variant", "large") != "large-r50"]
    text = markdown(early)
    assert (
        "- **Not measured yet**: training of large-amp, small; pruning of large-r50, small, small-r50; in ONNX Runtime "
        "9 of 15 files (large-r50 FP32, large-r50 FP16, large-r50 INT8, small FP32 and 5 more)."
    ) in text.splitlines()
    assert "Not measured yet" not in markdown(made)


def test_seeds_and_runtimes_that_are_missing_are_counted() -> None:
    study = factories.study(seeds=[0, 1], benchmark={"runtimes": ["onnxruntime", "openvino", "tensorrt"]})
    made = factories.everything(study)
    openvino = [
        r.model_copy(update={"runtime": "openvino"})
        for r in made
        if isinstance(r, Measurement) and not (r.variant == "small" and r.precision == "int8" and r.seed == 1)
    ]
    lacking = [r for r in made if not (r.seed == 1 and r.workload == "large-amp")]
    assert Results.of(study, [*lacking, *openvino]).missing() == [
        "training of large-amp (seed 1)",
        "in OpenVINO 11 of 40 files (every BF16 file, small INT8 (seed 1); not every device computes BF16)",
        "in TensorRT all 50 files",
    ]


def test_a_report_that_fails_leaves_the_former_one(monkeypatch: pytest.MonkeyPatch) -> None:
    study, records = CASES["one-seed"]
    report_stage.render(study, records, FOLDER)
    former = contents()

    def broken(*_: object) -> str:
        raise ZeroDivisionError

    for name in ("documents", "metrics", "plot_data"):
        with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
            patch.setattr(report_stage, name, broken)
            report_stage.render(study, records[:5], FOLDER)
        assert contents() == former
    assert [path.name for path in Path().iterdir()] == [FOLDER.name]


def test_a_full_disk_is_one_line_and_leaves_the_former_report(monkeypatch: pytest.MonkeyPatch) -> None:
    study, records = CASES["one-seed"]
    report_stage.render(study, records, FOLDER)
    former, write = contents(), Path.write_text

    def full(path: Path, *arguments: Any, **named: Any) -> int:
        if path.name == "report.md":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **named)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"^rendered cannot be written \(No space left on device\): "):
        report_stage.render(study, records[:5], FOLDER)
    assert contents() == former


@pytest.mark.parametrize("failing", [0, 1, 6, 11])
def test_a_report_that_cannot_be_moved_leaves_the_old_one_as_it_was(
    failing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = factories.study()
    report_stage.render(study, factories.everything(study), tmp_path / "report")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    rename, calls = Path.rename, []

    def sometimes(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == failing + 1:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    with monkeypatch.context() as patched, pytest.raises(UserError, match="No space left on device"):
        patched.setattr(Path, "rename", sometimes)
        report_stage.render(study, factories.everything(study)[:-1], tmp_path / "report")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_else_lies_in_a_reports_folder_stays() -> None:
    FOLDER.mkdir()
    (FOLDER / "notes.md").write_text("mine")
    report_stage.render(*CASES["one-seed"], FOLDER)
    assert (FOLDER / "notes.md").read_text() == "mine"


HOSTILE = "CPU |` *x* <b>[a](http://e.org)\\ $x$ $y$ # _z_"


def test_committed_records_are_reported_beside_ones_own_report() -> None:
    study, made = CASES["one-seed"]
    paths.PARAMS.write_text(json.dumps(study.model_dump()))
    for number, record in enumerate(made):
        factories.write(record, Path("from-elsewhere") / f"{number}.json")
    imports.import_records([Path("from-elsewhere")])
    report_stage.render(study, made[:3], paths.REPORT)
    own = contents(paths.REPORT)
    cli.report("synthetic")
    assert contents(paths.REPORT) == own
    assert set(contents(paths.REPORTS / "synthetic")) > {"report.md", "metrics.json"}


def test_text_from_records_is_shown_as_it_is() -> None:
    study, made = CASES["one-seed"]
    hostile = factories.CPU.model_copy(update={"name": HOSTILE, "features": ["<i>"], "system": "a | b"})
    layer = factories.Layer(name="`a|b`", kind="[k](l)", precision="<u>", channels=4, ms=1.0)
    changes = {"device": hostile, "commit": "`rm`", "versions": {"torch": "2*3*4"}}
    elsewhere = {"runtime_version": "1 | 2", "batch_layers": [layer], "layers": [layer]}
    records = [r.model_copy(update=changes | (elsewhere if isinstance(r, Measurement) else {})) for r in made]
    both = [*made, *records]
    report_stage.render(study, both, FOLDER)
    text = written()
    assert text.count("<") == text.count("\\<") > 0
    assert HOSTILE not in text and "](http://e" not in text.replace("\\]", "")
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1, table
    assert len(list((FOLDER / "figures").glob("*.svg"))) == len(figures.draw(Results.of(study, both)))


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
    assert (of.devices()[0], of.training_device()) == (factories.CPU.identity, factories.GPU.identity)
    trained, at_home_trained = (results.on(results.training_device()) for results in (of, at_home))
    assert findings.headroom(trained, "large") == findings.headroom(at_home_trained, "large") is not None
    for said in (findings.ratio_explained, plot_data):
        assert said(of) == said(at_home)


def test_without_trainings_the_training_device_is_the_one_with_most_records() -> None:
    study, records = CASES["one-seed"]
    of = Results.of(study, [r for r in records if isinstance(r, Measurement)])
    assert of.training_device() == factories.CPU.identity


def with_device(made: list[Record], **changes: Any) -> list[Record]:
    device = factories.CPU.model_copy(update=changes)
    return [record.model_copy(update={"device": device}) for record in made]


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"name": "Other CPU"}, ["Test CPU", "Other CPU"]),
        ({"threads": 1}, ["Test CPU, 2 threads", "Test CPU, 1 thread"]),
        ({"features": []}, ["Test CPU, avx512_vnni", "Test CPU, without avx512_vnni"]),
        ({"features": ["avx2"]}, ["Test CPU, avx512_vnni", "Test CPU, avx2"]),
        ({"features": ["avx2"], "threads": 1}, ["Test CPU, avx512_vnni", "Test CPU, avx2"]),
    ],
    ids=str,
)
def test_a_device_is_named_by_what_tells_it_apart(changes: dict[str, Any], names: list[str]) -> None:
    study, made = CASES["one-seed"]
    other = with_device([r for r in made if isinstance(r, Measurement)], **changes)
    of = Results.of(study, [*made, *other])
    assert [of.labels[device] for device in of.devices()] == names
    assert len({bench.device for bench in of.benches()}) == 2
    report_stage.render(study, [*made, *other], FOLDER)
    text = written()
    for name in names:
        assert f"## Measured on {name}, ONNX Runtime" in text
        assert f"| {name}, ONNX Runtime " in text
        assert any(line.startswith(f"{name}, ") for line in text.splitlines() if "scored on" in line)
    assert {path.name for path in (FOLDER / "figures").glob("speed-*")} == {"speed-1.svg", "speed-2.svg"}
    assert not re.search(r"(\d threads?)(, | with )\1", text)


def test_threads_count_where_features_do_not_tell_devices_apart() -> None:
    devices = [
        factories.CPU.model_copy(update={"features": features, "threads": threads})
        for features, threads in ((["x"], 1), (["x"], 2), (["y", "x"], 2))
    ]
    assert list(device_labels(devices).values()) == [
        "Test CPU, without y, 1 thread", "Test CPU, without y, 2 threads", "Test CPU, y",
    ]  # fmt: skip


def test_what_two_threads_trained_and_one_measured_is_a_whole_report() -> None:
    study, made = CASES["one-seed"]
    worked = [r for r in made if not isinstance(r, Measurement)]
    measured = with_device([r for r in made if isinstance(r, Measurement)], threads=1)
    of, at_home = Results.of(study, [*worked, *measured]), Results.of(study, made)
    assert headings(factories.document(report(of, []))) == headings(factories.document(report(at_home, [])))
    assert metrics(of) == metrics(at_home)
    assert plot_data(of) == plot_data(at_home)


def test_removed_parameters_are_those_of_the_unpruned_model() -> None:
    study, made = CASES["one-seed"]
    pruned = [r for r in made if isinstance(r, Pruning) and r.workload == "large" and r.ratio > 0]

    def removed(*others: Record) -> list[str]:
        of = Results.of(study, [*pruned, *others])
        table = tables.pruning(of.on(factories.CPU.identity), "large")
        return [
            line.split("|")[4].strip() for line in shown(table).splitlines() if "| large" in line or "| cand" in line
        ]

    shares = ["75.0", "84.0", "96.0"]
    assert removed(factories.training(study, "large")) == shares
    assert removed(factories.pruning(study, "large"))[1:] == shares
    assert removed(factories.training(study, "large", device=factories.GPU)) == shares
    assert removed() == ["—¹"] * 3


def test_amp_that_the_device_does_not_compute_is_a_sentence_and_no_row() -> None:
    study, made = CASES["one-seed"]
    plain = factories.training(study, "large-amp", precision="fp32")
    of = Results.of(study, [plain if getattr(r, "workload", "") == "large-amp" else r for r in made])
    assert "| large-amp" not in shown(tables.baselines(of))
    said = (
        "large-amp asks for AMP; Test CPU does not compute bf16 natively, so it was trained in FP32, as large was, and "
        "has no row of its own."
    )
    assert [finding.plain for finding in findings.amp(of)] == [said]
    text = factories.document(report(of, []))
    assert text.count(said) == 1
    assert [str(line.get_label()) for line in figures.draw(of)["training"].axes[1].get_lines()] == [
        "large (FP32)", "small (FP32)",
    ]  # fmt: skip


def test_a_model_that_only_asked_for_amp_keeps_its_row_and_says_what_it_got() -> None:
    study = factories.study()
    of = Results.of(study, [factories.training(study, "large-amp", precision="fp32")])
    table = shown(tables.baselines(of))
    assert "| large-amp" in table and "FP32¹" in table and tables.FELL_BACK in table
    assert findings.amp(of) == []


def test_amp_is_not_compared_with_amp_that_got_fp32() -> None:
    base = factories.study().model_dump()["workloads"]
    study = factories.study(workloads=base | {"again": base["large-amp"]})
    made = [
        factories.training(study, "large-amp", precision="bf16"),
        factories.training(study, "again", precision="fp32"),
    ]
    assert findings.amp(Results.of(study, made)) == []


@pytest.mark.parametrize("contended", [False, True])
def test_a_candidate_timed_beside_other_work_is_flagged_among_the_metrics(contended: bool) -> None:
    study, made = CASES["one-seed"]
    records = [
        r.model_copy(update={"contended": contended}) if getattr(r, "variant", "") == "candidate" else r for r in made
    ]
    assert metrics(Results.of(study, records))["candidate"]["contended"] == int(contended)


def test_the_headline_alone_warns_where_the_candidates_kernels_are_not_exact() -> None:
    text = factories.document(report(Results.of(*CASES["two-devices"]), []))
    (found,) = [part for part in text.split("\n## ") if "**In ONNX Runtime on Test CPU, candidate INT8, seed 1" in part]
    assert found.startswith("What was found\n")


def test_other_files_whose_kernels_are_not_exact_are_warned_of_beside_their_table() -> None:
    study, made = CASES["two-devices"]
    lost = {"exact_top1_accuracy": 0.95, "exact_agreement": 0.97, "weight_bits": 8}
    records = [
        r.model_copy(update=lost) if isinstance(r, Measurement) and (r.variant, r.precision) == ("large", "int8") else r
        for r in made
    ]
    text = factories.document(report(Results.of(study, records), []))
    (section,) = [part for part in text.split("\n## ") if "large INT8, seed 0 scores" in part]
    assert section.startswith("INT8 against its exact arithmetic\n")


def test_each_table_says_whether_its_times_hold_copies() -> None:
    text = markdown(factories.everything(factories.study()))
    assert all("copies left out" in line for line in text.splitlines() if "Eager latency: torch" in line)
    assert all("copying in and out included" in line for line in text.splitlines() if "Latency and images/s: " in line)


def test_notes_of_the_study_are_printed() -> None:
    settings = {
        "title": "T",
        "baseline": "large",
        "candidate": "candidate",
        "notes": ["Batch 128 is our assumption."],
    }
    study = factories.study(report=settings)
    text = factories.document(report(Results.of(study, factories.everything(study)), []))
    assert "- Batch 128 is our assumption." in text.splitlines()


def test_the_report_imports_neither_torch_nor_mlflow() -> None:
    heavy = "[name for name in ('torch', 'mlflow') if name in sys.modules]"
    code = f"import sys; from trimlab.records import archive; from trimlab.report import stage; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


SMALL = factories.study(
    seeds=[0, 1],
    benchmark={"runtimes": ["onnxruntime", "tensorrt"]},
    variants={
        "large": {"workload": "large", "pruning": "sweep.none"},
        "large-r50": {"workload": "large", "pruning": "sweep.r50", "precisions": ["fp32", "int8"]},
        "candidate": {"workload": "large", "pruning": "prune", "precisions": ["fp32", "int8"]},
        "small": {"workload": "small", "pruning": "sweep.none", "precisions": ["int8"]},
        "small-r50": {"workload": "small", "pruning": "sweep.r50", "precisions": []},
    },
)
DEVICES = [
    factories.CPU,
    factories.CPU.model_copy(update={"threads": 1}),
    factories.CPU.model_copy(update={"features": []}),
    factories.GPU,
    factories.CPU.model_copy(update={"name": HOSTILE}),
]
shares = st.sampled_from([0.0, 1.0, 0.5, 0.9216]) | st.floats(0, 1)
counts = st.sampled_from([1, 2, 2**53, 272_474])
times = st.sampled_from([1e-6, 1.0, 1.0, 1e9])


@st.composite
def latencies(draw: st.DrawFn) -> factories.Latency:
    p50, p90, p99 = sorted(draw(st.tuples(times, times, times)))
    return factories.Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, n=draw(counts), batch_size=draw(counts))


LAYERS = [[], [factories.Layer(name="x", kind="", precision="", channels=None, ms=0)], factories.layers("int8", 1.0)]
ANY = {
    "contended": st.booleans(),
    "num_images": counts,
    "num_params": counts,
    "size_bytes": counts,
    "file_bytes": counts,
    "weight_bytes": counts,
    "macs": counts,
    "resumptions": st.integers(0, 1),
    "peak_memory_bytes": st.sampled_from([0, 2**30]),
    "train_seconds": st.sampled_from([0.0, 1e9]),
    "curve": st.sampled_from([[], factories.curve(1, 0.0, 1e-6), factories.curve(3, 1.0, 1e9)]),
    "learning_rate": st.sampled_from([0.0, 1e3]),
    "weight_bits": st.sampled_from([None, 7, 8]),
    "widths": st.sampled_from([{}, {"conv1": 1}, {"conv1": 17, "fc": 10}]),
    "versions": st.sampled_from([{}, {"torch": "2.14.1"}]),
    "layers": st.sampled_from(LAYERS),
    "batch_layers": st.sampled_from(LAYERS),
    "precision": st.sampled_from(["fp32", "bf16", "tf32"]),
    "origin": st.sampled_from(["trained", "file"]),
    "initial": st.sampled_from([None, "data/mine.pt"]),
    "initial_training": st.sampled_from([None, factories.training(factories.study(), "small")]),
}
EXTREME = {
    name: timing.series([1e-9, seconds, 1e6], 1)
    for name, seconds in zip(factories.SERIES, (1e-9, 1e6, 1e6, 1e-9), strict=True)
}
PROCESSES = [factories.measurement(REPLICATED, "large", "int8").model_dump()["processes"], [EXTREME]]
ANY |= {"processes": st.sampled_from([[], *PROCESSES, PROCESSES[0] + PROCESSES[1]])}
ANY |= dict.fromkeys(("latency", "batch_latency", "baseline_latency", "baseline_batch_latency"), latencies())
ANY |= {"eager_latency": latencies()}
ANY |= dict.fromkeys(
    ("top1_accuracy", "top1_before", "top1_unpruned", "torch_agreement", "torch_top1_accuracy"), shares
)
ANY |= dict.fromkeys(
    ("exact_agreement", "exact_top1_accuracy", "onnx_agreement", "onnx_top1_accuracy"), shares | st.none()
)


NOT_ANY = {Measurement: {"precision"}, Pruning: {"initial"}}
"""What another record has under the same name."""


@st.composite
def any_records(draw: st.DrawFn) -> list[Record]:
    """Return valid records of some of the study's cells, on some devices, with any values that their bounds allow."""
    found: list[Record] = []
    for device in draw(st.lists(st.sampled_from(DEVICES), min_size=1, max_size=3, unique_by=lambda d: d.identity)):
        made = factories.everything(SMALL, device)
        made += [
            factories.engine_measurement(SMALL, v, p, count=2) for v, p in (("large", "fp32"), ("candidate", "int8"))
        ]
        for record in made:
            if draw(st.integers(0, 9)) < 8:
                own = set(type(record).model_fields) & set(ANY) - NOT_ANY.get(type(record), set())
                chosen = draw(st.lists(st.sampled_from(sorted(own)), max_size=3, unique=True))
                found.append(type(record).model_validate(record.model_dump() | {key: draw(ANY[key]) for key in chosen}))
    return found


def chosen_of(records: list[Record]) -> list[Record]:
    try:
        return select(SMALL, records)
    except UserError:  # nothing fits
        return factories.everything(SMALL)[:1]


@settings(max_examples=30)
@given(any_records())
def test_any_valid_records_give_a_report_without_a_number_that_is_none(records: list[Record]) -> None:
    of = Results.of(SMALL, chosen_of(records))
    text = factories.document(report(of, []))
    assert not re.search(r"\b(nan|inf)\b", text)
    assert not re.search(r"\| +\|", text), "an empty cell"
    json.dumps(metrics(of), allow_nan=False)
    assert not re.search(r"\b(nan|inf)\b", "".join(plot_data(of).values()))


@settings(max_examples=3)
@given(any_records())
def test_any_valid_records_are_rendered(records: list[Record]) -> None:
    report_stage.render(SMALL, chosen_of(records), FOLDER)
    json.loads((FOLDER / "metrics.json").read_text(), parse_constant=lambda name: pytest.fail(name))
