"""INT8 by an accuracy budget: which layers stay in float, and why those."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import factories
from families import dense, efficient, transformer
from onnx_examples import exported
from small_datasets import tiny
from trimlab import config, paths, records
from trimlab.quantize import export, int8, mixed, onnx_files
from trimlab.quantize import stage as quantize_stage

SHAPE = (3, 8, 8)
LAYERS = ["first", "second", "third", "fourth", "fc"]


class Straight(nn.Module):
    """Four convolutions and a linear layer that sees every pixel, so that random images are of many classes."""

    def __init__(self, hard):
        super().__init__()
        torch.manual_seed(0)
        widths = [3, 8, 8, 8, 8]
        for name, before, after in zip(LAYERS, widths, widths[1:], strict=False):
            setattr(self, name, nn.Conv2d(before, after, 3, padding=1))
        self.fc = nn.Linear(8 * 64, 10)
        for layer in self.children():
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            for index in range(1, 4):
                # The last channel is 0 everywhere: its weights change nothing in float, whatever they are.
                getattr(self, LAYERS[index - 1]).weight[-1] = 0
                getattr(self, LAYERS[index - 1]).bias[-1] = -1
            for name in hard:
                getattr(self, name).weight[:, -1] = 40.0  # and in INT8 they leave no steps for the others

    def forward(self, x):
        for name in LAYERS[:-1]:
            x = getattr(self, name)(x).relu()
        return self.fc(x.flatten(1))


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE), dtype=np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model with some hard layers, ranked; held-out images; what FP32 makes of those."""
    known = {}

    def of(*hard, **settings):
        key = hard, str(settings)
        if key not in known:
            source = tmp_path_factory.mktemp("hard") / "fp32.onnx"
            export.export(Straight(hard).eval(), SHAPE, source)
            section, model = config.Quantization(**settings), onnx.load(source)
            calibrated = int8.calibrate(source, images(64), section)
            if section.bias_correction:
                calibrated = int8.with_bias_correction(model, calibrated, images(64))
            batch = images(300, seed=1)
            logits = onnx_files.open_session(source, exact=True).run(None, {"x": batch})[0]
            held = mixed.HeldOut(lambda: np.array_split(batch, 3), logits.argmax(1))
            known[key] = mixed.ranked(model, calibrated, images(64)), held, mixed.score(model, held)
        return known[key]

    return of


def chosen(made, flavour, max_drop):
    ranked, held, fp32 = made
    return mixed.choose(ranked, flavour, held, fp32, max_drop)


def rounded(ranked, flavour, kept=()):
    return int8.rounded(ranked.model, ranked.calibrated, flavour, kept)


@pytest.mark.parametrize("flavour", int8.FLAVOURS)
@pytest.mark.parametrize("hard", ["second", "third", "fourth"])
def test_the_one_layer_that_is_hard_to_quantize_stays_in_float(hard, flavour, made):
    choice = chosen(made(hard), flavour, 5.0)
    assert choice.float_layers == [hard]
    assert choice.loss.drop_points <= 5
    assert chosen(made(hard), flavour, 100.0).loss.drop_points > 5


def test_the_hard_layer_loses_more_than_all_others_together(made):
    first, *others = made("third")[0].divergences.values()
    assert first > 2 * sum(others)


def test_two_hard_layers_are_found_where_each_alone_spoils_the_file(made):
    choice = chosen(made("second", "fourth"), "u8s8", 5.0)
    assert set(choice.float_layers) == {"second", "fourth"}
    ranked, held, fp32 = made("second", "fourth")
    for one in choice.float_layers:
        assert not mixed.lost(fp32, mixed.score(rounded(ranked, "u8s8", [one]), held)).fits(5.0)


def test_a_model_without_hard_layers_is_the_int8_file(made):
    ranked, held, fp32 = made()
    choice = chosen(made(), "u8s8", 5.0)
    assert choice.float_layers == []
    assert choice.loss == mixed.lost(fp32, mixed.score(rounded(ranked, "u8s8"), held))


def test_layers_that_are_kept_anyway_are_not_ranked(made):
    assert set(made("third", keep=["third", "fc"])[0].divergences) == set(LAYERS) - {"third", "fc"}


@pytest.mark.parametrize("flavour", int8.FLAVOURS)
def test_all_layers_in_float_are_the_fp32_model(flavour, made):
    ranked, held, fp32 = made("third")
    whole = mixed.score(rounded(ranked, flavour, LAYERS), held)
    np.testing.assert_array_equal(whole.losses, fp32.losses)


@pytest.mark.parametrize("flavour", int8.FLAVOURS)
@pytest.mark.parametrize("family", [dense, efficient, transformer], ids=lambda family: family.__name__)
def test_nothing_is_rounded_where_all_layers_are_float(family, flavour, tmp_path):
    torch.manual_seed(0)
    source = tmp_path / "fp32.onnx"
    export.export(family().eval(), (3, 32, 32), source)
    batch = np.random.default_rng(0).standard_normal((4, 3, 32, 32), dtype=np.float32)
    model, calibrated = onnx.load(source), int8.calibrate(source, batch, config.Quantization())
    proto = int8.rounded(model, calibrated, flavour, onnx_files.layers(model))
    assert not {"QuantizeLinear", "DequantizeLinear"} & {node.op_type for node in proto.graph.node}


