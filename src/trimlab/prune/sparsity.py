"""Penalties of torch-pruning on groups of coupled channels: what is pruned later is shrunk before."""

from collections.abc import Sequence

import torch
import torch_pruning as tp
from torch import nn

from trimlab import config
from trimlab.errors import UserError, one_line
from trimlab.models import registry
from trimlab.prune import coupling
from trimlab.prune.pruner import PLAIN, widths
from trimlab.train.regularizer import Regularizer


class GroupSparsity(Regularizer):
    """An L2 penalty on each group of coupled channels, the larger the smaller the group's norm is.

    Groups that keep their channels when the model is pruned have none.
    """

    def __init__(
        self,
        model: nn.Module,
        sparsity: config.Sparsity,
        image_shape: tuple[int, int, int],
        keep: Sequence[str] = (),
        keys: config.PruningKeys = PLAIN,
    ) -> None:
        """Find the groups.

        Args:
            model: on the CPU.
            sparsity: which regularizer, and its strength.
            image_shape: channels, height, width.
            keep: patterns of names of layers that keep all output channels.
            keys: what the params call the section and kept layers.

        Raises:
            UserError: torch-pruning cannot follow the model.
        """
        super().__init__()
        self._growing = sparsity.regularizer == "growing"
        kept = config.matching(keys.keep, keep, list(widths(model)))
        fixed = [registry.classifier(model), *(model.get_submodule(name) for name in kept)]
        importance = coupling.Importance(tp.importance.MagnitudeImportance(p=2, normalizer=None), fixed)
        try:
            self._pruner = coupling.regularizing(
                model, torch.zeros(1, *image_shape), importance, sparsity.regularizer, sparsity.strength
            )
            self._try(model)
        except Exception as error:  # whatever torch-pruning does not know provokes
            reason = one_line(f"{type(error).__name__}: {error}", 120)
            raise UserError(
                f"{keys.sparsity}.regularizer {sparsity.regularizer}: torch-pruning cannot regularize the model "
                f"({reason}): choose another one, or remove the section"
            ) from error
        for index, coefficients in enumerate(self._coefficients()):
            self.register_buffer(f"coefficients{index}", coefficients.clone())

    def add_gradients(self) -> None:
        """Add the penalty's gradients to those of the loss."""
        self._hand_over()
        self._pruner.regularize(self._pruner.model)

    def end_epoch(self) -> None:
        """Raise what grows."""
        if not self._growing:
            return
        self._hand_over()
        self._pruner.update_reg()
        for buffer, coefficients in zip(self.buffers(), self._coefficients(), strict=True):
            buffer.copy_(coefficients)

    def _coefficients(self) -> list[torch.Tensor]:
        """Return the growing coefficients of torch-pruning, one tensor a group."""
        if not self._growing:
            return []
        return [self._pruner.group_reg[group] for group in self._pruner._groups]

    def _hand_over(self) -> None:
        """Give torch-pruning the coefficients of the buffers, which a checkpoint may have filled."""
        for group, buffer in zip(self._pruner._groups, self.buffers(), strict=False):
            self._pruner.group_reg[group] = buffer

    def _try(self, model: nn.Module) -> None:
        """Regularize once, so that what fails does so before a training."""
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self._pruner.regularize(model)
        model.zero_grad(set_to_none=True)
