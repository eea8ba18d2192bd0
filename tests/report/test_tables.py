import itertools
import re
from collections.abc import Sequence
from typing import Any

import pytest

import factories
from trimlab.config import Params
from trimlab.measure import timing
from trimlab.records import Measurement, Record
from trimlab.records.select import fits
from trimlab.report import findings, reference, tables, text
from trimlab.report.intervals import Replicated
from trimlab.report.markdown import table as shown
from trimlab.report.model import Column, Finding, Table, Value, words
from trimlab.report.results import Bench, Results
from trimlab.report.sections import report

BENCH = Bench(factories.CPU.identity, "onnxruntime")
REFERENCE = "*reference*"


def results(**changes: Any) -> Results:
    study = factories.study(**changes)
    return Results.of(study, factories.everything(study))


def rows(table: Table) -> list[list[str]]:
    """Return what markdown shows in a table, its header first."""
    lines = [line for line in shown(table).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in (lines[0], *lines[2:])]


def plain(finding: Finding | None) -> str:
    return finding.plain if finding else ""


def every_table(of: Results) -> list[Table]:
    made = [
        tables.devices(of),
        tables.baselines(of),
        tables.candidate(of, BENCH),
        tables.overview([of]),
        tables.losses(of, ["large", "small"]),
    ]
    made += [tables.pruning(of, workload) for workload in ("large", "small")]
    made += [tables.precisions(of, workload, BENCH) for workload in ("large", "small")]
    return [*made, tables.measurements(of, of.at(BENCH))]


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_no_cell_is_empty_and_every_dash_has_its_footnote(seeds: list[int]) -> None:
    for table in every_table(results(seeds=seeds)):
        under = shown(table).split("\n\n", 1)[-1]
        for cell in itertools.chain.from_iterable(rows(table)):
            assert cell
            if cell.startswith("—"):
                assert re.fullmatch(r"—[¹²³⁴⁵]", cell)
                assert f"{cell[1]} " in under


def test_reference_rows_stand_under_rows_of_the_same_ratio_and_precision() -> None:
    of = results()
    for table in (tables.precisions(of, "large", BENCH), tables.candidate(of, BENCH)):
        found = rows(table)
        header = found[0]
        assert any(row[0] == REFERENCE for row in found)
        for ours, row in itertools.pairwise(found):
            if row[0] == REFERENCE:
                assert ours[0] != REFERENCE
                for column in ("Ratio", "Precision"):
                    assert row[header.index(column)] == f"*{ours[header.index(column)]}*"


def test_a_point_that_the_study_lacks_has_no_reference_row() -> None:
    sweep = {
        "none": {"ratio": 0.0, "epochs": 0},
        "r50": {"ratio": 0.33, "epochs": 2},
        "r80": {"ratio": 0.81, "epochs": 2},
    }
    of = results(sweep=sweep, prune={"ratio": 0.61, "epochs": 2})
    found = [row[1] for row in rows(tables.pruning(of, "large")) if row[0] == REFERENCE]
    assert found == ["*0 %*"]
    precisions = rows(tables.precisions(of, "large", BENCH))
    assert {row[1] for row in precisions if row[0] == REFERENCE} == {"*0 %*"}


def with_dataset(source: str, path: str = "data/none") -> Results:
    return results(datasets={"cifar10": {"source": source, "path": path}})


@pytest.mark.parametrize(
    "of",
    [
        with_dataset("folder", "data/mine"),
        with_dataset("digits"),
        results(data={"split": "holdout", "holdout_fraction": 0.1, "seed": 0}),
    ],
)
def test_other_images_have_no_reference_row(of: Results) -> None:
    assert not any(REFERENCE in shown(table) for table in every_table(of))


def test_a_sweep_is_compared_with_the_published_one_ratio_by_ratio() -> None:
    of = results()
    said = findings.against_published_ratios(of, "large")
    assert said and said.plain == (
        "Of 3 published ratios, top-1 after fine-tuning is higher than published at 3, lower at 0, and cannot be told "
        "apart at 0. The differences lie between +1.06 ± 0.84 points (60 %) and +13.51 ± 1.05 points (80 %). Recipes "
        "differ."
    )
    assert (said.values["higher"], said.values["lower"]) == (3, 0)
    # Published: 86.29 % at 50 %, 89.14 % at 60 %, 75.29 % at 80 %.
    worse = [r.model_copy(update={"top1_accuracy": 0.89}) if r.kind == "pruning" else r for r in of.records]
    close = findings.against_published_ratios(Results.of(of.study, worse), "large")
    assert close and (close.values["higher"], close.values["lower"]) == (2, 0)
    assert "cannot be told apart at 1" in close.plain


def test_one_published_ratio_is_no_sweep() -> None:
    assert findings.against_published_ratios(results(), "small") is None


def test_another_model_of_that_name_has_no_reference_row() -> None:
    base = factories.study().model_dump()["workloads"]
    workloads = {key: {**value, "model": "torchvision/resnet18"} for key, value in base.items()}
    assert not any(REFERENCE in shown(table) for table in every_table(results(workloads=workloads)))


