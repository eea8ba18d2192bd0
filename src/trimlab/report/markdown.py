"""report.md: sections of tables, figures and sentences."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date

from trimlab import formats
from trimlab.records import Measurement
from trimlab.report import anatomy, findings, tables
from trimlab.report.results import Bench, Results, cell, mean
from trimlab.report.text import escape, mib, pretty

_METHODS = {"minmax": "their minimum and maximum", "entropy": "least entropy loss", "percentile": "percentile"}
Section = tuple[str, str]
"""A heading and what stands under it."""


def document(results: Results, drawn: Sequence[str]) -> str:
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
        ("Conclusions", _bullets(findings.closing(results))),
        ("Every measurement", _measurements(results)),
    ]
    # A section without content has no heading either.
    body = [f"## {heading}\n\n{text.strip()}\n" for heading, text in sections if text.strip()]
    return "\n".join([f"# {results.study.report.title}\n", *body])


def overview(studies: Iterable[Results]) -> str:
    """Return one table for a page about several studies: a row a device and runtime, with a link to the report."""
    headers = [
        "Study", "Measured on", "Candidate", "Top-1 %", "Size MiB", "× batch 1", "× large batch", "Large batch", "n",
    ]  # fmt: skip
    caption = (
        "Top-1 and size: the study's unpruned FP32 baseline → its candidate; in TensorRT the size is the engine's, "
        "elsewhere the ONNX file's. ×: how many times as fast as the unpruned FP32 file of the same model, timed "
        "alternately with it in the same process, p50 with copies. n: seeds."
    )
    return tables.markdown(headers, [row for results in studies for row in _overview_rows(results)], caption)


def _overview_rows(results: Results) -> Iterator[tables.Row]:
    report, study = results.study.report, results.study.study
    for bench in results.benches():
        base, found = cell(results.at(bench), report.baseline, "fp32"), results.candidate_cell(bench)
        if base and found:
            yield [
                f"[{escape(report.title)}](reports/{study}/report.md)",
                tables.where(results, found),
                findings.describe(results, found),
                " → ".join(tables.spread_percent([record.top1_accuracy for record in file]) for file in (base, found)),
                " → ".join(mib(mean([record.deployed_bytes for record in file])) for file in (base, found)),
                *tables.speedups(results, found),
                str(results.batch_size(bench)),
                str(len(found)),
            ]


def _headline(results: Results, drawn: Sequence[str]) -> str:
    bench = results.headline_bench()
    parts = [findings.headline(results)]
    if bench is not None:
        parts.append(findings.against_reference(results, bench))
        parts += findings.inexact(results, results.candidate_cell(bench))
        report = results.study.report
        cells = [(report.baseline, "fp32"), *((report.candidate, precision) for precision in formats.MADE)]
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
        findings.ratio_explained(results),
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
        return [tables.baselines(on) if shown else "", findings.amp(on)]

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
            read = [findings.fine_tuning(on, workload), findings.eager_latency(on, workload)]
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
                read = [findings.precision_cost(measured, precision) for precision in ("fp16", "int8")]
                read += [findings.fastest(measured), findings.baseline_times(measured)]
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
        parts.append(_bullets(findings.inexact(results, measured[bench])))
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
        groups = findings.rivals(on)
        return [text for g in groups for text in (tables.losses(on, g), findings.large_against_small(on, g))]

    return _per_device(results, lambda on: bool(findings.rivals(on)), section)


def _rivals_heading(results: Results) -> str:
    """Name the models that are compared."""
    groups = [group for device in results.devices() for group in findings.rivals(results.on(device))]
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
    return sorted(measured, key=lambda r: (order[r.variant], formats.COMPUTED.index(r.precision), r.seed, r.digest))


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
