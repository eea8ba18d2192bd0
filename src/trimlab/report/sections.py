"""What stands in a report, and in which order: sections of tables, findings and figures."""

from collections.abc import Callable, Iterable, Sequence
from datetime import date

from trimlab import formats
from trimlab.config import QuantizationAwareTraining
from trimlab.records import Measurement
from trimlab.report import anatomy, controls, findings, mixed, recommendation, scores, sensitivity, tables
from trimlab.report.model import (
    Block,
    Figure,
    Finding,
    Findings,
    Report,
    Section,
    Span,
    Table,
    Text,
    code,
    strong,
    text_of,
)
from trimlab.report.results import Bench, Results
from trimlab.report.text import count, precision_name, pretty

_METHODS = {"minmax": "their minimum and maximum", "entropy": "least entropy loss", "percentile": "percentile"}
_PUBLISHED_ROWS = Finding.of(
    "Rows marked ",
    Span(tables.REFERENCE.text, tables.REFERENCE.style),
    " are the published ResNet-18 compression study's. Each stands directly under our row of the same model, dataset, "
    "ratio and precision, and says what its size is of and in which runtime it was timed. Its GPU and batch size were "
    "not published, so its sizes and times cannot be compared with ours.",
)
Blocks = list[Block]


def report(results: Results, drawn: Sequence[str]) -> Report:
    """Return the whole report; `drawn` names the figures that there are."""
    sections = [
        ("Which file to deploy", _recommended(results)),
        ("Candidate against baseline", _headline(results, drawn)),
        ("Devices and versions", _setup(results)),
        ("Baseline: full and mixed precision", _baseline(results, drawn)),
        ("Pruning", _pruning(results, drawn)),
        ("Which layers can lose channels", _sensitivity(results, drawn)),
        *((control.heading, _controls(results, control)) for control in controls.CONTROLS),
        ("Pruning × precision", [*_precisions(results), *_speed(drawn)]),
        ("Accuracy beyond top-1", _scores(results)),
        ("INT8, mixed: which layers stay in float", _mixed(results, drawn)),
        ("INT8 against its exact arithmetic", _exactness(results)),
        ("Why is it not faster?", _anatomy(results)),
        ("Runtimes beside each other", _runtimes(results)),
        (_rivals_heading(results), _rivals(results)),
        ("Conclusions", _list(findings.closing(results))),
        ("Every measurement", _measurements(results)),
    ]
    shown = [block for _, blocks in sections for block in blocks]
    sections.insert(3, ("How to read the tables", _how_to_read(results, _shows_published(shown))))
    # A section without content has no heading either.
    made = tuple(Section(text_of(heading), tuple(blocks)) for heading, blocks in sections if blocks)
    return Report(results.study.report.title, made)


def _recommended(results: Results) -> Blocks:
    blocks: Blocks = []
    devices = recommendation.devices(results)
    for device in devices:
        table = recommendation.table(results, device)
        if table:
            said = _paragraph(recommendation.chosen_on(results.study.data.split))
            named = _paragraph(Finding.of(strong(results.labels[device]))) if len(devices) > 1 else []
            blocks += [*named, table, *said]
    return blocks


def _headline(results: Results, drawn: Sequence[str]) -> Blocks:
    bench = results.headline_bench()
    blocks = _paragraph(findings.headline(results))
    if bench is None:
        return blocks
    blocks += _paragraph(findings.opponents(results))
    blocks += _paragraph(findings.few_images(results))
    blocks += _paragraph(findings.against_reference(results, bench))
    for warning in findings.inexact(results, results.candidate_file(bench)):
        blocks += _paragraph(warning)
    dataset = results.dataset_of(results.study.report.candidate)
    return [
        *blocks,
        tables.candidate(results, bench),
        *_figure(drawn, f"accuracy-by-size-{dataset}", f"Top-1 over file size on {pretty(dataset)}"),
        *_figure(drawn, f"accuracy-by-speed-{dataset}", f"Top-1 over latency and throughput on {pretty(dataset)}"),
    ]


