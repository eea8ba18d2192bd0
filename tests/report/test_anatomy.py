"""How much of the saved work becomes speed: what the layers, widths and clocks of a record say in words."""

from math import comb

import pytest

import factories
from trimlab.records import Layer
from trimlab.report import anatomy, findings
from trimlab.report.markdown import table as shown
from trimlab.report.results import Results, paired_noise
from trimlab.report.sections import report

STUDY = factories.study()
RESULTS = Results.of(STUDY, factories.everything(STUDY))
AVX2 = factories.CPU.model_copy(update={"features": ["avx2"]})


def layer(precision, channels=64, ms=1.0, name="conv"):
    return Layer(name=name, kind="Conv", precision=precision, channels=channels, ms=ms)


def explained(**changes):
    return anatomy.explanation(RESULTS, factories.measurement(STUDY, "candidate", "int8", **changes)).plain


def test_layers_that_stayed_in_fp32_are_named():
    text = explained(batch_layers=[layer("FP32", ms=3.0, name="first"), layer("INT8", name="second")])
    assert "1 of 2 convolutions and linear layers ran in INT8, in 25 % of the time; first stayed in FP32." in text


def test_many_layers_are_counted_not_listed():
    text = explained(batch_layers=[layer("FP32", name=f"layer{n}") for n in range(7)])
    assert "0 of 7" in text
    assert "layer3 and 3 more stayed in FP32" in text


def test_work_without_weights_has_its_share():
    text = explained(batch_layers=[layer("INT8", ms=3.0), layer("INT8", channels=None, ms=1.0)])
    assert "25 % of the time went into other operators (Conv 25 %)." in text


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ([16, 48, 10], "All widths are multiples of 16."),
        ([25, 51, 64, 10], "2 of 3 widths (25, 51) are not multiples of 16: kernels that take 16 channels at once"),
        ([25, 51, 64, 10], "pad them to 32, 64."),
    ],
)
def test_widths_that_the_hardware_fills_up_are_named(widths, said):
    named = {f"layer{index}": width for index, width in enumerate(widths)}
    results = Results.of(STUDY, [factories.pruning(STUDY, "candidate", widths=named)])
    assert said in anatomy.explanation(results, factories.measurement(STUDY, "candidate", "int8")).plain


@pytest.mark.parametrize(("batch_ms", "share"), [(64.0, 75), (192.0, 25), (300.0, 0)])
def test_what_a_batch_saves_an_image_is_said_without_a_cause(batch_ms, share):
    batch = factories.latency(batch_ms, n=20, batch_size=64)
    text = explained(latency=factories.latency(4.0), batch_latency=batch)
    assert text.endswith(f" An image takes {share} % less time in a batch of 64 than alone (4.00 ms).")


def test_what_fp16_files_are_computed_in_is_said():
    bench = RESULTS.benches()[0]
    measured = [
        factories.measurement(STUDY, variant, "fp16", batch_layers=[layer("FP32"), layer("FP32", channels=None)])
        for variant in ("large", "small")
    ]
    said = "FP16. None of the 2 convolutions and linear layers in 2 files ran in FP16: all ran in FP32, "
    assert anatomy.reduced(Results.of(STUDY, measured), bench)[0].plain.startswith(said)
    half = factories.measurement(STUDY, "large", "fp16", batch_layers=[layer("FP16"), layer("FP32")])
    (only,) = anatomy.reduced(Results.of(STUDY, [half]), bench)
    assert only.plain.endswith(" in 1 file ran in FP16, the rest in FP32.")


def test_every_int8_file_has_a_row_of_what_its_speed_goes_with():
    table = anatomy.explained(RESULTS, RESULTS.benches()[0])
    assert table
    headers = [column.header for column in table.columns]
    row = next(row for row in table.rows if row[0].text == "candidate")
    shown_in = {header: value.text for header, value in zip(headers, row, strict=True)}
    unpruned, pruned = (factories.measurement(STUDY, variant, "int8") for variant in ("large", "candidate"))
    saved = factories.pruning(STUDY, "large").macs / pruned.macs
    assert shown_in["× fewer MACs"] == f"{saved:.1f}"
    assert shown_in["In proportion, × batch 64"] == f"{saved * unpruned.batch_speedup:.0f}"
    assert (shown_in["Layers in INT8"], shown_in["Time in other operators %"]) == ("1 of 2", "10")
    files = [r for r in RESULTS.measurements if r.precision == "int8"]
    assert len(table.rows) == len(files)