def test_published_fp32_training_stands_beside_strict_fp32_alone() -> None:
    study = factories.study()
    tf32 = factories.training(study, "large", precision="tf32")
    assert REFERENCE not in shown(tables.baselines(Results.of(study, [tf32])))
    amp = factories.training(study, "large-amp", precision="fp16")
    assert rows(tables.baselines(Results.of(study, [amp])))[-1][3] == "*AMP*"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75])
def test_published_figures_are_of_the_ratio_and_precision_asked_for(ratio: float, precision: str) -> None:
    row = reference.deployed("resnet18", "cifar10", ratio, precision)
    assert row is not None
    assert (float(row["ratio_percent"]), row["precision"]) == (pytest.approx(100 * ratio), precision)


def test_every_published_point_says_what_its_size_is_of() -> None:
    points = [p for model in ("resnet18", "resnet20") for p in reference.points(model, "cifar10")]
    assert len(points) == 24
    assert {point.size_of for point in points} == {"state_dict", "engine"}


def test_one_published_row_a_ratio_closes_our_rows_of_that_ratio() -> None:
    variants = factories.study().model_dump()["variants"] | {"large-r00": {"workload": "large", "pruning": "sweep.r00"}}
    sweep = factories.study().model_dump()["sweep"] | {"r00": {"ratio": 0.0, "epochs": 1, "learning_rate": 1e-5}}
    found = [row[0] for row in rows(tables.pruning(results(variants=variants, sweep=sweep), "large"))]
    assert found[1:4] == ["large", "large-r00", REFERENCE]
    assert found.count(REFERENCE) == 4


def test_several_seeds_are_a_mean_with_its_deviation_and_n() -> None:
    found = rows(tables.baselines(results(seeds=[0, 1, 2])))
    assert found[1][found[0].index("Top-1 %")] == "92.20 ± 0.20"
    assert found[1][found[0].index("n")] == "3"


def test_speedups_are_those_of_the_measurement_alone() -> None:
    study = factories.study()
    slow_baseline = factories.latency(77.0)
    made = [r for r in factories.everything(study) if getattr(r, "precision", "") != "int8"]
    file = factories.measurement(study, "large", "int8", latency=factories.latency(7.0), baseline_latency=slow_baseline)
    found = rows(tables.precisions(Results.of(study, [*made, file]), "large", BENCH))
    int8 = next(row for row in found if row[3] == "INT8")
    assert int8[found[0].index("× batch 1")].rstrip("¹²³⁴") == "11"


def replicated(ratios: dict[tuple[str, str], Sequence[float]]) -> Results:
    """A study whose files are so many times as fast as the unpruned FP32 files: a ratio a process."""
    study = factories.study()

    def one(ratio: float) -> dict[str, Any]:
        medians = {"latency": 5 / ratio, "batch_latency": 240 / ratio}
        medians |= {"baseline_latency": 5.0, "baseline_batch_latency": 240.0}
        return {name: timing.series([ms / 1000] * 5, 64 if "batch" in name else 1) for name, ms in medians.items()}

    def timed(record: Record) -> Record:
        if not isinstance(record, Measurement):
            return record
        processes = [one(ratio) for ratio in ratios.get((record.variant, record.precision), [1.0, 1.0, 1.0])]
        changes = {**timing.pooled(processes), "processes": processes}
        return Measurement.model_validate(record.model_dump() | changes)

    return Results.of(study, map(timed, factories.everything(study)))


def test_a_speed_up_of_several_processes_has_its_interval_and_no_digit_beyond_it() -> None:
    of = replicated({("large", "int8"): [5.5, 5.6, 5.7], ("candidate", "int8"): [11.0, 11.9, 12.9]})
    table = tables.precisions(of, "large", BENCH)
    cells = {(row[0], row[3]): row[-2] for row in rows(table) if row[0] != REFERENCE}
    assert cells["large", "INT8"].rstrip("¹²³") == "5.6 (5.4–5.9)"
    assert cells["candidate", "INT8"].rstrip("¹²³") == "12 (10–15)"
    assert "Speed-ups: geometric mean of 3 processes, with its 95 % interval." in table.caption
    alone = tables.precisions(results(), "large", BENCH)
    assert "One process timed each file, so speed-ups have no interval." in alone.caption
    assert "5.6× (5.4–5.9) at batch 1" not in plain(findings.headline(of))
    assert "12× (10–15) as fast at batch 1" in plain(findings.headline(of))
    assert "in each of 3 processes (geometric mean and 95 % interval)" in plain(findings.headline(of))
    assert "timed alternately with it in one process." in plain(findings.headline(results()))


def test_a_candidate_measured_on_another_device_than_the_baseline_says_how_they_are_compared() -> None:
    study = factories.study()
    remedy = f"run `dvc repro -f -s benchmark@{study.report.baseline}`"
    base, candidate = (
        factories.measurement(study, study.report.baseline, "fp32"),
        factories.measurement(study, study.report.candidate, "fp32", device=factories.GPU),
    )
    said = plain(findings.headline(Results.of(study, [base, candidate])))
    assert "No device measured both" in said and remedy in said
    assert remedy not in plain(findings.headline(Results.of(study, [base])))


