"""Labels predicted by the eager model, and their accuracy."""

import torch
from torch import Tensor, nn

from trimlab.data.dataset import Dataset
from trimlab.train import hardware
from trimlab.train.precision import UsedPrecision, computing_in

EVALUATION_BATCH = 256


def predict(model: nn.Module, dataset: Dataset, split: str) -> Tensor:
    """Return the eager model's label of every scored image, computed in strict FP32: (N,) int64 on the CPU."""
    images, _ = dataset.scored(split)
    return predict_images(model, dataset, images, "fp32")


def accuracy(labels: Tensor, dataset: Dataset, split: str) -> float:
    """Return the share of scored images whose label is correct, in [0, 1]."""
    return float((labels == dataset.scored(split)[1]).double().mean())


def predict_images(model: nn.Module, dataset: Dataset, images: Tensor, precision: UsedPrecision) -> Tensor:
    """Return the eager model's labels of (N, C, H, W) uint8 images, computed in a precision."""
    was_training, where = model.training, hardware.device()
    model.to(where).eval()
    labels = []
    with torch.no_grad(), computing_in(precision):
        for start in range(0, len(images), EVALUATION_BATCH):
            batch = dataset.normalise(images[start : start + EVALUATION_BATCH].to(where))
            labels.append(model(batch.contiguous(memory_format=torch.channels_last)).argmax(1).cpu())
    model.train(was_training)
    return torch.cat(labels)
