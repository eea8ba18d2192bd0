"""What can go wrong while a study runs: each is a function that starts `dvc repro` in a project and disturbs it."""

import contextlib
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

LIMIT_SECONDS = float(os.environ.get("CHAOS_LIMIT_SECONDS", "1200"))
"""A repro that takes longer hangs."""
LOGS = Path(tempfile.mkdtemp(prefix="chaos-logs-"))
"""What runs print; not on the disk that is filled."""
SOON = 8
"""A disturbance at a random moment comes within this part of a repro: most then hit a start, a cell or its end, and a
round has many before its study is finished."""
_DAY = 86_400


class HangError(Exception):
    """A command did not end."""


class Run:
    """A command in a project, a session of its own, with its output in a file."""

    def __init__(self, project: Path, *command: str, limit: int | None = None) -> None:
        folder = Path(sys.executable).parent
        scratch = project.parent / "scratch"
        scratch.mkdir(exist_ok=True)
        self.hit = False
        """Whether a kill came before it ended."""
        self.log = LOGS / f"{project.parent.name}-{time.monotonic_ns()}.log"
        env = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_TRACKING", "PYTHONPATH"))}
        with self.log.open("wb") as output:
            self.process = psutil.Popen(
                [str(folder / command[0]), *command[1:]],
                cwd=project,
                env=env
                | {
                    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                    "PYTHONPATH": str(project / "src"),
                    "TMPDIR": str(scratch),
                    "TRIMLAB_LOCK": str(project.parent / "machine.lock"),
                    "DVC_NO_ANALYTICS": "1",
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=limit and (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))),
            )

    def ended(self) -> int:
        """Wait for the end; return the exit code, negative where a signal ended it."""
        try:
            return int(self.process.wait(LIMIT_SECONDS))
        except psutil.TimeoutExpired:
            self.kill_all()
            raise HangError(f"{self.log} has not ended in {LIMIT_SECONDS} s") from None

    def kill(self, *processes: psutil.Process) -> None:
        """Kill some of its processes."""
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.kill()
                self.hit = True

    def kill_all(self) -> None:
        """Kill the command and all that it started, at one blow."""
        self.hit = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stages(self) -> list[psutil.Process]:
        """Return the running stages."""
        return self._children("stages/")

    def measurements(self) -> list[psutil.Process]:
        """Return the running processes that measure."""
        return self._children("trimlab.measure")

    def _children(self, text: str) -> list[psutil.Process]:
        found = []
        with contextlib.suppress(psutil.Error):
            for child in self.process.children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if text in " ".join(child.cmdline()[:3]):
                        found.append(child)
        return found

    def reaches(self, moment: Callable[[], object], poll_seconds: float = 0.05) -> bool:
        """Wait for a moment; return False where the command ends before it."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.process.poll() is None:
            if moment():
                return True
            if time.monotonic() > deadline:
                self.kill_all()
                raise HangError(f"{self.log} has not ended in {LIMIT_SECONDS} s")
            time.sleep(poll_seconds)
        return False


def repro(project: Path) -> Run:
    """Start `dvc repro`."""
    return Run(project, "dvc", "repro")


Disturbance = Callable[[Path, random.Random, float], Run]
"""Takes a project, chance, and the seconds of an undisturbed repro; returns the run, which has ended."""


def _after(seconds: float) -> Callable[[], bool]:
    due = time.monotonic() + seconds
    return lambda: time.monotonic() >= due


def kill_dvc(project: Path, chance: random.Random, span: float) -> Run:
    """Kill DVC alone: its stage goes on, and the next repro meets it."""
    run = repro(project)
    if run.reaches(_after(chance.uniform(0, span / SOON))):
        run.kill(run.process)
    run.ended()
    return run


def kill_dvc_while_it_writes(project: Path, chance: random.Random, span: float) -> Run:
    """Kill DVC when dvc.lock is half written."""
    run, file = repro(project), project / "dvc.lock"
    passed = _after(chance.uniform(0, span / SOON))
    if run.reaches(lambda: passed() and file.exists() and file.stat().st_size == 0, 0.002):
        run.kill_all()
    run.ended()
    return run


def kill_stage(project: Path, chance: random.Random, span: float) -> Run:
    """Kill a stage alone."""
    run = repro(project)
    passed = _after(chance.uniform(0, span / SOON))
    if run.reaches(lambda: passed() and run.stages()):
        run.kill(*run.stages()[:1])
    run.ended()
    return run


def kill_measurement(project: Path, chance: random.Random, span: float) -> Run:
    """Kill the process that measures."""
    run = repro(project)
    if run.reaches(run.measurements) and run.reaches(_after(chance.uniform(0, span / 20))):
        run.kill(*run.measurements()[:1])
    run.ended()
    return run


def kill_everything(project: Path, chance: random.Random, span: float) -> Run:
    """Kill DVC and all that it started, as a machine that loses its power does."""
    run = repro(project)
    if run.reaches(_after(chance.uniform(0, span / SOON))):
        run.kill_all()
    run.ended()
    return run


def kill_the_making_of_the_store(project: Path, chance: random.Random, span: float) -> Run:
    """Kill everything while MLflow's tables are made; the store that was there is thrown away."""
    for path in project.glob("mlflow.db*"):
        path.unlink()
    run, made = repro(project), project / "mlflow.db.new"
    if run.reaches(made.exists) and run.reaches(_after(chance.uniform(0, span / 20))):
        run.kill_all()
    run.ended()
    return run


