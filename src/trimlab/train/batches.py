"""Batches of an epoch, augmented: the same ones, whether the images are in memory or in a file.

Order and augmentation of a step are drawn from (seed, epoch, step): an epoch can start at any step.
"""

import math
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.config import Recipe
from trimlab.data.dataset import MEMORY_SHARE, Dataset, Images
from trimlab.digests import digest_of
from trimlab.errors import UserError
from trimlab.train.augment import augment, resize
from trimlab.train.mix import mix
from trimlab.train.prefetch import ahead
from trimlab.train.soft_labels import SoftLabels

Order = Callable[[Tensor, int, int], Tensor]
"""Draws an epoch's order, (N,) positions, from labels (N,), the training's seed and the epoch (from 0)."""


class Batch(NamedTuple):
    """The images of a step, on the device that trains."""

    images: Tensor
    """(B, C, H, W) uint8, augmented."""
    labels: Tensor
    """(B,) int64: those that weigh most, where images are mixed."""
    targets: Tensor
    """What the loss compares with: the labels, or the share of each class where images are mixed, (B, classes)."""
    soft: Tensor | None
    """The teacher's softened labels (B, classes) float32, where they are cached."""


class Batches:
    """A training set, a batch at a time."""

    def __init__(
        self,
        dataset: Dataset,
        split: str,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        order: Order | None = None,
        soft_labels: SoftLabels | None = None,
    ) -> None:
        """Copy the images to the device, if they fit there.

        Args:
            dataset: what to train on.
            split: `test` trains on the whole training set, `holdout` on the rest of it.
            recipe: batch size, augmentation and so on.
            seed: decides order and augmentation.
            device: where batches are wanted.
            order: draws the order of an epoch; by default `shuffled`.
            soft_labels: of the images trained on, for distillation from cached ones.

        Raises:
            UserError: cutout would leave nothing of an image.
        """
        side = min(dataset.image_shape[1:])
        if recipe.cutout >= side:
            raise UserError(f"cutout {recipe.cutout} can cover images of {dataset.name}: lower it below {side}")
        self._subset, self._recipe, self._seed, self._device = dataset.trained_on(split), recipe, seed, device
        self._order, self._native, self._num_classes = order or shuffled, dataset.image_shape[-1], dataset.num_classes
        self._labels, self._soft_labels = self._subset.labels.to(device), soft_labels
        self._mirrored_first = torch.rand(len(self._subset), generator=_drawing(seed, -1, 0)) < 0.5
        self._resident = _resident(self._subset.images, self._native, device)

    @property
    def steps(self) -> int:
        """Steps an epoch; a last batch of one image is left out (BatchNorm cannot take it)."""
        return math.ceil(self.images_per_epoch / self._recipe.batch_size)

    @property
    def images_per_epoch(self) -> int:
        """Images in the steps of an epoch."""
        return images_per_epoch(len(self._labels), self._recipe.batch_size)

    def image_size(self, epoch: int) -> int:
        """Return height and width of an epoch's images, in pixels."""
        return image_size(self._recipe, epoch, self._native)

    def of_epoch(self, epoch: int, start: int = 0) -> Generator[Batch, None, None]:
        """Yield the batches of an epoch (from 0), from the step `start` on.

        Images that are not on the device are read in a thread, which ends when the iterator is closed. It does not
        augment them: on a CPU it would take a core from the training while that waits for all of them.
        """
        positions = torch.split(self._order(self._subset.labels, self._seed, epoch), self._recipe.batch_size)
        size = self.image_size(epoch)
        if self._resident:
            self._resize_all(size)

        def read(step: int) -> Tensor:
            return self._images(positions[step], size)

        steps = range(start, self.steps)
        with nullcontext(map(read, steps)) if self._resident else closing(ahead(read, steps)) as found:
            for step, images in zip(steps, found, strict=True):
                if images.shape[-1] != size:
                    images = resize(images, size)
                yield self._batch(images, positions[step], epoch, _drawing(self._seed, epoch, step + 1))

    def _resize_all(self, size: int) -> None:
        """Resize images in memory once, not at every step; larger ones than the dataset's might not fit."""
        if size < self._native and size not in self._resident:
            small = [resize(chunk, size) for chunk in torch.split(self._resident[self._native], 256)]
            self._resident = {self._native: self._resident[self._native], size: torch.cat(small)}

    def _batch(self, images: Tensor, positions: Tensor, epoch: int, draw: torch.Generator) -> Batch:
        mirrored = self._mirrored(positions, epoch, draw)
        images = augment(images, self._recipe, Fraction(images.shape[-1], self._native), mirrored, draw)
        labels = self._labels[positions.to(self._device)]
        soft = self._soft(positions, mirrored)
        if not (self._recipe.mixup or self._recipe.cutmix):
            return Batch(images, labels, labels, soft)
        mixed = mix(images, self._recipe, draw)
        shares = mixed.labels(F.one_hot(labels, self._num_classes).float())
        return Batch(mixed.images, shares.argmax(1), shares, None if soft is None else mixed.labels(soft))

    def _soft(self, positions: Tensor, mirrored: Tensor) -> Tensor | None:
        if self._soft_labels is None:
            return None
        return self._soft_labels.of(positions, mirrored).to(self._device, non_blocking=True)

    def _mirrored(self, positions: Tensor, epoch: int, draw: torch.Generator) -> Tensor:
        """Return which images of a batch are mirrored, (B,) bool on the CPU."""
        if self._recipe.flip == "alternating":
            return self._mirrored_first[positions] ^ (epoch % 2 == 1)
        return torch.rand(len(positions), generator=draw) < (0.5 if self._recipe.flip else 0.0)

    def _images(self, positions: Tensor, size: int) -> Tensor:
        """Return images (B, C, H, W) uint8 on the device: of this size if they lie there, else as they are stored."""
        if size in self._resident:
            return self._resident[size][self._subset.indices[positions].to(self._device)]
        images = self._subset.read(positions)
        if self._device.type == "cuda":
            images = images.pin_memory()  # or the copy would wait for the steps before it
        return images.to(self._device, non_blocking=True)


def images_per_epoch(count: int, batch_size: int) -> int:
    """Return how many of `count` images the steps of an epoch take: all, but for a last batch of one image."""
    return count - (count % batch_size == 1)


def image_size(recipe: Recipe, epoch: int, native: int) -> int:
    """Return height and width, in pixels, of the images of an epoch (from 0); `native` is the dataset's."""
    for stage in recipe.low_resolution:
        if epoch < stage.epochs:
            return stage.size
        epoch -= stage.epochs
    return native


def shuffled(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Return all positions in a random order."""
    return torch.randperm(len(labels), generator=_drawing(seed, epoch, 0))


def seed_of(seed: int, epoch: int, step: int) -> int:
    """Return one number for a position in training; step 0 is that of the order, epoch -1 comes before the training."""
    return int(digest_of(seed, epoch, step)[:15], 16)


def _drawing(seed: int, epoch: int, step: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, epoch, step))


def _resident(images: Images, size: int, device: torch.device) -> dict[int, Tensor]:
    """Return the images on a device by their size in pixels; nothing where they don't fit there."""
    if not isinstance(images, Tensor):
        return {}
    if device.type == "cuda" and images.nbytes > MEMORY_SHARE * torch.cuda.mem_get_info(device)[0]:
        return {}
    return {size: images.to(device)}