def test_the_opening_sets_speed_beside_the_work_saved_in_fp32_and_in_int8():
    said = anatomy.in_short(RESULTS, RESULTS.benches()[0])
    saved = factories.pruning(STUDY, "large").macs / factories.measurement(STUDY, "candidate", "int8").macs
    assert said and said.plain.startswith("How much of the saved work becomes speed? Pruned by 60 %, candidate takes ")
    assert said.values["times_fewer_macs"] == pytest.approx(saved)
    plain = factories.measurement(STUDY, "candidate", "fp32").batch_speedup
    assert f"At batch 64 it runs {plain:.1f}× (FP32) and" in said.plain


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ([6.0, 3.0, 1.0], "1 of 3 layers takes 60 % of the time"),
        ([1.0, 1.0, 1.0, 1.0], "2 of 4 layers take 50 % of the time"),
        ([0.0], "none of 1 layer took any time"),
    ],
)
def test_how_the_time_is_spread_over_layers_in_words(times, said):
    assert anatomy.message([layer("INT8", ms=ms) for ms in times]) == said


def test_a_speed_up_stands_beside_what_would_be_in_proportion():
    unpruned = factories.measurement(STUDY, "large", "int8")
    pruned = factories.measurement(STUDY, "candidate", "int8")
    saved = factories.pruning(STUDY, "large").macs / pruned.macs
    proportional = f"proportional scaling would give {unpruned.batch_speedup * saved:.0f} times"
    said = f"is {unpruned.batch_speedup:.1f} times as fast, so {proportional}"
    assert said in anatomy.explanation(RESULTS, pruned).plain


