"""A search's tries, with a DVC that answers at once: what is kept, put back, refused, and left for the next call."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from ruamel.yaml import YAML

from trimlab import config
from trimlab.errors import UserError
from trimlab.machine import alone
from trimlab.report.intervals import Difference, Replicated
from trimlab.report.pick import File, Limits
from trimlab.search import result, tries

MIB = 2**20
SIZE = Limits(max_drop=1.0)


class Dvc:
    """Writes values into params.yaml as `dvc exp run` does; a file keeps the accuracy up to a ratio."""

    def __init__(self, monkeypatch):
        self.ran, self.fails, self.seconds, self.now = [], {}, 0.0, 0.0
        monkeypatch.setattr(tries, "_run", self.run)
        monkeypatch.setattr(tries, "_candidates", self.candidates)
        monkeypatch.setattr(tries, "time", SimpleNamespace(monotonic=lambda: self.now))

    def run(self, arguments):
        if arguments[0] == "repro":
            self.now += 1e6  # the baseline's training: longer than all tries
            return self.fails.get("baseline", (0, []))
        values = [argument.removeprefix("++prune.").split("=") for argument in arguments if argument.startswith("++")]
        yaml, file = YAML(), Path("params.yaml")
        params = yaml.load(file)
        params["prune"].update({key: yaml.load(value) for key, value in values})
        yaml.dump(params, file)
        point = config.load().prune
        self.ran.append(point)
        self.now += self.seconds * point.epochs / 5
        return self.fails.get(point.ratio, (0, []))

    def candidates(self, search):
        point = config.load().prune
        largest = 0.6 + 0.2 * (point.epochs == 10) - 0.3 * (point.allocation is not None)
        time = Replicated(1 - point.ratio, None, None, 1)
        lost = Difference(-0.5 if point.ratio <= largest else -3.0, 0.1, "paired")
        return [File([SimpleNamespace(precision="int8", runtime="onnxruntime")], lost, time.mean * MIB, time, time)]


@pytest.fixture
def dvc(in_tmp, project, monkeypatch):
    """A DVC for the quick study, scored on the hold-out."""
    text = (project / "studies/quick.yaml").read_text()
    (in_tmp / "params.yaml").write_text(text.replace("split: test", "split: holdout"))
    return Dvc(monkeypatch)


def searched(hours=1e9, limits=SIZE, runtimes=(), objective="size"):
    with tries.begun(limits, objective, list(runtimes)) as search:
        for _ in tries.run(search, hours):
            pass
        return search, result.finish(search)


def test_a_search_ends_with_the_best_point_and_the_params_as_they_were(dvc, in_tmp):
    before = (in_tmp / "params.yaml").read_bytes()
    search, said = searched()
    assert (in_tmp / "params.yaml").read_bytes() == before
    assert said.startswith(f"the best of {len(search.kept)} tries has ratio 0.79, epochs 10: wrote ")
    found = config.load(in_tmp / "studies/quick-found.yaml")
    assert (found.study, found.data.split) == ("quick-found", "test")
    assert found.prune == config.load().prune.model_copy(update={"ratio": 0.79, "epochs": 10})
    assert (in_tmp / "searches/quick.svg").stat().st_size


def test_each_try_has_its_own_change_alone(dvc):
    searched()
    plain = config.load().prune
    for point in dvc.ran:
        changed = {key for key in type(point).model_fields if getattr(point, key) != getattr(plain, key)} - {"ratio"}
        assert changed <= {"allocation", "epochs"}
    assert dvc.ran[-1].allocation != plain.allocation or dvc.ran[-1].epochs == 10
    assert any(point.epochs == 5 for point in dvc.ran[3:])


def test_another_call_repeats_nothing_unless_its_params_or_limits_are_others(dvc, in_tmp):
    searched()
    tried = len(dvc.ran)
    searched()
    assert len(dvc.ran) == tried
    searched(limits=Limits(2.0))
    assert len(dvc.ran) == 2 * tried
    params = in_tmp / "params.yaml"
    params.write_text(params.read_text().replace("epochs: 5, learning_rate: 0.05", "epochs: 5, learning_rate: 0.02"))
    searched()
    assert len(dvc.ran) == 3 * tried


def test_it_ends_when_another_try_might_end_too_late(dvc):
    dvc.seconds = 60.0
    search, _ = searched(hours=(1e6 + 150) / 3600)
    assert len(search.kept) == 2, "of one minute each; the baseline's time says nothing about a third"
    search, _ = searched(hours=0)
    assert len(search.kept) == 3, "a call makes one try at least"


def test_a_try_with_twice_the_epochs_may_take_twice_as_long():
    def took(seconds, change):
        return tries.Kept(0.5, change, 1.0, 0.1, True, True, seconds, [])

    known = [took(60.0, {}), took(50.0, {"allocation": "global"})]
    assert tries._longest(known, 5, {}) == 60.0
    assert tries._longest(known, 5, {"epochs": 10}) == 120.0
    known.append(took(100.0, {"epochs": 10}))
    assert tries._longest(known, 5, {}) == 100.0
    assert tries._longest(known, 5, {"epochs": 10}) == 120.0


def test_a_point_that_cannot_be_pruned_is_not_tried_again(dvc):
    dvc.fails[0.73] = (1, ["error: prune.ratio 0.73 is not reached: lower it", "ERROR: failed to reproduce"])
    search, _ = searched()
    (refused,) = (one for one in search.kept if one.problem)
    assert refused.problem == "prune.ratio 0.73 is not reached: lower it"
    assert tries.described(refused) == f"ratio 0.73: {refused.problem}"


def test_a_failure_for_another_reason_ends_the_search_and_is_tried_again(dvc, in_tmp):
    before = (in_tmp / "params.yaml").read_bytes()
    dvc.fails[0.73] = (1, ["ERROR: Unable to acquire lock"])
    with pytest.raises(UserError, match=r"^try 2 failed, ratio 0\.73: Unable to acquire lock$"):
        searched()
    assert (in_tmp / "params.yaml").read_bytes() == before
    dvc.fails.clear()
    searched()
    assert [point.ratio for point in dvc.ran[:4]] == [0.5, 0.73, 0.73, 0.61]


def test_a_baseline_that_fails_ends_the_search(dvc):
    dvc.fails["baseline"] = (1, ["error: no room", "ERROR: failed"])
    with pytest.raises(UserError, match=r"^the baseline failed: no room$"):
        searched()
    assert dvc.ran == []


def test_a_file_that_is_too_large_asks_for_a_larger_ratio(dvc):
    search, said = searched(limits=Limits(1.0, max_mib=0.45))
    assert search.kept[0].keeps and not search.kept[0].within
    assert "has ratio 0.79, epochs 10" in said


def test_without_a_find_the_limits_that_would_do_are_named_and_an_old_study_goes(dvc, in_tmp):
    searched()
    assert (in_tmp / "studies/quick-found.yaml").exists()
    with pytest.raises(UserError, match=r"tries is within the limits .* as low as --max-drop 0\.6, --max-mib 0\.5$"):
        searched(limits=Limits(0.2, max_mib=0.3))
    assert not (in_tmp / "studies/quick-found.yaml").exists()


def test_params_of_a_search_that_was_killed_are_put_back_unless_they_were_edited(dvc, in_tmp):
    params, copy = in_tmp / "params.yaml", in_tmp / ".dvc/tmp/trimlab/search/params.yaml"
    before = params.read_text()
    copy.parent.mkdir(parents=True)
    copy.write_text(before)
    params.write_text(before.replace("prune: {ratio: 0.5", "prune: {ratio: 0.73"))
    searched()
    assert params.read_text() == before and not copy.exists()
    copy.write_text(before)
    params.write_text(edited := before.replace("calibration_images: 200", "calibration_images: 100"))
    with pytest.raises(UserError, match=r"params\.yaml was edited since a search began"):
        searched()
    assert params.read_text() == edited and copy.read_text() == before


@pytest.mark.parametrize("left", ["ratio: 7", "ratio: 0.5, epochs: many"])
def test_params_that_a_killed_try_left_invalid_are_put_back(dvc, in_tmp, left):
    params, copy = in_tmp / "params.yaml", in_tmp / ".dvc/tmp/trimlab/search/params.yaml"
    before = params.read_text()
    copy.parent.mkdir(parents=True)
    copy.write_text(before)
    params.write_text(re.sub(r"prune: \{ratio: 0\.5, epochs: 5", f"prune: {{{left}", before))
    assert params.read_text() != before
    searched()
    assert params.read_text() == before and not copy.exists()


def test_a_file_that_is_no_longer_yaml_is_left_alone(dvc, in_tmp):
    params, copy = in_tmp / "params.yaml", in_tmp / ".dvc/tmp/trimlab/search/params.yaml"
    copy.parent.mkdir(parents=True)
    copy.write_text(params.read_text())
    params.write_text("prune: {ratio")
    with pytest.raises(UserError, match=r"params\.yaml was edited since a search began"):
        searched()
    assert params.read_text() == "prune: {ratio"


def test_two_searches_do_not_run_in_one_folder(dvc, in_tmp):
    with (
        alone(in_tmp / ".dvc/tmp/trimlab/search/lock", ""),
        pytest.raises(UserError, match="another search is running in this folder"),
    ):
        searched()


@pytest.mark.parametrize(
    ("old", "new", "runtimes", "message"),
    [
        ("split: holdout", "split: test", [], "data.split test: a search would choose on the test set"),
        ("pruning: prune}", "pruning: sweep.r30}", [], "report.candidate 'candidate' is not pruned by `prune`"),
        ("", "", ["onnxruntim"], "--runtime 'onnxruntim' is unknown: use one of .*onnxruntime"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(dvc, in_tmp, old, new, runtimes, message):
    params = in_tmp / "params.yaml"
    params.write_text(params.read_text().replace(old, new))
    with pytest.raises(UserError, match=message):
        searched(runtimes=runtimes)
    assert dvc.ran == []
