"""Quantization-aware training: torch rounds where the file does, and the weights that it learns are the file's."""

import json
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import factories
import projects
from families import FAMILIES, SHAPE, built
from onnx_examples import exported, images
from trimlab import config, paths
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset
from trimlab.errors import UserError
from trimlab.measure import device, runtimes
from trimlab.measure.session import Settings
from trimlab.measure.weights import weight_bits
from trimlab.models import checkpoint, registry
from trimlab.prune import pruner
from trimlab.quantize import export, int8, onnx_files
from trimlab.quantize import stage as quantize_stage
from trimlab.quantize.int8 import Calibration, Files
from trimlab.quantize.onnx_graph import graph_of
from trimlab.quantize.onnx_torch import FakeQuantize, Graph, check
from trimlab.quantize.qat import Simulation
from trimlab.train import loop
from trimlab.train.distill import Teacher

TRAINING = config.Recipe(epochs=4, batch_size=64, learning_rate=0.1, flip=False, crop_padding=0)
"""So long that few labels nearly tie: after two epochs 1 % of the images have two best logits within 0.01, and what a
runtime's integer kernels round differently from torch turns up to three labels of 1,797."""
ROUNDED = TRAINING.model_copy(update={"epochs": 1, "learning_rate": 0.01, "clip_norm": 1.0})
CRUDE = config.Quantization(method="percentile", percentile=95)
"""So narrow ranges that post-training quantization loses points."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Real images, in a working directory that is the project's root to the code."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("digits")
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        data_stage.prepare("digits", projects.STUDY.datasets["digits"], projects.STUDY.data)
        yield load_dataset("digits")


@pytest.fixture(scope="module")
def pixels(digits):
    """All images, normalised: (1797, 3, 32, 32) float32."""
    stored = torch.cat([digits.train_images[:], digits.test_images[:]])
    return digits.normalise(stored).numpy()


class Trained(NamedTuple):
    """A small network that knows its digits."""

    model: nn.Module
    fp32: onnx.ModelProto
    calibrated: Calibration


def fit(model, dataset, recipe, folder, teacher=None):
    on_epoch = [].append
    loop.fit(
        model, dataset, "test", recipe, "fp32", 0,
        resumable=folder / "resumable.safetensors", label="test", on_epoch=on_epoch, teacher=teacher,
    )  # fmt: skip
    return model.eval()


def small():
    model = registry.build("resnet20", num_classes=10, seed=0)
    pruner.prune(model, 0.7, config.PruningSettings(), SHAPE)
    return model


@pytest.fixture(scope="module")
def trained(digits, pixels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    model = fit(small(), digits, TRAINING, folder)
    export.export(model, SHAPE, folder / "fp32.onnx")
    return Trained(model, onnx.load(folder / "fp32.onnx"), int8.calibrate(folder / "fp32.onnx", pixels[:64], CRUDE))


@pytest.fixture(scope="module", params=[8, 7])
def learned(request, trained, digits, tmp_path_factory):
    """The simulation, trained; the files of its weights; and the bits that it simulates."""
    folder = tmp_path_factory.mktemp("learned")
    simulation = Simulation(trained.fp32, trained.calibrated.ranges, trained.calibrated.kept, request.param)
    fit(simulation, digits, ROUNDED, folder, Teacher(trained.model, 1.0, 1.0))
    return simulation, written(simulation.model(), trained.calibrated, folder), request.param


def written(model, calibrated, folder):
    files = Files(*(folder / f"{kind}.onnx" for kind in Files._fields))
    int8.write(model, calibrated, files)
    return files


def labels(file, pixels, exact=True):
    session = runtimes.open_file("onnxruntime", str(file), Settings("int8-qat", 1, 64, exact=exact))
    return np.concatenate([session.run(batch) for batch in np.split(pixels, range(64, len(pixels), 64))]).argmax(1)


def torchs_labels(model, pixels):
    with torch.no_grad():
        return torch.cat([model(batch) for batch in torch.from_numpy(pixels).split(256)]).argmax(1).numpy()


def test_torch_and_the_file_give_the_same_labels(learned, pixels):
    simulation, files, bits = learned
    expected, file = torchs_labels(simulation, pixels), files.u8s8 if bits == 8 else files.seven_bit
    assert (labels(file, pixels) == expected).mean() >= 0.999
    if bits <= weight_bits(device.processor_flags(), device.is_arm()):
        assert (labels(file, pixels, exact=False) == expected).mean() >= 0.999


def test_training_recovers_what_rounding_loses(learned, trained, digits, pixels, tmp_path):
    _, files, bits = learned
    before = written(trained.fp32, trained.calibrated, tmp_path)
    unrounded = torchs_labels(trained.model, pixels)
    flavour = Files._fields.index("u8s8" if bits == 8 else "seven_bit")
    lost, left = ((labels(found[flavour], pixels) != unrounded).mean() for found in (before, files))
    assert lost > 0.02
    assert left < 0.5 * lost


def test_the_files_have_the_ranges_of_the_calibration_and_other_weights(learned, trained, tmp_path):
    before, after = written(trained.fp32, trained.calibrated, tmp_path), learned[1]
    for old, new in zip(before, after, strict=True):
        assert [node.SerializeToString() for node in onnx.load(old).graph.node] == [
            node.SerializeToString() for node in onnx.load(new).graph.node
        ]
        old_values, new_values = constants(old), constants(new)
        activations = {
            node.input[1]
            for node in onnx.load(old).graph.node
            if node.op_type == "QuantizeLinear" and node.input[0] not in old_values
        }
        changed = {name for name, value in old_values.items() if not np.array_equal(value, new_values[name])}
        assert activations
        assert not activations & changed
        assert len(changed) >= 22  # weights, at least


def constants(file):
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_every_family_is_simulated_as_its_file_computes(family, tmp_path):
    torch.manual_seed(0)
    export.export(built(family), SHAPE, tmp_path / "fp32.onnx")
    source = onnx.load(tmp_path / "fp32.onnx")
    export.check_parity(Graph(source), SHAPE, tmp_path / "fp32.onnx")
    calibrated = int8.calibrate(tmp_path / "fp32.onnx", images(32), config.Quantization())
    simulation = Simulation(source, calibrated.ranges, calibrated.kept, 8)
    batch = images(64, seed=5)
    file = written(simulation.model(), calibrated, tmp_path).u8s8
    found = runtimes.open_file("onnxruntime", str(file), Settings("int8-qat", 1, 64, exact=True)).run(batch)
    (unrounded,) = onnx_files.open_session(tmp_path / "fp32.onnx").run(None, {"x": batch})
    logits = simulation(torch.from_numpy(batch))
    logits.square().mean().backward()
    assert all(weight.grad is not None for weight in simulation.learned)
    # Sums in another order may end in another step; averages of rounded values often lie between two.
    assert np.square(found - logits.detach().numpy()).mean() < 0.5 * np.square(found - unrounded).mean()


def test_an_untrained_simulation_gives_back_its_model():
    source = onnx.load(exported("resnet20"))
    ranges = {name: (-1.0, 1.0) for node in source.graph.node for name in (*node.input, *node.output)}
    simulation = Simulation(source, ranges, ["conv1"], 8)
    assert simulation.model() == source
    assert list(simulation.state_dict()) == [f"learned.{index}" for index in range(44)]


def test_rounding_is_quantizelinears_and_gradients_pass_what_is_not_clipped():
    values = torch.tensor([-9.0, -0.26, -0.25, 0.0, 0.25, 0.75, 3.1, 40.0], requires_grad=True)
    rounded = FakeQuantize.apply(values, 0.5, 10, 0, 20)
    assert rounded.tolist() == [-5.0, -0.5, 0.0, 0.0, 0.0, 1.0, 3.0, 5.0]  # ties go to the even step
    rounded.sum().backward()
    assert values.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]


class Sorting(nn.Module):
    """A model with an operator that few have."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 10)

    def forward(self, x):
        return self.fc(x.mean((2, 3)).cumsum(1))


