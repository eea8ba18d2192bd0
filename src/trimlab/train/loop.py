"""Training and fine-tuning by one loop: SGD or AdamW, AMP, resumable to the bit on a CPU.

Nothing random is kept between steps: order, augmentation and dropout of a step are drawn from (seed, epoch, step). So a
resumable checkpoint is weights, their average, the optimizer's state and a position, written between two optimizer
steps, and a killed run ends where an uninterrupted one does.
"""

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from trimlab import progress
from trimlab.config import Recipe
from trimlab.data.dataset import Dataset
from trimlab.errors import UserError
from trimlab.records import Epoch
from trimlab.train import evaluate, hardware, onednn, resume, soft_labels
from trimlab.train.averaging import averaged
from trimlab.train.balance import balanced_order, class_weights, cross_entropy
from trimlab.train.batches import Batch, Batches, seed_of
from trimlab.train.distill import Teacher, soft_loss, soften
from trimlab.train.optimizer import optimizer_of, take_step
from trimlab.train.precision import UsedPrecision, computing_in, fp32_products
from trimlab.train.regularizer import Regularizer
from trimlab.train.resume import Position
from trimlab.train.schedule import learning_rate_at

OnEpoch = Callable[[Epoch], None]


def fit(
    model: nn.Module,
    dataset: Dataset,
    split: str,
    recipe: Recipe,
    precision: UsedPrecision,
    seed: int,
    *,
    resumable: Path,
    label: str,
    on_epoch: OnEpoch,
    teacher: Teacher | None = None,
    regularizer: Regularizer | None = None,
) -> Position:
    """Train a model in place and return how it went; goes on from the checkpoint `resumable` where it exists.

    Args:
        model: any classifier of (N, C, H, W) images.
        dataset: what to train on.
        split: `test` trains on the whole training set, `holdout` on the rest of it.
        recipe: epochs, learning rate and so on.
        precision: what to compute in.
        seed: decides order and augmentation.
        resumable: the checkpoint's file; put aside by `finish`, not here, so that a kill after the last epoch
            loses nothing.
        label: what the progress bar says.
        on_epoch: called after every epoch, for those before a resume as well.
        teacher: the unpruned model, for distillation.
        regularizer: of the model, adds a penalty.
    """
    loop = _Loop(model, dataset, split, recipe, precision, seed, resumable, label, teacher, regularizer)
    loop.restore()
    for epoch in loop.position.curve:
        on_epoch(epoch)
    with onednn.sliced(model) if loop.device.type == "cpu" else nullcontext():
        while loop.position.epoch < recipe.epochs:
            on_epoch(loop.run_epoch())
    if loop.average is not None:
        model.load_state_dict(loop.average.module.state_dict())
    return loop.position


