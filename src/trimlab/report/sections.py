"""What stands in a report, and in which order: sections of tables, findings and figures."""

from collections.abc import Callable, Iterable, Sequence

from trimlab import formats
from trimlab.config import QuantizationAwareTraining
from trimlab.records import Measurement
from trimlab.report import (
    anatomy,
    classes,
    controls,
    findings,
    mixed,
    opening,
    recommendation,
    scores,
    sensitivity,
    tables,
)
from trimlab.report.model import (
    Block,
    Chapter,
    Figure,
    Finding,
    Report,
    Section,
    Span,
    Table,
    Text,
    bullets,
    code,
    paragraph,
    strong,
    text_of,
)
from trimlab.report.results import Bench, Files, Results, exact_difference
from trimlab.report.text import count, precision_name, pretty

_METHODS = {"minmax": "their minimum and maximum", "entropy": "least entropy loss", "percentile": "percentile"}
_PUBLISHED_ROWS = Finding.of(
    "Rows marked ",
    Span(tables.REFERENCE.text, tables.REFERENCE.style),
    " are the published ResNet-18 compression study's. Each stands directly under our row of the same model, dataset, "
    "ratio and precision, and names the kind of file whose size it gives and the runtime that was timed. The GPU and "
    "the batch size were not published, so these sizes and times cannot be compared with ours.",
)
Blocks = list[Block]


def report(results: Results, drawn: Sequence[str]) -> Report:
    """Return the whole report; `drawn` names the figures that there are."""
    chapters = [made for chapter in _CHAPTERS if (made := chapter(results, drawn))]
    published = _shows_published(block for chapter in chapters for block in chapter.blocks)
    chapters.append(_how_to_read(results, published))
    return Report(results.study.report.title, opening.sections(results, drawn), tuple(chapters))


def _chapter(name: str, heading: str, about: str, answer: Finding | None, blocks: Sequence[Block]) -> Chapter | None:
    """Return a chapter; None where there is nothing to show."""
    return Chapter(name, heading, about, answer, tuple(blocks)) if blocks else None


def _candidate(results: Results, drawn: Sequence[str]) -> Chapter | None:
    bench = results.headline_bench()
    if bench is None:
        return None
    table = tables.candidate(results, bench)
    about = "every precision, the unpruned models, and what training took"
    answer = findings.against_reference(results, bench)
    return _chapter("candidate", "Candidate against baseline", about, answer, [table])


def _training(results: Results, drawn: Sequence[str]) -> Chapter | None:
    def section(on: Results) -> Blocks:
        shown = any(on.trained(key) and not on.repeats(key) for key in on.study.workloads)
        said = (*findings.given_weights(on), *findings.amp(on))
        return [*([tables.baselines(on)] if shown else []), *paragraph(*said)]

    answer = findings.trained(results.on(results.training_device()))
    blocks = _per_device(results, lambda on: bool(on.trainings), section)
    blocks += _figure(drawn, "training", "Training loss and top-1 over the epochs")
    about = "curves, epochs, precision and time"
    return _chapter("training", "Training", about, answer, blocks)


def _pruning(results: Results, drawn: Sequence[str]) -> Chapter | None:
    parts: Blocks = []
    on = results.on(results.training_device())
    said = {key: findings.headroom(on, key) for key in results.study.workloads}
    own = results.study.variants[results.study.report.candidate].workload
    for workload in results.study.workloads:
        pruned = [v for v in results.variants_of(workload) if results.study.point(v).prunes]
        if not any(results.pruned(variant) for variant in pruned):
            continue

        def section(on: Results, workload: str = workload) -> Blocks:
            read = (findings.against_published_ratios, findings.fine_tuning, findings.eager_latency)
            return [tables.pruning(on, workload), *paragraph(*(say(on, workload) for say in read))]

        def has(on: Results, keys: Sequence[str] = pruned) -> bool:
            return any(on.pruned(key) for key in keys)

        blocks = paragraph(said[workload]) if workload != own else []
        blocks += _figure(drawn, f"pruning-{workload}", "Top-1 before and after fine-tuning over the ratio")
        blocks += _per_device(results, has, section)
        parts.append(Section(_workload_heading(results, workload), tuple(blocks)))
    about = "accuracy and size at each ratio, before and after fine-tuning"
    return _chapter("pruning", "Pruning", about, said[own], parts)