def test_the_processes_of_all_seeds_count() -> None:
    study = factories.study(seeds=[0, 1], benchmark={"processes": 3})
    table = tables.precisions(Results.of(study, factories.everything(study)), "large", BENCH)
    assert "Speed-ups: geometric mean of 6 processes" in table.caption


def test_only_files_whose_intervals_are_disjoint_are_ranked_by_speed() -> None:
    apart = {("large", "int8"): [5.5, 5.6, 5.7], ("candidate", "int8"): [11.0, 11.9, 12.9]}
    said = plain(findings.fastest(replicated(apart)))
    gain = "Largest gain in throughput over the unpruned FP32 file in the same runtime, at a loss of at most 3 points: "
    assert said.startswith(
        f"{gain}in ONNX Runtime candidate INT8, 12× (10–15) at batch 1 and 12× (10–15) at batch 64 ("
    )
    assert "told apart" not in said
    close = apart | {("large-r50", "int8"): [10.0, 10.5, 11.0]}
    said = plain(findings.fastest(replicated(close)))
    assert said.endswith("; not told apart from it: large-r50 INT8).")
    said = plain(findings.fastest(results()))
    assert said.endswith(" One process timed each file, so close gains may change places.")


def test_the_largest_gain_is_named_in_each_runtime() -> None:
    study = factories.study()
    found = [r for r in factories.everything(study) if isinstance(r, Measurement)]
    moved = [r for r in found if r.variant == "large-r50" or (r.variant, r.precision) == ("large", "fp32")]
    elsewhere = [r.model_copy(update={"runtime": "openvino"}) for r in moved]
    said = plain(findings.fastest(Results.of(study, [*found, *elsewhere])))
    assert "in ONNX Runtime candidate INT8, " in said and "; in OpenVINO large-r50 INT8, " in said


def test_a_file_that_loses_more_than_3_points_is_not_the_fastest_one() -> None:
    study = factories.study()
    found = [r for r in factories.everything(study) if isinstance(r, Measurement)]
    poor = [
        r.model_copy(update={"top1_accuracy": 0.5}) if (r.variant, r.precision) == ("candidate", "int8") else r
        for r in found
    ]
    assert "candidate" not in plain(findings.fastest(Results.of(study, poor)))


def test_neighbours_on_a_front_of_times_that_cannot_be_told_apart_are_named() -> None:
    close = {("candidate", "int8"): [11.0, 11.9, 12.9], ("large-r50", "int8"): [10.0, 10.5, 11.0]}
    _, latency, throughput = (found.plain for found in findings.fronts(replicated(close), BENCH.device, "cifar10"))
    for said in (latency, throughput):
        assert "Cannot be told apart by these times: candidate INT8 and large-r50 INT8" in said
    _, latency, _ = (found.plain for found in findings.fronts(results(), BENCH.device, "cifar10"))
    assert latency.endswith("Close times may change places: one process timed each file.")


def test_p99_takes_1000_calls() -> None:
    def of(calls: int) -> Table:
        return tables.measurements(results(), [factories.measurement(
            factories.study(), "large", "int8", latency=factories.latency(1.5, n=calls)
        )])  # fmt: skip

    column = "Batch 1 p50 / p90 / p99 ms"
    cells = [rows(of(calls))[1][rows(of(calls))[0].index(column)] for calls in (999, 1000)]
    assert cells == ["1.50 / 1.65 / –", "1.50 / 1.65 / 1.95"]
    assert "p99 is given from 1,000 calls on." in of(1000).caption  # the large batch has 20


def test_a_ratio_is_written_with_the_digits_that_it_supports() -> None:
    single = {11.94: "12", 1.284: "1.3", 0.994: "0.99", 0.9999: "1.0", 128.4: "128", 0.0021: "0.00"}
    assert {value: text.times(Replicated(value, None, None, 1)) for value in single} == single
    wide = {(5.6, 5.4, 5.8): "5.6 (5.4–5.8)", (1.004, 0.98, 1.03): "1.00 (0.98–1.03)", (31.2, 28, 35): "31 (28–35)"}
    assert {given: text.times(Replicated(*given, 3)) for given in wide} == wide
    assert text.times(Replicated(5.6, 5.4, 5.8, 3), "×") == "5.6× (5.4–5.8)"
    assert text.times(Replicated(3925, 3808, 4045, 3)) == "3,900 (3,800–4,000)"
    assert text.times(Replicated(2411, None, None, 1)) == "2,411"


def test_what_a_precision_costs_is_against_the_same_weights_alone() -> None:
    study = factories.study()
    other = factories.measurement(study, "large", "fp32", weights_sha256=factories.weights("other"))
    file = factories.measurement(study, "large", "int8")
    table = tables.precisions(Results.of(study, [other, file]), "large", BENCH)
    assert column(table, "Against its FP32, points")[1].startswith("—")


