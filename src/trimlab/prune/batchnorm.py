"""BatchNorm's statistics, estimated anew: after pruning, its inputs have other means and deviations."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimlab.data.dataset import Dataset
from trimlab.records import BATCHNORM_IMAGES
from trimlab.train import hardware
from trimlab.train.evaluate import EVALUATION_BATCH
from trimlab.train.precision import computing_in


def reestimated(model: nn.Module, dataset: Dataset, images: int = BATCHNORM_IMAGES) -> nn.Module | None:
    """Return a copy of a model whose BatchNorm layers have the statistics of training images; None without such layers.

    The images are not augmented, and hold each class in proportion to its size. The model stays as it is.

    Args:
        model: on any device.
        dataset: its calibration images are used, none of which is in the hold-out.
        images: how many of them; all where there are fewer.
    """
    copied = copy.deepcopy(model).to(hardware.device()).eval()
    layers = [layer for layer in copied.modules() if isinstance(layer, _BatchNorm) and layer.running_mean is not None]
    if not layers:
        return None
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # the mean over all batches
        layer.train()
    indices = dataset.calibration[:images]
    with torch.no_grad(), computing_in("fp32"):
        for some in torch.tensor_split(indices, -(-len(indices) // EVALUATION_BATCH)):
            batch = dataset.normalise(dataset.train_images[some].to(hardware.device()))
            copied(batch.contiguous(memory_format=torch.channels_last))
    return copied.eval()