def _sensitivity(results: Results, drawn: Sequence[str]) -> Chapter | None:
    parts: Blocks = []
    on = results.on(results.training_device())
    answers = [found for key in results.study.workloads if (found := sensitivity.finding(on, key))]
    for workload in results.study.workloads:

        def section(on: Results, workload: str = workload) -> Blocks:
            table, said = sensitivity.widths(on, workload), sensitivity.finding(on, workload)
            return [*paragraph(said if said not in answers[:1] else None), *([table] if table else [])]

        def has(on: Results, workload: str = workload) -> bool:
            return bool(sensitivity.measured(on, workload))

        blocks = _figure(drawn, f"sensitivity-{workload}", "Top-1 lost over the share of a group's channels removed")
        blocks += _per_device(results, has, section)
        if blocks:
            parts.append(Section(_workload_heading(results, workload), tuple(blocks)))
    about = "which layers can lose channels: a curve for each, and the widths that were chosen"
    return _chapter("sensitivity", "Which layers can lose channels", about, next(iter(answers), None), parts)


def _controls(results: Results, drawn: Sequence[str]) -> Chapter | None:
    parts: Blocks = []
    for control in controls.CONTROLS:

        def section(on: Results, control: controls.Control = control) -> Blocks:
            found = controls.pairs(on, control)
            return [controls.table(on, control, found), *paragraph(*controls.findings(on, found))]

        def has(on: Results, control: controls.Control = control) -> bool:
            return bool(controls.pairs(on, control))

        if blocks := _per_device(results, has, section):
            parts.append(Section(text_of(control.heading), tuple(blocks)))
    about = "the same shape from scratch, random channels, one ratio for all layers, and no distillation"
    answer = controls.answer(results.on(results.training_device()))
    return _chapter("controls", "Was it pruning that helped?", about, answer, parts)


def _files(results: Results, drawn: Sequence[str]) -> Chapter | None:
    """Return one table a workload and bench: all of its variants in all precisions."""
    parts: Blocks = []
    for workload in results.study.workloads:
        for bench in results.benches():
            measured = [record for record in results.at(bench) if record.workload == workload]
            if measured:
                heading = (*_workload_heading(results, workload), Span(_bench_suffix(results, bench)))
                read = paragraph(findings.baseline_times(measured))
                parts.append(Section(heading, (tables.precisions(results, workload, bench), *read)))
    answer = findings.fastest(results)
    about = "size, accuracy, latency and throughput of every file"
    return _chapter("files", "Pruning × precision", about, answer, [*parts, *_speed(drawn)])


def _fronts(results: Results, drawn: Sequence[str]) -> Chapter | None:
    blocks: Blocks = []
    for device in recommendation.devices(results):
        listed = bullets(said for key in results.study.datasets for said in findings.fronts(results, device, key))
        if listed and len(recommendation.devices(results)) > 1:
            blocks += paragraph(Finding.of(strong(results.labels[device])))
        blocks += listed
    for dataset in results.study.datasets:
        alternative = f"Top-1 over throughput on {pretty(dataset)}"
        blocks += _figure(drawn, f"accuracy-by-throughput-{dataset}", alternative)
        if dataset != results.dataset_of(results.study.report.baseline):
            for name in ("latency", "size"):
                blocks += _figure(drawn, f"accuracy-by-{name}-{dataset}", f"Top-1 over {name} on {pretty(dataset)}")
    several = len(results.benches()) > len(recommendation.devices(results))
    answer = Finding.of(
        "A file is listed unless another one on the same device"
        f"{', in any runtime,' if several else ''} is at least as accurate and also smaller, or faster: the Pareto "
        f"front.{' Each figure shows one runtime alone.' if several else ''}"
    )
    about = "in accuracy and in size, latency or throughput"
    return _chapter("fronts", "Which files no other file beats", about, answer, blocks)


