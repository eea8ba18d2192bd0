"""Which file is picked: the best within the limits, as trying them all says."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import factories
from trimlab.report import pick, recommendation
from trimlab.report.intervals import Difference, Replicated
from trimlab.report.pick import File, Limits
from trimlab.report.results import Results, Spread
from trimlab.report.sections import report
from trimlab.report.text import precision_name

MIB = 2**20
OBJECTIVES = ("size", "latency", "throughput")


def replicated(mean, spread=0.0):
    return Replicated(mean, mean * (1 - spread), mean * (1 + spread), 3)


def file(size=1.0, ms=1.0, batch_ms=10.0, points=0.0, half_width=0.1, spread=0.0):
    gained = Difference(points, half_width, "paired")
    return File([], gained, size * MIB, replicated(ms, spread), replicated(batch_ms, spread))


few = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])
files = st.builds(file, size=few, ms=few, batch_ms=few, points=st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5]))
limits = st.builds(Limits, few, st.none() | few, st.none() | few)


@given(found=st.lists(files, max_size=6), asked=limits, objective=st.sampled_from(OBJECTIVES))
def test_the_pick_is_what_trying_all_files_gives(found, asked, objective):
    cost = {
        "size": lambda one: one.size_bytes,
        "latency": lambda one: one.latency_ms.mean,
        "throughput": lambda one: one.batch_ms.mean,
    }[objective]
    kept = []
    for one in found:
        lost = -(one.gained.points - one.gained.half_width)
        fits = asked.max_mib is None or one.size_bytes / MIB <= asked.max_mib
        fast = asked.max_ms is None or one.latency_ms.mean <= asked.max_ms
        if lost <= asked.max_drop and fits and fast:
            kept.append(one)
    best = pick.pick(found, asked, objective)
    if not kept:
        assert best is None
        return
    assert best in kept
    assert all((cost(best), -best.gained.points) <= (cost(one), -one.gained.points) for one in kept)


@pytest.mark.parametrize(("half_width", "within"), [(0.4, True), (0.6, False)])
def test_the_whole_interval_has_to_be_within_the_loss(half_width, within):
    assert pick.within(file(points=-0.5, half_width=half_width), Limits(1.0)) is within


def test_files_as_fast_as_the_best_are_those_whose_times_overlap():
    best, near, far = file(ms=1.0, spread=0.1), file(ms=1.15, spread=0.1), file(ms=1.5, spread=0.1)
    lossy = file(ms=1.1, spread=0.1, points=-9)
    found = [best, near, far, lossy]
    assert pick.as_fast(best, found, Limits(1.0), "latency", None) == [near]
    assert pick.as_fast(best, found, Limits(1.0), "size", None) == []


def test_times_of_one_process_are_told_apart_beyond_those_of_equal_work():
    once = [replace(file(), latency_ms=Replicated(ms, None, None, 1)) for ms in (1.0, 1.01, 1.5)]
    assert pick.as_fast(once[0], once, Limits(1.0), "latency", None) == []
    assert pick.as_fast(once[0], once, Limits(1.0), "latency", Spread(1.2, 2.0, 1.1, 1.1, 4)) == [once[1]]


def test_equal_work_is_of_one_shape_arithmetic_and_runtime():
    of = results()
    device = of.benches()[0].device
    spread = of.time_spread(device)
    alike = {}
    for record in of.measurements:
        layers = tuple(layer.precision for layer in record.batch_layers if layer.channels is not None)
        alike.setdefault((record.model, record.macs, layers), []).append(record.latency.p50_ms)
    beside = {}
    for record in of.measurements:
        beside.setdefault(record.workload, []).append(record.baseline_latency.p50_ms)
    groups = [times for times in (*alike.values(), *beside.values()) if len(times) > 1]
    assert spread.groups == len(groups)
    assert spread.single == max(max(times) / min(times) for times in groups)
    assert Results.of(of.study, of.measurements[:1]).time_spread(device) is None


def test_a_smaller_and_faster_file_that_is_as_accurate_is_named():
    of = results()
    found = pick.files(of, of.benches()[0].device)
    base = pick.baseline(found)
    spread = of.time_spread(of.benches()[0].device)
    for one in pick.as_accurate(base, found, of):
        assert one.size_bytes < base.size_bytes and one.latency_ms.mean * spread.single < base.latency_ms.mean
        assert not of.difference(one.records, base.records).separable


def results(**changes):
    study = factories.study(**changes)
    return Results.of(study, factories.everything(study))


def test_files_are_those_of_the_baselines_dataset_against_its_fp32_file():
    of = results()
    found = pick.files(of, of.benches()[0].device)
    assert {(r.variant, r.precision) for one in found for r in one.records} == {
        (variant, precision)
        for variant, precision in itertools.product(of.study.variants, ("fp32", "fp16", "int8"))
        if precision in of.study.variants[variant].precisions
    }
    (base,) = (one for one in found if (one.records[0].variant, one.records[0].precision) == ("large", "fp32"))
    assert base.gained.points == 0


def test_a_file_of_another_runtime_is_left_out_where_that_is_not_asked_for():
    of = results()
    device = of.benches()[0].device
    assert len(pick.files(of, device, ("onnxruntime",))) == len(pick.files(of, device)) > 0
    assert pick.files(of, device, ("openvino",)) == []


def test_the_report_recommends_one_file_a_row_for_all_that_it_is_best_in():
    of = results(benchmark={"processes": 3})
    device = of.benches()[0].device
    table = recommendation.table(of, device)
    assert table
    best = {row[1].text: row[0].text for row in table.rows}
    assert len(best) == len(table.rows)
    found = pick.files(of, device)
    for drop in recommendation.DROPS:
        for objective, said in recommendation.BEST.items():
            file = pick.pick(found, pick.Limits(drop), objective)
            (name,) = [
                name
                for name in best
                if name.endswith(f"{precision_name(file.records[0].precision)} ({file.records[0].variant})")
            ]
            assert said in best[name]
    assert sum(text == recommendation.BASELINE for text in best.values()) <= 1


def test_throughput_is_shown_by_the_times_that_files_are_picked_for():
    of = results(benchmark={"processes": 3})
    device = of.benches()[0].device
    table = recommendation.table(of, device)
    column = next(at for at, each in enumerate(table.columns) if each.header.startswith("Images/s"))
    found = pick.files(of, device)
    for file in found:
        shown, batch = file.images_per_second, file.records[0].batch_latency.batch_size
        assert shown.mean == pytest.approx(1000 * batch / file.batch_ms.mean)
        assert shown.low < shown.mean < shown.high
    assert {row[column].number for row in table.rows} <= {file.images_per_second.mean for file in found}


def test_the_most_accurate_file_under_a_size_is_named_where_the_baseline_is_too_large():
    of = results()
    device = of.benches()[0].device
    table, found = recommendation.table(of, device), pick.files(of, device)
    assert table
    (row,) = [row for row in table.rows if "most accurate up to 1 MiB" in row[0].text]
    within = [file for file in found if file.size_bytes <= 2**20]
    best = min(within, key=lambda file: file.surely_lost)
    rivals = [
        file
        for file in within
        if file.size_bytes < best.size_bytes
        and file.latency_ms.mean < best.latency_ms.mean
        and not of.difference(file.records, best.records).separable
    ]
    best = min(rivals, key=lambda file: file.size_bytes, default=best)
    assert f"({best.records[0].variant})" in row[1].text and row[5].number <= 1


def test_the_recommended_file_is_the_smallest_whose_whole_interval_is_within_a_point():
    of = results()
    device = of.benches()[0].device
    said = recommendation.sentence(of, device)
    best = pick.pick(pick.files(of, device), pick.Limits(1.0), "size")
    assert said.plain.startswith("Deploy ") and f"({best.records[0].variant}) in ONNX Runtime." in said.plain
    assert said.values["size_mib"] == pytest.approx(best.size_bytes / 2**20)
    runtime = best.records[0].runtime
    (own,) = (r for r in of.measurements if (r.variant, r.precision, r.runtime) == ("large", "fp32", runtime))
    taken = f"{own.latency.p50_ms:.1f} ms"
    assert said.plain.endswith(f" ms per image in ONNX Runtime, where the unpruned FP32 file takes {taken}.")
    alone = Results.of(
        of.study,
        [
            r
            for r in of.records
            if getattr(r, "variant", "large") == "large" and getattr(r, "precision", "fp32") == "fp32"
        ],
    )
    assert recommendation.sentence(alone, device).plain.startswith("Deploy the unpruned FP32 file: no smaller one")


def test_nothing_is_recommended_without_the_baseline():
    study = factories.study()
    measured = [r for r in factories.everything(study) if getattr(r, "variant", "") != "large"]
    of = Results.of(study, measured)
    device = of.benches()[0].device
    assert recommendation.table(of, device) is None
    assert "selected on" not in factories.document(report(of, []))


def test_a_pick_on_the_test_set_says_that_it_is_lucky_and_one_on_the_hold_out_does_not():
    for split, lucky in (("test", True), ("holdout", False)):
        of = results(data={"split": split, "holdout_fraction": 0.1, "seed": 0})
        said = factories.document(report(of, []))
        assert "images that they are scored on, so their accuracies are optimistic" in said
        assert ("The test set was not used." in said) is not lucky