def test_delta_is_against_the_studys_baseline_in_every_table_and_a_precisions_cost_is_not() -> None:
    of = scored({("large-r50", "fp32"): 0.9, ("large-r50", "int8"): 0.89, ("small", "int8"): 0.88})
    large, small = (tables.precisions(of, workload, BENCH) for workload in ("large", "small"))
    found = dict(
        zip(
            zip(column(large, "Variant"), column(large, "Precision"), strict=True),
            column(large, "Δ points"),
            strict=True,
        )
    )
    assert found["large-r50", "FP32"].startswith("−2.00 ± ") and found["large-r50", "INT8"].startswith("−3.00 ± ")
    own = dict(zip(column(large, "Precision"), column(large, "Against its FP32, points"), strict=False))
    assert own["FP32"].startswith("—")
    assert any(cell.startswith("−1.00 ± ") for cell in column(large, "Against its FP32, points"))
    assert any(cell.startswith("−4.00 ± ") for cell in column(small, "Δ points"))
    compared = tables.candidate(of, BENCH)
    shared = set(column(compared, "Δ points")) & set(column(large, "Δ points"))
    assert len(shared) >= 4


def test_files_of_other_images_than_the_baselines_have_no_delta() -> None:
    study = factories.study()
    small = factories.measurement(study, "small", "fp32", dataset_sha256=factories.weights("other"))
    of = Results.of(study, [factories.measurement(study, "large", "fp32"), small])
    table = tables.precisions(of, "small", BENCH)
    assert column(table, "Δ points") == ["—¹"]
    assert "scored on other images than the baseline, large" in shown(table)


def test_a_contended_timing_says_so() -> None:
    study = factories.study()
    table = tables.baselines(Results.of(study, [factories.training(study, "large", contended=True)]))
    assert tables.CONTENDED in shown(table)


def test_given_weights_have_no_invented_recipe() -> None:
    study = factories.study()
    given = factories.training(study, "small", origin="file", epochs=0, curve=[])
    table = tables.baselines(Results.of(study, [given]))
    assert rows(table)[1][3:6] == ["—¹"] * 3
    assert tables.GIVEN_WEIGHTS.note in shown(table)


def test_released_weights_have_the_recipe_of_their_training_and_its_published_row() -> None:
    study = factories.study()
    made = factories.training(study, "large", epochs=13)
    given = factories.training(study, "large", origin="file", epochs=0, curve=[], initial_training=made)
    table = tables.baselines(Results.of(study, [given]))
    assert rows(table)[1][3:6] == ["FP32¹", "13¹", "128¹"]
    assert rows(table)[2][3] == "*FP32*"
    assert f"large: 13 epochs here, 100 published. ¹ {tables.TRAINED_BEFORE}." in shown(table)


def test_one_file_of_weights_for_several_seeds_has_the_interval_of_one_training() -> None:
    same, other = ({"weights_sha256": factories.weights(name)} for name in ("same", "other"))
    study = factories.study(seeds=[0, 1, 2])
    given = [factories.training(study, "large", seed, top1_accuracy=0.92, **same) for seed in (0, 1)]
    assert tables.top1(given).text == "92.00 (91.5–92.5)"
    assert (
        tables.top1([*given, factories.training(study, "large", 2, top1_accuracy=0.93, **other)]).text == "92.50 ± 0.71"
    )


def test_weights_of_an_unknown_training_stand_beside_no_published_one() -> None:
    study = factories.study()
    given = factories.training(study, "large", origin="file", epochs=0, curve=[])
    assert "reference" not in shown(tables.baselines(Results.of(study, [given])))


def test_what_was_not_measured_is_named() -> None:
    study = factories.study()
    made = [
        r
        for r in factories.everything(study)
        if (getattr(r, "variant", ""), getattr(r, "precision", "")) != ("large", "fp16")
    ]
    assert "Not measured here: large FP16." in shown(tables.precisions(Results.of(study, made), "large", BENCH))


def test_points_per_mib_divides_points_lost_by_mib_saved() -> None:
    study = factories.study()
    made = [
        factories.pruning(study, "large", top1_accuracy=0.92, size_bytes=42 * 2**20),
        factories.pruning(study, "large-r50", top1_accuracy=0.9, size_bytes=10 * 2**20),
    ]
    row = rows(tables.losses(Results.of(study, made), ["large"]))[2]
    assert row[-3:] == ["−2.00", "32.00", "0.063"]


def test_cited_figures_are_marked_as_cited() -> None:
    found = [row for row in rows(tables.losses(results(), ["large", "small"])) if row[1] == "Tiny ImageNet"]
    assert [(row[0], row[2], row[4]) for row in found] == [
        ("ResNet-18", "*cited: Li et al. 2022*", "*68.89*"),
        ("ResNet-20", "*cited: Yu 2017*", "*55.40*"),
    ]


def test_a_bar_in_a_name_does_not_break_the_table() -> None:
    table = Table.of("devices", [words("Device"), Column("n")], [["A|B", Value("—", note="why")]])
    assert "A\\|B" in shown(table)
    assert shown(table).endswith("¹ why.")


