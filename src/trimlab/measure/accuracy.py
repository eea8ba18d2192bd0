"""How well predicted labels fit the true ones: overall, within the first five, and class by class."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def top5_hits(logits: Array, labels: Array) -> int:
    """Return for how many images at most four classes precede the true one; of equal logits the first one precedes.

    Args:
        logits: (N, C).
        labels: (N,) whole numbers in [0, C).
    """
    own = logits[np.arange(len(labels)), labels][:, None]
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    preceding = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return int(((preceding < 5) & ~np.isnan(own[:, 0])).sum())


def figures(predicted: Array, labels: Array, num_classes: int, hits: int) -> dict[str, Any]:
    """Return what records say of accuracy.

    Args:
        predicted: (N,) whole numbers in [0, num_classes).
        labels: (N,), likewise.
        num_classes: C.
        hits: images whose label is among the first five, see `top5_hits`.

    Returns:
        `top1_accuracy` in [0, 1]; `top5_accuracy`, None up to five classes, where it says nothing; `macro_f1`, the mean
        over classes that were true or predicted for an image; `per_class`, for each class how many images have it,
        how many of these were found, and for how many images it was predicted.
    """
    right = predicted == labels
    counts = [np.bincount(chosen, minlength=num_classes) for chosen in (labels, labels[right], predicted)]
    images, correct, claimed = counts
    met = images + claimed > 0
    f1 = 2 * correct[met] / (images + claimed)[met]
    return {
        "top1_accuracy": float(np.mean(right)),
        "top5_accuracy": hits / len(labels) if num_classes > 5 else None,
        "macro_f1": float(np.mean(f1)),
        "per_class": [
            dict(zip(("images", "correct", "predicted"), row, strict=True)) for row in np.stack(counts, axis=1).tolist()
        ],
    }
