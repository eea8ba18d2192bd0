"""Ranges of a network's activations over calibration images: what INT8's scales come from.

ONNX Runtime's own calibrators are not used: its entropy has as many bins as levels by default, so it changes
nothing, and its loops are slow with more.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trimlab import config
from trimlab.quantize import onnx_files

Floats = NDArray[np.float32]
Counts = NDArray[np.int64]
Ranges = dict[str, tuple[float, float]]
"""Lowest and highest value of each activation, by tensor name."""

BINS = 2048
"""Histogram bins on either side of zero."""
LEVELS = 128
"""Magnitudes that int8 tells apart, for `entropy`."""
_BATCH = 16
_PIXELS = 2**17
"""Of the images that run together: all activations of a transformer at 224 × 224 take 240 MB an image."""
_STRIDE = 8


def activation_ranges(source: Path, images: Floats, section: config.Quantization) -> Ranges:
    """Return the range of the input and of every activation of an FP32 file.

    Args:
        source: the ONNX file.
        images: (N, C, H, W) float32, normalised.
        section: the method that chooses the ranges.
    """
    limits = _limits(source, images)
    if section.method == "minmax":
        return limits
    histograms = _histograms(source, images, limits)
    if section.method == "entropy":
        return {name: _clip(limits[name], *_symmetric(counts, limits[name])) for name, counts in histograms.items()}
    return {
        name: _clip(limits[name], *percentile_range(counts, _reach(limits[name]), section.percentile))
        for name, counts in histograms.items()
    }


def percentile_range(counts: Counts, reach: float, percentile: float) -> tuple[float, float]:
    """Return the narrowest range of whole bins outside which each tail has at most half of what is cut.

    Args:
        counts: (2 · BINS,) values in equal bins over [-reach, reach].
        reach: largest magnitude.
        percentile: share of values inside, in percent.
    """
    tail = counts.sum() * (100 - percentile) / 200
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    edges = np.linspace(-reach, reach, counts.size + 1)
    low, high = int(np.argmax(below > tail)), int(np.argmax(above > tail))
    return float(edges[low]), float(edges[counts.size - high])


def entropy_threshold(magnitudes: Counts) -> int:
    """Return how many bins to keep so that `LEVELS` levels lose the least information (Migacz, GTC 2017).

    Args:
        magnitudes: (BINS,) absolute values in equal bins from 0.

    Returns:
        In [LEVELS, BINS].
    """
    counts = magnitudes.astype(np.float64)
    counts[0] = counts[1]  # exact zeros, most of a ReLU's values, cost nothing at any scale
    candidates = range(LEVELS, counts.size + 1, _STRIDE)
    return min(candidates, key=lambda keep: _divergence(counts, keep))


def _divergence(counts: NDArray[np.float64], keep: int) -> float:
    """Return the Kullback-Leibler divergence of the kept bins from themselves at `LEVELS` levels."""
    kept = counts[:keep]
    starts = np.arange(LEVELS) * keep // LEVELS
    filled = kept > 0
    sums, sizes = np.add.reduceat(kept, starts), np.add.reduceat(filled.astype(np.float64), starts)
    level = np.repeat(sums / np.maximum(sizes, 1), np.diff([*starts, keep])) * filled
    clipped = kept.copy()
    clipped[-1] += counts[keep:].sum()
    if not clipped.any():
        return float("inf")
    p, q = clipped / clipped.sum(), level / max(level.sum(), 1.0)
    some = p > 0
    return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-9))))


def batches(images: Floats) -> Iterator[Floats]:
    """Yield images (N, C, H, W), so many at a time that all activations of a model fit into memory."""
    at_once = max(1, min(_BATCH, _PIXELS // (images.shape[2] * images.shape[3])))
    for start in range(0, len(images), at_once):
        yield images[start : start + at_once]


def _symmetric(counts: Counts, limits: tuple[float, float]) -> tuple[float, float]:
    magnitudes = counts[BINS:] + counts[:BINS][::-1]
    threshold = _reach(limits) * entropy_threshold(magnitudes) / BINS
    return -threshold, threshold


def _clip(limits: tuple[float, float], low: float, high: float) -> tuple[float, float]:
    return max(limits[0], low), min(limits[1], high)


def _reach(limits: tuple[float, float]) -> float:
    return max(abs(limits[0]), abs(limits[1])) or 1.0


def _limits(source: Path, images: Floats) -> Ranges:
    limits: Ranges = {}
    for batch in _activations(source, images):
        for name, values in batch.items():
            low, high = limits.get(name, (float("inf"), float("-inf")))
            limits[name] = min(low, float(values.min())), max(high, float(values.max()))
    return limits


def _histograms(source: Path, images: Floats, limits: Ranges) -> dict[str, Counts]:
    counts = {name: np.zeros(2 * BINS, np.int64) for name in limits}
    for batch in _activations(source, images):
        for name, values in batch.items():
            reach = _reach(limits[name])
            counts[name] += np.histogram(values, 2 * BINS, (-reach, reach))[0]
    return counts


def _activations(source: Path, images: Floats) -> Iterator[Mapping[str, NDArray[Any]]]:
    """Yield the input and all float activations, some images at a time."""
    proto = onnx.load(source)
    known = {output.name for output in proto.graph.output}
    inner = [name for node in proto.graph.node for name in node.output if name and name not in known]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    session = onnx_files.open_session(proto.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    (source_name,) = (each.name for each in session.get_inputs())
    for batch in batches(images):
        values = zip(names, session.run(names, {source_name: batch}), strict=True)
        yield {
            source_name: batch,
            **{name: value for name, value in values if value.dtype == np.float32},
        }
