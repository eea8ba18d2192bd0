"""What README and docs/ claim of results, beside the records that must show it.

`written` makes the tables of docs/claims.md out of the chosen records. `problems` reads README and that page, loads the
records that the page names, and computes every figure again from their JSON and labels: neither relies on the other.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from trimlab import records
from trimlab.records import Measurement, archive, labels
from trimlab.records.select import select
from trimlab.report import intervals
from trimlab.report.results import Bench, Results, of_file
from trimlab.report.tables import overview
from trimlab.report.text import pretty

ROOT = Path(__file__).parent.parent
RESULTS = re.compile(r"<!-- results: .*? -->\n(.*?)<!-- end of results -->", re.S)
EVIDENCE = re.compile(r"(<!-- evidence: .*? -->\n)(.*?)(<!-- end of evidence -->)", re.S)
PUBLISHED = re.compile(r"(<!-- published: .*? -->\n)(.*?)(<!-- end of published -->)", re.S)
REFERENCE = ROOT / "src/trimlab/report/reference"
RECORD = re.compile(r"\]\(\.\./(records/[^)]+\.json)\)")
HEADERS = [
    "Study", "Measured on", "Candidate", "Top-1 %", "Δ points", "Size MiB", "× batch 1", "× large batch", "Large batch",
    "n",
]  # fmt: skip
MARKS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
NOTED = r"(\d[\d.,]*)×( \([\d.,]+–[\d.,]+\))?"
"""A ratio under the README's table."""


class Files(NamedTuple):
    """The records of a row of the README, a seed each."""

    baseline: list[Measurement]
    candidate: list[Measurement]
    bf16: list[Measurement]
    """The unpruned model in BF16, where the runtime computes that."""


def every_results() -> list[Results]:
    """Return what each study's committed report speaks of; the working directory is the project's root."""
    found = []
    for folder in sorted(path for path in (ROOT / "records").iterdir() if path.is_dir()):
        study = archive.load_study(folder.name)
        chosen = select(study, archive.committed_records(folder.name))
        found.append(Results.of(study, chosen, labels.of_committed(folder.name, chosen)))
    return found


def written(found: Sequence[Results]) -> str:
    """Return the page's tables: a heading for each row of the README, then its figures, their intervals and records."""
    rows = [(results, bench) for results in found for bench in results.benches() if _chosen(results, bench)]
    headings = [(row[0].text, row[1].text) for row in overview(found).rows]
    parts = []
    for (results, bench), (title, measured_on) in zip(rows, headings, strict=True):
        files = _chosen(results, bench)
        parts.append(f"### {title}: {measured_on}\n\n{_figures(files, results.study.study)}\n")
    return "\n" + "\n".join(parts) + "\n"


def _chosen(results: Results, bench: Bench) -> Files | None:
    report = results.study.report
    unpruned = results.unpruned(results.study.variants[report.candidate].workload)
    base, found = of_file(results.at(bench), report.baseline, "fp32"), results.candidate_file(bench)
    return Files(base, found, of_file(results.at(bench), unpruned or "", "bf16")) if base and found else None


def _figures(files: Files, study: str) -> str:
    a, b = _top1(files.baseline), _top1(files.candidate)
    gained = difference(files.candidate, files.baseline, study)
    low, high = gained.points - gained.half_width, gained.points + gained.half_width
    kind = {"paired": "both files on the same images", "seeds": "over the seeds"}[gained.kind]
    p = "" if gained.p_value is None else f"; McNemar's p {_p(gained.p_value)}"
    told = "" if gained.separable else ": cannot be told apart"
    linked = [", ".join(f"[seed {r.seed}](../{archive.stored_file(r, study)})" for r in own) for own in files]
    lines = [
        "| figure | | 95 % interval | records |",
        "|---|---|---|---|",
        f"| Top-1 %, unpruned FP32 | {a} | {_wilson(files.baseline)} | {linked[0]} |",
        f"| Top-1 %, candidate | {b} | {_wilson(files.candidate)} | {linked[1]} |",
        f"| Δ points | {_signed(gained.points)} | {_signed(low)} to {_signed(high)}, {kind}{p}{told} | both |",
        f"| Size MiB | {_size(files.baseline)} → {_size(files.candidate)} | a file's size is exact | both |",
        f"| × batch 1, × large batch | {_times(files.candidate)} | {_replicates(files.candidate)} | the candidate's |",
    ]
    if files.bf16:
        lines.append(f"| the same, unpruned in BF16 | {_times(files.bf16)} | {_replicates(files.bf16)} | {linked[2]} |")
    return "\n".join(lines)


