"""Targets: met within 2 %, or refused in one line that names the closest value."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.prune import pruner
from trimlab.prune.point import dry_run, prune_at
from trimlab.prune.target import TOLERANCE

SHAPE = (3, 8, 8)
KEYS = config.PruningKeys(target="sweep.small.target")


def chain(first, second):
    """A network of two convolutions of these widths."""
    return nn.Sequential(
        nn.Conv2d(3, first, 3, padding=1, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1, bias=False),
        nn.BatchNorm2d(second),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, 10),
    )


TAKEN = {
    "params": count_params,
    "macs": lambda model: count_macs(model, SHAPE),
    "size_mib": lambda model: size_bytes(model) / 2**20,
}


def taken_by(first, second, quantity):
    """What a chain takes, by arithmetic."""
    weights = 27 * first + 9 * first * second
    params = weights + 2 * (first + second) + 10 * second + 10
    if quantity == "macs":
        return 64 * weights + 10 * second
    counters = 2 * 8  # BatchNorm's, in 64 bits
    return params if quantity == "params" else (4 * (params + 2 * (first + second)) + counters) / 2**20


def asked(quantity, value):
    return config.PruningPoint(target={quantity: value}, epochs=0)


@given(
    widths=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    quantity=st.sampled_from(sorted(TAKEN)),
    share=st.floats(0.02, 0.99),
)
@settings(max_examples=12)
def test_a_target_is_met_or_refused_with_the_closest_value(widths, quantity, share):
    model = chain(*widths)
    assert TAKEN[quantity](model) == pytest.approx(taken_by(*widths, quantity))
    target = share * TAKEN[quantity](model)
    steps = sorted({int(10_000 * (1 - kept / width)) / 10_000 for width in widths for kept in range(1, width)})
    ratios = [r for step in steps for r in (step, step + 1e-4, step + 2e-4) if 0 < r < 0.95]
    shapes = [[int(width * (1 - ratio)) for width in widths] for ratio in ratios]
    possible = [taken_by(*shape, quantity) for shape in shapes if min(shape) > 0]
    try:
        ratio = prune_at(asked(quantity, target), model, config.PruningSettings(), SHAPE, keys=KEYS).ratio
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        assert f"sweep.small.target.{quantity} " in str(error)
        assert not any(abs(value - target) <= TOLERANCE * target for value in possible)
    else:
        reached = TAKEN[quantity](model)
        assert abs(reached - target) <= TOLERANCE * target
        closest = min([abs(value - target) for value in possible], default=0.0)
        assert abs(reached - target) <= closest * 1.0001 + 1e-9
        again = chain(*widths)
        pruner.prune(again, ratio, config.PruningSettings(), SHAPE)
        assert pruner.widths(again) == pruner.widths(model)


@pytest.mark.parametrize("allocation", ["global", "isomorphic"])
@given(share=st.floats(0.3, 0.8), seed=st.integers(0, 100))
@settings(max_examples=3)
def test_a_target_is_met_where_layers_are_ranked_together(allocation, share, seed):
    torch.manual_seed(seed)
    model = chain(61, 97)
    target = share * count_params(model)
    prune_at(asked("params", target), model, config.PruningSettings(allocation=allocation), SHAPE)
    assert count_params(model) == pytest.approx(target, rel=TOLERANCE)


def test_the_closest_value_is_named_and_can_be_asked_for():
    with pytest.raises(UserError, match=r"sweep\.small\.target\.params 700 is not reached within 2%: the") as error:
        prune_at(asked("params", 700), chain(4, 16), config.PruningSettings(), SHAPE, keys=KEYS)
    closest = float(re.search(r"set it to ([\d.]+)$", str(error.value))[1])
    model = chain(4, 16)
    prune_at(asked("params", closest), model, config.PruningSettings(), SHAPE)
    assert count_params(model) == closest


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"params": "1k"}, r"sweep\.small\.target\.params 1k is not below the unpruned model's 894: lower it"),
        (
            {"macs": 1},
            r"sweep\.small\.target\.macs 1 is not reached within 2%: the closest is [\d.]+k, at ratio 0\.\d+",
        ),
    ],
)
def test_a_target_out_of_reach_is_one_line(target, message):
    point = config.PruningPoint(target=target, epochs=0)
    for refuse in (prune_at, dry_run):
        with pytest.raises(UserError, match=message) as error:
            refuse(point, chain(4, 16), config.PruningSettings(), SHAPE, keys=KEYS)
        assert len(str(error.value).splitlines()) == 1


def test_a_model_that_no_ratio_prunes_is_one_line():
    section, point = config.PruningSettings(round_to=64), config.PruningPoint(target={"params": 500}, epochs=0)
    with pytest.raises(
        UserError, match=r"sweep\.small\.target\.params 500 is not reached, as no ratio is: .*"
    ) as error:
        prune_at(point, chain(4, 16), section, SHAPE, keys=KEYS)
    assert len(str(error.value).splitlines()) == 1


def test_a_dry_run_changes_nothing():
    model, state = chain(8, 16), torch.get_rng_state()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for section in (config.PruningSettings(importance="taylor"), config.PruningSettings(allocation="global")):
        dry_run(asked("params", 725), model, section, SHAPE)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
