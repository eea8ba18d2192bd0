"""A penalty that trainings may add to the gradients of the loss."""

from abc import ABC, abstractmethod

from torch import nn


class Regularizer(nn.Module, ABC):
    """Adds to a model's gradients before each optimizer step. What changes from epoch to epoch is in its buffers."""

    @abstractmethod
    def add_gradients(self) -> None:
        """Add the penalty's gradients to those of the loss."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Take note that an epoch is over."""
