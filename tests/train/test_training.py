"""Training: resumes to the bit, learns, augments without a loop, follows its schedule."""

import math
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import small_datasets
from trimlab import config, paths, records
from trimlab.data.dataset import IMAGENET, dataset_for, load_dataset
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.train import hardware, loop, precision, resume
from trimlab.train import stage as train_stage
from trimlab.train.precision import computing_in, resolve
from trimlab.train.schedule import learning_rate_at

RECIPE = config.Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=0.05,
    warmup=0.2,
    label_smoothing=0.1,
    low_resolution=[config.LowResolution(size=16, epochs=1)],
)


@pytest.fixture
def tiny():
    return small_datasets.tiny()


class Killed(Exception):
    pass


def fit(model, tiny, resumable, precision="fp32", **kwargs):
    return loop.fit(
        model, tiny, "test", RECIPE, precision, 0, resumable=resumable, label="tiny", on_epoch=lambda _: None, **kwargs
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("steps", "in_memory"), [(1, True), (4, True), (7, True), (11, True), (4, False), (7, False)])
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    steps, precision, in_memory, tiny, tmp_path, monkeypatch
):
    whole = registry.build("resnet20", 2)
    curve = fit(whole, tiny, tmp_path / "a" / "resume.safetensors", precision).curve
    dataset = tiny if in_memory else small_datasets.stored(tiny, tmp_path)

    monkeypatch.setattr(resume, "SAVE_EVERY_SECONDS", 0.0)
    step, taken = loop._Loop._step, []

    def dying(self, batch):
        if len(taken) == steps:
            raise Killed
        taken.append(None)
        step(self, batch)

    resumable = tmp_path / "b" / "resume.safetensors"
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(loop._Loop, "_step", dying)
        fit(registry.build("resnet20", 2), dataset, resumable, precision)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
    resumed = registry.build("resnet20", 2, seed=9)
    done = fit(resumed, dataset, resumable, precision)

    assert done.resumptions == 1
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert [epoch.train_loss for epoch in done.curve] == [epoch.train_loss for epoch in curve]


def test_training_learns(tiny, tmp_path):
    curve = fit(registry.build("resnet20", 2), tiny, tmp_path / "resume.safetensors").curve
    assert [epoch.image_size for epoch in curve] == [16, 32, 32]
    assert curve[-1].train_loss < curve[0].train_loss
    assert curve[-1].train_accuracy > 0.9