@pytest.mark.parametrize(
    ("latencies", "said"),
    [
        ((9.0, 3.0), "falls: 9.00 ms at 0 %, 3.00 ms at 50 %, one process per ratio."),
        (
            (9.0, 4.0, 4.4, 2.0),
            "falls, though not at every step: 9.00 ms at 0 %, 2.00 ms at 80 %, one process per ratio.",
        ),
        ((1.9, 1.8), "is flat over the ratios (1.80 to 1.90 ms)"),
        ((2.0, 4.0), "follows no trend over the ratios: least 2.00 ms at 0 %, most 4.00 ms at 50 %."),
        ((12.08, 4.57, 4.88, 9.59), "follows no trend over the ratios: least 4.57 ms at 50 %, most 12.08 ms at 0 %."),
        ((9.0, 4.0, 5.0, 6.0), "follows no trend over the ratios: least 4.00 ms at 50 %, most 9.00 ms at 0 %."),
    ],
)
def test_the_reading_of_eager_latency_follows_the_records(latencies: tuple[float, ...], said: str) -> None:
    assert said in plain(findings.eager_latency(sweep_of(latencies), "large"))


def sweep_of(latencies: Sequence[float], contended: bool = False) -> Results:
    study = factories.study()
    variants = ("large", "large-r50", "candidate", "large-r80")
    made = [
        factories.pruning(study, variant, eager_latency=factories.latency(p50), contended=contended)
        for variant, p50 in zip(variants, latencies, strict=False)
    ]
    return Results.of(study, made)


def test_a_reading_of_contended_latencies_says_so() -> None:
    assert tables.CONTENDED in plain(findings.eager_latency(sweep_of((9.0, 3.0), contended=True), "large"))
    assert tables.CONTENDED not in plain(findings.eager_latency(sweep_of((9.0, 3.0)), "large"))


def rivals(distillation: float) -> str:
    """Compare the large model, plain and distilled at 50 %, with the small one, distilled by this weight there."""
    base = factories.study().model_dump()
    point = {"ratio": 0.5, "epochs": 2, "learning_rate": 0.01}
    study = factories.study(
        prune={**point, "distillation": 0.5},
        sweep=base["sweep"] | {"small": {**point, "distillation": distillation}},
        variants=base["variants"] | {"small-r50": {"workload": "small", "pruning": "sweep.small"}},
    )
    top1 = {"large": 0.92, "large-r50": 0.9, "candidate": 0.91, "small": 0.9, "small-r50": 0.87}
    made = [factories.pruning(study, variant, top1_accuracy=accuracy) for variant, accuracy in top1.items()]
    return plain(findings.large_against_small(Results.of(study, made), ["large", "small"]))


def test_models_are_compared_at_points_of_equal_distillation() -> None:
    assert rivals(0.0).startswith("At 50 %, the highest shared ratio without distillation: ResNet-18 loses 2.00 ")
    assert rivals(0.5).startswith("At 50 %, the highest shared ratio distilled with weight 0.5: ResNet-18 loses 1.0")
    assert rivals(0.25) == ""


def test_a_distilled_point_does_not_stand_in_for_a_plain_one() -> None:
    of = results(prune={"ratio": 0.5, "epochs": 1, "distillation": 0.5})
    assert of.variants_of("large") == ["large", "large-r50", "candidate", "large-r80"]


def test_published_trainings_of_other_length_are_told_apart() -> None:
    study = factories.study()
    for epochs, said in ((3, True), (100, False)):
        training = factories.training(study, "large", epochs=epochs)
        table = tables.baselines(Results.of(study, [training]))
        assert ("large: 3 epochs here, 100 published." in table.caption) is said


def test_a_point_with_rounded_widths_follows_its_ratio_and_no_published_row_is_its_own() -> None:
    study = factories.rounded_study()
    of = Results.of(study, factories.everything(study))
    assert of.variants_of("large") == ["large", "large-r50", "large-r50-16", "candidate", "large-r80"]
    for table in (tables.pruning(of, "large"), tables.precisions(of, "large", of.benches()[0])):
        lines = shown(table).splitlines()
        own = [line for line in lines if "large-r50 " in line][-1]
        rounded = [line for line in lines if "large-r50-16 " in line][-1]
        assert f"{REFERENCE} " in lines[lines.index(own) + 1]
        assert REFERENCE not in lines[lines.index(rounded) + 1]
        assert "50 % (2.23 M params)" in rounded


def test_rounded_widths_are_compared_with_those_that_fall() -> None:
    study = factories.rounded_study()
    of = Results.of(study, factories.everything(study))
    bench = of.benches()[0]
    (found,) = findings.rounding(of, bench, "large")
    assert found.plain == (
        "Widths rounded down to multiples of 16: ResNet-18 on CIFAR-10, 50 %, INT8 (large-r50-16), against the "
        "same without rounding (large-r50): speed-up over unpruned FP32 12× instead of 10× at batch 64 and 12× instead "
        "of 10× at batch 1, 111.7 M multiply-accumulates instead of 139.7 M, top-1 90.68 % against 90.68 % (0.00 ± "
        "0.81 points, unpaired: cannot be told apart)."
    )
    assert findings.rounding(of, bench, "small") == []
    assert findings.rounded_candidate(of, bench) is None  # it is another variant's twin


