"""The command line itself: its version, its help, and what a shell completes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import trimlab
from trimlab import cli

COMMANDS = ["check", "schema", "import", "report", "track", "slice", "bundle", "release"]
COMPLETE = """\
eval "$(trimlab --show-completion bash)"
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_trimlab_completion trimlab
echo "${{COMPREPLY[@]}}"
"""


def completed(words, folder):
    """What bash offers for a command line; its last word is not finished."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", COMPLETE.format(words=words)],
        cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


def test_the_version_is_the_packages():
    assert CliRunner().invoke(cli.app, ["--version"]).stdout == f"trimlab {trimlab.__version__}\n"


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_h_is_help(command):
    short, long = (CliRunner().invoke(cli.app, [*command, option]) for option in ("-h", "--help"))
    assert short.exit_code == 0
    assert short.stdout == long.stdout != ""


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_bash_completes_studies_variants_and_runtimes(project, tmp_path):
    quick = (project / "studies/quick.yaml").read_text()
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies/other.yaml").write_text(quick)
    (tmp_path / "params.yaml").write_text(quick.replace("pruning: sweep.r30}", "pruning: sweep.r30, precisions: []}"))
    for command in ("report", "track", "slice"):
        assert completed(f"trimlab {command} ''", tmp_path) == ["other", "quick"]
    r60 = "resnet20-digits-r60"
    controls = [f"{r60}-{kind}" for kind in ("random", "scratch", "whole")]
    assert completed("trimlab bundle res", tmp_path) == ["resnet20-digits", r60, *controls]
    assert completed("trimlab release ''", tmp_path) == ["resnet20-digits", "resnet20-digits-amp"]
    assert completed("trimlab bundle candidate --runtime o", tmp_path) == ["onnxruntime", "openvino"]


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
@pytest.mark.parametrize("params", [None, "study: ["])
def test_completion_is_silent_where_there_is_no_valid_study(params, tmp_path):
    if params:
        (tmp_path / "params.yaml").write_text(params)
    for command in ("report", "bundle", "release"):
        assert completed(f"trimlab {command} ''", tmp_path) == []
