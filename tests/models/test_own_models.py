"""Models that a user brings, and those of libraries: built from their names, or refused in one line."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from trimlab import config
from trimlab.models import checkpoint, factories, registry
from trimlab.models.architecture import Architecture
from trimlab.models.facts import count_params
from trimlab.models.probe import probe
from trimlab.prune import pruner
from user_models import NET, refusal, workload, write


def test_a_factory_gets_its_arguments_and_the_number_of_classes(tmp_path):
    model = registry.build("my_models:net", 7, code=write(tmp_path), arguments={"width": 12})
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert model.stem.out_channels == 12
    assert registry.classifier(model) is model.head[1]
    assert registry.describe_classifier(model) == "the classifier is head.1, with 7 outputs"


def test_a_class_and_a_function_of_any_arguments_are_factories(tmp_path):
    for name in ("Net", "anything"):
        assert registry.build(f"my_models:{name}", 7, code=write(tmp_path))(torch.zeros(2, 3, 8, 8)).shape == (2, 7)


def test_a_seed_decides_a_users_weights_and_leaves_the_generator_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, same, other = (registry.build("my_models:net", 2, seed, code=write(tmp_path)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.stem.weight, same.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)


def test_a_factory_without_a_number_of_classes_gets_another_classifier(tmp_path):
    model = registry.build("my_models:hard_coded", 7, code=write(tmp_path))
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert registry.describe_classifier(model) == "the classifier is head.1, with 7 outputs, in place of 1000"
    again = registry.build("my_models:hard_coded", 7, code=write(tmp_path))
    assert torch.equal(model.head[1].weight, again.head[1].weight)


TWO_HEADS = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.out = nn.Linear(3, num_classes)
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            return self.out(self.inner(x.mean((2, 3))))
"""


def test_a_classifier_is_named_where_it_is_not_the_last_linear_layer(tmp_path):
    code = write(tmp_path, TWO_HEADS)
    assert "its last layer, inner, has 3 outputs, and the dataset 7 classes: name the right layer" in refusal(
        lambda: registry.build("my_models:Net", 7, code=code)
    )
    model = registry.build("my_models:Net", 7, code=code, classifier="out")
    assert registry.classifier(model) is model.out
    layers = refusal(lambda: registry.build("my_models:Net", 7, code=code, classifier="fc"))
    assert layers == "classifier 'fc' is not a layer of my_models:Net: its last ones are out, inner"
    assert refusal(lambda: registry.build("my_models:net", 7, code=write(tmp_path), classifier="head")) == (
        "classifier head of my_models:net is a Sequential: name a Linear or a 1×1 Conv2d"
    )


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("raises", {}, "cannot be built (RuntimeError: no such file: weights.bin)"),
        ("leaves", {}, "cannot be built (SystemExit: bye)"),
        ("no_module", {}, "its factory returns [1, 2]: return a torch.nn.Module"),
        ("no_layer", {}, "has no linear layer and no 1×1 convolution"),
        ("lazy", {}, "1.weight has no shape before the first call"),
        ("number", {}, "is no function or class: name one that returns a torch.nn.Module"),
        ("nett", {}, "module my_models has no nett: it offers Net, net, hard_coded, ignores"),
        ("net", {"widht": 3}, "(got an unexpected keyword argument 'widht'): it takes width"),
        ("hard_coded", {"width": 3}, "(got an unexpected keyword argument 'width'): it takes none besides"),
        ("ignores", {}, "its last layer, head.1, has 1000 outputs, and the dataset 7 classes"),
        ("net", {"width": "wide"}, "cannot be built (TypeError: "),
    ],
)
def test_a_factory_that_does_not_make_the_model_is_refused_in_one_line(model, arguments, said, tmp_path):
    code = write(tmp_path)
    found = refusal(lambda: registry.build(f"my_models:{model}", 7, code=code, arguments=arguments))
    assert found.startswith(f"model my_models:{model}")
    assert said in found


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def net(:\n    pass", "line 1 of my_models.py is no Python (invalid syntax): correct it"),
        ("import nowhere_at_all", "module nowhere_at_all is not found: install it, or put it beside the other files"),
        ("import helpers", "module helpers is not found"),
        ("1 / 0", "ZeroDivisionError: division by zero: correct it"),
        ("import sys\nsys.exit(3)", "SystemExit: 3"),
    ],
)
def test_code_that_cannot_be_imported_is_refused_in_one_line(source, said, tmp_path):
    write(tmp_path, "x = 1", "helpers.py")  # beside it, and no part of the code
    code = write(tmp_path, source)
    found = refusal(lambda: registry.build("my_models:net", 7, code=code))
    assert found.startswith(f"code {code} cannot be imported: ")
    assert said in found.removeprefix(f"code {code}")
    assert "my_models" not in sys.modules


