"""From curves and a budget to ratios: the knapsack is exact, budgets hold, and more budget never prunes more."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trimlab.prune import allocation

LOSS = st.floats(0, 10)


@st.composite
def instances(draw):
    """Costs and gains of the options of a few groups; the first option is free and gains nothing."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    costs = [[0.0, *draw(st.lists(LOSS, min_size=size, max_size=size))] for size in sizes]
    gains = [[0, *draw(st.lists(st.integers(0, 30), min_size=size, max_size=size))] for size in sizes]
    return costs, gains, draw(st.integers(0, sum(map(max, gains))))


@st.composite
def curves(draw):
    """Curves of a few groups as they are measured: noisy losses, at ratios up to 0.9."""
    made = []
    for _ in range(draw(st.integers(1, 5))):
        width = draw(st.integers(10, 200))
        ratios = [0.2, 0.5, 0.9]
        losses = draw(st.lists(st.floats(-0.1, 5), min_size=3, max_size=3))
        total = draw(st.floats(1, 1e6))
        made.append(allocation.curve(width, 1, ratios, losses, [ratio * total for ratio in ratios]))
    return made


def total(values, choice):
    return sum(each[option] for each, option in zip(values, choice, strict=True))


def of(found, name):
    return [getattr(each, name) for each in found]


@given(instances())
@settings(max_examples=300)
def test_the_knapsack_is_as_cheap_as_the_best_of_all_choices(instance):
    costs, gains, least = instance
    choice = allocation.knapsack(costs, gains, least)
    everything = itertools.product(*(range(len(options)) for options in costs))
    best = min(total(costs, each) for each in everything if total(gains, each) >= least)
    assert total(gains, choice) >= least
    assert total(costs, choice) == pytest.approx(best)


def test_a_knapsack_that_no_choice_fills_is_refused():
    with pytest.raises(ValueError, match="no choice gains 4"):
        allocation.knapsack([[0.0, 1.0]], [[0, 3]], 4)


@pytest.mark.parametrize("choose", [allocation.search, allocation.tolerated])
@given(found=curves(), share=st.floats(0, 1))
def test_what_is_asked_for_is_saved(choose, found, share):
    saving = share * allocation.most(found)
    unit = allocation.most(found) / allocation.BINS  # the largest saving may lie between two steps
    assert total(of(found, "saved"), choose(found, saving)) >= min(saving, allocation.most(found) - len(found) * unit)


@pytest.mark.parametrize("choose", [allocation.search, allocation.tolerated])
@given(found=curves(), shares=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_saving_never_loses_less(choose, found, shares):
    less, more = (choose(found, share * allocation.most(found)) for share in sorted(shares))
    assert total(of(found, "losses"), less) <= total(of(found, "losses"), more) + 1e-9
    if choose is allocation.tolerated:
        assert all(a <= b for a, b in zip(less, more, strict=True))


@given(found=curves(), share=st.floats(0, 1))
def test_no_group_loses_more_than_the_tolerance_and_the_next_smaller_one_saves_too_little(found, share):
    saving = share * allocation.most(found)
    choice = allocation.tolerated(found, saving)
    worst = max(total([each], [option]) for each, option in zip(of(found, "losses"), choice, strict=True))
    for each, option in zip(found, choice, strict=True):
        assert option + 1 == len(each.losses) or each.losses[option + 1] > worst
    if worst > 0:
        lower = [max(i for i, loss in enumerate(each.losses) if loss < worst) for each in found]
        assert total(of(found, "saved"), lower) < saving


@given(found=curves(), share=st.floats(0, 1))
def test_the_search_never_loses_more_than_one_tolerance_for_all_would(found, share):
    unit = allocation.most(found) / allocation.BINS
    saving = share * max(0.0, allocation.most(found) - len(found) * unit)
    tolerant = allocation.tolerated(found, saving + len(found) * unit)
    searched = allocation.search(found, saving)
    assert total(of(found, "losses"), searched) <= total(of(found, "losses"), tolerant) + 1e-9


@given(width=st.integers(1, 2048), step=st.sampled_from([1, 8, 16]), last=st.floats(0.1, 0.9))
def test_every_option_leaves_the_width_it_was_made_for(width, step, last):
    found = allocation.curve(width, step, [last], [1.0], [float(width)])
    kept = [int(width * (1 - ratio)) for ratio in found.ratios]
    assert kept[0] == width
    assert kept == sorted(set(kept), reverse=True)
    assert all(width % step == 0 or left % step == 0 for left in kept[1:])
    assert kept[-1] >= 1
    assert len(kept) <= allocation.MOST_OPTIONS + 1


def test_losses_and_savings_lie_between_the_measured_ones_and_noise_counts_as_none():
    found = allocation.curve(16, 1, [0.25, 0.5, 0.75], [-0.3, 0.4, 0.2], [20.0, 40.0, 80.0])
    at = {int(16 * (1 - ratio)): values for ratio, *values in zip(*found, strict=True)}
    expected = {16: (0, 0), 12: (0, 20), 10: (0.2, 30), 8: (0.4, 40), 4: (0.4, 80)}
    for kept, values in expected.items():
        assert at[kept] == pytest.approx(values, abs=1e-5)
    assert list(found.losses) == sorted(set(found.losses))


@given(target=st.floats(200, 1000), power=st.floats(1, 2))
@settings(max_examples=50)
def test_a_saving_is_scaled_until_the_pruned_model_meets_the_target(target, power):
    found = [allocation.curve(512, 1, [0.5, 0.9], [1.0, 2.0], [500.0, 900.0])]

    def measured(choice):  # layers together save less than each alone
        return 1000 * (1 - found[0].ratios[choice[0]]) ** power

    choice, left = allocation.within(found, allocation.search, measured, target, 0.1)
    assert left == measured(choice)
    most = measured([len(found[0].ratios) - 1])
    assert left == most if most > target else abs(left - target) <= 0.1 * target


def test_where_widths_are_too_far_apart_the_nearest_below_the_target_is_returned():
    found = [allocation.curve(64, 16, [0.75], [1.0], [48.0])]
    left = allocation.within(found, allocation.tolerated, lambda choice: 64.0 - 16 * choice[0], 50.0, 0.02)
    assert left == ([1], 48.0)


@given(found=curves(), share=st.floats(0.2, 1))
@settings(max_examples=50)
def test_groups_get_channels_back_as_far_as_a_target_allows(found, share):
    def measured(choice):
        return allocation.most(found) - total(of(found, "saved"), choice)

    target = share * allocation.most(found)
    choice, left = allocation.within(found, allocation.search, measured, target, 0.0)
    wider = [[option - (place == group) for place, option in enumerate(choice)] for group in range(len(found))]
    fitting = [each for each in wider if min(each) >= 0 and measured(each) <= target]
    assert left == measured(choice)
    assert left == target or (left < target and fitting == [])
