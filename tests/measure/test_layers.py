"""What runtimes say of their layers, in one form."""

import pytest

from trimlab.measure import layers


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("uint8", "INT8"),
        (["brgconv_avx512", "I8"][-1], "INT8"),
        ("Int8", "INT8"),
        ("Thirty-two wide channel vectorized row major Int8 format", "INT8"),
        ("Row major linear FP32", "FP32"),
        ("Channel major FP16 format where channel % 8 == 0", "FP16"),
        ("Half", "FP16"),
        ("Float", "FP32"),
        ("float", "FP32"),
        ("bf16", "BF16"),
        ("bfloat16", "BF16"),
        ("FP8", "FP8"),
        ("int64", "INT64"),
        ("weird", "weird"),
    ],
)
def test_precisions_are_named_alike(text, precision):
    assert layers.precision_of(text) == precision


def onnxruntime_event(index, kind, inputs, output, duration):
    tensors = [{dtype: shape} for dtype, shape in inputs]
    args = {"node_index": str(index), "op_name": kind, "input_type_shape": tensors, "output_type_shape": [output]}
    return {"cat": "Node", "name": f"node{index}_kernel_time", "dur": duration, "args": args}


def test_onnxruntimes_nodes_are_medians_without_the_first_runs():
    inputs = [("float", [1, 3, 8, 8]), ("float", [16, 3, 3, 3]), ("float", [16])]
    slow = [onnxruntime_event(0, "Conv", inputs, {"float": [1, 16, 8, 8]}, 9000)] * layers.WARMUP
    steady = [onnxruntime_event(0, "Conv", inputs, {"float": [1, 16, 8, 8]}, 250)] * layers.RUNS
    session = {"cat": "Session", "name": "model_run", "dur": 1}
    (found,) = layers.from_onnxruntime([session, *slow, *steady])
    assert found == {"name": "node0", "kind": "Conv", "precision": "FP32", "channels": 16, "ms": 0.25}


@pytest.mark.parametrize(("shape", "channels"), [([1, 11, 32, 32], 11), ([1, 32, 32, 11], 11)])
def test_channels_are_found_in_either_layout(shape, channels):
    inputs = [("uint8", [1, 32, 32, 3]), ("float", [11]), ("int8", [11])]
    events = [onnxruntime_event(0, "QLinearConv", inputs, {"uint8": shape}, 1)] * (layers.WARMUP + 1)
    (found,) = layers.from_onnxruntime(events)
    assert (found["channels"], found["precision"]) == (channels, "INT8")


def test_what_has_no_weights_has_no_channels():
    inputs = [("uint8", [1, 11, 8, 8])] * 2
    events = [onnxruntime_event(0, "QLinearAdd", inputs, {"uint8": [1, 11, 8, 8]}, 1)] * (layers.WARMUP + 1)
    assert layers.from_onnxruntime(events)[0]["channels"] is None


CONVOLUTION = {
    "Name": "conv1 + relu",
    "LayerType": "CaskConvolution",
    "Inputs": [{"Name": "x", "Dimensions": [1, 3, 32, 32], "Format/Datatype": "Row major linear FP32"}],
    "Outputs": [{"Name": "y", "Dimensions": [1, 51, 32, 32], "Format/Datatype": "Row major Int8 format"}],
    "OutMaps": 51,
    "Weights": {"Type": "Int8", "Count": 1377},
    "TacticName": "sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32",
}


def test_an_engines_layer_has_its_weights_precision_and_channels():
    (found,) = layers.from_tensorrt({"Layers": [CONVOLUTION]}, {"conv1 + relu": [0.01, 0.02, 0.09]})
    assert found == {
        "name": "conv1 + relu",
        "kind": "CaskConvolution",
        "precision": "INT8",
        "channels": 51,
        "ms": 0.02,
    }


def test_tf32_shows_in_the_kernels_name_alone():
    kernel = "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32"
    strict = {**CONVOLUTION, "Weights": {"Type": "Float"}, "TacticName": "volta_scudnn_128x64_relu"}
    found = [
        layers.from_tensorrt({"Layers": [{**strict, "TacticName": name}]}, {"conv1 + relu": [1.0]})[0]["precision"]
        for name in (strict["TacticName"], kernel)
    ]
    assert found == ["FP32", "TF32"]


@pytest.mark.parametrize("described", ["conv1", "conv1 [profile 1]"])
@pytest.mark.parametrize("timed", ["conv1", "conv1 [profile 1]"])
def test_a_profiles_layers_are_found_by_either_name(described, timed):
    known = {**CONVOLUTION, "Name": described}
    (found,) = layers.from_tensorrt({"Layers": [known]}, {timed: [1.0]})
    assert (found["name"], found["precision"]) == ("conv1", "INT8")


def test_an_engine_without_details_has_its_times_at_least():
    (found,) = layers.from_tensorrt({"Layers": ["conv1"]}, {"conv1": [1.0]})
    assert (found["name"], found["kind"], found["channels"], found["ms"]) == ("conv1", "unknown", None, 1.0)