def test_missing_code_and_missing_packages_are_refused_in_one_line(tmp_path):
    assert "does not exist: put the file or package folder there" in refusal(
        lambda: registry.build("my_models:net", 7, code=tmp_path / "my_models.py")
    )
    assert refusal(lambda: registry.build("nowhere_at_all.models:net", 7)) == (
        "model nowhere_at_all.models:net: package nowhere_at_all is not installed: install it, or name your file as "
        "`code`"
    )


def test_code_with_the_name_of_another_module_is_refused(tmp_path):
    for name in ("json", "torchvision", "sys"):
        code = write(tmp_path, NET, f"{name}.py")
        assert f"has the name of another module, {name}: rename it" in refusal(
            lambda code=code, name=name: registry.build(f"{name}:net", 7, code=code)
        )


def test_an_edit_is_imported_again_at_once(tmp_path):
    code = write(tmp_path)
    assert registry.build("my_models:net", 7, code=code).stem.kernel_size == (3, 3)
    write(tmp_path, NET.replace("width, 3,", "width, 5,"))
    assert registry.build("my_models:net", 7, code=code).stem.kernel_size == (5, 5)


def package(folder):
    write(folder, "from .blocks import block", "mine/__init__.py")
    write(folder, "from torch import nn\ndef block(n):\n    return nn.Linear(n, n)", "mine/blocks.py")
    write(folder, NET + "\n    from mine.blocks import block\n", "mine/nets/small.py")
    return folder / "mine"


def test_a_package_folder_is_imported_by_its_path(tmp_path):
    code = package(tmp_path)
    assert registry.build("mine.nets.small:net", 7, code=code)(torch.zeros(2, 3, 8, 8)).shape == (2, 7)
    assert not list(code.rglob("__pycache__")), "the folder is a dependency: nothing is added to it"
    (code / "__init__.py").unlink()
    assert "has no __init__.py: add an empty one" in refusal(
        lambda: registry.build("mine.nets.small:net", 7, code=code)
    )


def saved(spec):
    """Build and save a workload's model for 7 classes."""
    built_from = Architecture.of(spec, 7)
    model = registry.build_from(built_from, seed=3)
    checkpoint.save(model, Path("m.safetensors"), built_from.metadata())
    assert checkpoint.architecture(Path("m.safetensors")) == built_from
    return model.eval()


def test_a_checkpoint_rebuilds_a_users_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    write(tmp_path, TWO_HEADS, "heads.py")
    for spec in (
        workload("my_models:net", code="my_models.py", arguments={"width": 12}),
        workload("my_models:hard_coded", code="my_models.py"),
        workload("heads:Net", code="heads.py", classifier="out"),
        workload("torchvision.models:mobilenet_v3_small", arguments={"dropout": 0.1}),
    ):
        model = saved(spec)
        rebuilt = checkpoint.load(Path("m.safetensors"), spec)
        assert registry.classifier_name(rebuilt) == registry.classifier_name(model)
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(rebuilt(images), model(images))


def test_a_checkpoint_of_edited_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    package(tmp_path)
    for model, code, edited in (
        ("my_models:net", "my_models.py", "my_models.py"),
        ("mine.nets.small:net", "mine", "mine/blocks.py"),
    ):
        spec = workload(model, code=code)
        saved(spec)
        checkpoint.load(Path("m.safetensors"), spec)
        Path(edited).write_text(Path(edited).read_text() + "\n# edited\n")
        assert refusal(lambda spec=spec: checkpoint.load(Path("m.safetensors"), spec)) == (
            f"{code} has changed since m.safetensors was written: run `dvc repro`, which trains again"
        )


def test_a_file_of_weights_runs_no_code_that_the_params_do_not_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    metadata = {"model": "os:system", "num_classes": "7", "arguments": '{"command": "echo code ran"}'}
    checkpoint.save(nn.Linear(2, 7), Path("m.safetensors"), metadata)
    write(tmp_path)
    for named in (None, workload("resnet20"), workload("my_models:net", code="my_models.py"), workload("os:system")):
        assert refusal(lambda named=named: checkpoint.load(Path("m.safetensors"), named)) == (
            "m.safetensors holds os:system, which the params do not name like that: run `dvc repro`"
        )
    assert "code ran" not in capfd.readouterr().out


def test_older_checkpoints_name_the_model_and_its_classes_alone(tmp_path):
    assert Architecture("resnet20", 10).metadata() == {"model": "resnet20", "num_classes": "10"}
    assert Architecture.read({"model": "resnet20", "num_classes": "10"}) == Architecture("resnet20", 10)


