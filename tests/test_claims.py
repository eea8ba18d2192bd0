"""Every figure and comparison of README and docs/ is one that committed records show, or a stated matter of course.

`TRIMLAB_GOLDEN=write python -m pytest tests/test_claims.py` writes the tables of docs/claims.md anew.
"""

import os
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import claims
from trimlab import records
from trimlab.records import Measurement, Sensitivity, Training
from trimlab.report import reference, tables

ROOT = claims.ROOT
RECORDS = [records.read(path) for path in sorted((ROOT / "records").rglob("*.json"))]
MEASURED = [record for record in RECORDS if isinstance(record, Measurement)]
GPU = [record for record in MEASURED if record.study == "cifar10-gpu"]


def read(page):
    """A page in one line, without blocks of code."""
    return " ".join(re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S).split())


README, PAGE = (ROOT / "README.md").read_text(), (ROOT / "docs/claims.md").read_text()
PAGES = {page.name: read(page) for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
PROSE = {
    **{name: text for name, text in PAGES.items() if name not in ("claims.md", "models.md", "speed.md")},
    "README.md": re.sub(r"<!-- results.*?<!-- end of results -->", "", PAGES["README.md"]),
}
"""What is neither rendered from records nor printed by a benchmark."""

CLAIM = re.compile(
    r"\d[\d.,]* ?(?:%|×(?! ?\d)|(?:points|[KMG]i?B|ms|images/s)\b)"
    r"|\b(?:faster|slower|smaller|smallest|better|best|worse|(?:as|less|more) accurate|as fast|reproduc\w+"
    r"|outperform\w*|takes (?:minutes|hours|days)|not run|(?:half|twice) the|a fifth of its parameters)\b"
)
"""A figure of accuracy, size or speed, or a comparison."""


def held(pattern, expected):
    """Compare a rendered part of docs/claims.md, or write it."""
    file = ROOT / "docs/claims.md"
    if os.environ.get("TRIMLAB_GOLDEN") == "write":
        file.write_text(pattern.sub(lambda block: block[1] + expected + block[3], file.read_text()))
    assert pattern.search(file.read_text())[2] == expected


def test_the_page_names_the_records_of_every_row(monkeypatch):
    monkeypatch.chdir(ROOT)
    held(claims.EVIDENCE, claims.written(claims.every_results()))


def test_what_stands_beside_the_published_study_is_counted_table_by_table():
    held(claims.PUBLISHED, claims.published())


def test_records_show_every_figure_of_the_readme():
    assert claims.problems(README, PAGE) == []


BLOCK = claims.RESULTS.search(README)
FIGURES = [match.span() for match in re.finditer(r"\d+", README) if BLOCK.start(1) <= match.start() < BLOCK.end(1)]


@pytest.mark.parametrize(("start", "end"), FIGURES, ids=lambda place: str(place))
def test_another_figure_in_the_results_is_noticed(start, end):
    other = str((int(README[end - 1]) + 1) % 10)
    assert claims.problems(README[: end - 1] + other + README[end:], PAGE)


def test_a_row_or_a_column_more_or_less_is_noticed():
    lines = README.splitlines()
    row = next(index for index, line in enumerate(lines) if line.startswith("| [CIFAR-10 in TensorRT"))
    less = "\n".join(lines[:row] + lines[row + 1 :])
    assert claims.problems(less, PAGE)[0].endswith("README has no such row")
    assert "names no records" in claims.problems(README, PAGE.replace("### CIFAR-10 in TensorRT", "### Another"))[0]
    assert "README's columns are" in claims.problems(README.replace("× batch 1 ", "speed-up "), PAGE)[0]


def test_records_of_other_files_are_noticed():
    first, second = claims.RECORD.findall(PAGE)[:2]
    swapped = PAGE.replace(first, "x").replace(second, first).replace("(../x)", f"(../{second})", 1)
    assert any("Top-1 % says" in problem for problem in claims.problems(README, swapped))


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=5))
def test_several_seeds_are_written_as_the_readme_writes_them(values):
    assert " ± ".join(claims.seeds(values)) == tables.spread(values, tables.hundredths).text


def fp16_saves_size_and_no_arithmetic():
    """On a CPU, all layers with weights of an FP16 file ran in FP32."""
    found = [record for record in MEASURED if record.precision == "fp16" and record.device.kind == "cpu"]
    layers = [layer for record in found for layer in record.batch_layers if layer.channels is not None]
    return bool(layers) and {layer.precision for layer in layers} == {"FP32"}


def every_row_of_results_is_smaller_and_faster():
    return claims.problems(README, PAGE) == []


