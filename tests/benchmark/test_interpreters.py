"""The Pythons that measure: what of ours they see, and which runtimes they have."""

import json
import subprocess
import sys

import pytest

from trimlab import paths
from trimlab.benchmark import interpreters
from trimlab.errors import UserError


def script(path, text):
    """An executable that stands for a Python."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_another_python_is_shown_what_measures_and_nothing_else(tmp_path, monkeypatch):
    """Where trimlab is installed, the folder around it is this Python's site-packages."""
    shown = tmp_path / "shown"
    monkeypatch.setenv("TRIMLAB_PYTHON", script(tmp_path / "python", f'ls "$3" "$3/trimlab" > {shown}; exit 4'))
    with pytest.raises(UserError, match="no runtime of onnxruntime is available here"):
        interpreters.find_runtimes(["onnxruntime"])
    names = [line for line in shown.read_text().split() if ":" not in line]
    assert names == ["trimlab", "__init__.py", "formats.py", "measure"]


def test_what_it_is_shown_is_gone_with_the_process():
    code = "from trimlab.benchmark import interpreters; print(interpreters.source())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    folder = done.stdout.strip()
    assert folder != str(interpreters.source())
    assert not paths.Path(folder).exists()


@pytest.mark.parametrize("wanted", [["onnxruntime", "tensorrt"], ["tensorrt", "onnxruntime"]])
def test_what_a_machine_lacks_is_said_and_left_out(wanted, in_tmp, monkeypatch, capsys):
    monkeypatch.setenv("TRIMLAB_PYTHON_TENSORRT", script(in_tmp / "python", "echo unavailable: no GPU >&2; exit 4"))
    interpreters.find_runtimes(wanted)
    assert json.loads(paths.runtimes_file().read_text()) == {"runtimes": ["onnxruntime"]}
    assert interpreters.found_runtimes(wanted) == ["onnxruntime"]
    assert capsys.readouterr().err == "tensorrt is not available here: no GPU\n"


def test_machines_of_equal_runtimes_write_equal_files_in_the_studys_order(in_tmp, monkeypatch):
    monkeypatch.setenv("TRIMLAB_PYTHON_OPENVINO", script(in_tmp / "python", 'echo "{}"'))
    interpreters.find_runtimes(["openvino", "onnxruntime"])
    first = paths.runtimes_file().read_bytes()
    monkeypatch.delenv("TRIMLAB_PYTHON_OPENVINO")
    interpreters.find_runtimes(["openvino", "onnxruntime"])
    assert paths.runtimes_file().read_bytes() == first == b'{"runtimes": ["openvino", "onnxruntime"]}\n'


def test_a_machine_without_any_of_the_runtimes_is_an_error_in_one_line(in_tmp, monkeypatch):
    monkeypatch.setenv("TRIMLAB_PYTHON", script(in_tmp / "python", "exit 4"))
    with pytest.raises(UserError, match="no runtime of openvino, tensorrt is available here: install one, or list"):
        interpreters.find_runtimes(["openvino", "tensorrt"])
    assert not paths.runtimes_file().exists()
