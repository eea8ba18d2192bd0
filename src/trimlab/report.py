"""A study's report: markdown, figures, metrics and plot data, a pure function of params and records."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory

from trimlab import anatomy, conclusions, figures, tables
from trimlab.errors import UserError
from trimlab.params import Params
from trimlab.records import Measurement, Record
from trimlab.results import COMPUTED, MIB, PRECISIONS, Bench, Results, cell, escape, mean, millions, percent, pretty

_METHODS = {"minmax": "their minimum and maximum", "entropy": "least entropy loss", "percentile": "percentile"}
Section = tuple[str, str]
"""A heading and what stands under it."""


def render(study: Params, records: list[Record], folder: Path) -> None:
    """Write a report into a folder: report.md, metrics.json, figures/*.svg, plots/*.csv; all of it or nothing.

    The same params and records give the same bytes, in whatever order the records come. Figures and plot
    data that the study no longer has are removed.

    Raises:
        UserError: the folder cannot be written; a report that was there stays as it was.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "made"
            _write(Results.of(study, records), made)
            _take_the_place(made, folder, Path(scratch))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder} cannot be written ({why}): make room, or make it writable, and call again") from None


def _write(results: Results, folder: Path) -> None:
    for part in ("figures", "plots"):
        (folder / part).mkdir(parents=True)
    drawn = figures.draw(results)
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.svg")
    for name, text in plot_data(results).items():
        (folder / "plots" / f"{name}.csv").write_text(text, encoding="utf-8")
    values = json.dumps(metrics(results), indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(values + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(results, list(drawn)), encoding="utf-8")


def _take_the_place(made: Path, folder: Path, scratch: Path) -> None:
    """Move each part of a finished report to its place, or none of them; other files in the folder stay."""
    folder.mkdir(exist_ok=True)
    undo = []
    try:
        for part in sorted(made.iterdir()):
            place, former = folder / part.name, scratch / f"former-{part.name}"
            if place.exists():
                place.rename(former)
                undo.append((former, place))
            part.rename(place)
            undo.append((place, part))
    except OSError:
        for there, back in reversed(undo):
            there.rename(back)
        raise


def markdown(results: Results, drawn: Sequence[str]) -> str:
    """Return report.md; `drawn` names the figures that it links."""
    sections = [
        ("Candidate against baseline", _headline(results, drawn)),
        ("Devices and versions", _setup(results)),
        ("How to read the tables", _how_to_read(results)),
        ("Baseline: full and mixed precision", _baseline(results, drawn)),
        ("Pruning", _pruning(results, drawn)),
        ("Quantization", _per_bench(results, "unpruned", tables.quantization)),
        (
            "Pruning × precision",
            _join([_per_bench(results, "pruned", tables.combined), _speed(results, drawn)]),
        ),
        ("INT8 against its exact arithmetic", _exactness(results)),
        ("Why is it not faster?", _anatomy(results)),
        ("Runtimes beside each other", _runtimes(results)),
        (_rivals_heading(results), _rivals(results)),
        ("Final comparison", _final(results)),
        ("Conclusions", _bullets(conclusions.closing(results))),
        ("Every measurement", _measurements(results)),
    ]
    # A section without content has no heading either.
    body = [f"## {heading}\n\n{text.strip()}\n" for heading, text in sections if text.strip()]
    return "\n".join([f"# {results.study.report.title}\n", *body])


def summary(results: Results) -> str:
    """Return what stands for a study on another page: the headline and the final table, with a link."""
    bench = results.headline_bench()
    parts = [conclusions.headline(results), tables.final(results, bench) if bench else ""]
    study = results.study.study
    return _join([*parts, f"The whole report: [reports/{study}/report.md](reports/{study}/report.md)."])


def metrics(results: Results) -> dict[str, dict[str, float]]:
    """Return thirteen scalars for `dvc metrics`: baseline in FP32, candidate in its smallest precision."""
    bench = results.headline_bench()
    if bench is None:
        return {"baseline": {}, "candidate": {}}
    base = cell(results.at(bench), results.study.report.baseline, "fp32")
    candidate = results.candidate_cell(bench)

    def common(found: Sequence[Measurement]) -> dict[str, float]:
        return {
            "top1_percent": round(100 * mean([r.top1_accuracy for r in found]), 2),
            "size_mib": round(mean([r.deployed_bytes for r in found]) / MIB, 3),
            "latency_ms": round(mean([r.latency.p50_ms for r in found]), 3),
            "images_per_second": round(mean([r.batch_latency.images_per_second for r in found]), 1),
        }

    gained = mean([r.top1_accuracy for r in candidate]) - mean([r.top1_accuracy for r in base])
    only = {
        "params_millions": round(mean([r.num_params for r in candidate]) / 1e6, 3),
        "points_lost": round(-100 * gained, 2),
        "speedup": round(mean([r.speedup for r in candidate]), 2),
        "batch_speedup": round(mean([r.batch_speedup for r in candidate]), 2),
        # 1 where other processes took part of the machine meanwhile, so that `dvc exp show` shows it.
        "contended": int(any(r.contended for r in candidate)),
    }
    return {"baseline": common(base), "candidate": common(candidate) | only}


def plot_data(results: Results) -> dict[str, str]:
    """Return CSV texts for `dvc plots`: one device, and the candidate's workload where a line is drawn."""
    workload = results.study.variants[results.study.report.candidate].workload
    first = results.on(results.training_device())
    return {
        "accuracy_by_size": _accuracy_by_size(results),
        "pruning": _pruning_data(first, workload),
        "training": _training_data(first, workload),
    }


def _headline(results: Results, drawn: Sequence[str]) -> str:
    bench = results.headline_bench()
    parts = [conclusions.headline(results)]
    if bench is not None:
        parts.append(conclusions.against_reference(results, bench))
        parts += conclusions.inexact(results, results.candidate_cell(bench))
        report = results.study.report
        cells = [(report.baseline, "fp32"), *((report.candidate, precision) for precision in PRECISIONS)]
        asked = [(v, p) for v, p in dict.fromkeys(cells) if p in results.study.variants[v].precisions]
        parts.append(tables.deployed(results, asked, bench))
        dataset = results.dataset_of(report.candidate)
        parts.append(_figure(drawn, f"accuracy-by-size-{dataset}", f"Top-1 over file size on {pretty(dataset)}"))
    return _join(parts)


def _setup(results: Results) -> str:
    records = results.records
    commits = ", ".join(escape(commit, code=True) for commit in sorted({record.commit for record in records}))
    days: list[date] = sorted({record.moment.date() for record in records})
    span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seeds = ", ".join(map(str, results.study.seeds))
    facts = [
        f"Seeds: {seeds}. Measured {span} at commit {commits}. Study `{results.study.study}`, params digest "
        f"`{results.study.digest()[:12]}`.",
        *_missing(results),
        *results.study.report.notes,
    ]
    return _join([tables.devices(results), _bullets(facts)])


def _missing(results: Results) -> list[str]:
    """Say what of the study has no record yet."""
    absent = results.missing()
    return [f"**Not measured yet**: {'; '.join(absent)}."] if absent else []


def _how_to_read(results: Results) -> str:
    batches = sorted({results.batch_size(bench) for bench in results.benches()})
    batch = " or ".join(map(str, batches or [results.study.benchmark.batch_size]))
    split = {record.split for record in results.records}
    facts = [
        conclusions.ratio_explained(results),
        "**Sizes** are in MiB (2^20 bytes): of the torch model (parameters and buffers) in the pruning "
        "tables, of the ONNX file, or of the engine that TensorRT built of it, elsewhere. **Accuracy** is "
        "top-1, in the tables of files that of the deployed file.",
        "**Δ points** is against the FP32 file of the same weights. **× batch 1** and **× batch "
        f"{batch}** say how much faster a file is than its workload's unpruned FP32 file, timed in turn with "
        "it in the same process.",
        "**Times** are wall clock, warm-up left out; the caption of each table of latencies says whether copies are "
        "included.",
        "**n** is the number of seeds: mean ± standard deviation (n − 1) where there are several.",
        f"Rows marked {tables.REFERENCE} are the published ResNet-18 compression study's. Each stands directly under "
        "our row of the same model, dataset, ratio and precision, and says what its size is of and in which runtime "
        "it was timed. Its GPU and batch size were not published, so its sizes and times cannot be compared with ours.",
    ]
    if any("int8" in variant.precisions for variant in results.study.variants.values()):
        settings = results.study.quantization
        facts.append(
            "**INT8** is post-training quantization of weights and activations (Q/DQ), with ranges from "
            f"{settings.calibration_images} training images by {_METHODS[settings.method]}."
        )
    if split != {"test"}:
        facts.append("Scored on the hold-out: no published figure, all of the test set, stands beside such rows.")
    return _bullets(facts)


def _baseline(results: Results, drawn: Sequence[str]) -> str:
    def section(on: Results) -> list[str]:
        shown = any(on.trained(key) and not on.repeats(key) for key in on.study.workloads)
        return [tables.baselines(on) if shown else "", conclusions.amp(on)]

    text = _per_device(results, lambda on: bool(on.trainings), section)
    figure = _figure(drawn, "training", "Training loss and top-1 over the epochs")
    return _join([text, figure])


def _pruning(results: Results, drawn: Sequence[str]) -> str:
    parts = []
    for workload in results.study.workloads:
        pruned = [v for v in results.variants_of(workload) if results.study.point(v).ratio > 0]
        if not any(results.pruned(variant) for variant in pruned):
            continue

        def section(on: Results, workload: str = workload) -> list[str]:
            read = [conclusions.fine_tuning(on, workload), conclusions.eager_latency(on, workload)]
            return [tables.pruning(on, workload), " ".join(text for text in read if text)]

        def has(on: Results, keys: Sequence[str] = pruned) -> bool:
            return any(on.pruned(key) for key in keys)

        own = _per_device(results, has, section)
        settings = results.study.workloads[workload]
        parts += [f"### {pretty(settings.model)} on {pretty(settings.dataset)} (`{workload}`)", own]
        parts.append(_figure(drawn, f"pruning-{workload}", "Top-1 before and after fine-tuning over the ratio"))
    return _join(parts)


def _per_bench(results: Results, which: str, table: Callable[[Results, str, Bench], str]) -> str:
    """Return one table a workload and bench, for its unpruned or its pruned variants."""
    parts = []
    for workload, settings in results.study.workloads.items():
        own = [v for v in results.variants_of(workload) if (results.study.point(v).ratio > 0) == (which == "pruned")]
        for bench in results.benches():
            measured = [record for record in results.at(bench) if record.variant in own]
            if measured:
                title = f"### {pretty(settings.model)} on {pretty(settings.dataset)} (`{workload}`)"
                parts.append(title + _bench_suffix(results, bench))
                parts.append(table(results, workload, bench))
                read = [conclusions.precision_cost(measured, precision) for precision in ("fp16", "int8")]
                read += [conclusions.fastest(measured), conclusions.baseline_times(measured)]
                parts.append(" ".join(text for text in read if text))
    return _join(parts)


def _speed(results: Results, drawn: Sequence[str]) -> str:
    names = [name for name in drawn if name.startswith("speed-")]
    return _join([_figure(drawn, name, "Latency and throughput by variant and precision") for name in names])


def _anatomy(results: Results) -> str:
    """Say for each bench what bounds the candidate's workload, and show the candidate's layers."""
    parts = []
    for bench in results.benches():
        candidate = [record for record in results.candidate_cell(bench) if record.batch_layers]
        said = anatomy.explained(results, bench)
        if said or candidate:
            parts += [f"### Layers{_bench_suffix(results, bench)}", _bullets(said)]
            parts += [anatomy.layers(results, record) for record in candidate[:1]]
    return _join(parts)


def _exactness(results: Results) -> str:
    measured = {bench: _in_order(results, results.at(bench)) for bench in results.benches()}
    found = {bench: text for bench in measured if (text := anatomy.exactness(results, measured[bench]))}
    if set(found.values()) == {anatomy.NOT_EXACT}:
        return anatomy.NOT_EXACT
    parts = []
    for bench, table in found.items():
        suffix = _bench_suffix(results, bench)
        parts += [f"### Measured{suffix}" if suffix else "", table]
        parts.append(_bullets(conclusions.inexact(results, measured[bench])))
    return _join(parts)


def _runtimes(results: Results) -> str:
    parts = []
    for bench in results.benches():
        measured = _in_order(results, results.at(bench))
        found = [table(results, measured) for table in (anatomy.clocks, anatomy.builds, anatomy.agreement)]
        if any(found):
            parts += [f"### Measured{_bench_suffix(results, bench)}", *found]
    return _join(parts)


def _rivals(results: Results) -> str:
    def section(on: Results) -> list[str]:
        groups = conclusions.rivals(on)
        return [text for g in groups for text in (tables.losses(on, g), conclusions.large_against_small(on, g))]

    return _per_device(results, lambda on: bool(conclusions.rivals(on)), section)


def _rivals_heading(results: Results) -> str:
    """Name the models that are compared."""
    groups = [group for device in results.devices() for group in conclusions.rivals(results.on(device))]
    compared = [results.study.workloads[key].model for group in groups for key in group]
    return " against ".join(pretty(model) for model in dict.fromkeys(compared))


def _final(results: Results) -> str:
    parts = []
    for bench in results.benches():
        if results.candidate_cell(bench):
            suffix = _bench_suffix(results, bench)
            parts += [f"### Measured{suffix}" if suffix else "", tables.final(results, bench)]
    return _join(parts)


def _measurements(results: Results) -> str:
    parts = []
    for bench in results.benches():
        suffix = _bench_suffix(results, bench)
        measured = _in_order(results, results.at(bench))
        parts += [f"### Measured{suffix}" if suffix else "", tables.measurements(results, measured)]
    return _join(parts)


def _in_order(results: Results, measured: Sequence[Measurement]) -> list[Measurement]:
    order = {name: index for index, name in enumerate(results.study.variants)}
    return sorted(measured, key=lambda r: (order[r.variant], COMPUTED.index(r.precision), r.seed, r.digest))


def _per_device(results: Results, has: Callable[[Results], bool], section: Callable[[Results], list[str]]) -> str:
    """Join a section a device, each under the device's name where there are several."""
    found = [(results.label(device), on) for device in results.devices() if has(on := results.on(device))]
    several = len(results.devices()) > 1
    return _join([_join([f"**{name}**" if several else "", *section(on)]) for name, on in found])


def _bench_suffix(results: Results, bench: Bench) -> str:
    return f" on {results.where(bench)}" if len(results.benches()) > 1 else ""


def _figure(drawn: Sequence[str], name: str, alternative: str) -> str:
    return f"![{alternative}](figures/{name}.svg)" if name in drawn else ""


def _bullets(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _join(parts: Sequence[str]) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip())


def _accuracy_by_size(results: Results) -> str:
    bench = results.main_bench()
    measured = results.at(bench) if bench else []
    dataset = results.dataset_of(results.study.report.candidate)
    rows = [
        [
            found[0].variant,
            found[0].precision,
            f"{mean([r.deployed_bytes for r in found]) / MIB:.3f}",
            percent(mean([r.top1_accuracy for r in found])),
        ]
        for found in results.cells(record for record in measured if record.dataset == dataset)
    ]
    return _csv(["variant", "precision", "size_mib", "top1_percent"], rows)


def _pruning_data(results: Results, workload: str) -> str:
    rows = [
        [
            variant,
            f"{100 * found[0].ratio:g}",
            millions(mean([r.num_params for r in found])),
            percent(mean([r.top1_before for r in found])),
            percent(mean([r.top1_accuracy for r in found])),
        ]
        for variant in results.variants_of(workload)
        if (found := results.pruned(variant))
    ]
    return _csv(["variant", "ratio_percent", "params_millions", "top1_before_percent", "top1_after_percent"], rows)


def _training_data(results: Results, workload: str) -> str:
    """Write the mean over seeds; epochs that were not evaluated are left out."""
    curves = [record.curve for record in results.trained(workload)]
    rows = []
    for epochs in zip(*curves, strict=False):
        scored = [epoch.top1_accuracy for epoch in epochs if epoch.top1_accuracy is not None]
        if scored:
            rows.append([str(epochs[0].epoch), f"{mean([e.train_loss for e in epochs]):.4f}", percent(mean(scored))])
    return _csv(["epoch", "train_loss", "top1_percent"], rows)


def _csv(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headers, *rows])
    return text.getvalue()
