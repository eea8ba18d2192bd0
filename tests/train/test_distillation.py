"""Distillation: soft labels of each batch, or of each image, cached."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import small_datasets
from trimlab import config, paths
from trimlab.models import checkpoint, registry
from trimlab.prune import stage as prune_stage
from trimlab.train import loop, soft_labels
from trimlab.train import stage as train_stage
from trimlab.train.batches import Batches
from trimlab.train.distill import Teacher, soft_loss, soften
from trimlab.train.soft_labels import SoftLabels

CPU = torch.device("cpu")
STILL = {"epochs": 2, "batch_size": 24, "learning_rate": 0.05, "crop_padding": 0}
"""Without an augmentation but mirroring, cached labels are those of what the student sees."""


class Lopsided(nn.Module):
    """A teacher whose answer changes when its image is mirrored."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.calls, self.scale = 0, scale

    def forward(self, images):
        self.calls += 1
        return torch.stack([images[:, 0, :, :8].mean((1, 2)), images[:, 0, :, 8:].mean((1, 2))], 1) * self.scale


@pytest.fixture
def tiny():
    return small_datasets.tiny()


def teacher(folder, model=None, weight=1.0, temperature=2.0):
    return Teacher(model or registry.build("resnet20", 2, seed=5), weight, temperature, folder and folder / "soft.done")


def student(dataset, taught, folder, split="test", **values):
    model = registry.build("resnet20", 2)
    done = loop.fit(
        model, dataset, split, config.Recipe.model_validate({**STILL, **values}), "fp32", 3,
        resumable=folder / "resume.safetensors", label="tiny", on_epoch=lambda _: None, teacher=taught,
    )  # fmt: skip
    return model.state_dict(), done


def differ(one, other):
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


