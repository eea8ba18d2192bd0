"""The page: what markdown says, to the digit; each file in the chart; nothing from a network; nothing breaks out."""

import json
import re
from functools import cache
from html.parser import HTMLParser

import pytest
import vl_convert

import factories
from trimlab.report import chart, figures
from trimlab.report.html import page
from trimlab.report.model import (
    Chapter,
    Column,
    Finding,
    Findings,
    Report,
    Section,
    Table,
    Value,
    strong,
    text_of,
    words,
)
from trimlab.report.results import Results
from trimlab.report.sections import report


class Read(HTMLParser):
    """The text and the tables of a page."""

    def __init__(self, text):
        super().__init__()
        self.words, self.cells, self.ids, self.links, self.sources = [], [], [], [], []
        self._silent = 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self._silent += tag in ("script", "style", "svg", "nav", "label")
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.sources += [value for name, value in attributes if name in ("src", "srcset") or tag == "link"]

    def handle_endtag(self, tag):
        self._silent -= tag in ("script", "style", "svg", "nav", "label")

    def handle_data(self, data):
        if not self._silent:
            self.words += data.split()


def results(**changes):
    study = factories.study(**changes)
    return Results.of(study, factories.everything(study))


def rendered(of):
    drawn = figures.draw(of)
    drawings = dict.fromkeys(drawn, "<svg></svg>")
    made = report(of, list(drawn))
    return made, page(made, drawings, chart.specification(of))


@cache
def synthetic():
    """The page of the synthetic study."""
    return rendered(results())[1]


def numbers(text):
    return re.findall(r"\d[\d,.]*", text)


@pytest.mark.parametrize("changes", [{}, {"seeds": [0, 1, 2]}, {"benchmark": {"processes": 3}}])
def test_markdown_and_page_agree_to_the_digit(changes):
    made, _ = rendered(of := results(**changes))
    shown = page(made, dict.fromkeys(figures.draw(of), "<svg></svg>"), None)
    markdown = re.sub(r"!\[[^\n]*\]\([^\n]*\)|^From the report .*$", "", factories.document(made), flags=re.M)
    markdown = re.sub(r"\]\([^)\n]*\)", "]", markdown)
    markdown = re.sub(r"([⁰¹²³⁴⁵⁶⁷⁸⁹]+)", r" \1 ", markdown).translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789"))
    ours, theirs = numbers(" ".join(Read(shown).words)), numbers(markdown)
    assert len(ours) > 1000
    assert sorted(ours) == sorted(theirs)


def test_each_heading_has_an_anchor_of_its_own_and_each_link_leads_to_one():
    shown = synthetic()
    read = Read(shown)
    assert len(read.ids) == len(set(read.ids))
    assert all(link.removeprefix("#") in read.ids for link in read.links if link.startswith("#"))


def test_the_page_needs_no_network():
    shown = synthetic()
    assert Read(shown).sources == []
    assert "@import" not in shown
    assert len(shown.encode()) < 5_000_000


def test_what_a_record_or_study_holds_is_text_on_the_page():
    nasty = '<script>alert("x")</script></td>'
    table = Table.of("t", [words(nasty), Column("n")], [[nasty, Value("1", 1.0, note=nasty)]], nasty)
    section = Section(text_of(strong(nasty)), (table, Findings((Finding.of(nasty),))))
    chapter = Chapter("name", nasty, nasty, Finding.of(nasty), ())
    shown = page(Report(nasty, (section,), (chapter,)), {}, {"data": nasty, "layer": []})
    assert "<script>alert" not in shown
    assert (
        " ".join(Read(shown).words).count(nasty) == 12
    )  # title twice, two headings, header, cell, caption, note, findings, link and about


def test_every_measured_file_is_in_the_chart_with_what_the_tables_say():
    of = results()
    spec = chart.specification(of)
    assert spec
    own = [point for point in spec["data"]["values"] if not point["Published"]]
    assert len(own) == len(of.by_file(of.measurements))
    (candidate,) = (p for p in own if "(candidate)" in p["File"] and p["Precision"] == "INT8")
    (record,) = (r for r in of.measurements if (r.variant, r.precision) == ("candidate", "int8"))
    assert candidate[chart.SIZE] == record.file_bytes / 2**20
    assert candidate[chart.TOP1] == pytest.approx(100 * record.top1_accuracy)
    assert candidate["Low"] < candidate[chart.TOP1] < candidate["High"]


def test_the_chart_is_one_that_vega_lite_draws():
    spec = chart.specification(results())
    spec["width"] = 600
    drawn = vl_convert.vegalite_to_svg(json.dumps(spec))
    assert "Top-1, % over Size, MiB" in drawn
    assert re.search(r'aria-roledescription="line mark" d="M[^"]*L', drawn), "the front"


def test_a_study_of_one_file_has_no_chart():
    study = factories.study()
    one = [r for r in factories.everything(study) if getattr(r, "variant", "large") == "large"]
    one = [r for r in one if getattr(r, "precision", "fp32") == "fp32"]
    assert chart.specification(Results.of(study, one)) is None