def _setup(results: Results) -> Blocks:
    records = results.records
    days: list[date] = sorted({record.moment.date() for record in records})
    span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    seeds = ", ".join(map(str, results.study.seeds))
    commits: list[str | Span] = []
    for commit in sorted({record.commit for record in records}):
        commits += [", ", code(commit)]
    origin = Finding.of(
        f"Seeds: {seeds}. Measured {span} at commit ",
        *commits[1:],
        ". Study ",
        code(results.study.study),
        ", params digest ",
        code(results.study.digest()[:12]),
        ".",
    )
    notes = [Finding.of(note) for note in results.study.report.notes]
    return [tables.devices(results), *_list([origin, *_missing(results), *notes])]


def _missing(results: Results) -> list[Finding]:
    """Say what of the study has no record yet."""
    absent = results.missing()
    return [Finding.of(strong("Not measured yet"), f": {'; '.join(absent)}.")] if absent else []


def _shows_published(blocks: Iterable[Block]) -> bool:
    """Say whether a table has a row of the published study's."""
    return any(
        _shows_published(block.blocks)
        if isinstance(block, Section)
        else isinstance(block, Table) and any(row[0] == tables.REFERENCE for row in block.rows)
        for block in blocks
    )


def _how_to_read(results: Results, published: bool) -> Blocks:
    batches = sorted({results.batch_size(bench) for bench in results.benches()})
    batch = " or ".join(map(str, batches or [results.study.benchmark.batch_size]))
    split = {record.split for record in (*results.trainings, *results.prunings, *results.measurements)}
    facts = [
        findings.ratio_explained(results),
        findings.importance(results),
        Finding.of(
            strong("Sizes"),
            " are in MiB (2^20 bytes): of the torch model (parameters and buffers) in the pruning "
            "tables, of the ONNX file, or of the engine that TensorRT built of it, elsewhere. ",
            strong("Accuracy"),
            " is top-1; in tables of files it is the deployed file's.",
        ),
        Finding.of(
            strong("Δ points"),
            " is against the FP32 file of the same weights; in the first table, against the baseline. ",
            strong("× batch 1"),
            " and ",
            strong(f"× batch {batch}"),
            " say how much faster a file is than its workload's unpruned FP32 file, timed in turn with "
            "it in the same process. Of several processes, all seeds together, it is the geometric mean of their "
            "ratios with its 95 % interval (Student's, of the logarithms), and no digit beyond that; of one process, "
            "two digits. No sentence ranks files by times whose intervals overlap.",
        ),
        Finding.of(
            strong("Times"),
            " are wall clock, warm-up left out, and percentiles of the calls of all processes; the caption of each "
            "table of latencies says whether copies are included.",
        ),
        *findings.intervals(results),
        *findings.budget(results),
    ]
    if published:
        facts.append(_PUBLISHED_ROWS)
    asked = {precision for variant in results.study.variants.values() for precision in variant.precisions}
    if asked & set(formats.QUANTIZED):
        settings = results.study.quantization
        kept = f"; layers kept in FP32: {', '.join(settings.keep)}" if settings.keep else ""
        corrected = "; biases are corrected for what rounded weights change" if settings.bias_correction else ""
        facts.append(
            Finding.of(
                strong("INT8"),
                " is post-training quantization of weights and activations (Q/DQ), with ranges from "
                f"{settings.calibration_images} training images by {_METHODS[settings.method]}{kept}{corrected}.",
            )
        )
    facts += [_trained(name, results.study.quantization.qat) for name in formats.TRAINED if name in asked]
    if split != {"test"}:
        facts.append(
            Finding.of("Scored on the hold-out: no published figure, all of the test set, stands beside such rows.")
        )
    return _list(facts)


def _trained(precision: str, settings: QuantizationAwareTraining) -> Finding:
    labels = (
        f"; the FP32 model's soft labels weigh {settings.distillation:g} in the loss" if settings.distillation else ""
    )
    return Finding.of(
        strong(precision_name(precision)),
        " is quantization-aware training: INT8 in the same ranges, with weights trained further from the variant's own "
        f"while rounding to {settings.weight_bits}-bit weights is simulated ({count(settings.epochs, 'epoch')}, "
        f"learning rate {settings.learning_rate:g}{labels}). ",
        strong("Δ points"),
        " are then against the FP32 file from which that started.",
    )