def test_an_unknown_operator_is_refused():
    with pytest.raises(UserError, match=r"^int8-qat cannot train through the operator CumSum \(.*\): leave int8-qat"):
        check(graph_of(Sorting().eval(), SHAPE))


@pytest.fixture
def study():
    variants = {**projects.SECTIONS["variants"]}
    variants["small"] = {**variants["small"], "precisions": ["fp32", "int8", "int8-qat"]}
    quantization = {"calibration_images": 20, "qat": {"epochs": 1, "learning_rate": 0.002}}
    return factories.study(**projects.SECTIONS | {"variants": variants, "quantization": quantization})


@pytest.fixture
def written_by_stage(study, digits, trained):
    """What the stages before `quantize` write."""
    model = {"model": "resnet20", "num_classes": "10"}
    checkpoint.save(trained.model, paths.weights_file(paths.trained("small"), 0), model)
    checkpoint.save(trained.model, paths.weights_file(paths.pruned("small"), 0), model)
    quantize_stage.export_workload(study, "small")


def test_the_stage_writes_all_flavours_and_says_how_they_were_trained(study, written_by_stage, monkeypatch):
    quantize_stage.quantize_variant(study, "small")
    folder = paths.quantized("small")
    manifest = json.loads((folder / "manifest.json").read_text())
    flavours = {f"seed0-{name}{end}.onnx" for name in ("int8", "int8-qat") for end in ("", "-7bit", "-symmetric")}
    assert manifest["files_sha256"].keys() == {"seed0-fp32.onnx", *flavours}
    assert len(set(manifest["files_sha256"].values())) == 7
    told = manifest["qat"]["0"]
    assert (told["epochs"], told["learning_rate"], told["weight_bits"]) == (1, 0.002, 8)
    assert told["train_seconds"] > 0

    def no_step(*_):
        raise AssertionError("trained again, though the checkpoint is there")

    monkeypatch.setattr(loop._Loop, "_step", no_step)
    quantize_stage.quantize_variant(study, "small")
    again = json.loads((folder / "manifest.json").read_text())
    assert again["files_sha256"] == manifest["files_sha256"]
    assert {**again["qat"]["0"], "contended": None} == {**told, "contended": None}
