"""What Taylor and Hessian importances need besides the weights: gradients of the loss on training images."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trimlab.config import Importance
from trimlab.data.dataset import Dataset
from trimlab.train import hardware, onednn
from trimlab.train.evaluate import EVALUATION_BATCH
from trimlab.train.precision import computing_in

GRADIENT_IMAGES = 512
"""Training images on which the loss is taken; all where there are fewer."""


def gradients_for(importance: Importance, model: nn.Module, dataset: Dataset) -> dict[str, Tensor] | None:
    """Return what an importance takes for the gradients of a model; None for one that needs the weights alone.

    For `taylor` the gradient of the mean cross-entropy; for `hessian` the mean over images of each image's squared
    gradient, the diagonal of the empirical Fisher matrix, which stands for the Hessian's. The images are the first
    `GRADIENT_IMAGES` for calibration: none of the hold-out, each class in proportion to its size, drawn by the data's
    seed. They are not augmented. BatchNorm keeps its statistics, and the model its weights.

    Returns:
        A tensor in the shape of each parameter, by name, on the CPU.
    """
    if importance == "taylor":
        return _mean(model, dataset, EVALUATION_BATCH)
    if importance == "hessian":
        return _mean(model, dataset, 1, squared=True)
    return None


def _mean(model: nn.Module, dataset: Dataset, batch_size: int, squared: bool = False) -> dict[str, Tensor]:
    """Return the mean of the gradients of all images; with batches of 1 it may be that of their squares."""
    device, was_training = hardware.device(), model.training
    where = next(model.parameters()).device
    model.to(device).eval()
    indices = dataset.calibration[:GRADIENT_IMAGES]
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    with computing_in("fp32"), onednn.sliced(model), _deterministic():
        for some in torch.split(indices, batch_size):
            logits = model(dataset.normalise(dataset.train_images[some].to(device)))
            loss = F.cross_entropy(logits, dataset.train_labels[some].to(device), reduction="sum")
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            for name, gradient in zip(parameters, found, strict=True):
                if gradient is not None:
                    total[name] += gradient.square() if squared else gradient
    model.to(where).train(was_training)
    return {name: (tensor / len(indices)).cpu() for name, tensor in total.items()}


@contextmanager
def _deterministic() -> Iterator[None]:
    """Let cuDNN sum in a fixed order: a run that goes on after a kill must choose the same channels."""
    cudnn = torch.backends.cudnn
    before, cudnn.deterministic = cudnn.deterministic, True
    try:
        yield
    finally:
        cudnn.deterministic = before
