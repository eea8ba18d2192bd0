"""Distillation from the unpruned model (Hinton et al. 2015)."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Teacher:
    """The unpruned model whose soft labels guide fine-tuning."""

    model: nn.Module
    weight: float
    """Of the soft labels against the true ones, in [0, 1]."""
    temperature: float
    cache: Path | None = None
    """The file that keeps its logits of every training image; without it they are computed for every batch."""


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return the probabilities (N, classes) float32 that logits stand for at a temperature."""
    return F.softmax(logits.float() / temperature, dim=1)


def soft_loss(logits: Tensor, soft: Tensor, temperature: float) -> Tensor:
    """Return the divergence from the teacher's softened labels, scaled to the gradient of a hard loss.

    Args:
        logits: the student's, (N, classes) float32.
        soft: probabilities at the same temperature, (N, classes) float32.
        temperature: of both.
    """
    student = F.log_softmax(logits / temperature, dim=1)
    return F.kl_div(student, soft, reduction="batchmean") * temperature**2
