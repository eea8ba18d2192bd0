"""What a search tries: against made-up responses, it ends, repeats nothing, and finds the largest ratio within."""

from hypothesis import given
from hypothesis import strategies as st

from trimlab.config import PruningPoint
from trimlab.search.proposals import LARGEST, STEP, Try, other_ways, proposed

CHANGES = ({"allocation": "global"}, {"distillation": 0.9}, {"epochs": 6})
ratios = st.integers(1, 95).map(lambda hundredths: hundredths / 100)


def searched(start, limit, gains):
    """Search where a point is within the limits up to a ratio, which each change raises or lowers."""
    tried = []
    while (asked := proposed(start, CHANGES, tried)) is not None:
        ratio, change = asked
        assert 0 < ratio <= LARGEST
        assert not any((one.ratio, one.change) == asked for one in tried)
        largest = limit + sum(gain for own, gain in zip(CHANGES, gains, strict=True) if own.items() <= change.items())
        tried.append(Try(ratio, change, 1 - ratio if ratio <= largest else None))
        assert len(tried) < 60
    return tried


@given(start=ratios, limit=ratios)
def test_the_largest_ratio_within_the_limits_is_found_to_a_step(start, limit):
    within = [one.ratio for one in searched(start, limit, (0, 0, 0)) if one.cost is not None]
    assert limit - max(within, default=0) <= STEP + 1e-9


@given(start=ratios, limit=st.integers(10, 60).map(lambda n: n / 100), which=st.integers(0, 2))
def test_a_change_that_helps_is_kept_and_the_ratio_raised_further(start, limit, which):
    gains = [-0.1, -0.1, -0.1]
    gains[which] = 0.2
    best = max((one for one in searched(start, limit, gains) if one.cost is not None), key=lambda one: one.ratio)
    assert best.change == CHANGES[which]
    assert limit + 0.2 - best.ratio <= STEP + 1e-9


def test_where_nothing_is_ever_within_the_limits_the_search_ends():
    tried = searched(0.5, 0.0, (0, 0, 0))
    assert all(one.cost is None for one in tried)
    assert min(one.ratio for one in tried) <= STEP


def test_only_what_differs_from_the_point_is_another_way():
    plain, distilled = PruningPoint(ratio=0.5, epochs=3), PruningPoint(ratio=0.5, epochs=0, distillation=0.5)
    assert list(other_ways(plain, ["uniform", "global"], "uniform")) == [
        {"allocation": "global"},
        {"distillation": 0.9, "temperature": 2.0},
        {"epochs": 6},
    ]
    assert list(other_ways(distilled, ["uniform"], "uniform")) == []
