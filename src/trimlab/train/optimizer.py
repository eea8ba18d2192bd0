"""The optimizer of a recipe, and its steps: gradients accumulated, unscaled and clipped."""

import torch
from torch import nn

from trimlab.config import Recipe
from trimlab.train.regularizer import Regularizer


def optimizer_of(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Return a recipe's optimizer of all of a model's parameters."""
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    # Norms and biases have one dimension; decaying them costs accuracy and regularises nothing.
    rest = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov)


def take_step(
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    clip_norm: float | None,
    regularizer: Regularizer | None = None,
) -> None:
    """Update the parameters from their gradients, which are scaled by the scaler in fp16.

    Args:
        optimizer: of the parameters.
        scaler: skips the step where a gradient overflowed.
        clip_norm: the largest L2 norm of all gradients together; None does not clip.
        regularizer: adds to the gradients after that, as weight decay does.
    """
    if clip_norm is not None or regularizer is not None:
        scaler.unscale_(optimizer)  # norm and penalty are those of the true gradients
    if clip_norm is not None:
        parameters = (parameter for group in optimizer.param_groups for parameter in group["params"])
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    if regularizer is not None:
        regularizer.add_gradients()
    scaler.step(optimizer)
    scaler.update()
