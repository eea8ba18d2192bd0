"""The command line itself: its version, its help, its exit codes, its JSON, and what a shell completes."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import trimlab
from trimlab import cli, config, errors, rehearsal
from trimlab.execution import slices

COMMANDS = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
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


def ended(monkeypatch, capsys, *arguments):
    """The exit code of a command line, and what it printed on standard output and on standard error."""
    monkeypatch.setattr(sys, "argv", ["trimlab", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code or 0, *capsys.readouterr()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nope"], "No such option: --nope: see `trimlab --help`"),
        (["nope"], "No such command 'nope': see `trimlab --help`"),
        (["report"], "Missing argument 'study': see `trimlab report --help`"),
        (["report", "--json"], "Missing argument 'study': see `trimlab report --help`"),
        (["pick", "--max-drop", "101"], "Invalid value for '--max-drop': "),
        (
            ["pick", "--objective", "spee"],
            "'--objective': 'spee' is not one of 'size', 'latency', 'throughput': see `trimlab pick",
        ),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(arguments, said, monkeypatch, capsys):
    code, printed, complained = ended(monkeypatch, capsys, *arguments)
    assert (code, printed) == (2, "")
    (line,) = complained.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_a_bare_trimlab_is_helped(monkeypatch, capsys):
    code, printed, complained = ended(monkeypatch, capsys)
    assert (code, complained) == (2, "")
    assert "Usage: trimlab" in printed


def test_an_interruption_has_a_message_and_exit_code_130(in_tmp, monkeypatch, capsys):
    def interrupted(file):
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "check", interrupted)
    assert ended(monkeypatch, capsys, "check") == (130, "", "interrupted: run the same command again to go on\n")


def test_the_page_lists_the_exit_codes(project):
    rows = re.findall(r"^\| (\d+) \|", (project / "docs/command-line.md").read_text(), re.M)
    known = [0, errors.UserError.exit_code, errors.UsageError.exit_code, slices.UNFINISHED, errors.INTERRUPTED]
    assert [int(code) for code in rows] == known


def test_check_prints_json_with_and_without_problems(quick, project, monkeypatch, capsys):
    text = (project / "studies/quick.yaml").read_text()
    Path("params.yaml").write_text(text.replace("training:\n", "training:\n  spare: {epochs: 1}\n", 1))
    code, printed, complained = ended(monkeypatch, capsys, "check", "--json")
    found = json.loads(printed)
    assert (code, complained, found["ok"], found["study"], found["problems"]) == (0, "", True, "quick", [])
    assert found["variants"] == list(quick.variants)
    (warning,) = found["warnings"]
    assert warning.startswith("training.spare is not used")

    Path("params.yaml").write_text(text.replace("ratio: 0.5", "ratio: 1.5"))
    code, printed, complained = ended(monkeypatch, capsys, "check", "--json")
    found = json.loads(printed)
    assert (code, found["ok"], found["study"]) == (1, False, None)
    assert [f"error: {line}" for line in found["problems"]] == complained.splitlines()
    assert len(found["problems"]) == 1

    Path("params.yaml").write_text(text.replace("source: digits, path: data/none", "source: folder, path: data/gone"))
    code, printed, complained = ended(monkeypatch, capsys, "check", "--json")
    assert code == 1
    assert "data/gone' does not exist" in json.loads(printed)["problems"][0]


def test_check_lists_downloads_in_json(in_tmp, project, monkeypatch, capsys):
    for name in ("none", "pretrained"):
        Path("data").mkdir(exist_ok=True)
        (Path("data") / name).touch()
    monkeypatch.delenv("DATA_ROOT", raising=False)
    shutil.copy(project / "studies/cifar10-resnet20.yaml", "params.yaml")
    code, printed, _ = ended(monkeypatch, capsys, "check", "--json")
    assert code == 0
    assert [line.partition(":")[0] for line in json.loads(printed)["downloads"]] == [
        "data/raw holds no cifar-10-batches-py"
    ]


def test_report_prints_its_files_and_metrics_as_json(project, in_tmp, monkeypatch, capsys):
    for name in ("studies", "records/quick"):
        shutil.copytree(project / name, name)
    shutil.copy(project / "params.yaml", "params.yaml")
    code, printed, complained = ended(monkeypatch, capsys, "report", "quick", "--json")
    assert (code, complained) == (0, "")
    found = json.loads(printed)
    assert {"reports/quick/report.md", "reports/quick/report.html", "reports/quick/metrics.json"} <= set(found["files"])
    assert all(Path(file).exists() for file in found["files"])
    assert found["metrics"] == json.loads(Path("reports/quick/metrics.json").read_text())
    assert found["study"] == config.load().study == "quick"


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
