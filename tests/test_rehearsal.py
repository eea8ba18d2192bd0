"""What cannot be pruned, quantized or exported is refused in a line before any training."""

import pytest
import torch

import factories
from trimlab import config, fingerprint, paths, rehearsal
from trimlab.errors import UserError


@pytest.fixture
def quick(project):
    return config.load(project / "params.yaml")


@pytest.fixture
def prepared(in_tmp):
    """The facts of a prepared dataset; no image is read."""
    facts = paths.dataset_file("digits").with_suffix(".json")
    facts.parent.mkdir(parents=True)
    facts.write_text('{"image_shape": [3, 32, 32], "classes": ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}')


@pytest.mark.parametrize(
    ("section", "key", "changes", "message"),
    [
        ("prune", None, {"ratio": 0.95}, r"prune\.ratio 0\.95 leaves conv1 whole: 0 of 16 channels would stay"),
        ("sweep", "r30", {"keep": ["conv9"]}, r"sweep\.r30\.keep 'conv9' matches no convolution or linear layer"),
        ("quantization", None, {"keep": ["stem"]}, r"quantization\.keep 'stem' matches no convolution or linear layer"),
    ],
)
def test_what_cannot_be_pruned_or_quantized_is_refused(section, key, changes, message, quick, prepared):
    old = getattr(quick, section)
    new = old.model_copy(update=changes) if key is None else {**old, key: old[key].model_copy(update=changes)}
    with pytest.raises(UserError, match=message) as error:
        rehearsal.rehearse(quick.model_copy(update={section: new}), "resnet20-digits")
    assert len(str(error.value).splitlines()) == 1


BRANCHING = """
import torch

class Branching(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv, self.fc = torch.nn.Conv2d(3, 8, 3), torch.nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc(x if x.sum() > 0 else -x)
"""


def of_own(model, **variant):
    """A study of one's own model."""
    files = {"code": f"{model.partition(':')[0]}.py", "initial": "data/none", "weights": "data/none"}
    return factories.study(
        datasets={"digits": {"source": "digits", "path": "data/none"}},
        workloads={"own": {"model": model, "dataset": "digits", "training": "training.short", **files}},
        variants={"own": {"workload": "own", "pruning": "sweep.none", **variant}},
        report={"title": "Own", "baseline": "own", "candidate": "own"},
    )


def test_an_operator_that_cannot_be_trained_for_int8_is_refused(prepared, in_tmp):
    (in_tmp / "summing.py").write_text(BRANCHING.replace("x if x.sum() > 0 else -x", "x.cumsum(1)"))
    rehearsal.rehearse(of_own("summing:Branching"), "own")
    with pytest.raises(UserError, match=r"^int8-qat cannot train through the operator CumSum"):
        rehearsal.rehearse(of_own("summing:Branching", precisions=["fp32", "int8-qat"]), "own")


def test_a_model_that_cannot_be_exported_is_refused(prepared, in_tmp, capfd):
    (in_tmp / "branches.py").write_text(BRANCHING)
    study = of_own("branches:Branching")
    with pytest.raises(UserError, match=r"torch's ONNX exporter does not take the model \(") as error:
        rehearsal.rehearse(study, "own")
    assert len(str(error.value).splitlines()) == 1
    assert capfd.readouterr() == ("", "")
    assert [line.partition(": ")[0] for line in rehearsal.problems(study)] == ["workloads.own"]


def test_a_rehearsal_draws_nothing_and_a_training_does_not_depend_on_its_code(quick, prepared, project):
    before = torch.get_rng_state()
    rehearsal.rehearse(quick, "resnet20-digits")
    assert torch.equal(before, torch.get_rng_state())
    assert "rehearsal" in fingerprint.EXEMPT
    assert not {name for name in fingerprint.closure("trimlab.train.stage") if ".prune" in name or ".quantize" in name}


def test_a_target_that_no_ratio_meets_is_refused_before_any_training(quick, prepared):
    point = config.PruningPoint(target={"params": 300}, epochs=1)
    with pytest.raises(UserError, match=r"prune\.target\.params 300 is not reached within 2%: the closest is") as error:
        rehearsal.rehearse(quick.model_copy(update={"prune": point}), "resnet20-digits")
    assert len(str(error.value).splitlines()) == 1