def fill_the_disk(project: Path, chance: random.Random, span: float) -> Run:
    """Leave a few kilobytes on the disk; only where the project has a disk of its own."""
    left = chance.randrange(0, 6 << 20)
    filler = project.parent / "filler"
    with filler.open("wb") as file:
        system = os.statvfs(project)
        os.posix_fallocate(file.fileno(), 0, max(1, system.f_bavail * system.f_frsize - left))
    try:
        run = repro(project)
        run.ended()
    finally:
        filler.unlink()
    return run


def limit_file_sizes(project: Path, chance: random.Random, span: float) -> Run:
    """Refuse what a file has beyond some kilobytes: the partial write of a full disk, without root's help."""
    run = Run(project, "dvc", "repro", limit=chance.randrange(64 << 10, 1 << 20))
    run.ended()
    return run


FOLDERS = ("train", "prune", "export", "quantize", "benchmark", "report", "fingerprint", ".dvc/tmp", ".dvc/cache", ".")


def write_protect_a_folder(project: Path, chance: random.Random, span: float) -> Run:
    """Make a folder read-only while `dvc repro` runs."""
    folder = project / chance.choice(FOLDERS)
    folder.mkdir(exist_ok=True)
    with _read_only(folder):
        run = repro(project)
        run.ended()
    return run


@contextlib.contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    if os.geteuid():
        was = folder.stat().st_mode
        folder.chmod(0o555)
        try:
            yield
        finally:
            folder.chmod(was)
    else:  # root may write where permissions forbid it
        _do("mount", "--bind", str(folder), str(folder))
        try:
            _do("mount", "-o", "remount,bind,ro", str(folder))
            yield
        finally:
            _do("umount", "--lazy", str(folder))


def set_the_clock_back(project: Path, chance: random.Random, span: float) -> Run:
    """Kill everything, and give every file a time in the future, which is what a clock that was set back leaves."""
    run = kill_everything(project, chance, span)
    for path in project.rglob("*"):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            os.utime(path, (status.st_atime + _DAY, status.st_mtime + _DAY))
    return run


def repro_twice_at_once(project: Path, chance: random.Random, span: float) -> Run:
    """Start a second `dvc repro` beside the first one."""
    first = repro(project)
    first.reaches(_after(chance.uniform(0, span / SOON)))
    second = repro(project)
    second.ended()
    first.ended()
    return second


KILLS: dict[str, Disturbance] = {
    "dvc": kill_dvc,
    "dvc while it writes": kill_dvc_while_it_writes,
    "stage": kill_stage,
    "measurement": kill_measurement,
    "everything": kill_everything,
    "making of the store": kill_the_making_of_the_store,
}
OTHERS: dict[str, Disturbance] = {
    "full disk": fill_the_disk,
    "limited files": limit_file_sizes,
    "read-only folder": write_protect_a_folder,
    "clock set back": set_the_clock_back,
    "two at once": repro_twice_at_once,
}


def end_orphans(project: Path) -> None:
    """Kill what still runs in a project."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(project):
                process.kill()


def may_mount() -> bool:
    """Whether this process may give a project a disk of its own, and a folder a mount of its own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0


@contextlib.contextmanager
def small_disk(folder: Path, mib: int) -> Iterator[None]:
    """Mount a disk in memory at a folder."""
    _do("mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder))
    try:
        yield
    finally:
        _do("umount", "--lazy", str(folder))


def _do(*command: str) -> None:
    subprocess.run(command, check=True)
