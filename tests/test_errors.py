"""What ends a stage or a command: one line for what the user can fix, a traceback for what is ours."""

import errno
import os
import subprocess
import sys

import pytest

from trimlab import errors


@pytest.mark.parametrize(
    ("number", "done", "remedy"),
    [
        (errno.ENOSPC, "written", "make room"),
        (errno.EROFS, "written", "make it writable"),
        (errno.EACCES, "opened", "change its permissions"),
    ],
)
def test_a_file_that_the_system_refuses_is_one_line(number, done, remedy, capsys):
    why = os.strerror(number)
    assert exit_code(OSError(number, why, "prune/half/seed0.json")) == 1
    assert capsys.readouterr().err == (
        f"error: prune/half/seed0.json cannot be {done} ({why}): {remedy}, and run the same command again\n"
    )


def exit_code(error):
    with pytest.raises(SystemExit) as caught, errors.one_line_errors():
        raise error
    return caught.value.code


def test_the_exit_code_says_what_was_wrong(capsys):
    codes = [exit_code(error) for error in (errors.UserError("a\nb"), errors.UsageError("c"), KeyboardInterrupt())]
    assert codes == [1, 2, 130]
    said = ["error: a", "error: b", "error: c", "interrupted: run the same command again to go on"]
    assert capsys.readouterr().err.splitlines() == said


TOO_LARGE = """\
import resource
import sys
from pathlib import Path
import numpy as np
import torch
from safetensors.torch import save_file
from trimlab import errors

resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
writers = {
    "safetensors": lambda: save_file({"a": torch.zeros(100_000)}, "a.safetensors"),
    "numpy": lambda: np.save("a.npy", np.zeros(100_000)),
    "text": lambda: Path("a.txt").write_text(100_000 * "x"),
}
for name, write in writers.items():
    try:
        with errors.one_line_errors():
            write()
    except SystemExit:
        print(name, file=sys.stderr)
"""


def test_a_file_without_room_is_one_line_whichever_library_writes_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", TOO_LARGE], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[1::2] == ["safetensors", "numpy", "text"]
    for line in lines[::2]:
        assert line.startswith("error: ")
        assert " cannot be written (" in line
        assert line.endswith("): make room, and run the same command again")


@pytest.mark.parametrize(
    "cause", [OSError("odd"), FileNotFoundError(errno.ENOENT, "gone", "x"), ValueError("No such file (os error 2)")]
)
def test_any_other_error_keeps_its_traceback(cause):
    with pytest.raises(type(cause)), errors.one_line_errors():
        raise cause