def _baseline(results: Results, drawn: Sequence[str]) -> Blocks:
    def section(on: Results) -> Blocks:
        shown = any(on.trained(key) and not on.repeats(key) for key in on.study.workloads)
        said = (*findings.given_weights(on), *findings.amp(on))
        return [*([tables.baselines(on)] if shown else []), *_paragraph(*said)]

    blocks = _per_device(results, lambda on: bool(on.trainings), section)
    return [*blocks, *_figure(drawn, "training", "Training loss and top-1 over the epochs")]


def _pruning(results: Results, drawn: Sequence[str]) -> Blocks:
    sections: Blocks = []
    for workload in results.study.workloads:
        pruned = [v for v in results.variants_of(workload) if results.study.point(v).prunes]
        if not any(results.pruned(variant) for variant in pruned):
            continue

        def section(on: Results, workload: str = workload) -> Blocks:
            read = (findings.fine_tuning, findings.eager_latency)
            return [tables.pruning(on, workload), *_paragraph(*(say(on, workload) for say in read))]

        def has(on: Results, keys: Sequence[str] = pruned) -> bool:
            return any(on.pruned(key) for key in keys)

        blocks = _per_device(results, has, section)
        blocks += _figure(drawn, f"pruning-{workload}", "Top-1 before and after fine-tuning over the ratio")
        sections.append(Section(_workload_heading(results, workload), tuple(blocks)))
    return sections


def _sensitivity(results: Results, drawn: Sequence[str]) -> Blocks:
    sections: Blocks = []
    for workload in results.study.workloads:

        def section(on: Results, workload: str = workload) -> Blocks:
            table = sensitivity.widths(on, workload)
            return [*_paragraph(sensitivity.finding(on, workload)), *([table] if table else [])]

        def has(on: Results, workload: str = workload) -> bool:
            return bool(sensitivity.measured(on, workload))

        blocks = _figure(drawn, f"sensitivity-{workload}", "Top-1 lost over the share of a group's channels removed")
        blocks += _per_device(results, has, section)
        if blocks:
            sections.append(Section(_workload_heading(results, workload), tuple(blocks)))
    return sections


def _controls(results: Results, control: controls.Control) -> Blocks:
    def section(on: Results) -> Blocks:
        found = controls.pairs(on, control)
        return [controls.table(on, control, found), *_paragraph(*controls.findings(on, found))]

    return _per_device(results, lambda on: bool(controls.pairs(on, control)), section)


def _precisions(results: Results) -> Blocks:
    """Return one table a workload and bench: all of its variants in all precisions."""
    sections: Blocks = []
    for workload in results.study.workloads:
        for bench in results.benches():
            measured = [record for record in results.at(bench) if record.workload == workload]
            if measured:
                heading = (*_workload_heading(results, workload), Span(_bench_suffix(results, bench)))
                read = findings.precision_costs(results, measured)
                read.append(findings.baseline_times(measured))
                sections.append(Section(heading, (tables.precisions(results, workload, bench), *_paragraph(*read))))
    return sections


def _workload_heading(results: Results, workload: str) -> Text:
    settings = results.study.workloads[workload]
    return text_of(f"{pretty(settings.model)} on {pretty(settings.dataset)} (", code(workload), ")")


def _speed(drawn: Sequence[str]) -> Blocks:
    shown = {
        "speed-": "Latency and throughput by variant and precision",
        "latency-": "Share of the calls at batch 1 over their latency",
    }
    return [Figure(name, text) for start, text in shown.items() for name in drawn if name.startswith(start)]


def _scores(results: Results) -> Blocks:
    """Show the figures that the study asks for, where they are not top-1 alone and there are records of them."""
    if results.study.report.evaluate == ["top1"]:
        return []
    blocks: Blocks = []
    for bench in results.benches():
        measured = results.at(bench)
        if any(record.macro_f1 is not None for record in measured):
            worst = scores.worst_classes(results, bench)
            blocks += _measured_on(results, bench, [scores.overall(results, measured), *([worst] if worst else [])])
    return blocks


def _mixed(results: Results, drawn: Sequence[str]) -> Blocks:
    blocks: Blocks = []
    for bench in results.benches():
        if table := mixed.files(results, bench):
            blocks += _measured_on(results, bench, [table, *_list(mixed.predictions(results, bench))])
    if not blocks:
        return []
    for variant in results.study.variants:
        if layers := mixed.layers(results, variant):
            text = f"What each layer of {variant} loses in INT8 alone"
            blocks += [*_figure(drawn, f"int8-layers-{variant}", text), layers]
    return blocks