def _int8(results: Results, drawn: Sequence[str]) -> Chapter | None:
    answer = opening.int8(results)
    parts = bullets(said for said in findings.precision_costs(results) if said != answer)
    layers = _mixed(results, drawn)
    for heading, blocks in (
        ("INT8, mixed: which layers stay in float", layers),
        ("INT8 against its exact arithmetic", _exactness(results)),
    ):
        parts += [Section(text_of(heading), tuple(blocks))] if blocks else []
    quantized = any(record.precision in formats.QUANTIZED for record in results.measurements)
    if quantized and all(exact_difference(record) is None for record in results.measurements):
        parts += paragraph(anatomy.NOT_EXACT)
    where = ", and in which layers" if layers else ""
    about = f"each lower precision against FP32 of the same weights{where}"
    return _chapter("int8", f"What did INT8 cost{', and where' if layers else ''}?", about, answer, parts)


def _classes(results: Results, drawn: Sequence[str]) -> Chapter | None:
    bench = results.headline_bench()
    if bench is None:
        return None
    found = [classes.losses(results, bench), classes.confusions(results, bench)]
    blocks: Blocks = [table for table in found if table]
    if scored := _scores(results):
        blocks.append(Section(text_of("Accuracy beyond top-1"), tuple(scored)))
    about = "the accuracy that each class lost, and which classes are confused more often"
    return _chapter("classes", "Which classes lose?", about, classes.finding(results, bench), blocks)


def _scores(results: Results) -> Blocks:
    """Show the figures that the study asks for, where they are not top-1 alone and there are records of them."""
    if results.study.report.evaluate == ["top1"]:
        return []
    blocks: Blocks = []
    for bench in results.benches():
        measured = results.at(bench)
        if any(record.macro_f1 is not None for record in measured):
            blocks += _measured_on(results, bench, [scores.overall(results, measured)])
    return blocks


def _why(results: Results, drawn: Sequence[str]) -> Chapter | None:
    """Say for each bench what bounds the candidate's workload, and show the candidate's layers."""
    parts: Blocks = []
    headline = results.main_bench()
    for number, bench in enumerate(results.benches(), start=1):
        candidate = [record for record in results.candidate_file(bench) if record.batch_layers]
        table = anatomy.explained(results, bench)
        answer = anatomy.answer(results, bench) if bench != headline else None
        blocks = [*paragraph(answer), *([table] if table else []), *bullets(anatomy.reduced(results, bench))]
        blocks += _figure(drawn, f"layers-{number}", "Share of the time of each layer of the candidate")
        blocks += [anatomy.layers(results, record) for record in candidate[:1]]
        if blocks:
            parts.append(Section(text_of(f"Layers{_bench_suffix(results, bench)}"), tuple(blocks)))
    rounded = [found for key in results.study.workloads for found in _rounding(results, key)]
    parts += [Section(text_of("Rounded widths"), tuple(bullets(rounded)))] if rounded else []
    about = "time by layer, and widths that the hardware pads"
    answer = anatomy.answer(results, headline) if headline else None
    return _chapter("speed", anatomy.QUESTION, about, answer, parts)


def _rounding(results: Results, workload: str) -> list[Finding]:
    """Say what rounded widths change, on each bench."""
    found = [(bench, one) for bench in results.benches() for one in findings.rounding(results, bench, workload)]
    several = len(results.benches()) > 1
    return [one.led_by(f"{results.where(bench)}: ") if several else one for bench, one in found]


def _devices(results: Results, drawn: Sequence[str]) -> Chapter | None:
    blocks: Blocks = []
    for number, device in enumerate(recommendation.devices(results)[1:], start=1):
        if found := opening.recommended(results, number):
            heading = f"Which file to deploy on {results.labels[device]}"
            blocks.append(Section(text_of(heading), tuple(found)))
    said = [findings.beside_bf16(results, bench) for bench in results.benches()]
    named = [
        found.led_by(f"{results.where(bench)}: ") if len(results.benches()) > 1 else found
        for bench, found in zip(results.benches(), said, strict=True)
        if found
    ]
    side_by_side = tables.benches(results)
    compared = [*([side_by_side] if side_by_side else []), *bullets(named)]
    versions = [tables.devices(results), *bullets([_origin(results)])]
    if not compared and not blocks:
        about = "versions, and where the records come from"
        return _chapter("devices", "Devices and versions", about, None, versions)
    blocks = [*compared, *blocks, Section(text_of("Devices and versions"), tuple(versions))]
    about = "the candidate on each device and runtime, versions, and where the records come from"
    return _chapter("devices", "Devices side by side", about, findings.runtimes(results), blocks)