def test_how_far_the_baseline_file_moves_is_said() -> None:
    study = factories.study()
    times = (4.0, 6.0, 5.0)
    measured = [
        factories.measurement(study, "large", precision, baseline_latency=factories.latency(p50))
        for precision, p50 in zip(("fp32", "fp16", "int8"), times, strict=True)
    ]
    said = "again in each of these 3 processes: p50 4.00 – 6.00 ms at batch 1, 240.00 – 240.00 ms at batch 64"
    assert said in plain(findings.baseline_times(measured))
    assert findings.baseline_times(measured[:1]) is None


def test_a_speed_up_beside_an_unusual_baseline_time_is_marked() -> None:
    study = factories.study()
    slow = factories.measurement(study, "candidate", "int8", baseline_latency=factories.latency(6.1))
    made = [slow if (r.variant, r.precision) == ("candidate", "int8") else r for r in results().measurements]
    row = next(
        r for r in rows(tables.precisions(Results.of(study, made), "large", BENCH)) if r[:4:3] == ["candidate", "INT8"]
    )
    assert [cell[-1] in "¹²³⁴" for cell in row[-2:]] == [True, False]
    assert tables.DRIFTED in shown(tables.precisions(Results.of(study, made), "large", BENCH))
    assert tables.DRIFTED not in shown(tables.precisions(results(), "large", BENCH))


def test_the_candidate_is_compared_with_the_baseline() -> None:
    found = rows(tables.candidate(results(), BENCH))
    points = {(row[0], row[3]): row[7] for row in found[1:] if row[0] != REFERENCE}
    own = {("large", "FP32"): "0¹", ("candidate", "INT8"): "−1.87", ("small", "FP32"): "−2.00"}
    assert points.items() >= own.items()
    assert "¹ the baseline, large in FP32: Δ is measured against it." in shown(tables.candidate(results(), BENCH))


def test_runtimes_of_a_device_come_as_the_study_lists_them() -> None:
    study = factories.study(benchmark={"runtimes": ["onnxruntime", "openvino"]})
    made = factories.everything(study)
    other = [r.model_copy(update={"runtime": "openvino"}) for r in made if isinstance(r, Measurement)]
    extra = factories.measurement(study, "large", "bf16", runtime="openvino")
    of = Results.of(study, [*made, *other, extra])
    assert [bench.runtime for bench in of.benches()] == ["onnxruntime", "openvino"]


def test_the_front_holds_what_nothing_beats() -> None:
    assert findings.pareto([(1, 80), (2, 79), (3, 90), (3, 85), (4, 90), (0.5, 70)]) == [5, 0, 2]


def removed(of: Params) -> str:
    return findings.ratio_explained(Results.of(of, factories.everything(of))).plain


def test_the_ratio_is_explained_by_the_records_parameters() -> None:
    assert "60 % of the channels is 84 % of the parameters" in removed(factories.study())
    assert "multiples of 8" in removed(factories.study(pruning={"round_to": 8}))


def scored(changes: dict[tuple[str, str], float], known: bool = True, **settings: Any) -> Results:
    """The synthetic study, in which these files, by variant and precision, have another top-1."""
    study = factories.study(**settings)
    made = [r for r in factories.everything(study) if not isinstance(r, Measurement)]
    for name, variant in study.variants.items():
        for precision in variant.precisions:
            own = {"top1_accuracy": changes[name, precision]} if (name, precision) in changes else {}
            made += [factories.measurement(study, name, precision, seed=seed, **own) for seed in study.seeds]
    return Results.of(study, made, factories.classified(made) if known else None)


def column(table: Table, name: str) -> list[str]:
    header, *found = rows(table)
    return [row[header.index(name)] for row in found if row[0] != REFERENCE]


def test_one_seed_has_wilsons_interval_and_a_paired_difference() -> None:
    table = tables.candidate(scored({("candidate", "int8"): 0.9}), BENCH)
    row = next(row for row in rows(table) if row[:4:3] == ["candidate", "INT8"])
    assert row[6] == "90.00 (89.4–90.6)"
    assert re.fullmatch(r"−2\.00 ± 0\.\d\d", row[7])


def test_without_true_labels_a_difference_has_no_interval() -> None:
    assert "−2.00" in column(tables.candidate(scored({("candidate", "int8"): 0.9}, known=False), BENCH), "Δ points")


def test_over_seeds_a_difference_is_a_mean_with_its_deviation() -> None:
    table = tables.candidate(scored({}, seeds=[0, 1]), BENCH)
    assert "−1.87 ± 0.00" in column(table, "Δ points")