def test_what_follows_a_float_layer_is_rounded_where_an_int8_layer_reads_it():
    proto = onnx.load(exported("resnet20"))
    found = onnx_files.float_nodes(proto, {"conv1"})
    after = {node.name: node for node in proto.graph.node}
    assert [after[name].op_type for name in found] == ["Conv", "Relu"]
    assert onnx_files.float_nodes(proto, ()) == []


def scores(right, losses=None):
    return mixed.Scores(np.array(right, bool), np.array(losses or [0.1] * len(right), float))


def test_a_drop_of_an_image_or_two_is_noise_and_one_of_many_is_not():
    fp32 = scores([True] * 100)
    two, ten = (scores([False] * n + [True] * (100 - n)) for n in (2, 10))
    assert mixed.lost(fp32, two).drop_points == 2
    assert mixed.lost(fp32, two).fits(0.5)
    assert not mixed.lost(fp32, ten).fits(0.5)
    assert mixed.lost(fp32, ten).fits(10.0)


def test_a_small_drop_with_a_loss_that_rises_everywhere_is_no_noise():
    fp32 = scores([True] * 100)
    worse = scores([False] * 2 + [True] * 98, [0.1 + 0.01 * (n % 3 + 1) for n in range(100)])
    assert not mixed.lost(fp32, worse).fits(0.5)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), min_size=2, max_size=50))
def test_equal_answers_fit_every_budget(answers):
    same = scores(*map(list, zip(*answers, strict=True)))
    assert mixed.lost(same, same).fits(0.0)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=50), st.floats(0, 100), st.floats(0, 100))
def test_what_fits_a_budget_fits_a_larger_one(pairs, one, other):
    fp32, file = (scores(list(right)) for right in zip(*pairs, strict=True))
    loss = mixed.lost(fp32, file)
    assert loss.fits(max(one, other)) or not loss.fits(min(one, other))


def test_the_choice_is_what_a_record_holds(made, tmp_path, capsys):
    ranked, _, _ = made("third")
    files = int8.Files(*(tmp_path / f"{flavour}.onnx" for flavour in int8.Files._fields))
    dataset = tiny_of(SHAPE)
    about = quantize_stage._write_mixed(ranked, files, dataset, 0.0)
    assert list(about) == [file.name for file in files]
    for file in files:
        found = records.Mixed.model_validate(about[file.name])
        assert found.num_images == len(dataset.holdout)
        assert [layer.layer for layer in found.sensitivity] == list(ranked.divergences)
        weights = {tensor.name for tensor in ranked.model.graph.initializer}
        in_float = {
            node.name for node in onnx.load(file).graph.node if len(node.input) > 1 and node.input[1] in weights
        }
        assert in_float & set(LAYERS) >= set(found.float_layers)
    assert "layers stay in float" in capsys.readouterr().err


def tiny_of(shape):
    dataset = tiny()
    return replace(dataset, train_images=dataset.train_images[:, :, : shape[1], : shape[2]])


def test_a_file_that_needs_all_layers_in_float_is_said_in_a_line():
    loss = mixed.Loss(100, 0, 0, 0.0, 0.0)
    said = quantize_stage._said(paths.onnx_file("v", 0, "int8-mixed"), mixed.Choice(["a", "b"], loss), 2, 0.1)
    assert said.endswith("all are float: raise max_drop, or take int8-mixed out")
    assert "\n" not in said


def outputs(proto, batch):
    """The means of each convolution's output channels, before its activation."""
    names = [node.output[0] for node in proto.graph.node if node.op_type == "Conv"]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnx_files.open_session(proto.SerializeToString(), exact=True)
    return [value.mean((0, 2, 3)) for value in session.run(names, {"x": batch})]


def test_corrected_biases_bring_the_means_of_outputs_back(made):
    others = [layer for layer in LAYERS if layer != "third"]
    plain, corrected = made("third")[0], made("third", bias_correction=True)[0]
    expected = outputs(onnx_files.copy(plain.model), images(64))[2]
    before, after = (
        np.abs(outputs(rounded(of, "symmetric", others), images(64))[2] - expected).max() for of in (plain, corrected)
    )
    assert after < 0.2 * before


def test_corrected_biases_change_no_layer_in_float(made):
    plain, corrected = made("third")[0], made("third", bias_correction=True)[0]
    assert rounded(corrected, "u8s8", LAYERS) == rounded(plain, "u8s8", LAYERS)
    assert rounded(corrected, "u8s8") != rounded(plain, "u8s8")


def test_a_variant_without_precisions_has_no_choice_of_layers(in_tmp):
    quantize_stage.quantize_variant(factories.study(), "large-r80")
    assert json.loads((in_tmp / "quantize/large-r80/manifest.json").read_text())["mixed"] == {}