def _origin(results: Results) -> Finding:
    """Say from which code the records of each kind are, and from which params."""
    said: list[str | Span] = []
    kinds = {"Trained": results.trainings, "Sensitivity measured": results.sensitivities,
             "Pruned": results.prunings, "Files measured": results.measurements}  # fmt: skip
    for kind, records in kinds.items():
        commits = [code(commit) for commit in sorted({record.commit for record in records})]
        if commits:
            said += [f"{kind} at ", *[part for commit in commits for part in (", ", commit)][1:], ". "]
    return Finding.of(
        *said,
        "All records have the params of study ",
        code(results.study.study),
        " (digest ",
        code(results.study.digest()[:12]),
        ").",
    )


def _runtimes(results: Results, drawn: Sequence[str]) -> Chapter | None:
    parts: Blocks = []
    kinds = {
        "a GPU's own times": anatomy.clocks,
        "several builds of an engine": anatomy.builds,
        "accuracy and labels": anatomy.agreement,
    }
    shown: list[str] = []
    for bench in results.benches():
        measured = _in_order(results, results.at(bench))
        found = {told: table for told, of in kinds.items() if (table := of(results, measured))}
        shown += found
        if found:
            heading = text_of(f"Measured{_bench_suffix(results, bench)}")
            parts.append(Section(heading, tuple(found.values())))
    about = ", ".join(dict.fromkeys(shown))
    return _chapter("runtimes", "Runtimes side by side", about, None, parts)


def _models(results: Results, drawn: Sequence[str]) -> Chapter | None:
    def section(on: Results) -> Blocks:
        return [tables.losses(on, group) for group in findings.rivals(on)]

    blocks = _per_device(results, lambda on: bool(findings.rivals(on)), section)
    on = results.on(results.training_device())
    said = [found for group in findings.rivals(on) if (found := findings.large_against_small(on, group))]
    about = "what pruning costs and saves each"
    answer = said[0] if said else None
    return _chapter("models", _rivals_heading(results), about, answer, [*blocks, *bullets(said[1:])])


def _rivals_heading(results: Results) -> str:
    """Name the models that are compared."""
    groups = [group for device in results.devices() for group in findings.rivals(results.on(device))]
    compared = [results.study.workloads[key].model for group in groups for key in group]
    return " against ".join(pretty(model) for model in dict.fromkeys(compared))


def _measurements(results: Results, drawn: Sequence[str]) -> Chapter | None:
    blocks: Blocks = []
    for bench in results.benches():
        measured = _in_order(results, results.at(bench))
        blocks += _measured_on(results, bench, [tables.measurements(results, measured)])
    about = "percentiles of times, memory, and the weights' digest"
    return _chapter("measurements", "Every measurement", about, None, blocks)


_CHAPTERS: tuple[Callable[[Results, Sequence[str]], Chapter | None], ...] = (
    _candidate, _training, _pruning, _sensitivity, _controls, _files, _fronts, _int8, _classes, _why, _devices,
    _runtimes, _models, _measurements,
)  # fmt: skip


def _shows_published(blocks: Iterable[Block]) -> bool:
    """Say whether a table has a row of the published study's."""
    return any(
        _shows_published(block.blocks)
        if isinstance(block, Section)
        else isinstance(block, Table) and any(row[0] == tables.REFERENCE for row in block.rows)
        for block in blocks
    )