def one_gpu_was_tried_as_said():
    engines = {(r.engine.gpu, r.engine.tensorrt, r.engine.tactic_sources) for r in GPU}
    tried = {(r.versions["driver"], r.precision) for r in GPU}
    return (
        engines == {("NVIDIA H100 80GB HBM3", "8.5.3.1", "EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS")}
        and tried == {("580.159.04", precision) for precision in ("fp32", "fp16", "int8")}
        and len({r.variant for r in GPU}) == 2
    )


def training_took(study, least, most):
    return least <= sum(r.train_seconds for r in RECORDS if r.study == study and isinstance(r, Training)) < most


def mlps_of_a_vit_lose_a_fifth():
    from torchvision.models import vit_b_16

    with torch.device("meta"):
        model = vit_b_16()
    hidden = sum(p.numel() for name, p in model.named_parameters() if ".mlp." in name)
    return round(0.3 * hidden / sum(p.numel() for p in model.parameters()), 1) == 0.2


SHOWN = {
    "makes image classifiers smaller and faster and shows": every_row_of_results_is_smaller_and_faster,
    "On a CPU, FP16 files are computed in FP32: FP16 saves size there, and no arithmetic.": (
        fp16_saves_size_and_no_arithmetic
    ),
    "One GPU: an NVIDIA H100 80GB HBM3 with TensorRT 8.5.3.1 and driver 580.159.04, FP32, FP16 and INT8 of two "
    "variants, restricted to the tactic sources EDGE_MASK_CONVOLUTIONS and JIT_CONVOLUTIONS": one_gpu_was_tried_as_said,
    "Newer versions of TensorRT have not run on a GPU": lambda: {r.runtime_version for r in GPU} == {"8.5.3.1"},
    "ResNet-20 on scikit-learn's digits; takes minutes": lambda: training_took("quick", 10, 3600),
    "on two CPU cores; takes hours": lambda: training_took("cifar10-cpu", 3600, 24 * 3600),
    "ResNet-18 and ResNet-20 in TensorRT on one GPU; not all of it run yet": (
        lambda: any(results.study.study == "cifar10-gpu" and results.missing() for results in claims.every_results())
    ),
    "the whole published study, for a GPU; not run yet": lambda: not (ROOT / "records/paper").exists(),
    "the published ratios and epochs; trained on a GPU, not all files measured yet": (
        lambda: any(results.study.study == "cifar10-sweep" and results.missing() for results in claims.every_results())
    ),
    "flips, weight averaging, image sizes, distillation; no file measured yet": (
        lambda: not (ROOT / "records/tuning/measurement").exists()
    ),
    "three seeds: chosen ratios, and controls at 60 %; for a GPU; not all of it run yet": (
        lambda: any(results.study.study == "cifar10-seeds" and results.missing() for results in claims.every_results())
    ),
    "three seeds: chosen ratios, and controls; no file measured yet": (
        lambda: not (ROOT / "records/cifar10-r90/measurement").exists()
    ),
    "several seeds: pruned, from scratch, and with chosen ratios; no file measured yet": (
        lambda: not (ROOT / "records/cifar10-resnet20/measurement").exists()
    ),
    "ResNet-18 on CIFAR-100, on two CPU cores; not run yet": lambda: not (ROOT / "records/cifar100-cpu").exists(),
    "loses hidden channels of its MLPs, a fifth of its parameters at ratio 0.3": mlps_of_a_vit_lose_a_fifth,
    "100,000 images of 224×224 take 15 GB": lambda: round(100_000 * 224 * 224 * 3 / 1e9) == 15,
    "The study `tuning` is scored on a hold-out. The other studies use hold-out images for sensitivity curves alone": (
        lambda: (
            {type(r) for r in RECORDS if r.split == "holdout" and r.study != "tuning"} == {Sensitivity}
            and {r.split for r in RECORDS if r.study == "tuning"} == {"holdout"}
        )
    ),
}
"""What a page says, and what must hold for it."""
STATED = (
    "`candidate 50 % · pruning`",  # names of runs
    "`candidate 50 % INT8 · onnxruntime`",
    "The environment takes 7.6 GB on Linux",  # of the installation, when it was written
    "**Intervals** are 95 % confidence intervals.",
    'The report\'s section "How much of the saved work becomes speed?" says which widths',
    "the smallest file that is not measurably less accurate",  # how an opponent is chosen
    "Each file has half the size of its training's",  # 16 of 32 bits
    "refuses files of more than 100 MB",
    "the geometric mean of the ratios with its 95 % interval, as in `5.6 (5.4–5.8)`",  # how it is written
    "Epochs on smaller images count at their size",
    "trains the first epochs on smaller images",
    "the best candidate within a loss",
    "The report opens with an answer: the smallest file, the fastest one at batch 1 and the one with the highest "
    "throughput that lose at most 0.5, 1 and 3 points",
    "the most accurate file up to 0.1, 1 and 10 MiB, or in its place a smaller and faster file that cannot be told "
    "apart from it",
    "A file is within `--max-drop` if the whole 95 % interval of the paired difference",
    "The best of many is a little lucky",
    "the target is met within 2 %, a [latency](#pruning-to-a-latency) within 10 %",
    "until a file is within 3 %, or six have been timed. The nearest one counts, if it is within 10 %",
    "up to 16 times as large for the channels whose norm is smallest",
    "the more the smaller its norm is",
    "a larger ratio makes files smaller and faster",
    "`report/report.md` opens with the smallest and the fastest files within a loss",
    "| 10.9 s, 268 MiB | 13.0 s, 363 MiB | 15.0 s, 531 MiB |",  # printed by benchmarks/growth.py, as the next ones
    "| 15.4 s, 285 MiB | 52.2 s, 295 MiB | 435.6 s, 417 MiB |",
    "| 1.6 MiB | 3.2 MiB | 10.6 MiB |",
    "The report of 10,000 records takes 25.5 s and 843 MiB",
    "with ten times the variants that is ten times as often a file ten times as long",
    "give an INT8 file of 0.108 MiB, which surely loses at most 5.77 points",  # printed by trimlab search
    "Asked for the smallest file with that loss",
    "found one of 0.098 MiB that surely loses at most 5.29 points: 54 % of all channels",
    "That is 9 % smaller, for twice as much fine-tuning",
    "at 54 % gave 0.076 MiB and surely lost at most 6.16 points",
    "took 663.2 s: 9.5 % of the nodes' time was not spent in cells",  # printed by benchmarks/scale.py
    "took 245.3 s, with 18.5 % of the time lost, and 800 took 184.8 s, with 13.4 % lost",
)
"""What no record can show: a method, a limit, a rule."""