@given(seed=st.integers(0, 99), temperature=st.floats(0.5, 8))
@settings(max_examples=20)
def test_the_soft_loss_is_the_divergence_and_least_for_the_teachers_own_logits(seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    own, other = torch.randn(2, 6, 4, generator=generator)
    soft = soften(own, temperature)
    expected = (soft * (soft.log() - F.log_softmax(other / temperature, 1))).sum(1).mean() * temperature**2
    torch.testing.assert_close(soft_loss(other, soft, temperature), expected, rtol=1e-3, atol=1e-5)
    assert soft_loss(own, soft, temperature) < 1e-5


def test_a_class_that_the_teacher_rules_out_gives_a_finite_loss():
    soft = soften(torch.tensor([[0.0, -65504.0]]), 1.0)
    assert torch.isfinite(soft_loss(torch.tensor([[1.0, 2.0]]), soft, 1.0))


@pytest.mark.parametrize("values", [{"flip": False}, {"flip": True}, {"flip": "alternating"}])
def test_cached_labels_teach_what_fresh_ones_do_where_images_are_mirrored_alone(values, tiny, tmp_path):
    fresh, _ = student(tiny, teacher(None), tmp_path / "a", **values)
    cached, _ = student(tiny, teacher(tmp_path), tmp_path / "b", **values)
    others, _ = student(tiny, teacher(None, registry.build("resnet20", 2, seed=6)), tmp_path / "c", **values)
    assert differ(fresh, cached) < 0.1 * differ(fresh, others)


@pytest.mark.parametrize("split", ["test", "holdout"])
@pytest.mark.parametrize("flip", [True, False])
def test_a_batch_has_the_labels_of_its_images_as_they_are_mirrored(flip, split, tiny, tmp_path):
    model = Lopsided()
    labels = soft_labels.cached(teacher(tmp_path, model), tiny, split, flip, "fp32", "tiny")
    chosen = config.Recipe.model_validate({**STILL, "flip": flip})
    for batch in Batches(tiny, split, chosen, 0, CPU, soft_labels=labels).of_epoch(1):
        expected = soften(model(tiny.normalise(batch.images)), 2.0)
        torch.testing.assert_close(batch.soft, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("values", [{"mixup": 1.0}, {"cutmix": 1.0}])
def test_the_labels_of_mixed_images_are_mixed_alike(values, tiny):
    certain = F.one_hot(tiny.train_labels, 2)[:, None].half() * 1000
    chosen = config.Recipe.model_validate({**STILL, **values})
    for batch in Batches(tiny, "test", chosen, 0, CPU, soft_labels=SoftLabels(certain, 1.0)).of_epoch(0):
        torch.testing.assert_close(batch.soft, batch.targets)
        assert 0.05 < batch.targets.min() < 0.95 or batch.targets.unique().numel() > 1


def test_the_teacher_sees_each_image_once_and_its_mirror_image_once(tiny, tmp_path):
    model = Lopsided()
    student(tiny, teacher(tmp_path, model), tmp_path)
    assert model.calls == 2  # 64 images, in one batch
    student(tiny, teacher(tmp_path, model), tmp_path / "another", crop_padding=2)
    assert model.calls == 2


def test_logits_of_any_size_are_kept(tiny, tmp_path):
    labels = soft_labels.cached(teacher(tmp_path, Lopsided(1e7)), tiny, "test", True, "fp32", "tiny")
    assert torch.isfinite(labels.logits).all()
    found = labels.of(torch.arange(64), torch.arange(64) % 2 == 0)
    torch.testing.assert_close(found.sum(1), torch.ones(64))


def test_a_damaged_file_of_soft_labels_is_written_again(tiny, tmp_path):
    whole = soft_labels.cached(teacher(tmp_path, Lopsided()), tiny, "test", True, "fp32", "tiny").logits.clone()
    (tmp_path / "soft.done").write_bytes(b"damaged")
    again = soft_labels.cached(teacher(tmp_path, Lopsided()), tiny, "test", True, "fp32", "tiny").logits
    assert torch.equal(whole, again)


@pytest.mark.parametrize("values", [{}, {"mixup": 0.5, "cutmix": 0.5}])
def test_images_in_memory_and_in_a_file_are_taught_alike(values, tiny, tmp_path):
    here, _ = student(tiny, teacher(tmp_path / "a"), tmp_path / "a", "holdout", **values)
    stored = small_datasets.stored(tiny, tmp_path)
    there, _ = student(stored, teacher(tmp_path / "b"), tmp_path / "b", "holdout", **values)
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_killed_distillation_ends_with_the_weights_of_an_uninterrupted_one(steps, kept, tiny, tmp_path, monkeypatch):
    whole, _ = student(tiny, teacher(tmp_path / "a"), tmp_path / "a", crop_padding=2, weight_decay=0.0)
    monkeypatch.setattr(loop.resume, "SAVE_EVERY_SECONDS", -1.0)
    step, taken = loop._Loop._step, []

    def dying(self, batch):
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(None)
        step(self, batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop._Loop, "_step", dying)
        student(tiny, teacher(tmp_path / "b"), tmp_path / "b", crop_padding=2, weight_decay=0.0)
    if not kept:
        (tmp_path / "b" / "soft.done").unlink()
    resumed, done = student(tiny, teacher(tmp_path / "b"), tmp_path / "b", crop_padding=2, weight_decay=0.0)
    assert done.resumptions == 1
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_fully_weighted_teacher_replaces_the_labels(tiny, tmp_path):
    swapped = replace(tiny, train_labels=1 - tiny.train_labels)
    for cache in (None, tmp_path):
        one, _ = student(tiny, teacher(cache), tmp_path / f"{cache is None}-a")
        two, _ = student(swapped, teacher(cache), tmp_path / f"{cache is None}-b")
        assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_variants_of_a_workload_share_the_labels_until_the_report_is_rendered(quick, in_tmp, monkeypatch):
    point = quick.prune.model_copy(update={"soft_labels": "cached", "epochs": 1})
    study = quick.model_copy(update={"prune": point, "sweep": {**quick.sweep, "r30": point, "r60": point}})
    checkpoint.save(registry.build("resnet20", 10), paths.Path("given.safetensors"), {})
    given = study.workloads["resnet20-digits"].model_copy(update={"weights": "given.safetensors"})
    study = study.model_copy(update={"workloads": {**study.workloads, "resnet20-digits": given}})
    train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)
    computed, compute = [], soft_labels._computed
    monkeypatch.setattr(soft_labels, "_computed", lambda *given: computed.append(1) or compute(*given))

    def prune(variant):
        prune_stage.prune_variant(study, variant, 0, on_epoch=lambda _: None)
        return len(computed)

    assert [prune("resnet20-digits-r30"), prune("candidate")] == [1, 1]
    paths.forget_finished()
    assert list((in_tmp / paths.STATE).glob("*.safetensors")) == []
    assert prune("resnet20-digits-r60") == 2