@pytest.mark.parametrize(
    ("int8", "best"),
    [(0.9, "INT8"), (0.8995, "INT8"), (0.85, "FP16")],
)
def test_an_opponent_stands_in_fp32_and_in_its_smallest_file_that_is_not_known_to_be_worse(
    int8: float, best: str
) -> None:
    found = rows(tables.candidate(scored({("small", "int8"): int8}), BENCH))
    assert [row[3] for row in found if row[0] == "small"] == ["FP32", best]


def test_a_smaller_unpruned_model_is_named_beside_the_candidate() -> None:
    said = plain(findings.opponents(scored({("small", "int8"): 0.9})))
    assert said.startswith("Smaller without pruning: ResNet-20 on CIFAR-10, unpruned, INT8, 90.00 % in 0.279 MiB (the ")
    assert "points, McNemar's p" in said


def test_the_headline_ranks_only_what_can_be_told_apart() -> None:
    lost = plain(findings.headline(scored({("candidate", "int8"): 0.9})))
    assert re.search(r"with 2\.00 ± 0\.\d\d points lost \(McNemar's p < 0\.001\)", lost)
    alike = plain(findings.headline(scored({("candidate", "int8"): 0.9195})))
    assert "with a top-1 that cannot be told apart (−0.05 ± " in alike
    unpaired = plain(findings.headline(scored({("candidate", "int8"): 0.9}, known=False)))
    assert re.search(r"2\.00 ± 0\.\d\d points lost \(unpaired\)", unpaired)


def test_files_that_their_precision_moves_are_named_and_no_others() -> None:
    of = scored({("small", "int8"): 0.88})
    assert "told apart from FP32: small (−2.00 ± " in plain(findings.precision_cost(of, "int8"))
    said = plain(findings.precision_cost(of, "fp16"))
    assert said.endswith("5 files, none of which can be told apart from FP32).")


def test_the_cost_of_a_precision_names_every_runtime() -> None:
    study = factories.study()
    found = [r for r in factories.everything(study) if isinstance(r, Measurement)]
    elsewhere = [r.model_copy(update={"runtime": "openvino"}) for r in found]
    said = plain(findings.precision_cost(Results.of(study, [*found, *elsewhere]), "int8"))
    assert " points in ONNX Runtime (" in said and " points in OpenVINO (" in said


def with_trained_int8() -> Results:
    """The study with INT8 files of the large models after quantization-aware training as well."""
    variants = factories.study().model_dump()["variants"]
    for name in ("large", "large-r50", "candidate"):
        variants[name]["precisions"] += ["int8-qat"]
    return scored({}, variants=variants)


def test_the_budget_of_training_for_int8_stands_under_every_table_that_shows_such_a_file() -> None:
    of = with_trained_int8()
    said = "Budgets of quantization-aware training, besides those of the variants, in TMACs: "
    assert re.search(rf"{said}.*candidate [\d.]+", tables.candidate(of, of.benches()[0]).caption)
    caption = tables.precisions(of, "large", of.benches()[0]).caption
    assert re.search(rf"{said}large [\d.]+, large-r50 [\d.]+, candidate [\d.]+\.", caption)
    assert said not in tables.precisions(of, "small", of.benches()[0]).caption


def test_training_for_int8_is_explained_and_compared_with_int8_without_it() -> None:
    of = with_trained_int8()
    text = factories.document(report(of, []))
    assert "**INT8, QAT** is quantization-aware training: INT8 in the same ranges" in text
    assert "(3 epochs, learning rate 0.001; the FP32 model's soft labels weigh 1 in the loss)" in text
    said = r"\*\*INT8, QAT\*\* changes top-1 against the INT8 file of the same weights by \S+ .*3 files"
    assert re.search(said, text)


@pytest.mark.parametrize(
    ("top1", "said"),
    [
        (0.919, "ResNet-18 on CIFAR-10 lost 50 % of its channels and stayed within 1 point of its unpruned model"),
        (0.913, "ResNet-18 on CIFAR-10 was not shown to stay within 1 point of its unpruned model at any ratio tried"),
        (0.88, "ResNet-18 on CIFAR-10 lost more than 1 point at every ratio tried; the least loss, at 50 %, is 4.00 "),
    ],
)
def test_what_can_be_pruned_holds_for_the_whole_interval(top1: float, said: str) -> None:
    study = factories.study()
    made = [factories.pruning(study, "large"), factories.pruning(study, "large-r50", top1_accuracy=top1)]
    assert plain(findings.headroom(Results.of(study, made), "large")).startswith(said)


def test_a_pruned_models_answers_are_those_of_its_fp32_file() -> None:
    of = scored({("large-r50", "fp32"): 0.9075})
    paired, other = (of.difference(of.pruned("large"), of.pruned(variant)) for variant in ("large-r50", "large-r80"))
    assert paired is not None and paired.kind == "paired"
    assert other is not None and other.kind == "unpaired"  # it has no file


def test_no_ratio_of_losses_is_said() -> None:
    said = rivals(0.0)
    assert "times" not in said
    assert said.endswith("The losses of ResNet-20 and ResNet-18 cannot be told apart (+1.00 ± 1.19 points).")


