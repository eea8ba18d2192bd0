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
const found = {errors};
const say = () => {
  const said = document.createElement("pre");
  said.id = "said";
  said.textContent = JSON.stringify(found);
  document.body.append(said);
};
const soon = (act, ms = 1000) => new Promise((done) => setTimeout(() => done(act()), ms));
if (self === top) addEventListener("load", () => soon(ACT).then(say));
</script>
"""
"""Put after all else: what is found by acting on the page stands in an element of its own."""
ACT = """async () => {
  const table = document.getElementById("table-precisions-large");
  const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden);
  const names = () => rows().filter((row) => !row.className).map((row) => row.cells[0].textContent);
  const order = () => rows().map((row) => row.textContent).join();
  const under = () => rows().flatMap((row, at, all) => row.className ? [all[at - 1].textContent, row.textContent] : []);
  const headers = [...table.tHead.rows[0].cells];
  const at = headers.findIndex((cell) => cell.textContent.startsWith("Size"));
  const numbers = () => rows().filter((row) => !row.className).map((row) => Number(row.cells[at].dataset.number));
  const button = headers[at].querySelector("button");
  found.drawn = document.querySelectorAll("#chart svg").length;
  button.focus();
  found.focused = document.activeElement === button && button.tabIndex === 0;
  button.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
  found.moved = document.activeElement === headers[at - 1].firstElementChild && button.tabIndex === -1;
  found.arrow = getComputedStyle(button, "::after").content;
  const [before, published] = [order(), under()];
  button.click();
  found.down = numbers();
  found.together = published.length > 0 && under().toSorted().join() === published.toSorted().join();
  button.click();
  found.up = numbers();
  button.click();
  found.restored = order() === before;
  const input = document.querySelector('input[aria-controls="table-precisions-large"]');
  const filtered = (words) => {
    input.value = words;
    input.dispatchEvent(new Event("input"));
    return names();
  };
  found.filtered = filtered("candidate int8");
  found.percent = filtered("60%").length > 0 && filtered("60%").join() === filtered("60 %").join();
  found.across = filtered(rows()[0].cells[0].textContent.slice(-3) + rows()[0].cells[1].textContent);
  found.status = input.closest("p").querySelector("[role=status]").textContent;
  filtered("");
  found.labels = [...document.querySelectorAll(".filter label")].map((label) => label.textContent);
  found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const symbol = document.querySelector("#chart .role-legend-symbol path");
  symbol.scrollIntoView({block: "center"});
  const {x, y, width, height} = symbol.getBoundingClientRect();
  const hit = document.elementFromPoint(x + width / 2, y + height / 2);
  for (const kind of ["pointerdown", "mousedown", "pointerup", "mouseup", "click"])
    hit.dispatchEvent(new MouseEvent(kind, {bubbles: true, clientX: x + width / 2, clientY: y + height / 2}));
  await soon(() => {
    const marks = [...document.querySelectorAll("#chart .mark-symbol.role-mark path")];
    const of = (kind) => marks.filter((mark) => mark.ariaLabel?.includes(`Precision: ${kind};`));
    const opacities = (kind) => [...new Set(of(kind).map((mark) => mark.getAttribute("opacity")))];
    found.highlighted = opacities("FP32");
    found.faint = opacities("INT8");
  });
  const phone = document.createElement("iframe");
  phone.width = 390;
  phone.height = 800;
  phone.src = location.href;
  document.body.append(phone);
  await soon(() => {
    const inside = phone.contentDocument;
    const [width, needed] = [inside.documentElement.clientWidth, inside.documentElement.scrollWidth];
    const kinds = "nav, h1, h2, p, li, figure, #chart svg, select, input, .short, .short td";
    const cut = [...inside.querySelectorAll(kinds)].filter((one) => one.getBoundingClientRect().right > width + 1);
    found.cut = cut.map((one) => `${one.tagName} ${one.textContent.slice(0, 40)}`);
    const bottom = (one) => one.getBoundingClientRect().bottom;
    found.legend = Math.max(...[...inside.querySelectorAll("#chart .role-legend")].map(bottom));
    found.legend -= bottom(inside.querySelector("#chart svg"));
    found.figures = [...inside.querySelectorAll("figure svg")].map((one) => one.getBoundingClientRect().width);
    found.phone = [width > 300, needed - width, inside.querySelectorAll("#chart svg, figure svg").length > 2];
  }, 3000);
}"""


def opened(text: str, tmp_path: Path, *flags: str, act: str = "() => {}") -> dict[str, Any]:
    """Return what the scripts found that were put into a page."""
    file = tmp_path / "page.html"
    body, _, rest = text.replace("<head>", f"<head>{CAUGHT}", 1).rpartition("</body>")
    file.write_text(f"{body}{TRIED.replace('ACT', act)}</body>{rest}", encoding="utf-8")
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
    drawing = '<svg width="460pt" height="300pt" viewBox="0 0 460 300"></svg>'
    text = page(made, dict.fromkeys(names, drawing), chart.specification(of))
    found = opened(text, tmp_path, "--window-size=500,900", act=ACT)
    assert found["errors"] == []
    assert found["drawn"] == 1
    assert found["focused"] and found["moved"] and found["arrow"] == '"\u00a0↕"'
    assert len(found["up"]) > 5 and found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["down"], reverse=True)
    assert found["together"], "published rows stay under ours"
    assert found["restored"]
    assert found["filtered"] == ["candidate"]
    assert found["percent"]
    assert (found["across"], found["status"][:14]) == ([], "No row matches"), "a word lies in one cell"
    assert len(set(found["labels"])) == len(found["labels"]) > 1
    assert (found["highlighted"], found["faint"]) == (["0.9", "1"], ["0.1"]), "ours, and published ones"
    assert found["wide"] == 0, "the page is wider than its window"
    assert found["legend"] <= 0, "the legend is cut"
    assert min(found["figures"]) >= 480, "letters of a figure are too small on a telephone"
    assert (found["cut"], found["phone"]) == ([], [True, 0, True]), "something is cut on a telephone"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.timeout(180)
def test_an_error_on_the_page_is_noticed(tmp_path: Path) -> None:
    broken = "<html><head></head><body><script>nothing()</script></body>"
    assert opened(broken, tmp_path)["errors"] == ["Uncaught ReferenceError: nothing is not defined"]
