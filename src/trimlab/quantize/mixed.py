"""INT8 by an accuracy budget: the fewest layers stay in float with which a file loses no more than it may.

Each layer is tried alone, in INT8 while all others are float: so one bad layer hides no other one, as it would where
all are INT8 but the one that is tried. What a layer loses is a divergence from FP32's probabilities, because the top-1
of one layer alone moves by a few images. The ranking is then cut by bisection, and each cut is scored as the whole file
that it makes. Everything is computed as the files are written, without fused kernels: the choice is the same whatever
the processor.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from trimlab.quantize import calibration, onnx_files
from trimlab.quantize.calibration import Floats
from trimlab.quantize.int8 import Calibration, rounded

RANKING_IMAGES = 500
"""Calibration images on which each layer is tried alone, at most."""
_Z = 1.96
"""Standard deviations on either side of a mean that hold 95 % of a normal distribution."""


class HeldOut(NamedTuple):
    """Images that decide how many layers stay in float."""

    batches: Callable[[], Iterable[Floats]]
    """Returns all images, (N, C, H, W) float32, normalised, some at a time."""
    labels: NDArray[np.int64]
    """(N,)."""


class Scores(NamedTuple):
    """What a model makes of each held-out image."""

    right: NDArray[np.bool_]
    """Whether its first class is the true one, (N,)."""
    losses: NDArray[np.float64]
    """Cross-entropy in nats, (N,)."""


class Loss(NamedTuple):
    """What a model loses against FP32 on the same images."""

    num_images: int
    lost: int
    """Images that FP32 alone gets right."""
    gained: int
    """Images that the other alone gets right."""
    loss_rise: float
    """Mean difference of the cross-entropy, in nats."""
    loss_half_width: float
    """Of its 95 % interval."""

    @property
    def drop_points(self) -> float:
        """Points of top-1."""
        return 100 * (self.lost - self.gained) / self.num_images

    @property
    def is_noise(self) -> bool:
        """Whether neither the top-1 nor the cross-entropy is worse by more than its 95 % interval.

        To the images of which only one of the two is right, one is added (after Agresti and Min, 2005).
        """
        net = self.lost - self.gained
        half_width = _Z * math.sqrt(max(0.0, self.lost + self.gained + 1 - net**2 / self.num_images))
        return net <= half_width and self.loss_rise <= self.loss_half_width

    def fits(self, max_drop: float) -> bool:
        """Whether so many points may be lost: no more are, or what is lost is noise."""
        return self.drop_points <= max_drop or self.is_noise


class Choice(NamedTuple):
    """The layers that stay in float, and what the file loses with them."""

    float_layers: list[str]
    loss: Loss


class Ranked(NamedTuple):
    """An FP32 model, what is rounded of it, and what its layers lose."""

    model: ModelProto
    calibrated: Calibration
    divergences: dict[str, float]
    """Mean Kullback-Leibler divergence of the classes' probabilities from FP32's with the layer alone in INT8, in nats,
    by layer, the one that loses most first. Layers that are kept anyway are not there."""


def ranked(model: ModelProto, calibrated: Calibration, images: Floats) -> Ranked:
    """Rank the layers of an FP32 model by what each loses alone in INT8, with weights of 8 bits for CPUs.

    Args:
        model: the FP32 model; it is not changed.
        calibrated: what is rounded of it.
        images: (N, C, H, W) float32, normalised; the first `RANKING_IMAGES` are used.
    """
    tried = [images[:RANKING_IMAGES]]
    layers = [layer for layer in onnx_files.layers(model) if layer not in calibrated.kept]
    expected, found = _log_probabilities(model, tried), dict[str, float]()
    for layer in layers:
        alone = rounded(model, calibrated, "u8s8", [other for other in layers if other != layer])
        found[layer] = _divergence(expected, _log_probabilities(alone, tried))
    return Ranked(model, calibrated, dict(sorted(found.items(), key=lambda item: -item[1])))


def score(proto: ModelProto, held: HeldOut) -> Scores:
    """Return what a model makes of held-out images."""
    logarithms = _log_probabilities(proto, held.batches())
    right = logarithms.argmax(1) == held.labels
    return Scores(right, -logarithms[np.arange(len(held.labels)), held.labels])


def lost(fp32: Scores, other: Scores) -> Loss:
    """Compare what two models make of the same images, at least two."""
    rises = other.losses - fp32.losses
    return Loss(
        len(rises),
        int((fp32.right & ~other.right).sum()),
        int((other.right & ~fp32.right).sum()),
        float(rises.mean()),
        _Z * float(rises.std(ddof=1)) / math.sqrt(len(rises)),
    )


def choose(of: Ranked, flavour: str, held: HeldOut, fp32: Scores, max_drop: float) -> Choice:
    """Return the fewest first layers of the ranking that a file needs in float to lose no more than it may.

    About as many files are scored as the binary logarithm of the number of layers: one that loses too much with
    some layers in float is taken to lose too much with fewer.

    Args:
        of: the ranked layers.
        flavour: one of `int8.FLAVOURS`.
        held: images on which it is decided.
        fp32: what the FP32 model makes of them.
        max_drop: points of top-1 that may be lost, in [0, 100].
    """
    ranking = list(of.divergences)

    def tried(count: int) -> Choice:
        kept = ranking[:count]
        return Choice(kept, lost(fp32, score(rounded(of.model, of.calibrated, flavour, kept), held)))

    if (best := tried(0)).loss.fits(max_drop) or not ranking:
        return best
    best, too_few = tried(len(ranking)), 0
    while len(best.float_layers) - too_few > 1:
        choice = tried((len(best.float_layers) + too_few) // 2)
        if choice.loss.fits(max_drop):
            best = choice
        else:
            too_few = len(choice.float_layers)
    return best


def _log_probabilities(proto: ModelProto, batches: Iterable[Floats]) -> NDArray[np.float64]:
    """Return the logarithms of the classes' probabilities, (N, classes)."""
    return np.concatenate([logits - _log_sum(logits) for logits in _logits(proto, batches)])


def _logits(proto: ModelProto, batches: Iterable[Floats]) -> Iterator[NDArray[np.float64]]:
    session = onnx_files.open_session(proto.SerializeToString(), exact=True)
    (name,) = (each.name for each in session.get_inputs())
    for batch in itertools.chain.from_iterable(map(calibration.batches, batches)):
        yield session.run(None, {name: batch})[0].astype(np.float64)


def _log_sum(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = logits.max(axis=1, keepdims=True)
    total: NDArray[np.float64] = highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
    return total


def _divergence(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    """Return the mean divergence of probabilities from expected ones, both as logarithms, at least 0 after rounding."""
    return max(0.0, float((np.exp(expected) * (expected - found)).sum(axis=1).mean()))
