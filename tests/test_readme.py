"""The README says what the committed records say.

`TRIMLAB_GOLDEN=write python -m pytest tests/test_readme.py` writes its results anew.
"""

import os
import re
from pathlib import Path

from trimlab.records import archive
from trimlab.records.select import select
from trimlab.report import stage as report_stage
from trimlab.report.markdown import summary
from trimlab.report.results import Results

BLOCK = re.compile(r"(<!-- results: .*? -->\n)(.*?)(<!-- end of results -->)", re.S)


def test_the_results_are_rendered_from_committed_records(project, monkeypatch):
    monkeypatch.chdir(project)
    parts = []
    for study in sorted(folder.name for folder in (project / "records").iterdir() if folder.is_dir()):
        described = archive.load_study(study)
        chosen = select(described, archive.committed_records(study))
        parts.append(f"### {described.report.title}\n\n{summary(Results.of(described, chosen))}\n")
    expected = "\n" + "\n".join(parts) + "\n"
    file = project / "README.md"
    if os.environ.get("TRIMLAB_GOLDEN") == "write":
        file.write_text(BLOCK.sub(lambda found: found[1] + expected + found[3], file.read_text()))
    assert BLOCK.search(file.read_text())[2] == expected


def test_every_committed_report_comes_out_of_its_records_byte_for_byte(project, tmp_path, monkeypatch):
    monkeypatch.chdir(project)
    studies = sorted(folder.name for folder in (project / "records").iterdir() if folder.is_dir())
    assert studies
    for study in studies:
        described = archive.load_study(study)
        chosen = select(described, archive.committed_records(study))
        committed = {
            path.relative_to(project): path.read_bytes()
            for path in (project / "reports" / study).rglob("*")
            if path.is_file() and path.suffix != ".svg"
        }
        with monkeypatch.context() as elsewhere:
            elsewhere.chdir(tmp_path)
            report_stage.render(described, chosen, Path("reports") / study)
        for path, content in committed.items():
            assert (tmp_path / path).read_bytes() == content, path


def test_every_path_the_readme_names_exists(project):
    text = (project / "README.md").read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert links
    assert [link for link in links if not (project / link).exists()] == []
