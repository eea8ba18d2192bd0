"""Weights on disk: no code, no half-written file, no value that a trained model cannot have."""

import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.architecture import Architecture


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = registry.build("resnet20", 10)
    written = set()
    for _ in range(8):
        checkpoint.save(model, tmp_path / "a", {"model": "resnet20", "num_classes": "10", "more": "x"})
        written.add((tmp_path / "a").read_bytes())
    assert len(written) == 1


def test_a_seed_decides_the_weights():
    first, same, other = (registry.build("resnet20", 10, seed) for seed in (1, 1, 2))
    assert torch.equal(first.conv1.weight, same.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_173_962), ("resnet20", 272_474)])
def test_the_models_have_the_published_parameters(name, count):
    assert sum(parameter.numel() for parameter in registry.build(name, 10).parameters()) == count


def test_an_unknown_torchvision_model_is_refused():
    with pytest.raises(UserError, match=r"torchvision/resnet19 is unknown: .*\(did you mean resnet18\?\)"):
        registry.build("torchvision/resnet19", 10)


def test_another_kernel_size_is_refused():
    weights = registry.build("resnet20", 10).state_dict()
    weights["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    with pytest.raises(UserError, match=r"kernel \(16, 3, 5, 5\)"):
        checkpoint.rebuild(Architecture("resnet20", 10), weights)


def state():
    return registry.build("resnet20", 10).state_dict()


def refusal(act):
    """The one line with which something is refused."""
    with pytest.raises(UserError) as error:
        act()
    said = str(error.value)
    assert len(said.splitlines()) == 1
    assert len(said) <= 300
    assert "\x1b" not in said
    return said


def read(values, tmp_path, name="given.pt"):
    torch.save(values, tmp_path / name)
    return checkpoint.read_weights(tmp_path / name).tensors


@pytest.mark.parametrize(
    ("key", "value", "low"),
    [
        ("conv1.weight", float("nan"), "-1e+08"),
        ("fc.bias", float("inf"), "-1e+08"),
        ("fc.weight", -1e38, "-1e+08"),
        ("bn1.running_var", -0.5, "0"),
        ("bn1.running_mean", float("-inf"), "-1e+08"),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_of_no_trained_model_are_refused(key, value, low, dtype, tmp_path):
    given = {name: tensor.to(dtype) for name, tensor in state().items()}
    given[key].view(-1)[-1] = value
    held = f"{torch.tensor(value, dtype=dtype).item():.3g}"
    assert f"'{key}' holds {held}, not in [{low}, 1e+08]: give weights" in refusal(lambda: read(given, tmp_path))


def test_an_infinite_half_is_refused(tmp_path):
    given = {key: tensor.half() for key, tensor in state().items()}
    given["fc.bias"][0] = float("inf")
    assert "'fc.bias' holds inf" in refusal(lambda: read(given, tmp_path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.complex64, torch.int64, torch.float8_e4m3fn])
def test_weights_of_another_kind_of_number_are_refused(dtype, tmp_path):
    given = {**state(), "fc.bias": torch.zeros(10).to(dtype)}
    assert f"'fc.bias' is {dtype} (10,): save floating-point weights" in refusal(lambda: read(given, tmp_path))


@pytest.mark.filterwarnings("ignore")  # torch's, of quantized tensors that go away
@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (lambda: torch.zeros(2, 2).to_sparse(), "sparse"),
        (lambda: torch.zeros(2, 2, device="meta"), "a meta tensor"),
        (lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), "quantized"),
    ],
)
def test_tensors_that_are_not_dense_are_refused(tensor, kind, tmp_path):
    said = refusal(lambda: read({"fc.bias": tensor()}, tmp_path))
    assert kind in said
    assert said.endswith("save dense floating-point weights")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32_and_keep_their_values(dtype, tmp_path):
    expected = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state().items()}
    found = read(expected, tmp_path)
    assert found["fc.weight"].dtype == torch.float32
    assert found["bn1.num_batches_tracked"].dtype == torch.int64
    assert all(torch.equal(tensor, expected[key].to(tensor.dtype)) for key, tensor in found.items())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_the_prefix_of_a_wrapped_model_is_taken_off(prefix, tmp_path):
    wrapped = {f"{prefix}{key}": tensor for key, tensor in state().items()}
    found = read({"state_dict": wrapped}, tmp_path)
    assert found.keys() == state().keys()


def test_weights_of_another_model_name_a_tensor_of_each(tmp_path):
    given = {f"model.{key}": tensor for key, tensor in state().items()}
    said = refusal(lambda: checkpoint.rebuild(Architecture("resnet20", 10), read(given, tmp_path)))
    assert "(the file lacks bn1.bias and has 'model.bn1.bias')" in said


class Net(torch.nn.Linear):
    """Pickled whole, it is code."""


def whole_model(file):
    torch.save(Net(2, 2), file)


def torch_script(file):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), file)


def foreign_zip(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "no weights")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.write_bytes(b""), "cannot be read (it is empty): copy it again"),
        (lambda file: file.write_bytes(b"junk" * 9), "cannot be read ("),
        (foreign_zip, "cannot be read ("),
        (whole_model, "(it holds 'test_checkpoint.Net'): save `model.state_dict()` instead of the whole model"),
        (torch_script, "(it holds a TorchScript archive): save `model.state_dict()`"),
        (lambda file: torch.save({}, file), "holds no state dict: save `model.state_dict()`"),
        (lambda file: torch.save({1: torch.zeros(1)}, file), "holds no state dict"),
        (lambda file: torch.save(OrderedDict(a=3), file), "holds no state dict"),
        (lambda file: file.mkdir(), "is not a file: name an existing file, or `data/none` to train"),
        (lambda file: None, "does not exist: name an existing file, or `data/none` to train"),
    ],
)
def test_files_that_hold_no_weights_are_refused_in_one_line(write, message, tmp_path):
    write(tmp_path / "given.pt")
    assert message in refusal(lambda: checkpoint.read_weights(tmp_path / "given.pt"))


def truncated(file):
    checkpoint.save(registry.build("resnet20", 10), file, {"model": "resnet20", "num_classes": "10"})
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    "write",
    [
        truncated,
        foreign_zip,
        lambda file: file.write_bytes(b""),
        lambda file: file.mkdir(),
        lambda file: save_file({"a": torch.zeros(1)}, file),
        lambda file: save_file({"a": torch.zeros(1)}, file, metadata={"trimlab": "{"}),
        lambda file: save_file({"a": torch.zeros(1)}, file, metadata={"trimlab": "[]"}),
        lambda file: checkpoint.save(registry.build("resnet20", 10), file, {"model": "resnet20"}),
        lambda file: checkpoint.save(registry.build("resnet20", 10), file, {"model": "resnet20", "num_classes": "x"}),
    ],
)
def test_damaged_weights_of_a_stage_are_refused_in_one_line(write, in_tmp):
    file = Path("train/digits/seed0.safetensors")
    file.parent.mkdir(parents=True)
    write(file)
    said = refusal(lambda: checkpoint.load(file))
    assert said.startswith("train/digits/seed0.safetensors is damaged, or was not written by trimlab (")
    assert said.endswith("run `dvc checkout train/digits`, or remove it and run `dvc repro`")
    assert "NoneType" not in said


def test_missing_weights_of_a_stage_say_what_makes_them(tmp_path):
    assert refusal(lambda: checkpoint.load(tmp_path / "no.safetensors")).endswith("does not exist: run `dvc repro`")