def _top1(found: Sequence[Measurement]) -> str:
    return f"{np.mean([100 * record.top1_accuracy for record in distinct(found)]):.2f}"


def distinct(found: Sequence[Measurement]) -> list[Measurement]:
    """Return a record for each file of weights: one that was given to several seeds is one training."""
    return list({record.weights_sha256: record for record in found}.values())


def _wilson(found: Sequence[Measurement]) -> str:
    found = distinct(found)
    if len(found) > 1:
        return f"standard deviation {np.std([100 * r.top1_accuracy for r in found], ddof=1):.2f}, {len(found)} seeds"
    low, high = wilson(found[0])
    return f"{low:.2f} to {high:.2f}, Wilson's, {found[0].num_images:,} images"


def _size(found: Sequence[Measurement]) -> str:
    size = np.mean([record.deployed_bytes for record in found]) / 2**20
    return f"{size:.2f}" if round(size, 2) >= 1 else f"{size:.3f}"


def _times(found: Sequence[Measurement]) -> str:
    return ", ".join(map(times, _speedups(found)))


def times(found: intervals.Replicated) -> str:
    """Write a ratio of times and its interval, with no digit beyond that; of one process, with two digits."""
    if found.low is None or found.high is None:
        return _digits(found.mean, float(f"{found.mean:.1e}"), 1)
    half = (found.high - found.low) / 2
    return f"{_digits(found.mean, half)} ({_digits(found.low, half)}–{_digits(found.high, half)})"


def _digits(value: float, like: float, more: int = 0) -> str:
    """Write a value with as many decimals as the first digit of `like` has, or more, but at most two."""
    return f"{value:,.{min(2, max(0, more - math.floor(math.log10(like))))}f}"


def _speedups(found: Sequence[Measurement]) -> tuple[intervals.Replicated, intervals.Replicated]:
    """Return how many times as fast as the baseline beside them files are, at batch 1 and at the large one."""
    single = [value for record in found for value in record.speedups]
    large = [value for record in found for value in record.batch_speedups]
    return intervals.over_processes(single), intervals.over_processes(large)


def _replicates(found: Sequence[Measurement]) -> str:
    processes = sum(len(record.speedups) for record in found)
    return "none: one process" if processes == 1 else f"Student's of the logarithms, {processes} processes"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.2g}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−").replace("+0.00", "0.00").replace("−0.00", "0.00")


def wilson(record: Measurement) -> tuple[float, float]:
    """Return the interval of a record's top-1, in percent."""
    low, high = intervals.wilson(round(record.top1_accuracy * record.num_images), record.num_images)
    return 100 * low, 100 * high


def answers(record: Measurement, study: str) -> intervals.Answers:
    """Return which images a record's file got right, from the predicted and the true labels beside it."""
    path = archive.stored_file(record, study)
    true = path.parents[1] / "labels" / f"{record.dataset}-{record.split}-{record.dataset_sha256[:12]}.npy"
    return np.load(ROOT / path.with_suffix(".npy")) == np.load(ROOT / true)


def difference(found: Sequence[Measurement], base: Sequence[Measurement], study: str) -> intervals.Difference:
    """Return the points that files gained over others, seed by seed, image by image."""
    others = {record.seed: record for record in base}
    pairs = [(answers(a, study), answers(others[a.seed], study)) for a in found if a.seed in others]
    each = [intervals.paired_difference(ours, theirs) for ours, theirs in pairs]
    return intervals.over_seeds(each) if len(each) > 1 else each[0]


