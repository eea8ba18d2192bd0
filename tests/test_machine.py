"""Locks and what a device says of itself."""

import subprocess
import sys
import time

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
