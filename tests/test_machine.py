"""Locks and what a device says of itself."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from trimlab import machine
from trimlab.errors import UserError
from trimlab.measure import device


def test_a_cell_that_is_being_computed_is_refused_in_one_line(in_tmp):
    with (
        machine.one_at_a_time("train/x"),
        pytest.raises(UserError, match=r"train/x is being computed by another process: wait for it, or end it"),
        machine.one_at_a_time("train/x"),
    ):
        pass
    with machine.one_at_a_time("train/x"):
        pass  # free again


def test_trainings_and_timings_wait_for_each_other(tmp_path):
    log = tmp_path / "log"
    code = (
        "import time\nfrom trimlab import machine\n"
        "with machine.exclusive('x'):\n"
        f"    file = open({str(log)!r}, 'a')\n"
        "    print('in', file=file, flush=True); time.sleep(0.3); print('out', file=file, flush=True)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert log.read_text().split() == ["in", "out"] * 3


def test_the_machines_lock_is_one_file_for_all_users(tmp_path, monkeypatch):
    monkeypatch.delenv("TRIMLAB_LOCK")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "own"))  # each user's own, on macOS always
    monkeypatch.setattr(machine.tempfile, "tempdir", None)
    assert machine._machine_lock() == Path("/tmp/trimlab-machine.lock")
    monkeypatch.setattr(machine, "SHARED", tmp_path / "missing")
    assert machine._machine_lock().parent == Path(machine.tempfile.gettempdir())


def test_another_users_lock_can_be_held(tmp_path, monkeypatch):
    # Everybody writes in such a folder, and nobody may replace another user's file.
    shared = machine.SHARED / f"trimlab-test-{os.getpid()}"
    shared.mkdir()
    try:
        shared.chmod(0o1777)
        monkeypatch.setenv("TRIMLAB_LOCK", str(shared / "lock"))
        was = os.umask(0o077)
        try:
            with machine.exclusive("one user's"):
                pass
        finally:
            os.umask(was)
        assert (shared / "lock").stat().st_mode & 0o777 == 0o666
        with another_user(), machine.exclusive("another's"):
            pass
    finally:
        shutil.rmtree(shared)


@contextmanager
def another_user():
    """Become nobody, where this is root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMLAB_LOCK", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"cannot be locked \(.*\): set TRIMLAB_LOCK to a file"),
        machine.exclusive("test"),
    ):
        pass


def test_a_busy_neighbour_is_noticed():
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    try:
        with machine.exclusive("test") as watch:
            time.sleep(1.5)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert watch.contended


def test_own_work_is_no_contention(monkeypatch):
    # The counters are the system's; here they are set, because a shared machine is never surely quiet.
    own, busy = iter([0.0, 9.0]), iter([0.0, 9.1])
    monkeypatch.setattr(device, "_own_seconds", lambda: next(own))
    monkeypatch.setattr(device, "_busy_seconds", lambda: next(busy))
    clock = iter([0.0, 10.0])
    monkeypatch.setattr(device.time, "perf_counter", lambda: next(clock))
    with device.watched() as watch:
        pass
    assert not watch.contended
