"""Latency as a target: layers and files are timed once, predictions are corrected by files, and the target is met."""

import json
import sys

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from machines import Machine
from trimlab import config, records
from trimlab.errors import UserError
from trimlab.latency import files, meter
from trimlab.latency.layers import Layer, layers_of
from trimlab.measure import runtimes
from trimlab.measure.session import Settings
from trimlab.prune import stage as prune_stage
from trimlab.prune.point import prune_at
from trimlab.prune.target import LATENCY_FILES, LATENCY_TOLERANCE
from trimlab.quantize import onnx_files
from trimlab.quantize.onnx_graph import graph_of
from trimlab.train import loop
from trimlab.train import stage as train_stage

SHAPE = (3, 8, 8)
KEYS = config.PruningKeys(target="prune.target")
TARGET = config.Target(latency_ms=1.0, threads=1)


def chain(first, second):
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1), nn.ReLU(), nn.Conv2d(first, second, 3, padding="same"), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, 10),
    )  # fmt: skip


def asked(ms):
    return config.PruningPoint(target={"latency_ms": ms}, epochs=0)


@given(
    share=st.floats(0.05, 0.95),
    offset=st.floats(0, 2),
    factor=st.floats(0.5, 3),
    bend=st.floats(0.8, 1.2),
)
@settings(max_examples=15)
def test_a_latency_is_met_on_the_measured_file_or_refused_with_the_closest(share, offset, factor, bend):
    machine, model = Machine(lambda ms: offset + factor * ms**bend), chain(40, 60)
    whole = machine.rule(machine.predicted(model))
    wanted = round(share * whole, 4)
    try:
        done = prune_at(asked(wanted), model, config.PruningSettings(), SHAPE, keys=KEYS, meter=machine)
    except UserError as error:
        assert str(error).startswith(
            f"prune.target.latency_ms {config.Target(latency_ms=wanted).written(wanted)} is not"
        )
        assert len(str(error).splitlines()) == 1
        assert wanted < machine.rule(machine.predicted(chain(4, 6))) * 1.1  # below what pruning can reach
    else:
        assert machine.rule(machine.predicted(model)) == pytest.approx(wanted, rel=LATENCY_TOLERANCE)
        assert done.latency.latency.p50_ms == machine.rule(machine.predicted(model))
        assert 0 < done.ratio < 0.95
    assert machine.files <= 1 + LATENCY_FILES


def test_a_latency_that_the_unpruned_model_meets_is_refused():
    with pytest.raises(UserError, match=r"prune\.target\.latency_ms 9 is not below the unpruned model's 5: lower it"):
        prune_at(asked(9.0), chain(8, 16), config.PruningSettings(), SHAPE, keys=KEYS, meter=Machine(lambda ms: 5.0))


def test_a_file_that_no_pruning_makes_faster_is_one_line():
    with pytest.raises(UserError, match=r"latency_ms 4 is not reached within 10%: the closest is 5: set it to 5"):
        prune_at(asked(4.0), chain(8, 16), config.PruningSettings(), SHAPE, keys=KEYS, meter=Machine(lambda ms: 5.0))


LAYERS = st.one_of(
    st.builds(
        lambda channels, out, kernel, stride, size, depthwise: Layer(
            channels, channels if depthwise else out, channels if depthwise else 1, (kernel, kernel), (stride, stride),
            (kernel // 2, kernel // 2), (1, 1), (size, size),
        ),
        st.integers(2, 20), st.integers(1, 20), st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]),
        st.integers(5, 9), st.booleans(),
    ),
    st.builds(
        lambda channels, out, vectors: Layer(channels, out, 1, (), (), (), (), (vectors,)),
        st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 7]),
    ),
)  # fmt: skip


@given(layer=LAYERS, precision=st.sampled_from(["fp32", "int8"]), runtime=st.sampled_from(["onnxruntime", "openvino"]))
@settings(max_examples=12)
def test_a_layer_is_timed_by_itself(layer, precision, runtime):
    pytest.importorskip(runtime)
    timed = meter.Meter(config.Target(latency_ms=1.0, precision=precision, runtime=runtime, threads=1), SHAPE)
    with timed._opened(lambda path: files.write(files.graph_of(layer), precision, runtime, path)) as session:
        images = files.random_images(1, session.image_shape)
        weighted = [each for each in session.layers(images) if each["channels"] is not None]
        outputs = session.run(images)
    assert 1 <= len(weighted) <= 2
    assert weighted[-1]["ms"] > 0
    assert layer.out_channels == (outputs.shape[1] if layer.kernel else outputs.shape[-1])


