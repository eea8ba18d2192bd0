"""The page in a real browser: it renders without an error, sorts, filters, and fits a telephone."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import factories
from trimlab.report import chart, figures
from trimlab.report.html import page
from trimlab.report.results import Results
from trimlab.report.sections import report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-file-access-from-files", "--virtual-time-budget=20000",
    "--dump-dom",
)  # fmt: skip
CAUGHT = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
for (const name of ["error", "warn"]) console[name] = (...said) => errors.push(said.join(" "));
</script>
"""
"""Put before all scripts of the page."""
TRIED = """<script>
addEventListener("load", () => setTimeout(() => {
  const column = (table, at) => [...table.tBodies[0].rows].filter((row) => !row.hidden).map((row) => row.cells[at]);
  const known = (cells) => cells.filter((cell) => "number" in cell.dataset);
  const numbers = (cells) => known(cells).map((cell) => Number(cell.dataset.number));
  const table = document.getElementById("table-precisions-large");
  const at = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.startsWith("Size"));
  const button = table.tHead.rows[0].cells[at].querySelector("button");
  const found = {errors, drawn: document.querySelectorAll("#chart svg").length};
  found.focusable = button.tabIndex;
  button.focus();
  found.focused = document.activeElement === button;
  button.click();
  found.up = numbers(column(table, at));
  button.click();
  found.down = numbers(column(table, at));
  const input = document.querySelector('input[aria-controls="table-precisions-large"]');
  input.value = "candidate int8";
  input.dispatchEvent(new Event("input"));
  found.filtered = column(table, 0).map((cell) => cell.textContent);
  const edge = (element) => element.getBoundingClientRect().right;
  const drawn = document.getElementById("chart");
  const texts = drawn ? [...drawn.querySelectorAll("svg text")] : [];
  found.cut = texts.filter((text) => edge(text) > edge(drawn)).map((text) => text.textContent);
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const said = document.createElement("pre");
  said.id = "said";
  said.textContent = JSON.stringify(found);
  document.body.append(said);
}, 1000));
</script>
"""


def opened(text: str, tmp_path: Path, *flags: str) -> dict[str, Any]:
    """Return what the scripts found that were put into a page."""
    file = tmp_path / "page.html"
    body, _, rest = text.replace("<head>", f"<head>{CAUGHT}", 1).rpartition("</body>")
    file.write_text(f"{body}{TRIED}</body>{rest}", encoding="utf-8")
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = re.search(r'<pre id="said">(.*?)</pre>', done.stdout, re.DOTALL)
    assert said, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(unescape(said[1]))
    return found


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.timeout(180)
def test_the_page_renders_without_an_error_and_sorts_and_filters(tmp_path: Path) -> None:
    study = factories.study()
    device = factories.CPU.model_copy(update={"name": "NVIDIA RTX 6000 Ada Generation"})
    of = Results.of(study, factories.everything(study, device))
    made = report(of, names := list(figures.draw(of)))
    text = page(made, dict.fromkeys(names, "<svg></svg>"), chart.specification(of))
    found = opened(text, tmp_path, "--window-size=500,900")
    assert found["errors"] == []
    assert found["drawn"] == 1
    assert found["focused"] and found["focusable"] == 0
    assert len(found["up"]) > 5 and found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["filtered"] == ["candidate"]
    assert found["cut"] == [], "the chart cuts a text off"
    assert found["wide"] == 0, "the page is wider than its window"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.timeout(180)
def test_an_error_on_the_page_is_noticed(tmp_path: Path) -> None:
    head = "<thead><tr><th>Size<button></button></th></tr></thead>"
    table = f'<table id="table-precisions-large">{head}<tbody></tbody></table>'
    field = '<input aria-controls="table-precisions-large">'
    broken = f"<html><head></head><body>{table}{field}<script>nothing()</script></body>"
    assert opened(broken, tmp_path)["errors"] == ["Uncaught ReferenceError: nothing is not defined"]
