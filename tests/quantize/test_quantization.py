"""INT8: ranges by method, and what each of the two flavours quantizes."""

import json
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

import factories
from onnx_examples import exported, images, operators
from trimlab.config import Quantization
from trimlab.measure import runtimes
from trimlab.measure.session import Settings
from trimlab.quantize import calibration, onnx_files
from trimlab.quantize import stage as quantize_stage
from trimlab.quantize.int8 import Files, quantize

METHODS = ["minmax", "entropy", "percentile"]


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The INT8 files by method."""
    folder = tmp_path_factory.mktemp("int8")
    files = {}
    for method in METHODS:
        flavours = ("", "-7bit", "-symmetric")
        files[method] = Files(*(folder / f"{method}{flavour}.onnx" for flavour in flavours))
        section = Quantization(method=method, percentile=99.0)
        quantize(exported("resnet20"), images(40), section, files[method])
    return files


def constants(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def activation_scales(path):
    proto, values = onnx.load(path), constants(path)
    pairs = [node.input for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    return np.array([values[scale] for source, scale, _ in pairs if source not in values])


def producers(proto):
    return {name: node for node in proto.graph.node for name in node.output}


@pytest.mark.parametrize("flavour", [0, 1, 2])
def test_every_method_gives_other_scales(quantized, flavour):
    minmax, entropy, percentile = (activation_scales(quantized[method][flavour]) for method in METHODS)
    assert (entropy <= minmax * 1.001).all()
    assert (percentile <= minmax * 1.001).all()
    assert (entropy / minmax).min() < 0.95
    assert (percentile / minmax).max() < 0.95
    assert np.abs(entropy / percentile - 1).max() > 0.05


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("flavour", [0, 1, 2])
def test_int8_logits_are_near_fp32s(quantized, method, flavour):
    batch = images(32, seed=5)
    expected = onnx_files.open_session(exported("resnet20")).run(None, {"x": batch})[0]
    exact = Settings("int8", 1, 32, exact=True)  # the files', not what this processor's kernels make of them
    result = runtimes.open_file("onnxruntime", str(quantized[method][flavour]), exact).run(batch)
    assert np.corrcoef(expected.ravel(), result.ravel())[0, 1] > 0.97


@pytest.mark.parametrize("flavour", [0, 1, 2])
def test_int8_files_keep_opset_and_ir(quantized, flavour):
    proto = onnx.load(quantized["minmax"][flavour])
    assert [item.version for item in proto.opset_import if item.domain == ""] == [17]
    assert proto.ir_version == 8


def test_the_cpu_file_takes_a_quarter(quantized):
    path = quantized["minmax"].u8s8
    assert onnx_files.weight_bytes(path) < 0.28 * onnx_files.weight_bytes(exported("resnet20"))


def test_the_cpu_file_has_uint8_activations_and_int8_weights_per_channel(quantized):
    proto, values = onnx.load(quantized["minmax"].u8s8), constants(quantized["minmax"].u8s8)
    made_by = producers(proto)
    for node in proto.graph.node:
        if node.op_type == "QuantizeLinear":
            assert values[node.input[2]].dtype == np.uint8
        if node.op_type == "Conv":
            weight = made_by[node.input[1]]
            assert values[weight.input[0]].dtype == np.int8
            assert values[weight.input[1]].shape == values[weight.input[0]].shape[:1]


def test_the_7_bit_file_has_the_ranges_and_weights_of_the_other_in_half_the_steps(quantized):
    wide, narrow = (constants(file) for file in (quantized["minmax"].u8s8, quantized["minmax"].seven_bit))
    np.testing.assert_array_equal(*(activation_scales(file) for file in quantized["minmax"][:2]))
    weights = [name for name, value in wide.items() if value.dtype == np.int8 and value.ndim > 1]
    assert len(weights) == 22
    for name in weights:
        assert np.abs(wide[name].astype(int)).max() == 127
        assert np.abs(narrow[name].astype(int)).max() == 64
        np.testing.assert_allclose(narrow[name].astype(float), wide[name] * (64 / 127), atol=0.51 + 64 / 127 / 2)


class Reader(CalibrationDataReader):
    def __init__(self, batch):
        self.batches = iter([{"x": batch}])

    def get_next(self):
        return next(self.batches, None)


def test_the_7_bit_file_leaves_nothing_but_the_logits_in_float_that_onnxruntimes_own_function_quantizes(
    quantized, tmp_path
):
    peer = tmp_path / "peer.onnx"
    quantize_static(
        exported("resnet20"), peer, Reader(images(40)), per_channel=True, reduce_range=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    ours, theirs = constants(quantized["minmax"].seven_bit), constants(peer)
    assert theirs.keys() - ours.keys() == {"logits_scale", "logits_zero_point"}
    for name, value in ours.items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-5, err_msg=name)
    assert Counter(operators(peer)) - Counter(operators(quantized["minmax"].seven_bit)) == Counter(
        ["QuantizeLinear", "DequantizeLinear"]
    )


def test_the_symmetric_file_has_zero_points_0_and_float_biases(quantized):
    proto, values = onnx.load(quantized["minmax"].symmetric), constants(quantized["minmax"].symmetric)
    for node in proto.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].dtype == np.int8
            assert not values[node.input[2]].any()
        if node.op_type in ("Conv", "Gemm"):
            assert values[node.input[2]].dtype == np.float32


def test_the_symmetric_file_quantizes_the_skip_input_of_each_add_alone(quantized):
    proto = onnx.load(quantized["minmax"].symmetric)
    made_by = producers(proto)
    adds = [node for node in proto.graph.node if node.op_type == "Add"]
    assert len(adds) == 9
    for add in adds:
        assert sorted(made_by[name].op_type for name in add.input) == ["Conv", "DequantizeLinear"]
        main = next(made_by[name] for name in add.input if made_by[name].op_type == "Conv")
        weight = constants(quantized["minmax"].symmetric)[made_by[made_by[main.input[1]].input[0]].input[0]]
        assert weight.shape[2:] == (3, 3)  # the block's own convolution; a shortcut's is 1x1


def test_symmetric_weights_stay_float_and_use_all_of_int8_in_every_channel(quantized):
    before, after = constants(exported("resnet20")), constants(quantized["minmax"].symmetric)
    checked = 0
    for node in onnx.load(quantized["minmax"].symmetric).graph.node:
        name = node.input[0]
        if node.op_type == "QuantizeLinear" and name in before:
            np.testing.assert_array_equal(after[name], before[name])  # TensorRT 8 takes no int8 constants
            (axis,) = (attribute.i for attribute in node.attribute if attribute.name == "axis")
            others = tuple(index for index in range(before[name].ndim) if index != axis)
            peaks = np.abs(before[name]).max(axis=others)
            np.testing.assert_allclose(peaks / after[node.input[1]], np.where(peaks > 0, 127, 0), rtol=1e-5)
            checked += 1
    assert checked == 21


def test_the_symmetric_files_classifier_stays_float(quantized):
    proto, before = onnx.load(quantized["minmax"].symmetric), constants(exported("resnet20"))
    (classifier,) = [node for node in proto.graph.node if node.op_type == "Gemm"]
    assert classifier.output[0] == proto.graph.output[0].name
    assert classifier.input[1] in before


def test_all_flavours_work_for_a_model_with_clips_and_depthwise_convolutions(tmp_path):
    files = Files(*(tmp_path / f"{kind}.onnx" for kind in Files._fields))
    quantize(exported("torchvision/mobilenet_v2"), images(8), Quantization(), files)
    for file in files:
        assert np.isfinite(onnx_files.open_session(file).run(None, {"x": images(2)})[0]).all()


COUNTS = hnp.arrays(np.int64, 2 * calibration.BINS, elements=st.integers(0, 1000)).filter(lambda c: c.sum() > 0)


@given(counts=COUNTS, percentile=st.floats(90, 100), reach=st.floats(0.01, 100))
def test_a_percentile_range_keeps_its_share(counts, percentile, reach):
    low, high = calibration.percentile_range(counts, reach, percentile)
    centres = (np.arange(counts.size) + 0.5) / calibration.BINS * reach - reach
    inside = counts[(centres > low) & (centres < high)].sum()
    assert inside >= counts.sum() * percentile / 100 - 1e-6 * counts.sum()
    assert -reach <= low <= high <= reach


@settings(max_examples=30)
@given(counts=hnp.arrays(np.int64, calibration.BINS, elements=st.integers(0, 1000)))
def test_an_entropy_threshold_keeps_at_least_one_bin_a_level(counts):
    assert calibration.LEVELS <= calibration.entropy_threshold(counts) <= calibration.BINS


def test_entropy_cuts_a_long_tail():
    values = np.abs(np.random.default_rng(0).standard_normal(100_000))
    counts = np.histogram([*values, 60.0], calibration.BINS, (0, 60))[0]
    kept = calibration.entropy_threshold(counts) * 60 / calibration.BINS
    assert 3 < kept < 10


def test_ranges_do_not_depend_on_how_images_are_batched(monkeypatch):
    whole = calibration.activation_ranges(exported("resnet20"), images(10), Quantization(method="entropy"))
    monkeypatch.setattr(calibration, "_BATCH", 3)
    parts = calibration.activation_ranges(exported("resnet20"), images(10), Quantization(method="entropy"))
    assert parts.keys() == whole.keys()
    np.testing.assert_allclose(list(parts.values()), list(whole.values()), rtol=1e-2)


def test_a_variant_without_precisions_gets_a_manifest_alone(in_tmp):
    quantize_stage.quantize_variant(factories.study(), "large-r80")
    assert [file.name for file in (in_tmp / "quantize/large-r80").iterdir()] == ["manifest.json"]
    assert json.loads((in_tmp / "quantize/large-r80/manifest.json").read_text())["files_sha256"] == {}
