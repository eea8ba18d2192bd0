"""A few disturbances of a small study; `make chaos` makes hundreds."""

import random

import pytest

import chaos

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]


def test_a_study_that_is_killed_at_random_ends_as_one_that_never_was(tmp_path):
    counts = chaos.Counts()
    project = chaos.prepare(tmp_path / "disturbed" / "project")
    reference = chaos.prepare(tmp_path / "undisturbed" / "project")
    expected, span = chaos.undisturbed(reference)
    round_, chance = chaos.Round(project, counts, expected), random.Random(0)
    for name in ("making of the store", "dvc", "measurement", "everything"):
        round_.disturb(name, chance, span)
    round_.finish()
    assert counts.complaints == []
    assert counts.failures() == 0
    assert counts.kills.total() >= 2, counts