def _exactness(results: Results) -> Blocks:
    measured = {bench: _in_order(results, results.at(bench)) for bench in results.benches()}
    known = formats.QUANTIZED
    quantized = {bench: found for bench, found in measured.items() if any(r.precision in known for r in found)}
    compared = {bench: anatomy.exactness(results, found) for bench, found in quantized.items()}
    if not any(compared.values()):
        return _paragraph(anatomy.NOT_EXACT) if compared else []
    headline = results.headline_bench()
    warned = results.candidate_file(headline) if headline else []
    blocks: Blocks = []
    for bench, table in compared.items():
        others = [record for record in measured[bench] if record not in warned]
        own = [table, *_list(findings.inexact(results, others))] if table else _paragraph(anatomy.NOT_EXACT)
        blocks += _measured_on(results, bench, own)
    return blocks


def _anatomy(results: Results) -> Blocks:
    """Say for each bench what bounds the candidate's workload, and show the candidate's layers."""
    sections: Blocks = []
    for bench in results.benches():
        candidate = [record for record in results.candidate_file(bench) if record.batch_layers]
        blocks = _list(anatomy.explained(results, bench))
        blocks += [anatomy.layers(results, record) for record in candidate[:1]]
        if blocks:
            sections.append(Section(text_of(f"Layers{_bench_suffix(results, bench)}"), tuple(blocks)))
    return sections


def _runtimes(results: Results) -> Blocks:
    sections: Blocks = []
    for bench in results.benches():
        measured = _in_order(results, results.at(bench))
        found = [table(results, measured) for table in (anatomy.clocks, anatomy.builds, anatomy.agreement)]
        if any(found):
            heading = text_of(f"Measured{_bench_suffix(results, bench)}")
            sections.append(Section(heading, tuple(table for table in found if table)))
    return sections


def _rivals(results: Results) -> Blocks:
    def section(on: Results) -> Blocks:
        return [tables.losses(on, group) for group in findings.rivals(on)]

    return _per_device(results, lambda on: bool(findings.rivals(on)), section)


def _rivals_heading(results: Results) -> str:
    """Name the models that are compared."""
    groups = [group for device in results.devices() for group in findings.rivals(results.on(device))]
    compared = [results.study.workloads[key].model for group in groups for key in group]
    return " against ".join(pretty(model) for model in dict.fromkeys(compared))


def _measurements(results: Results) -> Blocks:
    blocks: Blocks = []
    for bench in results.benches():
        measured = _in_order(results, results.at(bench))
        blocks += _measured_on(results, bench, [tables.measurements(results, measured)])
    return blocks


def _measured_on(results: Results, bench: Bench, blocks: Blocks) -> Blocks:
    """Put blocks of one bench under its name, where there are several."""
    suffix = _bench_suffix(results, bench)
    return [Section(text_of(f"Measured{suffix}"), tuple(blocks))] if suffix else blocks


def _in_order(results: Results, measured: Sequence[Measurement]) -> list[Measurement]:
    order = {name: index for index, name in enumerate(results.study.variants)}
    return sorted(measured, key=lambda r: (order[r.variant], formats.COMPUTED.index(r.precision), r.seed, r.digest))


def _per_device(results: Results, has: Callable[[Results], bool], section: Callable[[Results], Blocks]) -> Blocks:
    """Return the blocks of each device, under the device's name where there are several."""
    blocks: Blocks = []
    for device in results.devices():
        if has(on := results.on(device)):
            if len(results.devices()) > 1:
                blocks += _paragraph(Finding.of(strong(results.labels[device])))
            blocks += section(on)
    return blocks


def _bench_suffix(results: Results, bench: Bench) -> str:
    return f" on {results.where(bench)}" if len(results.benches()) > 1 else ""


def _figure(drawn: Sequence[str], name: str, alternative: str) -> Blocks:
    return [Figure(name, alternative)] if name in drawn else []


def _paragraph(*said: Finding | None) -> Blocks:
    items = tuple(finding for finding in said if finding)
    return [Findings(items)] if items else []


def _list(items: Iterable[Finding]) -> Blocks:
    found = tuple(items)
    return [Findings(found, listed=True)] if found else []
