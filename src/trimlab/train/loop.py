"""Training and fine-tuning by one loop: SGD, AMP, resumable to the bit on a CPU.

Nothing random is kept between steps: order, augmentation and dropout of a step are drawn from (seed, epoch, step). So a
resumable checkpoint is weights, momentum and a position, and a killed run ends where an uninterrupted one does.
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trimlab import progress
from trimlab.config import Recipe
from trimlab.data.dataset import Dataset
from trimlab.digests import digest_of
from trimlab.errors import UserError
from trimlab.records import Epoch
from trimlab.train import evaluate, hardware, onednn, resume
from trimlab.train.augment import augment, resize
from trimlab.train.distill import Teacher, soft_loss
from trimlab.train.precision import UsedPrecision, computing_in, fp32_products
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
    """
    loop = _Loop(model, dataset, split, recipe, precision, seed, resumable, label, teacher)
    loop.restore()
    for epoch in loop.position.curve:
        on_epoch(epoch)
    with onednn.sliced(model) if loop.device.type == "cpu" else nullcontext():
        while loop.position.epoch < recipe.epochs:
            on_epoch(loop.run_epoch())
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
    ) -> None:
        self.device = hardware.device()
        self.model = cast(nn.Module, model.to(self.device, memory_format=torch.channels_last)).train()  # type: ignore[call-overload]
        self.teacher = teacher
        if teacher is not None:
            teacher.model.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.dataset, self.split, self.recipe, self.precision = dataset, split, recipe, precision
        self.seed, self.resumable, self.label = seed, resumable, label
        self.optimizer = _optimizer(model, recipe)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision == "fp16")
        images, labels = dataset.trained_on(split)
        self.native = images.shape[-1]
        self.images, self.labels = {self.native: images.to(self.device)}, labels.to(self.device)
        self.position = Position()
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)
        self.saved_at = time.monotonic()
        self.started = time.perf_counter()

    @property
    def steps(self) -> int:
        """Steps an epoch; a last batch of one image is left out (BatchNorm cannot take it)."""
        count, size = len(self.labels), self.recipe.batch_size
        return count // size + (count % size > 1)

    def run_epoch(self) -> Epoch:
        """Finish the current epoch."""
        at = self.position
        size = self._image_size(at.epoch)
        images, order = self._images_at(size), self._order(at.epoch)
        name = f"{self.label} epoch {at.epoch + 1}/{self.recipe.epochs}"
        batches = torch.split(order, self.recipe.batch_size)[at.step : self.steps]
        self.started = time.perf_counter()
        for batch in progress.bar(batches, name, start=at.step, total=self.steps):
            self._step(images, batch.to(self.device))
            at.step += 1
            if time.monotonic() - self.saved_at > resume.SAVE_EVERY_SECONDS:
                self._collect()
                self.save()
                self.started = time.perf_counter()
        self._collect()
        return self._end_epoch(size)

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

    def _end_epoch(self, size: int) -> Epoch:
        at = self.position
        trained = min(len(self.labels), self.steps * self.recipe.batch_size)
        last = at.epoch + 1 == self.recipe.epochs
        scored = last or (at.epoch + 1) % self.recipe.evaluate_every == 0
        epoch = Epoch(
            epoch=at.epoch + 1,
            image_size=size,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            train_loss=at.loss_sum / self.steps,
            train_accuracy=at.correct / trained,
            top1_accuracy=self._score() if scored else None,
            seconds=at.seconds,
            images_per_second=trained / at.seconds,
        )
        self.position = Position(epoch=at.epoch + 1, resumptions=at.resumptions, curve=[*at.curve, epoch])
        self.sums.zero_()
        self.save()
        top1 = "" if epoch.top1_accuracy is None else f", top-1 {epoch.top1_accuracy:.2%}"
        progress.say(
            f"{self.label}: epoch {epoch.epoch}/{self.recipe.epochs}, loss {epoch.train_loss:.3f}, "
            f"{epoch.images_per_second:.0f} images/s{top1}"
        )
        return epoch

    def _score(self) -> float:
        images, labels = self.dataset.scored(self.split)
        found = evaluate.predict_images(self.model, self.dataset, images, self.precision)
        return float((found == labels).double().mean())

    def _step(self, images: Tensor, batch: Tensor) -> None:
        at, recipe = self.position, self.recipe
        draw = torch.Generator().manual_seed(_mix(self.seed, at.epoch, at.step + 1))
        torch.manual_seed(_mix(self.seed, at.epoch, at.step + 1))  # dropout, where a model has it
        self._set_learning_rate((at.epoch * self.steps + at.step) / (recipe.epochs * self.steps))
        padding = math.ceil(recipe.crop_padding * images.shape[-1] / self.native)
        pixels = augment(images[batch], padding, recipe.flip, draw)
        inputs = self.dataset.normalise(pixels).contiguous(memory_format=torch.channels_last)
        with computing_in(self.precision):
            logits = self.model(inputs)
            loss = self._loss(logits, self.labels[batch], inputs)
        self.optimizer.zero_grad(set_to_none=True)
        with fp32_products(self.precision):
            torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        right = (logits.detach().argmax(1) == self.labels[batch]).sum()
        self.sums += torch.stack([loss.detach().double(), right.double()])

    def _loss(self, logits: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
        hard = F.cross_entropy(logits.float(), labels, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is None:
            return hard
        with torch.no_grad():
            targets = self.teacher.model(inputs).float()
        return (1 - self.teacher.weight) * hard + self.teacher.weight * soft_loss(
            logits.float(), targets, self.teacher.temperature
        )

    def _set_learning_rate(self, done: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(done, self.recipe)

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(_mix(self.seed, epoch, 0))
        return torch.randperm(len(self.labels), generator=generator)

    def _image_size(self, epoch: int) -> int:
        for stage in self.recipe.low_resolution:
            if epoch < stage.epochs:
                return stage.size
            epoch -= stage.epochs
        return self.native

    def _images_at(self, size: int) -> Tensor:
        """Return the training images at a size, resized once, not at every step."""
        if size not in self.images:
            chunks = torch.split(self.images[self.native], 2000)
            small = [resize(chunk, size) for chunk in chunks]
            self.images = {self.native: self.images[self.native], size: torch.cat(small)}
        return self.images[size]

    def save(self) -> None:
        """Write the resumable checkpoint."""
        resume.save(self.resumable, self.model, self.optimizer, self.scaler, self.position)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the resumable checkpoint, if there is one."""
        found = resume.restore(self.resumable, self.model, self.optimizer, self.scaler, self.label)
        if found is None:
            return
        self.position = found
        self.position.resumptions += found.epoch < self.recipe.epochs
        self.sums = torch.tensor([found.loss_sum, found.correct], dtype=torch.float64).to(self.device)
        progress.say(f"{self.label}: going on at epoch {found.epoch + 1}, step {found.step}")


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.SGD:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    # Norms and biases have one dimension; decaying them costs accuracy and regularises nothing.
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def _mix(seed: int, epoch: int, step: int) -> int:
    """Return one number for a position in training."""
    return int(digest_of(seed, epoch, step)[:15], 16)
