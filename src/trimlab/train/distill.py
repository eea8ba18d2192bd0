"""Soft labels of the unpruned model (Hinton et al. 2015)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """The unpruned model whose soft labels guide fine-tuning (Hinton et al. 2015)."""

    model: nn.Module
    weight: float
    """Of the soft labels against the true ones, in [0, 1]."""
    temperature: float


def soft_loss(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Return the divergence from the teacher's softened labels, scaled to the gradient of a hard loss."""
    student = F.log_softmax(logits / temperature, dim=1)
    teacher = F.log_softmax(targets / temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
