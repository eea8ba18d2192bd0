"""Labels predicted by the eager model, and their accuracy."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from trimlab.data.dataset import Dataset, Subset
from trimlab.measure import accuracy
from trimlab.train import hardware
from trimlab.train.precision import UsedPrecision, computing_in

EVALUATION_BATCH = 256


class Predictions(NamedTuple):
    """What a model says of every scored image."""

    labels: Tensor
    """(N,) int64 on the CPU."""
    top5_hits: int
    """Images whose true label is among the model's first five."""


def predict(model: nn.Module, dataset: Dataset, split: str) -> Predictions:
    """Return what the eager model says of every scored image, computed in strict FP32."""
    return predict_images(model, dataset, dataset.scored(split), "fp32")


def figures(predicted: Predictions, dataset: Dataset, split: str) -> dict[str, Any]:
    """Return what records say of accuracy on the scored images, see `measure.accuracy`."""
    labels = dataset.scored(split).labels.numpy()
    return accuracy.figures(predicted.labels.numpy(), labels, dataset.num_classes, predicted.top5_hits)


def top1_accuracy(predicted: Predictions, dataset: Dataset, split: str) -> float:
    """Return the share of scored images whose label is correct, in [0, 1]."""
    return float((predicted.labels == dataset.scored(split).labels).double().mean())


def predict_images(model: nn.Module, dataset: Dataset, scored: Subset, precision: UsedPrecision) -> Predictions:
    """Return what the eager model says of some of a dataset's images, computed in a precision."""
    was_training, where = model.training, hardware.device()
    model.to(where).eval()
    labels, hits, start = [], 0, 0
    with torch.no_grad(), computing_in(precision):
        for images in scored.chunks(EVALUATION_BATCH):
            batch = dataset.normalise(images.to(where))
            logits = model(batch.contiguous(memory_format=torch.channels_last))
            labels.append(logits.argmax(1).cpu())
            hits += accuracy.top5_hits(logits.float().cpu().numpy(), scored.labels[start : start + len(images)].numpy())
            start += len(images)
    model.train(was_training)
    return Predictions(torch.cat(labels), hits)