class _Loop:
    """A training in progress: model, optimizer and position, and the checkpoint that holds all three."""

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        split: str,
        recipe: Recipe,
        precision: UsedPrecision,
        seed: int,
        resumable: Path,
        label: str,
        teacher: Teacher | None,
        regularizer: Regularizer | None,
    ) -> None:
        self.device = hardware.device()
        self.model = cast(nn.Module, model.to(self.device, memory_format=torch.channels_last)).train()  # type: ignore[call-overload]
        self.teacher, self.regularizer = teacher, regularizer
        if teacher is not None:
            teacher.model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.dataset, self.split, self.recipe, self.precision = dataset, split, recipe, precision
        self.seed, self.resumable, self.label = seed, resumable, label
        self.optimizer = optimizer_of(model, recipe)
        self.average = averaged(self.model, recipe.ema) if recipe.ema else None
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        order = balanced_order if recipe.balance == "sampling" else None
        cached = None
        if teacher is not None and teacher.cache:
            cached = soft_labels.cached(teacher, dataset, split, bool(recipe.flip), precision, label)
        self.batches = Batches(dataset, split, recipe, seed, self.device, order, cached)
        self.class_weights = self._class_weights()
        self.position = Position()
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.saved_at = time.monotonic()
        self.started = time.perf_counter()

    @property
    def kept(self) -> nn.Module:
        """The model that is evaluated and kept: the average, where the recipe asks for one."""
        return self.model if self.average is None else self.average.module

    def run_epoch(self) -> Epoch:
        """Finish the current epoch."""
        at = self.position
        name = f"{self.label} epoch {at.epoch + 1}/{self.recipe.epochs}"
        self.started = time.perf_counter()
        with closing(self.batches.of_epoch(at.epoch, at.step)) as batches:
            for batch in progress.bar(batches, name, start=at.step, total=self.batches.steps):
                self._step(batch)
                at.step += 1
                between_steps = at.step % self.recipe.accumulate == 0
                if between_steps and time.monotonic() - self.saved_at > resume.SAVE_EVERY_SECONDS:
                    self._collect()
                    self.save()
                    self.started = time.perf_counter()
        self._collect()
        return self._end_epoch()

    def _collect(self) -> None:
        """Stop the clock and fetch the sums. It waits for a GPU's queue, so it is called once in a while only."""
        at = self.position
        at.loss_sum, at.correct = self.sums.tolist()
        at.seconds += time.perf_counter() - self.started
        # In fp16 the scaler skips a step whose loss overflowed; nothing recovers from not-a-number.
        if math.isnan(at.loss_sum) or (math.isinf(at.loss_sum) and self.precision != "fp16"):
            raise UserError(
                f"{self.label}: the loss is {at.loss_sum} in epoch {at.epoch + 1}: "
                f"lower the learning rate (its peak is {self.recipe.learning_rate})"
            )

    def _end_epoch(self) -> Epoch:
        at, trained = self.position, self.batches.images_per_epoch
        last = at.epoch + 1 == self.recipe.epochs
        scored = last or (at.epoch + 1) % self.recipe.evaluate_every == 0
        epoch = Epoch(
            epoch=at.epoch + 1,
            image_size=self.batches.image_size(at.epoch),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            train_loss=at.loss_sum / self.batches.steps,
            train_accuracy=at.correct / trained,
            top1_accuracy=self._score() if scored else None,
            seconds=at.seconds,
            images_per_second=trained / at.seconds,
        )
        self.position = Position(epoch=at.epoch + 1, resumptions=at.resumptions, curve=[*at.curve, epoch])
        self.sums.zero_()
        if self.regularizer is not None:
            self.regularizer.end_epoch()
        self.save()
        top1 = "" if epoch.top1_accuracy is None else f", top-1 {epoch.top1_accuracy:.2%}"
        progress.say(
            f"{self.label}: epoch {epoch.epoch}/{self.recipe.epochs}, loss {epoch.train_loss:.3f}, "
            f"{epoch.images_per_second:.0f} images/s{top1}"
        )
        return epoch

    def _score(self) -> float:
        found = evaluate.predict_images(self.kept, self.dataset, self.dataset.scored(self.split), self.precision)
        return evaluate.top1_accuracy(found, self.dataset, self.split)

    def _step(self, batch: Batch) -> None:
        at = self.position
        torch.manual_seed(seed_of(self.seed, at.epoch, at.step + 1))  # dropout, where a model has it
        inputs = self.dataset.normalise(batch.images).contiguous(memory_format=torch.channels_last)
        with computing_in(self.precision):
            logits = self.model(inputs)
            loss = self._loss(logits, batch, inputs)
        self._learn(loss, len(batch.labels))
        right = (logits.detach().argmax(1) == batch.labels).sum()
        self.sums += torch.stack([loss.detach().double(), right.double()])

    def _learn(self, loss: Tensor, count: int) -> None:
        """Add a batch's gradients; after the last batch of a group, take the optimizer's step.

        Args:
            loss: mean over the batch's images.
            count: of these images.
        """
        at, recipe, steps = self.position, self.recipe, self.batches.steps
        first = at.step - at.step % recipe.accumulate
        after = min(first + recipe.accumulate, steps)
        images = min(self.batches.images_per_epoch, after * recipe.batch_size) - first * recipe.batch_size
        if at.step == first:
            groups = math.ceil(steps / recipe.accumulate)
            self._set_learning_rate((at.epoch * groups + first // recipe.accumulate) / (recipe.epochs * groups))
            self.optimizer.zero_grad(set_to_none=True)
        with fp32_products(self.precision):
            torch.autograd.backward(self.scaler.scale(loss * (count / images)))
        if at.step + 1 == after:
            take_step(self.optimizer, self.scaler, recipe.clip_norm, self.regularizer)
            if self.average is not None:
                self.average.update_parameters(self.model)

    def _loss(self, logits: Tensor, batch: Batch, inputs: Tensor) -> Tensor:
        hard = cross_entropy(logits.float(), batch.targets, self.recipe.label_smoothing, self.class_weights)
        if self.teacher is None:
            return hard
        weight, temperature, soft = self.teacher.weight, self.teacher.temperature, batch.soft
        if soft is None:
            with torch.no_grad():
                soft = soften(self.teacher.model(inputs), temperature)
        return (1 - weight) * hard + weight * soft_loss(logits.float(), soft, temperature)

    def _set_learning_rate(self, done: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(done, self.recipe)

    def _class_weights(self) -> Tensor | None:
        if self.recipe.balance != "weights":
            return None
        labels = self.dataset.trained_on(self.split).labels
        return class_weights(labels, self.dataset.num_classes).to(self.device)

    def _modules(self) -> dict[str, nn.Module]:
        modules = {"model": self.model, "average": self.average, "regularizer": self.regularizer}
        return {name: module for name, module in modules.items() if module is not None}

    def save(self) -> None:
        """Write the resumable checkpoint."""
        resume.save(self.resumable, self._modules(), self.optimizer, self.scaler, self.position)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the resumable checkpoint, if there is one."""
        found = resume.restore(self.resumable, self._modules(), self.optimizer, self.scaler, self.label)
        if found is None:
            return
        self.position = found
        self.position.resumptions += found.epoch < self.recipe.epochs
        self.sums = torch.tensor([found.loss_sum, found.correct], dtype=torch.float64).to(self.device)
        progress.say(f"{self.label}: going on at epoch {found.epoch + 1}, step {found.step}")