@pytest.mark.parametrize("said", SHOWN)
def test_what_a_page_says_holds(said):
    assert any(said in text for text in PAGES.values()), "no page says so"
    assert SHOWN[said]()


@pytest.mark.parametrize("name", PROSE)
def test_no_page_has_a_figure_or_a_comparison_without_evidence(name):
    text = PROSE[name]
    covered = [(at, at + len(known)) for known in (*SHOWN, *STATED) if (at := text.find(known)) >= 0]
    found = [match for match in CLAIM.finditer(text) if not any(a <= match.start() < b for a, b in covered)]
    assert [text[max(0, match.start() - 60) : match.end() + 40] for match in found] == []


@pytest.mark.parametrize(
    "text", ["It is 12.5 times as fast.", "pruning reproduces the study", "−1.2 points", "3.4×", "smaller than", "92 %"]
)
def test_a_claim_is_recognised(text):
    assert CLAIM.search(text)


def test_every_report_says_what_of_its_study_was_not_measured_and_what_was_published(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert "Each report says which part of its study was not measured." in PAGES["README.md"]
    for results in claims.every_results():
        folder = ROOT / "reports" / results.study.study
        assert ("**Not measured yet**" in (folder / "report.md").read_text()) is bool(results.missing())
        tables = "".join(path.read_text() for path in (folder / "tables").iterdir())
        models = {workload.model for workload in results.study.workloads.values() if workload.dataset == "cifar10"}
        published = [r for r in results.measurements if results.published(r, reference.deployed, r.ratio, r.precision)]
        assert ("| *reference*" in tables) is ("resnet18" in models or bool(published))


def sections(name):
    text = re.sub(r"^```.*?^```", "", (ROOT / "docs" / name).read_text(), flags=re.M | re.S)
    return [section for section in re.split(r"^## ", text, flags=re.M) if CLAIM.search(section)]


@pytest.mark.parametrize("name", ["models.md", "speed.md"])
def test_measured_figures_stand_with_date_device_versions_and_n(name):
    assert sections(name)
    for section in sections(name):
        for what in (r"\b20\d\d-\d\d-\d\d\b", r"\b(?:AMD|Intel|NVIDIA|Arm)\b", r" \d+\.\d+\.\d+", N):
            assert re.search(what, section), f"no {what} in: {section[:80]}"


N = r"\bn ?= ?\d|\bone run\b|\d+ (?:calls|runs|steps|processes)\b"