def test_layers_have_their_share_of_both_batches():
    alone, batch = [layer("INT8", name="a")], [layer("INT8", ms=3.0, name="a"), layer("INT8", name="b")]
    record = factories.measurement(STUDY, "candidate", "int8", layers=alone, batch_layers=batch)
    table = shown(anatomy.layers(RESULTS, record))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| `")]
    assert [row[-2:] for row in rows] == [["75.0", "100.0"], ["25.0", "—¹"]]
    assert "¹ this layer is not there at batch 1." in table


@pytest.mark.parametrize(("graph", "said"), [(0.05, "launch-bound"), (0.1, "not launch-bound")])
def test_a_gpus_batch_1_is_launch_bound_where_a_graph_helps(graph, said):
    record = factories.engine_measurement(STUDY, "candidate", "int8")
    times = {"gpu": 0.11, "gpu_graph": graph}
    clocks = [
        clock.model_copy(update={"latency": factories.latency(times.get(clock.name, 1.0))}) for clock in record.clocks
    ]
    text = anatomy.explanation(RESULTS, record.model_copy(update={"clocks": clocks})).plain
    assert f"Batch 1 is {said}: 0.1100 ms on the GPU, {graph:.4f} ms as a CUDA graph." in text


def test_saved_arithmetic_stands_beside_the_speed_up():
    text = explained(macs=1_000_000)
    macs = factories.pruning(STUDY, "large").macs
    assert f"{macs / 1e6:.1f} times fewer multiply-accumulates than unpruned; " in text
    assert (
        "multiply-accumulates" not in anatomy.explanation(RESULTS, factories.measurement(STUDY, "large", "int8")).plain
    )


def test_builds_that_are_alike_are_counted_once():
    record = factories.engine_measurement(STUDY, "candidate", "int8", count=3)
    table = shown(anatomy.builds(Results.of(STUDY, [record]), [record]))
    assert "| 3 | 2 |" in " ".join(table.split())


def test_one_runtime_has_nothing_to_compare():
    measured = RESULTS.measurements
    assert [table(RESULTS, measured) for table in (anatomy.agreement, anatomy.clocks, anatomy.builds)] == [None] * 3


def exact(n=359, **changes):
    """An INT8 file on a processor without VNNI, scored on n images."""
    return factories.measurement(
        STUDY, "candidate", "int8", device=AVX2, num_images=n, predictions_sha256=factories.weights(), **changes
    )


SATURATED = {"top1_accuracy": 349 / 359, "exact_top1_accuracy": 356 / 359, "exact_agreement": 350 / 359}


def test_int8_stands_beside_its_exact_arithmetic():
    records = [exact(weight_bits=8, **SATURATED), factories.measurement(STUDY, "large", "int8", device=AVX2)]
    table = shown(anatomy.exactness(Results.of(STUDY, records), records))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert rows[1] == ["candidate", "0", "8", "97.21", "99.16", "−1.95¹", "± 1.92", "2.51"]
    assert rows[2] == ["large", "0", "8²", "91.93", "—³", "—³", "—³", "—³"]
    assert "¹ more than noise. ² recorded before there were 7-bit files. ³ not computed." in table


def test_where_no_exact_arithmetic_was_computed_one_sentence_says_so():
    assert anatomy.exactness(RESULTS, RESULTS.measurements) is None
    text = factories.document(report(RESULTS, []))
    assert f"\n\n{anatomy.NOT_EXACT.plain}\n" in text and "exact arithmetic\n" not in text
    without = [r for r in RESULTS.records if getattr(r, "precision", "") != "int8"]
    assert anatomy.NOT_EXACT.plain not in factories.document(report(Results.of(STUDY, without), []))


@pytest.mark.parametrize(
    ("n", "fewer", "others", "warns"),
    [
        (359, 7, 7, True),
        (359, 7, 9, True),
        (359, 7, 60, False),
        (359, 5, 5, False),
        (10_000, 20, 40, True),
        (10_000, 20, 400, False),
        (10_000, 0, 400, False),
        (10_000, -60, 400, True),
    ],
)
def test_only_differences_beyond_noise_are_warned_of(n, fewer, others, warns):
    right = int(0.95 * n)
    record = exact(
        n=n,
        top1_accuracy=(right - fewer) / n,
        exact_top1_accuracy=right / n,
        exact_agreement=1 - others / n,
    )
    said = findings.inexact(Results.of(STUDY, [record]), [record])
    assert len(said) == warns
    if warns:
        assert ("gain" in said[0].plain) is (fewer < 0)


def test_the_bound_of_noise_is_never_below_the_exact_tests():
    # The exact sign test, two-sided at 5 %: k of m discordant images more on one side.
    for m in range(1, 200):
        needed = next(
            (
                k
                for k in range(m % 2, m + 1, 2)
                if 2 * sum(comb(m, i) for i in range((m + k) // 2, m + 1)) < 0.05 * 2**m
            ),
            None,
        )
        bound = paired_noise(m / 10_000, 10_000) * 10_000
        assert needed is None or bound > needed - 2, (m, needed, bound)
        assert needed is not None or bound >= m, (m, bound)


def test_a_warning_claims_no_more_than_the_record_holds():
    record = exact(weight_bits=8, **SATURATED)
    (said,) = findings.inexact(Results.of(STUDY, [record]), [record])
    assert said.text[0].style == "strong"
    assert said.plain == (
        "In ONNX Runtime on Test CPU, candidate INT8 scores 97.21 %, its exact arithmetic 99.16 %: the runtime's "
        "kernels lose 1.95 points, more than noise (8-bit weights; the processor's features, avx2, hold no VNNI, "
        "without which sums of products can saturate)."
    )
    for other in (
        exact(weight_bits=7, **SATURATED),
        record.model_copy(update={"device": factories.CPU}),
        record.model_copy(update={"device": AVX2.model_copy(update={"features": []})}),
        record.model_copy(update={"device": AVX2.model_copy(update={"system": "Linux aarch64, Python 3.12.1"})}),
    ):
        (said,) = findings.inexact(Results.of(STUDY, [other]), [other])
        assert "VNNI" not in said.plain and "saturate" not in said.plain


def test_layers_without_a_time_divide_nothing():
    record = factories.measurement(
        STUDY, "candidate", "int8", layers=[layer("INT8", ms=0.0)], batch_layers=[layer("INT8", ms=0.0)]
    )
    assert " 0.0 |" in shown(anatomy.layers(RESULTS, record))
    assert "in 0 % of the time" in anatomy.explanation(RESULTS, record).plain
