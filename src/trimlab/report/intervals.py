"""How sure a figure is: 95 % intervals of accuracies and of differences between them."""

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

Answers = NDArray[np.bool_]
"""For every scored image, whether it was classified rightly, (N,)."""

CONFIDENCE = 0.95
Z = 1.96
"""Standard deviations on either side of a mean that hold 95 % of a normal distribution."""


class Difference(NamedTuple):
    """How much higher one top-1 is than another, in points."""

    points: float
    half_width: float
    """Of the 95 % interval around `points`."""
    kind: str
    """`paired`: both scored on the same images, image by image. `unpaired`: known by their two accuracies alone, an
    interval that is too wide for the same images. `seeds`: a mean over several seeds."""
    p_value: float | None = None
    """Of McNemar's exact test; None where the difference is not a paired one."""

    @property
    def separable(self) -> bool:
        """Whether the two can be told apart: the interval leaves out 0, and McNemar's test agrees."""
        unlikely = self.p_value is None or self.p_value < 1 - CONFIDENCE
        return abs(self.points) > self.half_width and unlikely

    def separable_among(self, count: int) -> bool:
        """Whether the two can be told apart where so many differences are looked at (Bonferroni's correction)."""
        if self.p_value is not None:
            return self.p_value < (1 - CONFIDENCE) / count
        wider = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / 2 / count)) / Z
        return abs(self.points) > wider * self.half_width

    @property
    def surely_lost(self) -> float:
        """The largest loss that the interval holds, in points."""
        return self.half_width - self.points

    @property
    def reversed(self) -> "Difference":
        """The same from the other side: points lost, not gained."""
        return self._replace(points=-self.points)


class Replicated(NamedTuple):
    """A time, or a ratio of two, over processes."""

    mean: float
    """Geometric."""
    low: float | None
    """Of the 95 % interval of `mean`; None for one process, which says nothing of others."""
    high: float | None
    processes: int

    def is_below(self, other: "Replicated") -> bool:
        """Whether this is less than another one: both have intervals, and they do not overlap."""
        return self.high is not None and other.low is not None and self.high < other.low


def over_processes(values: Sequence[float]) -> Replicated:
    """Return the geometric mean of a value above 0 of each process, with Student's interval of the logarithms.

    The plain range of three values leaves out the median of all processes in one case of four.

    Example:
        >>> found = over_processes([5.5, 5.6, 5.7])
        >>> f"{found.mean:.1f} ({found.low:.1f}–{found.high:.1f})"
        '5.6 (5.4–5.9)'
    """
    count = len(values)
    if count == 1:
        return Replicated(values[0], None, None, 1)
    logs = np.log(values)
    mean = float(np.mean(logs))
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
    half_width = quantile * float(np.std(logs, ddof=1)) / math.sqrt(count)
    return Replicated(math.exp(mean), math.exp(mean - half_width), math.exp(mean + half_width), count)


@cache
def wilson(correct: int, num_images: int) -> tuple[float, float]:
    """Return Wilson's interval of an accuracy, two shares in [0, 1].

    Example:
        >>> low, high = wilson(356, 359)
        >>> f"{low:.3f} to {high:.3f}"
        '0.976 to 0.997'
    """
    found = stats.binomtest(correct, num_images).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def paired_difference(a: Answers, b: Answers) -> Difference:
    """Return how much higher the top-1 of `a` is than that of `b`, on the same images, each (N,) bool.

    Only the images that one of the two gets right count. To those is added one, so that equal answers have an interval
    too (after Agresti and Min, 2005).

    Raises:
        ValueError: they are not of the same images.
    """
    if a.shape != b.shape or not a.size:
        raise ValueError(f"answers to {a.shape} and {b.shape} images are not pairs")
    num_images = a.size
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    difference, discordant = only_a - only_b, only_a + only_b
    half_width = Z * math.sqrt(discordant + 1 - difference**2 / num_images) / num_images
    p_value = _sign_test(only_a, discordant) if discordant else 1.0
    return Difference(100 * difference / num_images, 100 * half_width, "paired", p_value)


@cache
def _sign_test(successes: int, trials: int) -> float:
    """Return the two-sided p of the exact binomial test of one half, which is symmetric."""
    return min(1.0, 2 * float(special.bdtr(min(successes, trials - successes), trials, 0.5)))


def unpaired_difference(a: tuple[float, int], b: tuple[float, int]) -> Difference:
    """Return how much higher one top-1 is than another; each is a share in [0, 1] and its number of images.

    To each are added a right and a wrong image, so that a top-1 of 0 or 1 has an interval too (after Agresti and
    Caffo, 2000).
    """
    variance = 0.0
    for share, num_images in (a, b):
        shrunk = (share * num_images + 1) / (num_images + 2)
        variance += shrunk * (1 - shrunk) / (num_images + 2)
    return Difference(100 * (a[0] - b[0]), 100 * Z * math.sqrt(variance), "unpaired")


def over_seeds(differences: Sequence[Difference]) -> Difference:
    """Return the mean of at least two seeds' differences.

    The interval is Student's t of the seeds, or that of the images where it is wider: more seeds are not more images.
    """
    points = [difference.points for difference in differences]
    quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(points) - 1))
    of_seeds = quantile * float(np.std(points, ddof=1)) / math.sqrt(len(points))
    of_images = sum(difference.half_width for difference in differences) / len(points)
    return Difference(sum(points) / len(points), max(of_seeds, of_images), "seeds")


def least_separable(num_images: int) -> float:
    """Return the least difference in points that McNemar's test can tell from chance, on so many images.

    That is where only one of two files ever gets an image right that the other does not.
    """
    only_one = 1
    while 2 * 0.5**only_one >= 1 - CONFIDENCE:
        only_one += 1
    return 100 * only_one / num_images
