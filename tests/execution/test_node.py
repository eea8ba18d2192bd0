"""A cell on a node: in a copy of the source tree that is kept, by DVC, to and from the remote."""

import subprocess

import pytest

from toys import SOURCE, Toy
from trimlab.execution import cell as one_cell
from trimlab.execution import node


def job_of(toy, tmp_path):
    source = subprocess.run(["git", "archive", "HEAD"], cwd=toy.root, capture_output=True, check=True).stdout
    config = f"[core]\n    no_scm = true\n    remote = storage\n['remote \"storage\"']\n    url = {tmp_path}/remote\n"
    env = {"PYTHONPATH": str(SOURCE), "TRIMLAB_TRACKING": "off"}
    return node.Job(source, "0123456789ab", config, str(tmp_path / "node"), env)


@pytest.fixture
def toy(tmp_path):
    """What the head does: the first stages, shared with the nodes."""
    made = Toy(tmp_path / "toy")
    made.run("python", "-m", "dvc", "repro", "-q", "prepare@digits")
    made.run("python", "-m", "dvc", "push", "-q", "--run-cache")
    made.ran()
    return made


def given(toy, *cells):
    entries = one_cell.entries(toy.root / "dvc.lock")
    return {cell: {"entry": entries[cell], "files": {}} for cell in cells}


def test_a_cell_takes_its_inputs_from_the_remote_and_runs_once_wherever_it_is_asked_for(toy, tmp_path):
    job, upstream = job_of(toy, tmp_path), given(toy, "fingerprint", "prepare@digits")
    answer = node.run(job, "train@digits", upstream, {})
    assert toy.ran() == {"train": 1}
    assert [out["path"] for out in answer["entry"]["outs"]] == ["train/digits/model"]
    elsewhere = node.Job(job.source, job.commit, job.config, str(tmp_path / "other node"), job.env)
    again = node.run(elsewhere, "train@digits", upstream, {})
    assert again["entry"] == answer["entry"]
    assert toy.ran() == {}, "the remote's run cache has it"
    here = node.run(elsewhere, "runtimes", given(toy, "fingerprint"), {})
    assert here["files"] == {"runtimes/here.json": "runtimes"}
    node.run(elsewhere, "runtimes", given(toy, "fingerprint"), {})
    assert toy.ran() == {"runtimes": 2}, "what a machine has is never restored"


@pytest.mark.parametrize(("mark", "kind"), [("fail", node.CellError), ("kill", node.KilledError)])
def test_a_cell_that_fails_and_one_that_is_killed_are_told_apart(mark, kind, toy, tmp_path):
    (tmp_path / f"{mark}-train").touch()
    with pytest.raises(node.CellError) as caught:
        node.run(job_of(toy, tmp_path), "train@digits", given(toy, "fingerprint", "prepare@digits"), {})
    assert type(caught.value) is kind
    assert "cell.py train" in caught.value.log


def test_two_cells_have_two_copies_of_the_source_and_those_are_kept_until_it_changes(toy, tmp_path):
    job = job_of(toy, tmp_path)
    folder = tmp_path / "node"
    with node._copy_of_source(job, folder) as one, node._copy_of_source(job, folder) as other:
        assert one != other
        (one / ".dvc/tmp/trimlab/kept").touch()
        assert (other / ".dvc/tmp/trimlab/kept").exists(), "unfinished trainings are shared"
        (one / "left").touch()
    assert folder.stat().st_mode & 0o777 == 0o700
    with node._copy_of_source(job, folder) as again:
        assert again == one and (one / "left").exists()
    toy.edit("study: tiny", "study: other")
    toy.commit("changed")
    with node._copy_of_source(job_of(toy, tmp_path), folder) as changed:
        assert changed == one and not (one / "left").exists()
        assert "study: other" in (one / "params.yaml").read_text()
        assert (one / ".dvc/tmp/trimlab/kept").exists()


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("failed to run: python stages/train.py x, exited with -9", True),
        ("failed to run: python stages/train.py x, exited with 137", True),
        ("failed to run: python stages/train.py x, exited with 1", False),
        ("failed to run: python stages/train.py x, exited with 128", False),
    ],
)
def test_what_a_signal_ended_is_tried_again(said, again):
    assert bool(one_cell._SIGNALLED.search(f"failed to reproduce 'train@x'\n{said}")) is again
