"""A teacher's soft labels of every training image, computed once: later epochs and other students read them."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimlab import progress
from trimlab.data.dataset import Dataset, Subset
from trimlab.train import hardware
from trimlab.train.distill import Teacher, soften
from trimlab.train.evaluate import EVALUATION_BATCH
from trimlab.train.precision import UsedPrecision, computing_in


@dataclass(frozen=True)
class SoftLabels:
    """Soft labels of the images that are trained on."""

    logits: Tensor
    """(N, 1, classes) float16, less the largest of each image; (N, 2, classes) with those of the mirrored images."""
    temperature: float

    def of(self, positions: Tensor, mirrored: Tensor) -> Tensor:
        """Return the probabilities of a batch's images, (B, classes) float32.

        Args:
            positions: of the images among those trained on, (B,) int64.
            mirrored: which images are mirrored, (B,) bool.
        """
        view = mirrored.long() if self.logits.shape[1] == 2 else torch.zeros_like(positions)
        return soften(self.logits[positions, view], self.temperature)


def cached(
    teacher: Teacher, dataset: Dataset, split: str, mirrored: bool, precision: UsedPrecision, label: str
) -> SoftLabels:
    """Return a teacher's soft labels from its file, which is written first where it is missing or damaged.

    Args:
        teacher: with a `cache`.
        dataset: what is trained on.
        split: which of its images are, see `Dataset.trained_on`.
        mirrored: with the labels of mirrored images.
        precision: what the teacher computes in.
        label: what the progress bar says.
    """
    assert teacher.cache
    logits = _read(teacher.cache)
    if logits is None:
        started = time.perf_counter()
        subset = dataset.trained_on(split)
        _write(_computed(teacher.model, dataset, subset, mirrored, precision, label), teacher.cache)
        progress.say(f"{label}: soft labels of {len(subset)} images in {time.perf_counter() - started:.0f} s")
        logits = load_file(teacher.cache)["logits"]  # mapped
    return SoftLabels(logits, teacher.temperature)


def _computed(
    model: nn.Module, dataset: Dataset, subset: Subset, mirrored: bool, precision: UsedPrecision, label: str
) -> Tensor:
    where = hardware.device()
    model.to(where).eval()
    logits = torch.empty(len(subset), 1 + mirrored, dataset.num_classes, dtype=torch.float16)
    chunks = progress.bar(
        subset.chunks(EVALUATION_BATCH), f"{label} soft labels", total=-(-len(subset) // EVALUATION_BATCH)
    )
    start = 0
    with torch.no_grad(), computing_in(precision):
        for images in chunks:
            batch = dataset.normalise(images.to(where)).contiguous(memory_format=torch.channels_last)
            for view in range(1 + mirrored):
                found = model(batch.flip(3) if view else batch).float()
                # The largest becomes 0, which changes no probability: so float16 is fine near it and never overflows.
                found = (found - found.amax(1, keepdim=True)).clamp(min=torch.finfo(torch.float16).min)
                logits[start : start + len(images), view] = found.cpu()
            start += len(images)
    return logits


def _read(file: Path) -> Tensor | None:
    try:
        return load_file(file)["logits"]
    except (FileNotFoundError, SafetensorError):
        return None


def _write(logits: Tensor, file: Path) -> None:
    """Write logits to a file, which appears whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file({"logits": logits}, temporary)
    temporary.replace(file)
