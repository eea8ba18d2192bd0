"""Locks and what a device says of itself."""

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from fake_cuda import FakeCuda
from trimlab import machine
from trimlab.errors import UserError
from trimlab.measure import device
from trimlab.measure.runtimes.cuda import Cuda
from trimlab.records import Device
from trimlab.train import hardware, loop
from users import another_user


def test_two_processes_compute_a_cell_one_after_the_other(in_tmp):
    def wait():
        with machine.one_at_a_time("train/x"):
            log.append("second")

    log, second = [], threading.Thread(target=wait)
    with machine.one_at_a_time("train/x"):
        second.start()
        second.join(0.2)
        log.append("first")
    second.join()
    assert log == ["first", "second"]


def test_a_stage_that_waits_for_its_orphan_says_so(in_tmp, capsys):
    code = "import os\nfrom trimlab import machine\nwith machine.one_at_a_time('train/x'): print(flush=True); input()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as orphan:
        orphan.stdout.readline()
        threading.Timer(0.3, orphan.kill).start()
        with machine.one_at_a_time("train/x"):
            pass
    assert "train/x: another process is still computing it, waiting for that to end" in capsys.readouterr().err


class Held:
    """Another process that takes a lock, and says so once it has it."""

    def __init__(self, arguments):
        code = (
            "import sys\nfrom trimlab import machine\n"
            f"with machine.exclusive('x', {arguments}):\n    print('in', flush=True); sys.stdin.read()\n"
        )
        command = [sys.executable, "-c", code]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def has_it(self):
        return self.process.stdout.readline() == "in\n"

    def waits(self):
        return "waiting for another training or timing" in self.process.stderr.readline()

    def end(self):
        self.process.communicate()


@pytest.mark.parametrize(
    ("first", "second", "waits"),
    [
        ("machine.CPU", "machine.CPU", True),
        ("'gpu-a'", "'gpu-a'", True),
        ("'gpu-a'", "'gpu-b'", False),
        ("'gpu-a'", "machine.CPU", False),
        ("None", "None", True),
        ("'gpu-a'", "None", True),
        ("None", "'gpu-a'", True),
        ("machine.CPU", "None", True),
        ("None", "machine.CPU", True),
    ],
)
def test_a_device_trains_one_model_and_a_timing_is_alone_on_the_machine(first, second, waits):
    one = Held(first)
    assert one.has_it()
    other = Held(second)
    if waits:
        assert other.waits()
        one.end()
    assert other.has_it()
    for each in (one, other):
        if each.process.poll() is None:
            each.end()
    assert (one.process.returncode, other.process.returncode) == (0, 0)


def test_trainings_share_a_gpu_where_it_is_shared_out_and_never_the_processor(monkeypatch):
    monkeypatch.setenv("TRIMLAB_SHARE_GPU", "1")
    one, other = Held("'gpu-a'"), Held("'gpu-a'")
    assert one.has_it() and other.has_it()
    timing = Held("None")
    assert timing.waits()
    for each in (one, other, timing):
        each.end()
    one = Held("machine.CPU")
    assert one.has_it()
    other = Held("machine.CPU")
    assert other.waits()
    one.end()
    other.end()


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