class Odd(nn.Module):
    """Returns what it is told to, in training or always."""

    def __init__(self, outputs, training_alone=False):
        super().__init__()
        self.outputs, self.training_alone = outputs, training_alone

    def forward(self, x):
        return torch.zeros(len(x), 7) if self.training_alone and not self.training else self.outputs(x)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Odd(lambda x: (x, x)), "mine:net returns tuple of 2: it has"),
        (Odd(lambda x: (x, x), True), "mine:net returns tuple of 2 in training: it has"),
        (Odd(lambda x: {"logits": x}), "mine:net returns dict of 1: it has"),
        (Odd(lambda x: torch.zeros(len(x), 5)), "returns (2, 5) for 2 images and 7 classes: it has to return"),
        (Odd(lambda x: torch.zeros(len(x), 7, 1, 1)), "mine:net returns (2, 7, 1, 1) for 2 images"),
        (Odd(lambda x: torch.full((len(x), 7), torch.inf)), "mine:net: its outputs are not finite"),
        (Odd(lambda x: x.view(3, -1)[:, 0] / 0 + [].pop()), "does not take 16×16 images of 3 channels ("),
        (nn.Conv2d(1, 7, 3), "mine:net does not take 16×16 images of 3 channels ("),
    ],
)  # fmt: skip
def test_outputs_that_are_no_logits_are_refused_before_training(model, said):
    assert said in refusal(lambda: probe(model, workload("mine:net"), (3, 16, 16), 7))


def test_probing_leaves_a_model_and_the_generator_as_they_were():
    model = registry.build("resnet20", 7)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    probe(model, workload("resnet20"), (3, 32, 32), 7)
    assert torch.equal(torch.rand(1), expected)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "classifier"),
    [
        ("torchvision/googlenet", "fc"),
        ("torchvision/squeezenet1_1", "classifier.1"),
        ("torchvision/shufflenet_v2_x0_5", "fc"),
        ("torchvision/mobilenet_v3_small", "classifier.3"),
        ("timm/test_resnet", "fc"),
        ("timm/mobilenetv3_small_050", "classifier"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_models_of_libraries_map_images_to_logits(name, classifier):
    model = registry.build(name, 7)
    probe(model, workload(name), (3, 64, 64), 7)
    assert registry.classifier_name(model) == classifier


def test_a_model_of_a_fixed_size_says_so_and_what_to_do():
    model = registry.build("torchvision/vit_b_16", 7)
    assert refusal(lambda: probe(model, workload("torchvision/vit_b_16"), (3, 32, 32), 7)) == (
        "torchvision/vit_b_16 fixes its input size at 224, and the images are 32×32: set datasets.mine.image_size to "
        "224, or give the model arguments: {image_size: 32}"
    )
    name = "timm/vit_tiny_patch16_224"
    said = refusal(lambda: probe(registry.build(name, 7), workload(name), (3, 32, 48), 7))
    assert said.endswith("the images are 32×48: set datasets.mine.image_size to 224")
    probe(registry.build(name, 7, arguments={"img_size": 32}), workload(name), (3, 32, 32), 7)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("torchvision/resnet19", "is unknown: of torchvision, use one of alexnet, convnext_base"),
        ("torchvision/resnet19", "(did you mean resnet18?)"),
        ("torchvision/raft_small", "is not an image classifier that computes in floating point"),
        ("torchvision/quantized_resnet18", "is not an image classifier that computes in floating point"),
        ("timm/resnet19", "is unknown: of timm, use one of "),
    ],
)
def test_names_that_a_library_lacks_say_what_it_has(name, said):
    assert said in refusal(lambda: registry.build(name, 7))


def test_arguments_that_a_librarys_model_does_not_take_are_refused():
    assert "got an unexpected keyword argument 'widht'" in refusal(
        lambda: registry.build("torchvision/mobilenet_v2", 7, arguments={"widht": 3})
    )
    thin = registry.build("torchvision/mobilenet_v2", 7, arguments={"width_mult": 0.5})
    assert registry.classifier(thin).weight.shape == (7, 1280)


def test_timm_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refusal(lambda: factories.find("timm/resnet18")) == (
        "model timm/resnet18 needs timm: run `pip install --editable '.[timm]'`"
    )


@pytest.mark.parametrize(
    ("model", "classifier", "shape"),
    [("torchvision/squeezenet1_1", None, (3, 64, 64)), ("my_models:Net", "out", (3, 8, 8))],
)
def test_pruning_keeps_the_outputs_of_the_classifier_that_was_found_or_named(
    model, classifier, shape, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    code = write(Path(), TWO_HEADS) if classifier else "data/none"
    spec = workload(model, code=str(code), classifier=classifier)
    built_from = Architecture.of(spec, 7)
    pruned = registry.build_from(built_from).eval()
    pruner.prune(pruned, 0.3, config.PruningSettings(), shape)
    checkpoint.save(pruned, tmp_path / "m.safetensors", built_from.metadata())
    images = torch.rand(2, *shape)
    assert pruned(images).shape == (2, 7)
    assert count_params(pruned) < count_params(registry.build_from(built_from))
    assert torch.equal(checkpoint.load(tmp_path / "m.safetensors", spec)(images), pruned(images))
