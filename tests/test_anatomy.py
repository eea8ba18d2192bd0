"""Why a file is not faster: what the layers, widths and clocks of a record say in words."""

import pytest

import factories
from trimlab import anatomy
from trimlab.records import Layer
from trimlab.results import Results

STUDY = factories.study()
RESULTS = Results.of(STUDY, factories.everything(STUDY))


def layer(precision, channels=64, ms=1.0, name="conv"):
    return Layer(name=name, kind="Conv", precision=precision, channels=channels, ms=ms)


def explained(**changes):
    return anatomy.explanation(RESULTS, factories.measurement(STUDY, "candidate", "int8", **changes))


def test_layers_that_stayed_in_fp32_are_named():
    text = explained(batch_layers=[layer("FP32", ms=3.0, name="first"), layer("INT8", name="second")])
    assert "1 of 2 convolutions and linear layers ran in INT8, in 25 % of the time; `first` stayed in FP32." in text


def test_many_layers_are_counted_not_listed():
    text = explained(batch_layers=[layer("FP32", name=f"layer{n}") for n in range(7)])
    assert "0 of 7" in text
    assert "`layer3` and 3 more stayed in FP32" in text


def test_work_without_weights_has_its_share():
    text = explained(batch_layers=[layer("INT8", ms=3.0), layer("INT8", channels=None, ms=1.0)])
    assert "25 % went into other work (Conv 25 %)." in text


@pytest.mark.parametrize(
    ("widths", "said"),
    [
        ([16, 48, 10], "All widths are multiples of 16."),
        ([25, 51, 64, 10], "2 of 3 widths (25, 51) are no multiples of 16: kernels that take 16 channels at once"),
        ([25, 51, 64, 10], "compute 32, 64."),
    ],
)
def test_widths_that_the_hardware_fills_up_are_named(widths, said):
    named = {f"layer{index}": width for index, width in enumerate(widths)}
    results = Results.of(STUDY, [factories.pruning(STUDY, "candidate", widths=named)])
    assert said in anatomy.explanation(results, factories.measurement(STUDY, "candidate", "int8"))


@pytest.mark.parametrize(("share", "said"), [(0.5, "bound by the call: 50 %"), (0.95, "bound by its layers: 5 %")])
def test_a_cpus_batch_1_is_bound_by_what_takes_the_time(share, said):
    text = explained(layers=[layer("INT8", ms=share * 4)], latency=factories.latency(4.0))
    assert f"Batch 1 is {said} of 4.00 ms lie outside of them." in text


@pytest.mark.parametrize(("graph", "said"), [(0.05, "launch-bound"), (0.1, "not launch-bound")])
def test_a_gpus_batch_1_is_launch_bound_where_a_graph_helps(graph, said):
    record = factories.engine_measurement(STUDY, "candidate", "int8")
    times = {"gpu": 0.11, "gpu_graph": graph}
    clocks = [
        clock.model_copy(update={"latency": factories.latency(times.get(clock.name, 1.0))}) for clock in record.clocks
    ]
    text = anatomy.explanation(RESULTS, record.model_copy(update={"clocks": clocks}))
    assert f"Batch 1 is {said}: 0.1100 ms on the GPU, {graph:.4f} ms as a CUDA graph." in text


def test_saved_arithmetic_stands_beside_the_speed_up():
    text = explained(macs=1_000_000)
    macs = factories.pruning(STUDY, "large").macs
    assert f"{macs / 1e6:.1f} times fewer multiply-accumulates than unpruned; " in text
    assert "multiply-accumulates" not in anatomy.explanation(RESULTS, factories.measurement(STUDY, "large", "int8"))


def test_builds_that_are_alike_are_counted_once():
    table = anatomy.builds([factories.engine_measurement(STUDY, "candidate", "int8", count=3)])
    assert "| 3 | 2 |" in " ".join(table.split())


def test_one_runtime_has_nothing_to_compare():
    measured = RESULTS.measurements
    assert anatomy.agreement(measured) == anatomy.clocks(measured) == anatomy.builds(measured) == ""