def test_layers_have_what_decides_their_time():
    first, second, last = layers_of(chain(6, 10), SHAPE)
    assert first == Layer(3, 6, 1, (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))
    assert second == first._replace(in_channels=6, out_channels=10)
    assert last == Layer(10, 10, 1, (), (), (), (), (1,))
    tokens = nn.Sequential(nn.Flatten(2), nn.Linear(64, 5))  # (N, 3, 64)
    assert layers_of(tokens, SHAPE) == [Layer(64, 5, 1, (), (), (), (), (3,))]


def test_a_files_name_follows_its_shapes_and_not_its_weights():
    one, other, wider = (files.structure(graph_of(chain(*widths).eval(), SHAPE)) for widths in ((4, 6), (4, 6), (5, 6)))
    assert one == other != wider


def test_what_was_timed_is_not_timed_again(in_tmp, monkeypatch):
    torch.manual_seed(0)
    model = chain(16, 24)
    first = meter.Meter(TARGET, SHAPE)
    found = first.predicted(model), first.measured(model)
    kept = json.loads(first.kept.read_text())
    assert len(kept["layers"]) == 3 and len(kept["files"]) == 1
    monkeypatch.setattr(runtimes, "open_file", lambda *_: pytest.fail("timed again"))
    again = meter.Meter(TARGET, SHAPE)
    assert (again.predicted(chain(16, 24)), again.measured(chain(16, 24))) == found
    other = meter.Meter(TARGET.model_copy(update={"threads": 2}), SHAPE)
    assert other.kept != first.kept
    first.kept.write_text("{")
    with pytest.raises(pytest.fail.Exception, match="timed again"):
        meter.Meter(TARGET, SHAPE).predicted(model)


def test_an_int8_file_is_of_integers(tmp_path):
    files.write(graph_of(chain(4, 6).eval(), SHAPE), "int8", "onnxruntime", tmp_path / "file.onnx")
    kinds = {node.op_type for node in onnx.load(tmp_path / "file.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert len(onnx_files.layers(graph_of(chain(4, 6).eval(), SHAPE))) == 3
    runtimes.open_file("onnxruntime", str(tmp_path / "file.onnx"), Settings("int8", 1, 1)).close()


def test_a_runtime_that_is_not_installed_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match="openvino cannot be imported") as error:
        meter.Meter(TARGET.model_copy(update={"runtime": "openvino"}), SHAPE)
    assert len(str(error.value).splitlines()) == 1


def test_the_stage_records_what_was_asked_reached_and_trained(quick, monkeypatch):
    monkeypatch.setattr(loop._Loop, "_step", lambda self, *batch: self.sums.add_(1.0))
    values = quick.model_dump(exclude_unset=True)
    values["training"]["digits"] |= {"epochs": 1}
    sparsity = {"regularizer": "growing", "epochs": 2, "learning_rate": 0.03}
    values["sweep"]["r30"] = {"target": {"latency_ms": 6.0}, "epochs": 1, "sparsity": sparsity, "distillation": 0.5}
    study = config.Params.model_validate(values)
    trained = train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)
    asked_of = []

    def meter_of(target, image_shape):
        asked_of.append((target.latency_ms, image_shape))
        return machine

    machine = Machine(lambda ms: 1 + ms)
    monkeypatch.setattr(machine, "predicted", lambda model: sum(p.numel() for p in model.parameters()) / 3e4)
    record = prune_stage.prune_variant(study, "resnet20-digits-r30", 0, lambda _: None, meter_of)
    assert asked_of == [(6.0, (3, 32, 32))]
    assert record.target == records.Target(latency_ms=6.0)
    assert record.target_latency.latency.p50_ms == pytest.approx(6.0, rel=LATENCY_TOLERANCE)
    assert record.target_latency.latency.p50_ms == pytest.approx(1 + record.num_params / 3e4)
    assert record.target_latency.predicted_ms == pytest.approx(record.target_latency.latency.p50_ms, rel=0.1)
    how = record.sparsity
    assert (how.regularizer, how.strength, how.epochs, how.learning_rate) == ("growing", 1e-4, 2, 0.03)
    # Two epochs of the unpruned model, and one of the pruned one, for which the unpruned one labels each image.
    assert how.training_macs == pytest.approx(2 * trained.training_macs)
    images = trained.training_macs / (3 * trained.macs)
    assert record.training_macs == pytest.approx(how.training_macs + images * (3 * record.macs + trained.macs))