def test_a_diverging_training_ends_in_one_line(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(loop._Loop, "_loss", lambda self, logits, batch, inputs: logits.sum() * float("nan"))
    with pytest.raises(UserError, match=r"the loss is nan in epoch 1: lower the learning rate \(its peak is 0\.05\)"):
        fit(registry.build("resnet20", 2), tiny, tmp_path / "resume.safetensors")


def test_two_runs_of_a_seed_are_equal_and_two_seeds_are_not(tiny, tmp_path):
    def weights(seed, name):
        model = registry.build("resnet20", 2)
        loop.fit(
            model, tiny, "test", RECIPE, "fp32", seed,
            resumable=tmp_path / name / "resume.safetensors", label="tiny", on_epoch=lambda _: None,
        )  # fmt: skip
        return model.fc.weight

    assert torch.equal(weights(1, "a"), weights(1, "b"))
    assert not torch.equal(weights(1, "c"), weights(2, "d"))


@given(done=st.floats(0, 1), schedule=st.sampled_from(["cosine", "linear"]), warmup=st.floats(0, 0.5))
def test_the_learning_rate_stays_between_0_and_its_peak(done, schedule, warmup):
    recipe = RECIPE.model_copy(update={"schedule": schedule, "warmup": warmup})
    assert -1e-12 <= learning_rate_at(done, recipe) <= recipe.learning_rate + 1e-12


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_learning_rate_peaks_after_warm_up_and_ends_at_0(schedule):
    recipe = RECIPE.model_copy(update={"schedule": schedule})
    assert math.isclose(learning_rate_at(recipe.warmup, recipe), recipe.learning_rate)
    assert math.isclose(learning_rate_at(1.0, recipe), 0, abs_tol=1e-12)


def with_weights(study, file):
    workload = study.workloads["resnet20-digits"].model_copy(update={"weights": str(file)})
    return study.model_copy(update={"workloads": {**study.workloads, "resnet20-digits": workload}})


@pytest.mark.parametrize("name", ["given.safetensors", "given.pt"])
def test_given_weights_take_the_place_of_training(name, quick):
    model = registry.build("resnet20", 10, seed=3)
    if name.endswith(".pt"):
        torch.save({"state_dict": model.state_dict()}, name)
    else:
        checkpoint.save(model, paths.Path(name), {})
    record = train_stage.train_workload(with_weights(quick, name), "resnet20-digits", 0, on_epoch=lambda _: None)
    assert (record.origin, record.epochs, record.curve) == ("file", 0, [])
    written = checkpoint.load(paths.weights_file(paths.trained("resnet20-digits"), 0))
    assert torch.equal(written.fc.weight, model.fc.weight)
    assert records.read(paths.record_file(paths.trained("resnet20-digits"), 0)) == record


class Exploit:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda f: torch.save({"w": Exploit()}, f), "cannot be read without running code"),
        (lambda f: torch.save(registry.build("resnet20", 5).state_dict(), f), "5 classes, the dataset 10"),
        (lambda f: torch.save(registry.build("resnet18", 10).state_dict(), f), "do not fit resnet20"),
        (lambda f: f.write_bytes(b"PK\x03\x04 truncated"), "cannot be read"),
        (lambda f: torch.save([1, 2], f), "holds no state dict"),
    ],
)
def test_weights_that_do_not_fit_are_refused_in_one_line(write, message, quick, in_tmp, capsys):
    write(in_tmp / "given.pt")
    with pytest.raises(UserError, match=message) as error:
        train_stage.train_workload(with_weights(quick, "given.pt"), "resnet20-digits", 0, on_epoch=lambda _: None)
    assert len(str(error.value).splitlines()) == 1
    assert "code ran" not in capsys.readouterr().out


def test_weights_whose_outputs_overflow_are_refused(quick, in_tmp):
    state = registry.build("resnet20", 10).state_dict()
    huge = {key: torch.full_like(value, 1e7) if value.ndim > 1 else value for key, value in state.items()}
    torch.save({**huge, "bn1.bias": torch.full((16,), 1e7)}, in_tmp / "given.pt")
    with pytest.raises(UserError, match="its outputs are not finite"):
        train_stage.train_workload(with_weights(quick, "given.pt"), "resnet20-digits", 0, on_epoch=lambda _: None)


def test_too_many_calibration_images_are_refused_before_training(quick, monkeypatch):
    monkeypatch.setattr(loop, "fit", None)
    greedy = quick.model_copy(
        update={"quantization": quick.quantization.model_copy(update={"calibration_images": 5000})}
    )
    with pytest.raises(UserError, match=r"calibration_images 5000 is more than the \d+ training images"):
        train_stage.train_workload(greedy, "resnet20-digits", 0, on_epoch=lambda _: None)