def problems(readme: str, page: str) -> list[str]:
    """Return what of the README's results the records that the page names do not show, a line each."""
    block = RESULTS.search(readme)
    if block is None:
        return ["README has no results"]
    grid, caption = block[1].strip().split("\n\n")
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in grid.splitlines()]
    if header != HEADERS:
        return [f"README's columns are {header}, and these checks know {HEADERS}"]
    sections = _sections(page)
    found, notes = [], []
    for line in lines:
        row = dict(zip(header, line, strict=True))
        title = row["Study"].partition("](")[0].removeprefix("[")
        name = f"{title}: {row['Measured on']}"
        files = sections.pop(name, None)
        if files is None:
            found.append(f"{name}: docs/claims.md names no records")
        else:
            found += [f"{name}: {problem}" for problem in _row_problems(row, files)]
            notes += map(times, _speedups(files.bf16)) if files.bf16 else []
    found += [f"{name}: README has no such row" for name in sections]
    return [*found, *_caption_problems(caption, notes)]


def _sections(page: str) -> dict[str, Files]:
    """Return the records that the page names, by heading."""
    block = EVIDENCE.search(page)
    parts = re.split(r"^### (.*)$", block[2] if block else "", flags=re.M)[1:]
    return {name: _files(text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _files(section: str) -> Files:
    lines = [line for line in section.splitlines() if RECORD.search(line)]
    linked = [[_read(path) for path in RECORD.findall(line)] for line in lines]
    base, candidate, *bf16 = linked
    return Files(base, candidate, bf16[0] if bf16 else [])


def _read(path: str) -> Measurement:
    record = records.read(ROOT / path)
    assert isinstance(record, Measurement)
    assert path.endswith(f"-{record.digest[:12]}.json"), f"{path} was edited"
    return record


def _row_problems(row: dict[str, str], files: Files) -> Iterator[str]:
    """Yield the cells of a row that its records do not show."""
    base, found = files.baseline, files.candidate
    first = found[0]
    shown = {
        "Top-1 %": [seeds([100 * r.top1_accuracy for r in distinct(own)]) for own in (base, found)],
        "Δ points": [_gained(found, base, first.study)],
        "Size MiB": [[_size(own)] for own in (base, found)],
        "× batch 1": [[times(_speedups(found)[0])]],
        "× large batch": [[times(_speedups(found)[1])]],
        "Large batch": [[str(first.batch_latency.batch_size)]],
        "n": [[str(len(found))]],
    }
    for column, expected in shown.items():
        text = row[column].rstrip(MARKS)
        if [part.split(" ± ") for part in text.split(" → ")] != expected:
            yield f"{column} says {text}, the records {expected}"
    device, split = first.device, {"test": "test set", "holdout": "hold-out"}[first.split]
    said = [
        f"{device.name}, ",
        f"{device.threads} thread",
        f" {first.runtime_version}; ",
        f"{first.num_images:,} images",
    ]
    said += [
        split,
        f"| {pretty(first.model)} on {pretty(first.dataset)}, ",
        f"](reports/{first.study}/",
        f"pruned by {100 * first.ratio:g} %" if first.ratio else "unpruned",
        {"int8-qat": "INT8, QAT", "int8-mixed": "INT8, mixed"}.get(first.precision, first.precision.upper()),
    ]
    yield from (f"the row does not say {text}" for text in said if text not in " | ".join(row.values()))
    params = f"{first.num_params / 1e6:.2f}"
    counted = re.findall(r"\(([\d.]+) M params\)", row["Candidate"])
    yield from (f"Candidate says {other} M params, the records {params}" for other in counted if other != params)
    faster = all((gained.low or gained.mean) > 1 for gained in _speedups(found))
    if not (faster and all(record.deployed_bytes < base[0].deployed_bytes for record in found)):
        yield "README says smaller and faster"


def seeds(values: Sequence[float]) -> list[str]:
    """Write a value, or of several the mean and the standard deviation."""
    return [f"{np.mean(values):.2f}", *([f"{np.std(values, ddof=1):.2f}"] if len(values) > 1 else [])]


def _gained(found: Sequence[Measurement], base: Sequence[Measurement], study: str) -> list[str]:
    gained = difference(found, base, study)
    if gained.kind == "paired":
        return [_signed(gained.points), f"{gained.half_width:.2f}"]
    others = {record.seed: record.top1_accuracy for record in base}
    points = [100 * (record.top1_accuracy - others[record.seed]) for record in found if record.seed in others]
    return [_signed(gained.points), f"{np.std(points, ddof=1):.2f}"]


def _caption_problems(caption: str, bf16: Sequence[str]) -> Iterator[str]:
    """Yield the numbers under the table that are neither a unit's nor those of the unpruned model in BF16."""
    noted = ["".join(parts) for parts in re.findall(NOTED, caption)]
    if set(noted) != set(bf16):
        yield f"the notes say {noted}, the records {bf16}"
    rest = re.sub(rf"{NOTED}|Top-1|FP32|BF16|INT8|p50|95 %|n = 1", "", caption)
    yield from (f"no record shows the {number} under the table" for number in re.findall(r"\d[\d.,]*", rest))


def published() -> str:
    """Return the table of the published study's rows that stand in committed reports, counted in the reports."""
    reports = {file.parent.name: file.read_text() for file in sorted((ROOT / "reports").glob("*/report.md"))}
    details = {
        name: "\n".join(map(Path.read_text, sorted((ROOT / "reports" / name / "tables").iterdir()))) for name in reports
    }
    shown = {name: rows for name, text in details.items() if (rows := _reference_rows(text))}
    titles = [f"[{reports[name].splitlines()[0].removeprefix('# ')}](../reports/{name}/report.md)" for name in shown]
    lines = [f"| published table | rows | {' | '.join(titles)} |", f"|---|---|{'---|' * len(titles)}"]
    for table, about in TABLES.items():
        held = (REFERENCE / f"{table}.csv").read_text().splitlines()[1:]
        beside = [sorted(row for row in rows if row[0] == table) for rows in shown.values()]
        cells = [f"{len(rows)}{': ' * bool(rows)}{_listed(row[1:] for row in rows)}" for rows in beside]
        lines.append(f"| {about} | {len(held)} | {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n\n"


TABLES = {
    "baseline": "training in FP32 and with AMP",
    "pruning": "pruning, before and after fine-tuning",
    "quantization": "precisions of the unpruned models",
    "combined": "pruning × precision",
}
"""The published tables of measurements, by the name of their CSV; `final` repeats rows of the last two."""


def _reference_rows(report: str) -> set[tuple[str, ...]]:
    """Return the published rows in a report's tables: the published table, then what names the row there."""
    found: set[tuple[str, ...]] = set()
    section = model = ""
    for line in report.splitlines():
        section = line.removeprefix("# ") if line.startswith("# ") else section
        model = line.removeprefix("## ").partition(" (")[0] if line.startswith("## ") else model
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        if cells[0] != "reference":
            continue
        if section == "Training":
            found.add(("baseline", cells[3]))
        elif section == "Pruning":
            found.add(("pruning", cells[1].rjust(4)))
        elif section.startswith("Pruning ×"):
            unpruned = cells[1] == "0 %"
            found.add(("quantization", model, cells[3]) if unpruned else ("combined", cells[1], cells[3]))
    return found


def _listed(names: Iterable[Sequence[str]]) -> str:
    """List rows by what names them; those that share their first name together."""
    groups: dict[str, list[str]] = {}
    for first, *rest in names:
        groups.setdefault(first.strip(), []).extend(rest)
    return "; ".join(f"{first} ({', '.join(rest)})" if rest else first for first, rest in groups.items())
