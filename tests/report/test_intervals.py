from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from trimlab.report.intervals import (
    Answers,
    Difference,
    least_separable,
    over_processes,
    over_seeds,
    paired_difference,
    unpaired_difference,
    wilson,
)

TRIALS = 1000


@st.composite
def two_files(draw: st.DrawFn) -> tuple[Answers, Answers]:
    """Answers of two files to the same images."""
    num_images = draw(st.integers(1, 200))
    a, b = (draw(arrays(np.bool_, num_images)) for _ in range(2))
    return a, b


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_within_0_and_1_and_holds_the_accuracy(counts: tuple[int, int]) -> None:
    low, high = wilson(*counts)
    share = counts[0] / counts[1]
    assert 0 <= low <= share + 1e-12 and share - 1e-12 <= high <= 1
    assert low < high


@given(two_files())
def test_a_paired_difference_is_that_of_the_accuracies_and_symmetric(files: tuple[Answers, Answers]) -> None:
    a, b = files
    found = paired_difference(a, b)
    assert found.points == pytest.approx(100 * (a.mean() - b.mean()))
    assert found.half_width > 0
    assert found.p_value is not None and 0 <= found.p_value <= 1
    back = paired_difference(b, a)
    assert back.reversed.points == pytest.approx(found.points)
    assert back[1:] == pytest.approx(found[1:]) or back._replace(points=0) == found._replace(points=0)
    assert back.separable == found.separable


@given(two_files())
def test_the_order_of_the_images_does_not_matter(files: tuple[Answers, Answers]) -> None:
    a, b = files
    assert paired_difference(a[::-1], b[::-1]) == paired_difference(a, b)


@given(arrays(np.bool_, st.integers(1, 200)))
def test_a_file_cannot_be_told_apart_from_itself(answers: Answers) -> None:
    found = paired_difference(answers, answers)
    assert (found.points, found.p_value, found.separable) == (0, 1, False)


def joint(only_a: float, only_b: float, both: float) -> Callable[[np.random.Generator, int], tuple[Answers, Answers]]:
    """Draw images that one file alone gets right, or both, with these probabilities."""

    def draw(random: np.random.Generator, num_images: int) -> tuple[Answers, Answers]:
        kind = random.choice(4, num_images, p=[only_a, only_b, both, 1 - only_a - only_b - both])
        return np.isin(kind, (0, 2)), np.isin(kind, (1, 2))

    return draw


@pytest.mark.parametrize("num_images", [359, 2000])
@pytest.mark.parametrize(("only_a", "only_b"), [(0.0, 0.0), (0.01, 0.01), (0.017, 0.029), (0.1, 0.02)])
def test_the_intervals_hold_a_known_difference(num_images: int, only_a: float, only_b: float) -> None:
    random, draw = np.random.default_rng(0), joint(only_a, only_b, 0.85)
    true, held, wide = 100 * (only_a - only_b), 0, 0
    for _ in range(TRIALS):
        a, b = draw(random, num_images)
        paired = paired_difference(a, b)
        unpaired = unpaired_difference((float(a.mean()), num_images), (float(b.mean()), num_images))
        held += abs(paired.points - true) <= paired.half_width
        wide += abs(unpaired.points - true) <= unpaired.half_width
        assert paired.half_width < unpaired.half_width
    assert held >= 0.93 * TRIALS
    assert wide >= 0.95 * TRIALS


def test_wilsons_interval_holds_a_known_accuracy() -> None:
    random = np.random.default_rng(0)
    for share in (0.6, 0.92, 0.991):
        intervals = [wilson(int(random.binomial(359, share)), 359) for _ in range(TRIALS)]
        assert sum(low <= share <= high for low, high in intervals) >= 0.93 * TRIALS


def test_equal_files_are_told_apart_in_at_most_5_of_100_trials() -> None:
    random, draw = np.random.default_rng(0), joint(0.01, 0.01, 0.9)
    assert sum(paired_difference(*draw(random, 1000)).separable for _ in range(TRIALS)) <= 0.05 * TRIALS


