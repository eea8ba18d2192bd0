"""A report as one HTML page that needs nothing else: tables to sort and filter, figures, and an interactive chart."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from itertools import groupby
from typing import Any

import vl_convert

from trimlab.report.chart import CONTROLS, NOTE
from trimlab.report.figures import GRID, GROUND, INK
from trimlab.report.model import Block, Chapter, Column, Figure, Findings, Report, Section, Span, Table, Text, Value

_SPACES = re.compile(r"\s+")
_TAGS = {"plain": "", "strong": "strong", "code": "code", "published": "em"}
_OWN_COLOURS = {GROUND: "page", INK: "text", GRID: "line"}
"""The page's names for colours of figures."""
LONG = 10
"""Rows from which on a table can be filtered and sorted; a shorter one is read at a glance, on a telephone as cards."""


def page(report: Report, figures: Mapping[str, str], chart: Mapping[str, Any] | None) -> str:
    """Return report.html.

    Args:
        report: what stands in it.
        figures: each figure as SVG, by name.
        chart: a Vega-Lite specification, shown after the opening; None for no chart.
    """
    anchors = _Anchors()
    sections = [_section(section, 2, figures, anchors) for section in report.opening]
    sections += [_chart(anchors)] if chart else []
    opened = len(anchors.top)
    chapters = [_chapter(chapter, figures, anchors) for chapter in report.chapters]
    details = _details(report.chapters, anchors.top[opened:], anchors) if chapters else ""
    entries = "".join(f'<li><a href="#{anchor}">{heading}</a></li>' for anchor, heading in anchors.top)
    assets = files("trimlab.report.assets")
    style, script = ((assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    drawn = f"<script>{_library()}</script>\n{_data(chart)}" if chart else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f'<nav aria-label="Sections"><details><summary>Sections<span id="here"></span></summary><ul>{entries}</ul>'
        f"</details></nav>\n<main>\n<h1>{escape(report.title)}</h1>\n"
        f"{''.join([*sections, details, *chapters])}</main>\n{drawn}<script>\n{script}</script>\n</body>\n</html>\n"
    )


class _Anchors:
    """Names of headings within the page, each once."""

    def __init__(self) -> None:
        self.top: list[tuple[str, str]] = []
        """Of the sections, with their headings as HTML."""
        self._taken: set[str] = set()

    def of(self, heading: Text, level: int) -> str:
        words = re.sub(r"[^a-z0-9]+", "-", "".join(span.text for span in heading).lower()).strip("-") or "section"
        anchor = next(name for name in _numbered(words) if name not in self._taken)
        self._taken.add(anchor)
        if level == 2:
            self.top.append((anchor, inline(heading)))
        return anchor


def _numbered(words: str) -> Iterator[str]:
    yield words
    number = 2
    while True:
        yield f"{words}-{number}"
        number += 1


def _section(section: Section, level: int, figures: Mapping[str, str], anchors: _Anchors) -> str:
    anchor = anchors.of(section.heading, level)
    tag = f"h{min(level, 6)}"
    blocks = _blocks(section.blocks, level, section.heading, figures, anchors)
    return f'<section id="{anchor}">\n<{tag}>{inline(section.heading)}</{tag}>\n{blocks}</section>\n'


def _chapter(chapter: Chapter, figures: Mapping[str, str], anchors: _Anchors) -> str:
    heading = (Span(chapter.heading),)
    anchor = anchors.of(heading, 2)
    answer = f'<p class="answer">{inline(chapter.answer.text)}</p>\n' if chapter.answer else ""
    blocks = _blocks(chapter.blocks, 2, heading, figures, anchors)
    return f'<section id="{anchor}">\n<h2>{inline(heading)}</h2>\n{answer}{blocks}</section>\n'


def _details(chapters: Sequence[Chapter], tops: Sequence[tuple[str, str]], anchors: _Anchors) -> str:
    """Return the list of what follows, with what each chapter tells."""
    items = "".join(
        f'<li><a href="#{anchor}">{heading}</a>: {escape(chapter.about)}.</li>'
        for (anchor, heading), chapter in zip(tops, chapters, strict=True)
    )
    anchor = anchors.of((Span("Details"),), 3)
    return f'<section id="{anchor}">\n<h2>Details</h2>\n<ul>{items}</ul>\n</section>\n'


def _blocks(blocks: Iterable[Block], level: int, heading: Text, figures: Mapping[str, str], anchors: _Anchors) -> str:
    """Return blocks in turn; figures that follow each other stand side by side where there is room."""
    parts = []
    for drawn, group in groupby(blocks, key=lambda block: isinstance(block, Figure)):
        shown = "".join(_block(block, level, heading, figures, anchors) for block in group)
        parts.append(f'<div class="figures">{shown}</div>\n' if drawn else shown)
    return "".join(parts)


def _block(block: Block, level: int, heading: Text, figures: Mapping[str, str], anchors: _Anchors) -> str:
    if isinstance(block, Section):
        return _section(block, level + 1, figures, anchors)
    if isinstance(block, Table):
        return table(block, inline(heading))
    if isinstance(block, Findings):
        return _findings(block)
    return _figure(block, figures[block.name])


def _findings(findings: Findings) -> str:
    said = [inline(finding.text) for finding in findings.items]
    if findings.listed:
        return f"<ul>{''.join(f'<li>{text}</li>' for text in said)}</ul>\n"
    return f"<p>{' '.join(said)}</p>\n"


def inline(text: Text) -> str:
    """Return a text as HTML, with each span shown literally."""
    return "".join(map(_span, text)).strip()


def _span(span: Span) -> str:
    text, tag = escape(_SPACES.sub(" ", span.text)), _TAGS[span.style]
    return f"<{tag}>{text}</{tag}>" if tag else text


def table(table: Table, heading: str = "") -> str:
    """Return a table with its caption and footnotes.

    Args:
        table: the table.
        heading: that of the section that it stands in, as HTML.
    """
    notes = table.footnotes()
    long = len(table.rows) >= LONG
    head = "".join(
        f'<th scope="col" class="{column.kind}">{_sorting(column) if long else escape(column.header)}</th>'
        for column in table.columns
    )
    labels = [f' data-header="{escape(column.header)}"' for column in table.columns]
    body = "".join(_row(row, table, labels, notes) for row in table.rows)
    under = "".join([f"<p>{escape(table.caption)}</p>" if table.caption else "", _legend(notes)])
    anchor = f"table-{escape(table.key)}"
    search = (
        f'<p class="filter"><label>Filter the rows of “{heading}”: <input type="search" '
        f'aria-controls="{anchor}"></label> <span role="status"></span></p>\n'
        if long
        else ""
    )
    return (
        f'{search}<div class="scroll"><table id="{anchor}" class="{"long" if long else "short"}">\n'
        f'<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n<div class="caption">{under}</div>\n'
    )


def _sorting(column: Column) -> str:
    hint = "Sort by this column; the arrow keys lead to the others"
    return f'<button type="button" title="{hint}">{escape(column.header)}</button>'


def _legend(notes: Mapping[str, int]) -> str:
    if not notes:
        return ""
    return f"<p>{' '.join(f'<sup>{number}</sup> {escape(note)}.' for note, number in notes.items())}</p>"


def _row(row: Sequence[Value], table: Table, labels: Sequence[str], notes: Mapping[str, int]) -> str:
    # A published row belongs to the one above it, which it follows when rows are sorted.
    belongs = ' class="published"' if row[0].style == "published" else ""
    return f"<tr{belongs}>{''.join(_cells(row, table, labels, notes))}</tr>\n"


def _cells(row: Iterable[Value], table: Table, labels: Iterable[str], notes: Mapping[str, int]) -> Iterator[str]:
    tag, scope = "th", ' scope="row"'
    for value, column, label in zip(row, table.columns, labels, strict=True):
        shown = _span(Span(value.text, value.style))
        if value.link:
            shown = f'<a href="{escape(value.link)}">{shown}</a>'
        mark = f"<sup>{notes[value.note]}</sup>" if value.note else ""
        number = "" if value.number is None else f' data-number="{value.number!r}"'
        yield f'<{tag}{scope} class="{column.kind}"{number}{label}>{shown}{mark}</{tag}>'
        tag, scope = "td", ""


def _figure(figure: Figure, svg: str) -> str:
    drawing = svg[svg.index("<svg") :]
    # Names within a drawing have to be the page's own, too.
    drawing = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{figure.name}-", drawing)
    # Ground, text and grid are the page's own, which differ in dark mode.
    drawing = re.sub("|".join(_OWN_COLOURS), lambda found: f"var(--{_OWN_COLOURS[found[0]]})", drawing)
    return f'<figure role="img" aria-label="{escape(figure.alternative)}">{drawing}</figure>\n'


def _chart(anchors: _Anchors) -> str:
    heading = (Span("All files"),)
    anchor = anchors.of(heading, 2)
    return (
        f'<section id="{anchor}">\n<h2>All files</h2>\n<div id="{CONTROLS}"></div>\n<div id="chart"></div>\n'
        f'<div class="caption"><p>{escape(NOTE)}</p></div>\n</section>\n'
    )


def _data(chart: Mapping[str, Any] | None) -> str:
    # Nothing in it can end the element.
    held = json.dumps(chart).replace("<", "\\u003c")
    return f'<script type="application/json" id="chart-data">{held}</script>\n'


@cache  # seconds a time
def _library() -> str:
    """Return Vega, Vega-Lite and Vega-Embed as one script, which does not end its element early."""
    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script")
