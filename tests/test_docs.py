"""README, docs/ and CONTRIBUTING say what is there: results, paths, commands, options, params, variables.

`TRIMLAB_GOLDEN=write python -m pytest tests/test_docs.py` writes the README's results anew.
"""

import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from dvc.cli import DvcParserError, parse_args
from ruamel.yaml import YAML

from trimlab import cli, config, formats
from trimlab.records import Measurement, archive, labels
from trimlab.records.select import select
from trimlab.report import stage as report_stage
from trimlab.report.markdown import table
from trimlab.report.results import Results
from trimlab.report.tables import overview

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RESULTS = re.compile(r"(<!-- results: .*? -->\n)(.*?)(<!-- end of results -->)", re.S)
NAMED = re.compile(r"^(?:src|stages|studies|tests|docs|data|benchmarks|records|reports|\.ci)/[\w./-]+$")
"""A path of the repository in backticks, without a placeholder."""
UsageError = typer.BadParameter.__base__
"""Of the click that typer uses, which may be a copy of its own."""
OF_THE_USER = re.compile(r"^(?:data/(?!none|pretrained)|studies/(?:NAME|parts)\b|\S*\b[A-Z]{4,}\b)")
"""Files that a page tells its reader to make, and placeholders."""


def studies():
    return sorted(folder.name for folder in (ROOT / "records").iterdir() if folder.is_dir())


def every(pattern):
    """Return what a pattern finds in all pages, each as (page, text)."""
    return [(page.name, found) for page in PAGES for found in re.findall(pattern, page.read_text(), re.M | re.S)]


def blocks(language):
    return every(rf"^```{language}\n(.*?)^```")


def commands():
    """Return every command of the pages' shell blocks as (page, words); pipes and redirections do not occur."""
    lines = [(page, line) for page, block in blocks("sh") for line in block.splitlines()]
    parts = [(page, part) for page, line in lines for part in re.split(r"&&|;", line.partition("  #")[0])]
    return [(page, words) for page, part in parts if (words := shlex.split(part, comments=True))]


def called(*names):
    """Return the commands of these programs, in the shape that `pytest.mark.parametrize` takes."""
    return [pytest.param(words, id=f"{page}: {' '.join(words)}") for page, words in commands() if words[0] in names]


def test_the_results_are_rendered_from_committed_records(project, monkeypatch):
    monkeypatch.chdir(project)
    found = []
    for study in studies():
        described = archive.load_study(study)
        chosen = select(described, archive.committed_records(study))
        found.append(Results.of(described, chosen, labels.of_committed(study, chosen)))
    expected = f"\n{table(overview(found))}\n\n"
    file = project / "README.md"
    if os.environ.get("TRIMLAB_GOLDEN") == "write":
        file.write_text(RESULTS.sub(lambda block: block[1] + expected + block[3], file.read_text()))
    assert RESULTS.search(file.read_text())[2] == expected


def test_every_committed_report_comes_out_of_its_records_byte_for_byte(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    assert studies()
    for study in studies():
        described = archive.load_study(study)
        chosen = select(described, archive.committed_records(study))
        classified = labels.of_committed(study, chosen)
        assert len(classified) == sum(isinstance(record, Measurement) for record in chosen)
        committed = {
            path.relative_to(project): path.read_bytes()
            for path in (project / "reports" / study).rglob("*")
            if path.is_file() and path.suffix != ".svg"
        }
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path)
            report_stage.render(described, chosen, Path("reports") / study, classified)
        made = {path.relative_to(tmp_path) for path in (tmp_path / "reports" / study).rglob("*.md")}
        assert made == {path for path in committed if path.suffix == ".md"}
        for path, content in committed.items():
            assert (tmp_path / path).read_bytes() == content, path


def test_the_readme_is_two_screens(project):
    assert len((project / "README.md").read_text().splitlines()) <= 110


def test_every_page_of_docs_is_linked_from_the_readme(project):
    linked = set(re.findall(r"\]\((docs/[^)]+)\)", (project / "README.md").read_text()))
    assert linked == {f"docs/{page.name}" for page in (project / "docs").iterdir() if page.is_file()}


