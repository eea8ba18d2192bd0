"""Families of models: exported as torch computes them, quantized where that is worth it, layers kept in float."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from families import FAMILIES, SHAPE, built, conv_next, dense, efficient, inception, shuffle, transformer
from onnx_examples import exported, images, operators
from trimlab import config
from trimlab.errors import UserError
from trimlab.measure import runtimes
from trimlab.measure.session import Settings
from trimlab.prune import pruner
from trimlab.quantize import export, onnx_files
from trimlab.quantize.int8 import Files, quantize


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A pruned family's FP32 file and its INT8 files, made once."""
    known = {}

    def of(family):
        if family not in known:
            folder = tmp_path_factory.mktemp(family.__name__)
            model = built(family)
            pruner.prune(model, 0.3, config.PruningSettings(), SHAPE)
            files = Files(*(folder / f"{kind}.onnx" for kind in Files._fields))
            export.export(model, SHAPE, folder / "fp32.onnx")  # compares with torch
            quantize(folder / "fp32.onnx", images(64), config.Quantization(), files)
            known[family] = folder / "fp32.onnx", files
        return known[family]

    return of


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_int8_files_of_every_family_run_and_are_near_fp32(family, made):
    fp32, files = made(family)
    batch = images(64, seed=5)
    expected = onnx_files.open_session(fp32).run(None, {"x": batch})[0]
    assert [(item.domain, item.version) for item in onnx.load(fp32).opset_import] == [("", 17)]
    for file in files:
        exact = Settings("int8", 1, 64, exact=True)
        found = runtimes.open_file("onnxruntime", str(file), exact).run(batch)
        assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.97, file.name
    found = runtimes.open_file("openvino", str(files.seven_bit), Settings("int8", 1, 64)).run(batch)
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > 0.97


def quantized_nodes(path):
    """The operators whose data comes from a DequantizeLinear."""
    proto = onnx.load(path)
    pairs = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return Counter(node.op_type for node in proto.graph.node if node.input and node.input[0] in pairs)


def rounded(path):
    """The operators whose result goes to a QuantizeLinear."""
    proto = onnx.load(path)
    taken = {node.input[0] for node in proto.graph.node if node.op_type == "QuantizeLinear"}
    return Counter(node.op_type for node in proto.graph.node if node.output[0] in taken)


def test_a_transformer_computes_its_linear_layers_in_int8_and_the_rest_in_float(made):
    found = quantized_nodes(made(transformer)[1].u8s8)
    assert found["Conv"] == 1
    assert found["MatMul"] + found["Gemm"] == 2 * 4 + 1  # in a block: in and out of attention, two of the MLP
    assert not {"Erf", "LayerNormalization", "Softmax"} & found.keys()
    assert not rounded(made(transformer)[1].u8s8)["Add"]


def optimized(path, tmp_path):
    """The operators that ONNX Runtime makes of a file."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(operators(tmp_path / "optimized.onnx"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_fuses_gelu(precision, made, tmp_path):
    fp32, files = made(conv_next)
    found = optimized(fp32 if precision == "fp32" else files.u8s8, tmp_path)
    assert found["BiasGelu"] == 2
    assert "Erf" not in found


def test_concatenations_that_a_batchnorm_reads_are_float(made):
    """As in DenseNet; those of GoogLeNet, which convolutions read, are of int8 values."""
    assert not rounded(made(dense)[1].u8s8)["Concat"]
    assert rounded(made(inception)[1].u8s8)["Concat"]


def test_onnxruntime_computes_silu_and_gates_in_int8(made, tmp_path):
    fp32, files = made(efficient)
    found = optimized(files.u8s8, tmp_path)
    assert found["QLinearSigmoid"] == found["QLinearMul"] == operators(fp32).count("Sigmoid")
    assert found["QuantizeLinear"] == 1  # the image
    assert not {"Sigmoid", "Mul", "DequantizeLinear"} & found.keys()


def test_a_channel_shuffle_moves_int8_values(made):
    found = quantized_nodes(made(shuffle)[1].u8s8)
    assert found["Split"] == 3
    assert found["Transpose"] == 6


def test_nodes_are_named_as_torchs_layers(made):
    for family in (transformer, conv_next):
        names = set(onnx_files.layers(onnx.load(made(family)[0])))
        assert names >= set(pruner.widths(built(family)))
    assert set(onnx_files.layers(onnx.load(exported("resnet20")))) >= {"conv1", "layers.0.0.conv2", "fc"}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    files = Files(*(folder / f"{kind}.onnx" for kind in Files._fields))
    section = config.Quantization(keep=["conv1", "layers.2.*"])
    quantize(exported("resnet20"), images(16), section, files)
    return files


@pytest.mark.parametrize("flavour", [0, 1, 2])
def test_kept_layers_are_float_in_every_file(kept, flavour):
    proto = onnx.load(kept[flavour])
    before = {tensor.name for tensor in onnx.load(exported("resnet20")).graph.initializer}
    in_float = {node.name for node in proto.graph.node if node.op_type == "Conv" and node.input[1] in before}
    convolutions = {node.name for node in proto.graph.node if node.op_type == "Conv"}
    assert in_float == {name for name in convolutions if name == "conv1" or name.startswith("layers.2.")}
    assert len(in_float) == 8
    assert np.isfinite(onnx_files.open_session(kept[flavour]).run(None, {"x": images(2)})[0]).all()


def test_a_pattern_of_no_layer_is_refused(tmp_path):
    section = config.Quantization(keep=["conv9"])
    with pytest.raises(
        UserError, match=r"^quantization\.keep 'conv9' matches no .*: use one of conv1, layers"
    ) as error:
        quantize(exported("resnet20"), images(2), section, Files(*(tmp_path / f for f in Files._fields)))
    assert str(error.value).endswith("(did you mean conv1?)")
