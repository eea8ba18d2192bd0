"""Exported files: what torch computes, at the promised opset, the same bytes each time."""

import json
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from onnx_examples import SHAPE, exported, images, model, operators
from trimlab import config
from trimlab.data.dataset import Dataset
from trimlab.errors import UserError
from trimlab.quantize import export, onnx_files
from trimlab.quantize.int8 import Files, quantize

MODELS = ["resnet20", "torchvision/mobilenet_v2"]


def logits(path, batch):
    return onnx_files.open_session(path).run(["logits"], {"x": batch})[0]


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_opset_17_and_ir_8(name):
    proto = onnx.load(exported(name))
    assert [(item.domain, item.version) for item in proto.opset_import] == [("", 17)]
    assert proto.ir_version == 8


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 5])
def test_a_file_gives_torchs_logits_at_any_batch_size(name, count):
    batch = images(count)
    with torch.inference_mode():
        expected = model(name)(torch.from_numpy(batch)).numpy()
    assert np.abs(logits(exported(name), batch) - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize("name", MODELS)
def test_batchnorm_is_folded(name):
    assert not {"BatchNormalization", "Mul", "Sub", "Div"} & set(operators(exported(name)))


def test_two_exports_of_the_same_weights_are_the_same_bytes(tmp_path):
    export.export(model("resnet20"), SHAPE, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported("resnet20").read_bytes()


def test_every_file_says_how_to_feed_it_and_what_its_outputs_are(tmp_path):
    images_ = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label = torch.zeros(1, dtype=torch.int64)
    dataset = Dataset(
        "shades", images_, label, images_, label, label, label,
        mean=torch.tensor([0.1, 0.2, 0.3]), std=torch.tensor([0.4, 0.5, 0.6]), classes=[*"abcdefghij"], sha256="0" * 64,
    )  # fmt: skip
    told = export.metadata(dataset)
    files = [tmp_path / f"{name}.onnx" for name in ("fp32", "fp16", "u8s8", "u7s7", "symmetric")]
    export.export(model("resnet20"), SHAPE, files[0], told)
    export.to_fp16(files[0], files[1])
    quantize(files[0], images(10), config.Quantization(), Files(*files[2:]))
    for file in files:
        about = onnx_files.open_session(file).get_modelmeta().custom_metadata_map
        assert about == told
        assert json.loads(about["classes"]) == [*"abcdefghij"]
        assert json.loads(about["std"]) == pytest.approx([0.4, 0.5, 0.6])
        assert about["input"] == "x: float32 (N, 3, 32, 32), RGB, (value / 255 - mean) / std"
        proto = onnx.load(file)
        assert (proto.producer_name, proto.producer_version) == ("trimlab", version("trimlab"))


def test_a_file_does_not_say_where_it_was_made():
    content = exported("resnet20").read_bytes()
    assert b".py" not in content
    assert b"stack_trace" not in content


def test_the_exporter_is_silent(tmp_path, capfd):
    export.export(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), (3, 2, 2), tmp_path / "small.onnx")
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


class SpatialMean(nn.Module):
    """A mean over height and width, as some models pool."""

    def __init__(self, keepdim):
        super().__init__()
        self.keepdim = keepdim
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(x.mean((2, 3), keepdim=self.keepdim).flatten(1))


@pytest.mark.parametrize("keepdim", [True, False])
def test_means_over_height_and_width_become_global_pools(keepdim, tmp_path):
    export.export(SpatialMean(keepdim).eval(), (3, 4, 4), tmp_path / "mean.onnx")
    assert "GlobalAveragePool" in operators(tmp_path / "mean.onnx")


def test_a_file_that_computes_something_else_is_refused():
    with pytest.raises(UserError, match="differ from torch's"):
        export.check_parity(model("resnet20", seed=1), SHAPE, exported("resnet20"))


def test_fp16_halves_the_weights_and_keeps_float32_at_both_ends(tmp_path):
    export.to_fp16(exported("resnet20"), tmp_path / "fp16.onnx")
    full = onnx_files.weight_bytes(exported("resnet20"))
    half = onnx_files.weight_bytes(tmp_path / "fp16.onnx")
    assert half == pytest.approx(full / 2, rel=1e-3)
    batch = images(4)
    expected = logits(exported("resnet20"), batch)
    result = logits(tmp_path / "fp16.onnx", batch)
    assert result.dtype == np.float32
    assert np.abs(result - expected).max() < 0.02 * np.abs(expected).max()


def test_weight_bytes_are_the_folded_parameters():
    folded = sum(
        module.weight.numel() + module.weight.shape[0]  # BatchNorm leaves each convolution a bias
        for module in model("resnet20").modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    )
    shape_of_the_flattening = 16
    assert onnx_files.weight_bytes(exported("resnet20")) == 4 * folded + shape_of_the_flattening
