"""What a search tries: against made-up responses, it ends, repeats nothing, and finds the largest ratio within."""

from hypothesis import given
from hypothesis import strategies as st

from trimlab.config import PruningPoint
from trimlab.search.proposals import LARGEST, STEP, Try, best, other_ways, proposed

CHANGES = ({"allocation": "global"}, {"distillation": 0.9}, {"epochs": 6})
ratios = st.integers(1, 95).map(lambda hundredths: hundredths / 100)


def searched(start, limit, gains, factors=(1, 1, 1), most=float("inf")):
    """Search where a point keeps the accuracy up to a ratio, which each change raises or lowers.

    Each change also multiplies what the file costs, and a limit says how much it may.
    """
    tried = []
    while (asked := proposed(start, CHANGES, tried)) is not None:
        ratio, change = asked
        assert 0 < ratio <= LARGEST
        assert not any((one.ratio, one.change) == asked for one in tried)
        largest, cost = limit, 1 - ratio
        for own, gain, factor in zip(CHANGES, gains, factors, strict=True):
            if own.items() <= change.items():
                largest, cost = largest + gain, cost * factor
        kept = ratio <= largest + 1e-9
        tried.append(Try(ratio, change, cost, ratio - largest, kept, kept and cost <= most))
        assert len(tried) < 100
    return tried


@given(start=ratios, limit=ratios)
def test_the_largest_ratio_within_the_limits_is_found_to_a_step(start, limit):
    within = [one.ratio for one in searched(start, limit, (0, 0, 0)) if one.within]
    assert limit - max(within, default=0) <= STEP + 1e-9


@given(start=ratios, limit=st.integers(10, 60).map(lambda n: n / 100), which=st.integers(0, 2))
def test_a_change_that_helps_is_kept_and_the_ratio_raised_further(start, limit, which):
    gains = [-0.1, -0.1, -0.1]
    gains[which] = 0.2
    found = best(searched(start, limit, gains))
    assert found.change == CHANGES[which]
    assert limit + 0.2 - found.ratio <= STEP + 1e-9


@given(start=ratios, limit=st.integers(30, 60).map(lambda n: n / 100))
def test_a_change_that_costs_more_at_first_is_raised_too(start, limit):
    """At one step beyond, its file is larger than the best one; at its own largest ratio it is smaller."""
    found = best(searched(start, limit, (0.3, -0.9, -0.9), factors=(1.2, 1, 1)))
    assert found.change == CHANGES[0]
    assert limit + 0.3 - found.ratio <= STEP + 1e-9


@given(start=ratios, limit=st.integers(40, 90).map(lambda n: n / 100))
def test_a_change_that_loses_too_much_but_costs_less_is_tried_at_smaller_ratios(start, limit):
    """At equal ratios it loses more than the best way, and its file is so small that a smaller ratio would do."""
    found = best(searched(start, limit, (-0.2, -0.9, -0.9), factors=(0.2 * (1 - limit), 1, 1)))
    assert found.change == CHANGES[0]
    assert limit - 0.2 - found.ratio <= STEP + 1e-9


def test_a_change_that_loses_too_much_and_costs_more_is_tried_once():
    tried = searched(0.5, 0.5, (-0.2, -0.2, -0.2), factors=(2, 2, 2))
    assert [sum(one.change == change for one in tried) for change in CHANGES] == [1, 1, 1]


def test_all_ways_are_tried_once_before_the_one_that_loses_least_is_raised():
    tried = searched(0.5, 0.5, (0.02, 0.3, 0.1))
    ways = [one.change for one in tried if one.change in CHANGES]
    assert ways[:3] == list(CHANGES)
    assert ways[3] == CHANGES[1]


@given(start=ratios, limit=st.integers(40, 90).map(lambda n: n / 100), share=st.integers(1, 9))
def test_a_file_that_is_too_large_asks_for_a_larger_ratio(start, limit, share):
    """Files keep the limit of size from a ratio on, and the accuracy up to another: the range between is found."""
    found = best(searched(start, limit, (-0.9, -0.9, -0.9), most=1 - limit + share / 100 + STEP))
    assert found.within
    assert limit - found.ratio <= STEP + 1e-9


def test_a_file_within_all_limits_goes_before_a_cheaper_one_that_is_not():
    slow, small = Try(0.5, {}, 2.0, 0.1, True, True), Try(0.6, {}, 1.0, 0.1, True, False)
    assert best([small, slow]) is slow
    assert best([small]) is small
    assert best([Try(0.7, {}, 0.5, 2.0, False, False), Try(0.8, {}, None, None, False, False)]) is None


def test_where_nothing_is_ever_accurate_enough_all_ways_are_tried_and_the_search_ends():
    tried = searched(0.5, 0.0, (0, 0, 0))
    assert not any(one.keeps for one in tried)
    assert min(one.ratio for one in tried) <= STEP
    assert all(any(one.change == change for one in tried) for change in CHANGES)


def test_only_what_differs_from_the_point_is_another_way():
    plain, distilled = PruningPoint(ratio=0.5, epochs=3), PruningPoint(ratio=0.5, epochs=0, distillation=0.5)
    assert list(other_ways(plain, ["uniform", "global"], "uniform")) == [
        {"allocation": "global"},
        {"distillation": 0.9, "temperature": 2.0},
        {"epochs": 6},
    ]
    assert list(other_ways(distilled, ["uniform"], "uniform")) == []