def test_a_loss_that_cannot_be_told_apart_has_no_price() -> None:
    study = factories.study()
    made = [
        factories.pruning(study, "large", top1_accuracy=0.92, size_bytes=42 * 2**20),
        factories.pruning(study, "large-r50", top1_accuracy=0.9195, size_bytes=10 * 2**20),
    ]
    table = tables.losses(Results.of(study, made), ["large"])
    assert rows(table)[2][-1].startswith("—")
    assert tables.NOT_TOLD_APART.note in shown(table)


def test_fronts_are_of_size_latency_and_throughput_and_mark_what_cannot_be_told_apart() -> None:
    of = scored({("large", "fp16"): 0.9201})
    size, latency, throughput = (found.plain for found in findings.fronts(of, BENCH.device, "cifar10"))
    assert "By size, smallest first: small-r50 INT8 (" in size and "MiB" in size
    assert "By latency at batch 1, fastest first: " in latency and " ms, " in latency
    assert "By throughput at batch 64, highest first: " in throughput and " images/s, " in throughput
    assert "≈ large FP16 (" in size and size.endswith("cannot be told apart from that of the file before it.")


def test_beside_a_runtime_with_bf16_the_unpruned_models_speed_in_it_is_noted() -> None:
    study = factories.study()
    bf16 = factories.measurement(study, "large", "bf16", latency=factories.latency(2.5))
    of = Results.of(study, [*factories.everything(study), bf16])
    assert "the unpruned model in BF16: 2.0×" in shown(tables.overview([of]))
    said = plain(findings.beside_bf16(of, BENCH))
    assert said.startswith("Against unpruned FP32, the unpruned model in BF16 is 2.0× at batch 1 and ")
    assert findings.beside_bf16(results(), BENCH) is None


def test_few_images_say_how_little_they_show() -> None:
    study = factories.study()
    few = [r.model_copy(update={"num_images": 359}) for r in factories.everything(study)]
    assert plain(findings.few_images(Results.of(study, few))).startswith("359 images show little: the candidate's ")
    assert "no difference of less than 1.7 points" in plain(findings.few_images(Results.of(study, few)))
    assert findings.few_images(results()) is None


def test_mcnemars_p_stands_at_every_measurement_but_the_fp32_file() -> None:
    of = scored({("large", "int8"): 0.9})
    found = column(tables.measurements(of, of.at(BENCH)), "McNemar's p")
    assert "< 0.001" in [cell.replace("\\", "") for cell in found]
    assert sum(cell.startswith("—") for cell in found) == 5
    assert "McNemar's p" not in rows(tables.measurements(results(), results().at(BENCH)))[0]


def test_group_l1_is_called_that() -> None:
    assert "Importance of channels is group L1: " in plain(findings.importance(results()))
    assert plain(findings.importance(results(pruning={"importance": "lamp"}))) == "Importance of channels is lamp."


def test_a_point_with_a_target_shows_the_ratio_that_was_found_and_what_it_takes() -> None:
    base = factories.study().model_dump()
    point = {"target": {"macs": "100M"}, "epochs": 2, "allocation": "isomorphic", "steps": 2}
    variants = base["variants"] | {"large-m100": {"workload": "large", "pruning": "sweep.m100"}}
    of = results(sweep=base["sweep"] | {"m100": point}, variants=variants)
    (record,) = of.pruned("large-m100")
    assert fits(of.study, record)
    table = tables.pruning(of, "large")
    found = [row[:2] for row in rows(table) if row[0].startswith("large-")]
    assert found[:2] == [
        ["large-r50", "50 %"],
        ["large-m100", f"57.31 % ({record.num_params / 1e6:.2f} M params)"],
    ]
    assert "Allocation of large-m100: one ranking over all layers built alike." in table.caption
    assert "large-m100 was pruned in 2 steps." in table.caption
    taken = f"{record.macs / 1e6:.2f} M multiply-accumulates"
    assert f"large-m100: the ratio was found for 100.00 M multiply-accumulates; it has {taken}." in table.caption


def test_a_point_with_a_latency_says_what_its_file_took_and_how_it_was_trained_before() -> None:
    base = factories.study().model_dump()
    sparsity = {"regularizer": "growing", "strength": 0.001, "epochs": 2}
    point = {"target": {"latency_ms": 0.5, "precision": "int8"}, "epochs": 2, "sparsity": sparsity}
    variants = base["variants"] | {"large-fast": {"workload": "large", "pruning": "sweep.fast"}}
    of = results(sweep=base["sweep"] | {"fast": point}, variants=variants)
    assert fits(of.study, of.pruned("large-fast")[0])
    caption = tables.pruning(of, "large").caption
    assert (
        "large-fast: the ratio was found for 0.500 ms of INT8 at batch 1 in ONNX Runtime 1.30.0 on Test CPU; its file "
        "took 0.510 ms then, and 0.495 ms were predicted." in caption
    )
    assert (
        "Before large-fast was pruned, it was trained for 2 epochs with the regularizer growing of strength 0.001: "
        "top-1 90.00 % then." in caption
    )