def test_a_file_that_loses_many_more_than_it_gains_is_told_apart() -> None:
    base, other = np.ones(10_000, bool), np.ones(10_000, bool)
    base[:178] = other[178 : 178 + 293] = False
    found = paired_difference(other, base)
    assert (round(found.points, 2), round(found.half_width, 2)) == (-1.15, 0.43)
    assert found.separable and found.p_value is not None and found.p_value < 1e-6


@pytest.mark.parametrize("num_images", [359, 10_000])
def test_the_least_separable_difference_is_the_least(num_images: int) -> None:
    base = np.ones(num_images, bool)
    for lost in range(12):
        other = base.copy()
        other[:lost] = False
        separable = paired_difference(base, other).separable
        assert separable == (100 * lost / num_images >= least_separable(num_images))


def test_answers_to_other_images_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="not pairs"):
        paired_difference(np.ones(3, bool), np.ones(4, bool))


def test_seeds_have_students_interval_or_that_of_the_images() -> None:
    apart = [Difference(points, 0.1, "paired", 0.001) for points in (1.0, 2.0, 3.0)]
    found = over_seeds(apart)
    assert found.points == pytest.approx(2)
    low, high = stats.t.interval(0.95, 2, 2, stats.sem([1.0, 2.0, 3.0]))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert not found.separable
    alike = over_seeds([Difference(1.0, 0.4, "paired", 0.001)] * 3)
    assert (alike.half_width, alike.separable) == (pytest.approx(0.4), True)


@given(st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20))
def test_over_processes_is_the_geometric_mean_within_its_interval_whichever_way_the_ratio_is_taken(
    values: list[float],
) -> None:
    found, reverse = over_processes(values), over_processes([1 / value for value in values])
    assert found.mean == pytest.approx(stats.gmean(values))
    assert found.low is not None and found.high is not None and reverse.low is not None
    assert found.low <= found.mean * (1 + 1e-9) and found.mean <= found.high * (1 + 1e-9)
    assert reverse.low == pytest.approx(1 / found.high)
    assert found.processes == len(values)


def test_one_process_has_no_interval_and_is_ranked_with_nothing() -> None:
    one, slow = over_processes([5.0]), over_processes([1.0, 1.01, 1.02])
    assert (one.mean, one.low, one.high) == (5.0, None, None)
    assert not slow.is_below(one) and not one.is_below(slow)
    assert slow.is_below(over_processes([2.0, 2.01, 2.02]))


NOISE = {
    "normal": lambda generator, shape: generator.normal(0, 0.02, shape),
    "heavy tails": lambda generator, shape: 0.02 * generator.standard_t(3, shape),
    "now and then disturbed": lambda generator, shape: (
        generator.normal(0, 0.01, shape) + 0.3 * (generator.random(shape) < 0.05)
    ),
    "an order effect": lambda generator, shape: generator.normal(0, 0.005, shape) + 0.01 * (-1) ** np.arange(shape[1]),
}
"""Of the logarithm of a file's time against itself, (trials, processes)."""


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("processes", [3, 5])
def test_the_interval_over_processes_covers_1_for_a_file_against_itself(noise: str, processes: int) -> None:
    generator = np.random.default_rng(0)
    ratios = np.exp(NOISE[noise](generator, (TRIALS, processes)))
    found = [over_processes(list(map(float, trial))) for trial in ratios]
    assert np.mean([one.low <= 1 <= one.high for one in found if one.low and one.high]) >= 0.9


def test_the_range_of_three_processes_would_cover_too_seldom() -> None:
    """Why the interval is Student's."""
    ratios = np.exp(np.random.default_rng(0).normal(0, 0.02, (TRIALS, 3)))
    assert np.mean((ratios.min(axis=1) <= 1) & (ratios.max(axis=1) >= 1)) < 0.8