def test_every_figure_of_docs_is_shown_by_a_page(project):
    shown = {name for page in PAGES for name in re.findall(r"\]\(figures/([^)]+)\)", page.read_text())}
    assert shown == {figure.name for figure in (project / "docs/figures").iterdir()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_every_path_that_a_page_names_exists(project):
    named = [(page, text) for page, text in every(r"`([^`\n]+)`") if NAMED.match(text) and not OF_THE_USER.match(text)]
    named += [(page, words[1]) for page, words in commands() if words[0] in ("cp", "python")]
    missing = [(page, name) for page, name in named if not (project / name).exists() and not OF_THE_USER.match(name)]
    assert len(named) > 10
    assert [entry for entry in missing if entry[1] not in ("-m", "bundle.zip")] == []


@pytest.mark.parametrize("words", called("trimlab"))
def test_every_command_of_trimlab_has_such_arguments_and_options(words):
    parse(words[1:])


@pytest.mark.parametrize("words", [param for param in called("python") if "trimlab.cli" in param.values[0]])
def test_every_command_of_the_module_has_such_arguments_and_options(words):
    assert words[:3] == ["python", "-m", "trimlab.cli"]
    parse(words[3:])


def test_every_command_of_trimlab_in_a_sentence_has_such_arguments_and_options():
    said = [text for _, text in every(r"`trimlab ([a-z][^`]*)`")]
    assert len(said) > 5
    for text in said:
        try:
            parse(shlex.split(text))
        except UsageError as error:  # a sentence may name the subcommand alone
            assert "Missing" in error.format_message(), text


def test_the_columns_that_pages_show_are_params_and_flat_metrics(project):
    metrics = json.loads((project / "reports/quick/metrics.json").read_text())
    known = {"Experiment", "prune.ratio"}
    for group, values in metrics.items():
        assert all(isinstance(value, int | float) for value in values.values())
        known |= {f"{group}.{name}" for name in values}
    kept = [words[words.index("--keep") + 1] for _, words in commands() if "--keep" in words]
    assert len(kept) == 2
    for pattern in kept:
        shown = {name for name in known if re.match(pattern, name)}
        assert {"Experiment", "prune.ratio", "candidate.top1_percent", "candidate.contended"} <= shown
        assert len(shown) == 6


def test_the_help_of_every_command_ends_with_an_example_that_it_takes():
    group = typer.main.get_command(cli.app)
    for name, command in group.commands.items():
        (example,) = re.findall(r"^Example: trimlab (.*)$", command.help, re.M)
        assert shlex.split(example)[0] == name
        parse(shlex.split(example))


def committed(words):
    """Say whether a command reads records that are committed, and nothing else."""
    return words[:2] == ["trimlab", "pick"] and words[2] in studies()


@pytest.mark.parametrize("words", [param for param in called("trimlab") if committed(*param.values)])
def test_every_pick_among_committed_records_finds_a_file(words, project, monkeypatch):
    monkeypatch.chdir(project)
    cli.app(words[1:], standalone_mode=False)


def parse(arguments):
    """Parse a command line of trimlab without running it.

    Raises:
        UsageError: there is no such subcommand or option, or an argument is missing.
    """
    group = typer.main.get_command(cli.app)
    with group.make_context("trimlab", list(arguments)) as context:
        name, command, rest = group.resolve_command(context, [*arguments])
        with command.make_context(name, rest, parent=context):
            pass


def test_a_command_that_does_not_exist_is_noticed():
    for wrong in ("rapport quick", "report quick --fast", "bundle candidate"):
        with pytest.raises(UsageError):
            parse(shlex.split(wrong))


@pytest.mark.parametrize("words", called("dvc"))
def test_every_command_of_dvc_has_such_options_and_targets(project, words):
    try:
        parsed = parse_args(words[1:])
    except DvcParserError:
        pytest.fail(f"dvc does not take {' '.join(words)}")
    if words[1] == "repro":
        stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"]
        assert {target.partition("@")[0] for target in parsed.targets} <= set(stages)


def test_every_stage_that_a_page_names_exists(project):
    stages = YAML(typ="safe").load(project / "dvc.yaml")["stages"]
    named = {stage for _, stage in every(r"[Tt]he stage `([^`]+)`")}
    assert named and named <= set(stages)


def test_every_target_of_make_exists(project):
    targets = {target for _, words in commands() if words[0] == "make" for target in words[1:]}
    targets |= {target for _, target in every(r"`make ([^`]+)`")}
    assert {"repro", "test"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_variable_that_a_page_names_is_read_and_every_one_that_is_read_is_named(project):
    code = "".join(file.read_text() for file in (project / "src").rglob("*.py"))
    read = set(re.findall(r"\b(?:TRIMLAB_[A-Z_]*[A-Z]|MLFLOW_TRACKING_URI|DATA_ROOT)\b", code))
    runtimes = {f"TRIMLAB_PYTHON_{runtime.upper()}" for runtime in config.RUNTIMES}
    named = {name for _, name in every(r"\b(?:TRIMLAB_[A-Z_]+|MLFLOW_TRACKING_URI|DATA_ROOT)\b")}
    assert named - {"TRIMLAB_GOLDEN"} == (read - {"TRIMLAB_PYTHON_RUNTIME"}) | runtimes


def test_the_page_on_runtimes_lists_what_each_computes(project):
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", (project / "docs/runtimes.md").read_text(), re.M)
    assert dict(rows) == {
        runtime: "; ".join(known.label for known in formats.of_runtime(runtime)) for runtime in config.RUNTIMES
    }


def test_the_page_on_studies_lists_all(project):
    listed = re.findall(r"^\| `(studies/[^`]+)` \|", (project / "docs/what-if.md").read_text(), re.M)
    assert sorted(listed) == sorted(f"studies/{file.name}" for file in (project / "studies").glob("*.yaml"))


def test_the_quick_study_is_the_one_to_begin_with(project):
    assert (project / "params.yaml").read_bytes() == (project / "studies/quick.yaml").read_bytes()


@pytest.mark.parametrize(("page", "block"), blocks("yaml"))
def test_params_in_a_page_are_valid_in_the_study_to_start_from(project, page, block):
    yaml = YAML(typ="safe", pure=True)
    whole, own = yaml.load(project / "studies/own.yaml"), yaml.load(block)
    for section, values in own.items():
        whole[section] = {**whole[section], **values} if isinstance(values, dict) and "study" not in own else values
    config.Params.model_validate(whole)


def test_values_that_comments_of_the_study_to_start_from_offer_are_valid(project):
    text = (project / "studies/own.yaml").read_text()
    for source in ("folder, path: data/mine, image_size: 64", "npz, path: data/mine.npz"):
        assert f"{{source: {source}}}" in text
        validated(text.replace("{source: digits, path: data/none}", f"{{source: {source}}}"))
    for normalisation in ("imagenet", "{mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25]}"):
        assert f"normalisation: {normalisation}" in text.replace("or ", "normalisation: ")
        given = f"weights: data/mine.safetensors, normalisation: {normalisation}}}"
        study = validated(text.replace("weights: data/none}", given))
        assert study.workloads["mine"].weights == "data/mine.safetensors"
    assert "torchvision/mobilenet_v2" in text and "my_models:net with code: my_models.py" in text
    validated(text.replace("model: resnet20", "model: torchvision/mobilenet_v2"))
    validated(text.replace("model: resnet20, code: data/none", "model: my_models:net, code: my_models.py"))
    published = text.replace("initial: data/none, weights: data/none", "initial: data/pretrained, weights: data/none")
    published = published.replace("weights: data/none}", "weights: data/none, normalisation: imagenet}")
    validated(published.replace("model: resnet20", "model: torchvision/mobilenet_v2"))


def validated(text):
    return config.Params.model_validate(YAML(typ="safe", pure=True).load(text))
