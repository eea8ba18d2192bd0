"""What a killed DVC left half written is renamed, and nothing else is."""

import multiprocessing
from pathlib import Path

import pytest
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trimlab import dvc_files

LOCKFILE = """\
schema: '2.0'
stages:
  prepare@digits:
    cmd: python stages/prepare.py digits
    deps:
    - path: data/none
      hash: md5
      md5: d41d8cd98f00b204e9800998ecf8427e
      size: 0
    params:
      params.yaml:
        data.seed: 0
    outs:
    - path: prepare/digits
      hash: md5
      md5: 5b1ac76ceee5b8a3ee1b5b3b0a4b0b66.dir
      size: 5551234
      nfiles: 2
  report:
    cmd: python stages/report.py
    outs:
    - path: report/report.md
      hash: md5
      md5: a7c5a7c5a7c5a7c5a7c5a7c5a7c5a7c5
      size: 12
"""
"""As DVC writes it."""


@pytest.fixture
def files(in_tmp):
    """The two files of a finished run, and DVC's own lock."""
    Path(".dvc/tmp").mkdir(parents=True)
    Path("dvc.lock").write_text(LOCKFILE)
    Path(".dvc/tmp/rwlock").write_text("{}")
    return in_tmp


def test_whole_files_stay(files):
    assert dvc_files.repair() == []
    assert Path("dvc.lock").read_text() == LOCKFILE


def test_an_entry_is_what_dvc_saved_of_a_cell(files):
    assert dvc_files.entry("report").startswith("    cmd: python stages/report.py\n    outs:\n")
    assert dvc_files.entry("prepare@digits").endswith("nfiles: 2\n")
    assert dvc_files.entry("prepare@digit") == ""
    Path("dvc.lock").unlink()
    assert dvc_files.entry("report") is None


def test_where_dvc_never_ran_nothing_is_made(in_tmp):
    assert dvc_files.repair() == []
    assert list(in_tmp.iterdir()) == []


@settings(max_examples=len(LOCKFILE), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(0, len(LOCKFILE) - 1))
def test_of_a_lockfile_that_ends_anywhere_dvc_finds_what_it_takes_or_nothing(files, length):
    Path("dvc.lock").write_text(LOCKFILE[:length])
    lines = dvc_files.repair()
    if Path("dvc.lock").exists():
        COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(LOCKFILE[:length]))
        assert lines == [] and LOCKFILE[length - 1] == "\n", "a number may have been cut"
    else:
        assert lines[0].startswith("dvc.lock ended early") and "the run cache has them" in lines[0]
        assert Path("dvc.lock.broken").read_text() == LOCKFILE[:length]


def test_an_empty_table_of_locks_is_renamed(files):
    Path(".dvc/tmp/rwlock").write_text("")
    [line] = dvc_files.repair()
    assert line.startswith(".dvc/tmp/rwlock ended early") and line.endswith("DVC makes it again")
    assert not Path(".dvc/tmp/rwlock").exists()


def _hold(ready, done):
    with FileLock(".dvc/tmp/lock"):
        ready.set()
        done.wait(60)


def test_nothing_is_touched_while_dvc_writes(files):
    Path("dvc.lock").write_text("")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    dvc = context.Process(target=_hold, args=(ready, done))
    dvc.start()
    assert ready.wait(60)
    assert dvc_files.repair() == []
    assert Path("dvc.lock").exists()
    done.set()
    dvc.join()
    assert len(dvc_files.repair()) == 1