def test_truncated_safetensors_are_refused(quick, in_tmp):
    checkpoint.save(registry.build("resnet20", 10), in_tmp / "given.safetensors", {})
    whole = (in_tmp / "given.safetensors").read_bytes()
    (in_tmp / "given.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="not a complete safetensors file"):
        train_stage.train_workload(
            with_weights(quick, "given.safetensors"), "resnet20-digits", 0, on_epoch=lambda _: None
        )


def pruned_in_one_layer():
    state = registry.build("resnet20", 10).state_dict()
    return {**state, "conv1.weight": state["conv1.weight"][:12]}


def one_channel():
    state = registry.build("resnet20", 10).state_dict()
    return {**state, "conv1.weight": state["conv1.weight"][:, :1]}


@pytest.mark.parametrize("weights", [pruned_in_one_layer, one_channel])
def test_weights_of_a_wrong_shape_are_refused_in_one_line(weights, quick, in_tmp):
    torch.save(weights(), in_tmp / "given.pt")
    with pytest.raises(UserError, match=r"resnet20 with weights given\.pt does not take 32×32 images") as error:
        train_stage.train_workload(with_weights(quick, "given.pt"), "resnet20-digits", 0, on_epoch=lambda _: None)
    assert len(str(error.value).splitlines()) == 1


def test_a_training_killed_after_its_record_ends_at_once_and_alike(quick, monkeypatch):
    recipe = quick.training["digits"].model_copy(update={"epochs": 1})
    short = quick.model_copy(update={"training": {"digits": recipe}})
    first = train_stage.train_workload(short, "resnet20-digits", 0, on_epoch=lambda _: None)
    monkeypatch.setattr(loop._Loop, "_step", None)  # a step would fail
    again = train_stage.train_workload(short, "resnet20-digits", 0, on_epoch=lambda _: None)
    assert (again.weights_sha256, again.resumptions, again.curve) == (first.weights_sha256, 0, first.curve)
    assert list((paths.project_root() / paths.STATE).glob("*.done"))
    paths.forget_finished()
    assert not list((paths.project_root() / paths.STATE).glob("*.*"))


def test_a_damaged_checkpoint_starts_anew(tiny, tmp_path):
    resumable = tmp_path / "resume.safetensors"
    resumable.write_bytes(b"damaged")
    assert len(fit(registry.build("resnet20", 2), tiny, resumable).curve) == RECIPE.epochs


@pytest.mark.parametrize("param", ["fp32", "tf32"])
def test_fp32_on_a_cpu_is_fp32(param, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve(param) == "fp32"


@pytest.mark.parametrize(
    ("param", "native", "fast", "meaning"),
    [
        ("amp", True, True, "bf16"),
        ("amp", True, False, "bf16"),
        ("amp", False, False, "fp32"),
        ("auto", True, True, "bf16"),
        ("auto", True, False, "fp32"),
        ("auto", False, False, "fp32"),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_is_native_and_by_itself_where_it_is_faster(
    param, native, fast, meaning, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "has_native_bf16", lambda: native)
    monkeypatch.setattr(precision, "has_fast_bf16", lambda: fast)
    assert resolve(param) == meaning


PRODUCTS = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_a_precision_holds_in_its_block_alone(precision):
    before = [setting.fp32_precision for setting in PRODUCTS]
    with computing_in(precision):
        inside = [setting.fp32_precision for setting in PRODUCTS]
    assert inside == ["tf32" if precision == "tf32" else "ieee"] * 2
    assert [setting.fp32_precision for setting in PRODUCTS] == before


def test_backward_passes_multiply_as_forward_ones_do(tiny, tmp_path):
    model, seen = registry.build("resnet20", 2), set()
    model.conv1.weight.register_hook(lambda gradient: seen.add(PRODUCTS[0].fp32_precision))
    fit(model, tiny, tmp_path / "resume.safetensors", "tf32")
    assert seen == {"tf32"}


def test_a_checkpoint_belongs_to_the_code_precision_and_torch_that_made_it(in_tmp, monkeypatch):
    def file(precision="fp32", *identity):
        return resume.resumable_file("trimlab.train.stage", precision, *identity)

    first = file()
    assert file() == first
    assert len({first, file("bf16"), file("fp32", "another seed")}) == 3
    assert resume.resumable_file("trimlab.prune.stage", "fp32") != first
    with monkeypatch.context() as patched:
        patched.setattr(torch, "__version__", "99.0")
        assert file() != first
    monkeypatch.setattr(resume.fingerprint, "of", lambda module: "edited")
    assert file() != first


def test_old_weights_are_not_taken_for_a_result_of_edited_code(quick, monkeypatch):
    recipe = quick.training["digits"].model_copy(update={"epochs": 1})
    short = quick.model_copy(update={"training": {"digits": recipe}})
    train_stage.train_workload(short, "resnet20-digits", 0, on_epoch=lambda _: None)
    steps, step = [], loop._Loop._step
    monkeypatch.setattr(loop._Loop, "_step", lambda *given: (steps.append(None), step(*given)))
    monkeypatch.setattr(resume.fingerprint, "of", lambda module: "edited")
    train_stage.train_workload(short, "resnet20-digits", 0, on_epoch=lambda _: None)
    assert steps


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system can't reset a process's peak memory")
def test_peak_memory_is_that_of_one_seed():
    hardware.forget_peak_memory()
    before = hardware.peak_memory_bytes()
    held = torch.ones(50_000_000)
    assert hardware.peak_memory_bytes() > before + 150e6
    del held
    hardware.forget_peak_memory()
    assert hardware.peak_memory_bytes() < before + 100e6


def test_a_record_holds_the_figures_of_every_class(quick):
    checkpoint.save(registry.build("resnet20", 10, seed=3), paths.Path("given.safetensors"), {})
    study = with_weights(quick, "given.safetensors")
    record = train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)
    assert record.class_names == load_dataset("digits").classes
    assert sum(counts.images for counts in record.per_class) == record.num_images
    assert sum(counts.correct for counts in record.per_class) == round(record.top1_accuracy * record.num_images)
    assert record.top1_accuracy <= record.top5_accuracy <= 1
    assert 0 <= record.macro_f1 <= 1
    outcome = records.read_outcome(paths.outcome_file(paths.trained("resnet20-digits"), 0))
    assert outcome["per_class"] == [counts.model_dump() for counts in record.per_class]


def test_later_stages_run_again_after_other_params_though_the_weights_are_equal(quick):
    """What later stages depend on is the same for equal params, and another for a recipe that fine-tuning follows."""
    checkpoint.save(registry.build("resnet20", 10, seed=3), paths.Path("given.safetensors"), {})
    study = with_weights(quick, "given.safetensors")
    smoothed = study.recipe("resnet20-digits").model_copy(update={"label_smoothing": 0.3})
    name = study.workloads["resnet20-digits"].training.removeprefix("training.")
    other = study.model_copy(update={"training": {**study.training, name: smoothed}})
    written = []
    for each in (study, study, other):
        train_stage.train_workload(each, "resnet20-digits", 0, on_epoch=lambda _: None)
        written.append(paths.outcome_file(paths.trained("resnet20-digits"), 0).read_bytes())
    first, again, changed = written
    assert first == again
    assert first != changed
    assert study.pruning_digest("candidate") != other.pruning_digest("candidate")


def test_given_weights_are_scored_as_they_were_normalised(quick):
    model = registry.build("resnet20", 10, seed=3)
    checkpoint.save(model, paths.Path("given.safetensors"), {})
    study = with_weights(quick, "given.safetensors")

    def record(normalisation):
        workload = study.workloads["resnet20-digits"].model_copy(update={"normalisation": normalisation})
        own = study.model_copy(update={"workloads": {**study.workloads, "resnet20-digits": workload}})
        return train_stage.train_workload(own, "resnet20-digits", 0, on_epoch=lambda _: None)

    own, imagenet = record("dataset"), record("imagenet")
    digits = load_dataset("digits")
    images, labels = digits.test_images, digits.test_labels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET.mean, IMAGENET.std))
    with torch.no_grad():
        expected = model.eval()((images.float() / 255 - mean) / std).argmax(1)
    assert imagenet.top1_accuracy == pytest.approx(float((expected == labels).double().mean()), abs=0.003)
    assert imagenet.normalisation.mean == pytest.approx(IMAGENET.mean)
    assert own.normalisation.mean == pytest.approx(load_dataset("digits").mean.tolist())
    assert own.params_digest != imagenet.params_digest


def test_a_normalisation_of_other_channels_is_refused(quick):
    values = config.Normalisation(mean=[0.5], std=[0.5])
    workload = quick.workloads["resnet20-digits"].model_copy(update={"normalisation": values})
    with pytest.raises(UserError, match="1 channels, the images of digits 3: give one value a channel"):
        dataset_for(workload)