def test_a_lock_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMLAB_LOCK", str(tmp_path))
    with (
        pytest.raises(UserError, match=r"cannot be locked \(.*\): set TRIMLAB_LOCK to a writable file"),
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


EPYC = """\
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx512_vnni
model name\t: AMD EPYC
flags\t\t: fpu avx2 avx512f avx512_vnni
"""
ARM = """\
processor\t: 0
Features\t: fp asimd evtstrm crc32 asimddp i8mm bf16 sve
CPU implementer\t: 0x41
CPU part\t: 0xd40
"""
"""A server's: no name, and no board."""
RASPBERRY = ARM.replace("asimddp i8mm bf16 sve", "cpuid").replace("0xd40", "0xd08")
MACOS = {
    ("-n", "machdep.cpu.brand_string"): "Apple M2\n",
    ("hw.optional",): "hw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_BF16: 1\n"
    "hw.optional.arm.FEAT_SME: 0\nhw.optional.AdvSIMD: 1\n",
}


@pytest.fixture
def machine_of(tmp_path, monkeypatch):
    """What makes this machine another: by /proc/cpuinfo, a board's name, or macOS's sysctl."""

    def become(cpuinfo="", board="", sysctl=None, architecture="x86_64"):
        for name, text in (("_PROCESSOR_FILE", cpuinfo), ("_BOARD_FILE", board)):
            path = tmp_path / name
            path.unlink(missing_ok=True)
            if text:
                path.write_text(text)
            monkeypatch.setattr(device, name, path)
        monkeypatch.setattr(platform, "system", lambda: "Darwin" if sysctl else "Linux")
        monkeypatch.setattr(platform, "machine", lambda: architecture)
        monkeypatch.setattr(platform, "processor", lambda: "")
        said = sysctl or {}
        monkeypatch.setattr(
            device.subprocess,
            "run",
            lambda command, **_: SimpleNamespace(stdout=said.get(tuple(command[1:]), "")),
        )
        forget()
        return device.cpu(2)

    def forget():
        device.processor_flags.cache_clear()
        device.processor_name.cache_clear()

    yield become
    forget()


@pytest.mark.parametrize(
    ("machine_is", "name", "features"),
    [
        ({"cpuinfo": EPYC}, "AMD EPYC", ["avx512_vnni", "avx512f", "avx2"]),
        ({"cpuinfo": ARM, "architecture": "aarch64"}, "Arm implementer 0x41 part 0xd40",
         ["sve", "i8mm", "bf16", "asimddp", "asimd"]),
        ({"cpuinfo": RASPBERRY, "board": "Raspberry Pi 4 Model B Rev 1.4\0", "architecture": "aarch64"},
         "Raspberry Pi 4 Model B Rev 1.4", ["asimd"]),
        ({"cpuinfo": RASPBERRY + "Model\t: Raspberry Pi 5\n", "architecture": "aarch64"}, "Raspberry Pi 5", ["asimd"]),
        ({"sysctl": MACOS, "architecture": "arm64"}, "Apple M2", ["bf16", "asimddp", "asimd"]),
        ({"architecture": "riscv64"}, "riscv64", []),
    ],
)  # fmt: skip
def test_a_device_is_told_apart_by_name_and_features(machine_is, name, features, machine_of):
    found = machine_of(**machine_is)
    assert (found["name"], found["features"]) == (name, features)


def test_two_machines_of_one_name_and_one_machine_with_other_threads_are_three_devices(machine_of):
    modern = machine_of(cpuinfo=EPYC)
    older = machine_of(cpuinfo=EPYC.replace(" avx512f avx512_vnni", ""))
    found = [modern, older, {**modern, "threads": 1}]
    assert len({json.dumps(device.identity(one)) for one in found}) == 3
    assert device.identity(modern) == device.identity({**modern, "system": "Linux x86_64, Python 3.13.1"})


GENOA = EPYC.replace("avx512_vnni", "avx512_bf16")
XEON = GENOA.replace("AuthenticAMD", "GenuineIntel")


@pytest.mark.parametrize(
    ("machine_is", "limit", "native", "fast"),
    [
        ({"cpuinfo": EPYC}, "", False, False),
        ({"cpuinfo": GENOA}, "", True, True),
        ({"cpuinfo": GENOA}, "AVX2", False, False),
        ({"cpuinfo": GENOA}, "AVX512_CORE_AMX", True, True),
        ({"cpuinfo": XEON}, "", True, False),
        ({"cpuinfo": XEON.replace("avx512_bf16", "avx512_bf16 amx_bf16")}, "", True, True),
        ({"cpuinfo": XEON.replace("avx512_bf16", "avx512_bf16 amx_bf16")}, "AVX512_CORE_BF16", True, False),
        ({"cpuinfo": ARM, "architecture": "aarch64"}, "", False, False),
        ({"sysctl": MACOS, "architecture": "arm64"}, "", False, False),
        ({}, "", False, False),
    ],
)
def test_bf16_counts_where_torch_surely_multiplies_it_and_as_fast_where_it_was_faster_than_fp32(
    machine_is, limit, native, fast, machine_of, monkeypatch
):
    monkeypatch.delenv("DNNL_MAX_CPU_ISA", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    machine_of(**machine_is)
    assert (device.has_native_bf16(), device.has_fast_bf16()) == (native, fast)


def test_a_device_has_the_features_that_its_library_may_use(monkeypatch):
    flags = frozenset({"avx2", "avx512f", "avx512_vnni", "avx512_bf16"})
    monkeypatch.setattr(device, "processor_flags", lambda: flags)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert device.cpu(2)["features"] == ["avx512_bf16", "avx512_vnni", "avx512f", "avx2"]
    assert device.cpu(2, onednn=True)["features"] == machine.cpu(2).features == ["avx2"]


def test_cores_are_counted_where_affinity_is_unknown(monkeypatch):
    monkeypatch.delattr(device.os, "sched_getaffinity", raising=False)
    assert device.cores() == device.os.cpu_count()


def test_a_gpu_that_trains_and_measures_is_one_device(monkeypatch):
    cuda = FakeCuda("13.5.0")
    cuda.install(monkeypatch)
    properties = SimpleNamespace(name="Fake GPU", major=9, minor=0, total_memory=80 << 30)
    monkeypatch.setattr(loop.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(loop.torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(loop.torch.version, "cuda", "13.0")
    monkeypatch.setattr(hardware, "nvidia_driver", lambda: "580.95.05")
    monkeypatch.setattr(device, "nvidia_driver", lambda: "580.95.05")
    measuring = Cuda()
    measured = Device.model_validate(measuring.device(1))
    assert hardware.device_record().identity == measured.identity
    assert measured.features == ["compute capability 9.0", "80 GiB"]
    assert hardware.gpu_versions() == {"cuda": "13.0", "driver": "580.95.05"}
    assert measuring.versions == {"cuda": "13.5", "driver": "580.95.05"}