def _how_to_read(results: Results, published: bool) -> Chapter:
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
            " is top-1 less that of the study's unpruned FP32 baseline, in every table. ",
            strong("Against its FP32"),
            " is top-1 less that of the FP32 file of the same weights: what a precision costs; of quantization-aware "
            "training, less that of the FP32 file from which it started. ",
            strong("× batch 1"),
            " and ",
            strong(f"× batch {batch}"),
            " say how many times as fast a file is as the unpruned FP32 file of the same model, timed in turn with it "
            "in the same process. Of several processes, all seeds together, it is the geometric mean of their ratios "
            "with its 95 % interval (Student's, of the logarithms), and no digit beyond that; of one process, two "
            "digits. No sentence ranks files by times whose intervals overlap; times of one process have none, and are "
            "not told apart up to the factor by which times of equal work differ.",
        ),
        Finding.of(
            strong("Times"),
            " are wall clock, warm-up left out, and percentiles of the calls of all processes: p50 is the median. The "
            "caption of each table of latencies says whether copying images in and results out is included.",
        ),
        Finding.of(
            strong("Distilled"),
            " models are fine-tuned to match the unpruned model's outputs as well as the true labels. ",
            strong("AMP"),
            " is mixed precision. The ",
            strong("hold-out"),
            " is a fixed part of the training images, on which a study may score in place of the test set. The ",
            strong("Pareto front"),
            " is the files that no other one beats in both accuracy and a cost.",
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
                " is post-training quantization of weights and activations, as pairs of nodes that quantize and "
                "dequantize (Q/DQ), with ranges from "
                f"{settings.calibration_images} training images by {_METHODS[settings.method]}{kept}{corrected}.",
            )
        )
    facts += [_trained(name, results.study.quantization.qat) for name in formats.TRAINED if name in asked]
    if split != {"test"}:
        facts.append(
            Finding.of("Scored on the hold-out: no published figure, all of the test set, stands beside such rows.")
        )
    about = "columns and intervals"
    return Chapter("reading", "How to read the tables", about, None, tuple(bullets(facts)))


def _trained(precision: str, settings: QuantizationAwareTraining) -> Finding:
    labels = (
        f"; the FP32 model's soft labels weigh {settings.distillation:g} in the loss" if settings.distillation else ""
    )
    return Finding.of(
        strong(precision_name(precision)),
        " is quantization-aware training: INT8 in the same ranges, with weights trained further from the variant's own "
        f"while rounding to {settings.weight_bits}-bit weights is simulated ({count(settings.epochs, 'epoch')}, "
        f"learning rate {settings.learning_rate:g}{labels}).",
    )


def _workload_heading(results: Results, workload: str) -> Text:
    settings = results.study.workloads[workload]
    return text_of(f"{pretty(settings.model)} on {pretty(settings.dataset)} (", code(workload), ")")


def _speed(drawn: Sequence[str]) -> Blocks:
    shown = {
        "speed-": "Latency and throughput by variant and precision",
        "latency-": "Share of the calls at batch 1 over their latency",
    }
    return [Figure(name, text) for start, text in shown.items() for name in drawn if name.startswith(start)]


def _mixed(results: Results, drawn: Sequence[str]) -> Blocks:
    blocks: Blocks = []
    for bench in results.benches():
        if table := mixed.files(results, bench):
            blocks += _measured_on(results, bench, [table, *bullets(mixed.predictions(results, bench))])
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
        return []
    headline = results.headline_bench()
    warned = results.candidate_file(headline) if headline else []
    blocks: Blocks = []
    for bench, table in compared.items():
        others = [record for record in measured[bench] if record not in warned]
        own = [table, *bullets(findings.inexact(results, others))] if table else paragraph(anatomy.NOT_EXACT)
        blocks += _measured_on(results, bench, own)
    return blocks


def _measured_on(results: Results, bench: Bench, blocks: Blocks) -> Blocks:
    """Put blocks of one bench under its name, where there are several."""
    suffix = _bench_suffix(results, bench)
    return [Section(text_of(f"Measured{suffix}"), tuple(blocks))] if suffix else blocks


def _in_order(results: Results, measured: Sequence[Measurement]) -> Files:
    order = {name: index for index, name in enumerate(results.study.variants)}
    return Files(sorted(measured, key=lambda r: (order[r.variant], formats.COMPUTED.index(r.precision))))


def _per_device(results: Results, has: Callable[[Results], bool], section: Callable[[Results], Blocks]) -> Blocks:
    """Return the blocks of each device, under the device's name where there are several."""
    blocks: Blocks = []
    for device in results.devices():
        if has(on := results.on(device)):
            if len(results.devices()) > 1:
                blocks += paragraph(Finding.of(strong(results.labels[device])))
            blocks += section(on)
    return blocks


def _bench_suffix(results: Results, bench: Bench) -> str:
    return f" on {results.where(bench)}" if len(results.benches()) > 1 else ""


def _figure(drawn: Sequence[str], name: str, alternative: str) -> Blocks:
    return [Figure(name, alternative)] if name in drawn else []
