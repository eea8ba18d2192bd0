"""Labels predicted by the eager model, and their accuracy."""

import torch
from torch import Tensor, nn

from trimlab.data.dataset import Dataset, Subset
from trimlab.train import hardware
from trimlab.train.precision import UsedPrecision, computing_in

EVALUATION_BATCH = 256


def predict(model: nn.Module, dataset: Dataset, split: str) -> Tensor:
    """Return the eager model's label of every scored image, computed in strict FP32: (N,) int64 on the CPU."""
    return predict_images(model, dataset, dataset.scored(split), "fp32")


def accuracy(labels: Tensor, dataset: Dataset, split: str) -> float:
    """Return the share of scored images whose label is correct, in [0, 1]."""
    return float((labels == dataset.scored(split).labels).double().mean())


def predict_images(model: nn.Module, dataset: Dataset, scored: Subset, precision: UsedPrecision) -> Tensor:
    """Return the eager model's labels of some of a dataset's images, computed in a precision: (N,) int64 on the CPU."""
    was_training, where = model.training, hardware.device()
    model.to(where).eval()
    labels = []
    with torch.no_grad(), computing_in(precision):
        for images in scored.chunks(EVALUATION_BATCH):
            batch = dataset.normalise(images.to(where))
            labels.append(model(batch.contiguous(memory_format=torch.channels_last)).argmax(1).cpu())
    model.train(was_training)
    return torch.cat(labels)
