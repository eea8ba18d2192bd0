"""A report as markdown, in files that link each other: GitHub's tables, footnotes, lists and links to figures."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

from trimlab.report.model import Block, Chapter, Finding, Findings, Report, Section, Span, Table, Text, Value

_MARKUP = re.compile(r"[\\`*<>\[\]|~$&#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|:(?=//)|(?<=www)\.")
"""What markdown reads as more than text; an underscore within a word is plain text."""
_SPACES, _PIPE = re.compile(r"\s+"), re.compile(r"(?<!\\)\|")
_AROUND = {"plain": "", "strong": "**", "code": "`", "published": "*"}
_DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")


def documents(report: Report) -> dict[str, str]:
    """Return the report's texts by their paths in its folder: report.md, and for each chapter `tables/NAME.md`."""
    links = [f"- [{_escape(c.heading)}]({_path(c)}): {_escape(c.about)}." for c in report.chapters]
    more = ["## Details", "\n".join(links)] if links else []
    parts = [f"# {_escape(report.title)}", *_rendered(report.opening, level=2, figures="figures"), *more]
    return {"report.md": _text(parts)} | {_path(chapter): _chapter(report, chapter) for chapter in report.chapters}


def _path(chapter: Chapter) -> str:
    return f"tables/{chapter.name}.md"


def _chapter(report: Report, chapter: Chapter) -> str:
    answer = [inline(chapter.answer.text)] if chapter.answer else []
    back = f"From the report [{_escape(report.title)}](../report.md)."
    body = _rendered(chapter.blocks, level=2, figures="../figures")
    return _text([f"# {_escape(chapter.heading)}", back, *answer, *body])


def _text(parts: Iterable[str]) -> str:
    return "\n\n".join(parts) + "\n"


def inline(text: Text) -> str:
    """Return a text in one line, with each span shown literally."""
    return "".join(map(_span, text)).strip()


def table(table: Table) -> str:
    """Return a GitHub table, and under it its caption and footnotes."""
    notes = {note: str(number).translate(_DIGITS) for note, number in table.footnotes().items()}

    def cell(value: Value) -> str:
        text = shown((Span(value.text, value.style),), value.note)
        return f"[{text}]({value.link})" if value.link else text

    def shown(text: Text, note: str = "") -> str:
        return _PIPE.sub(r"\\|", inline(text) + notes.get(note, ""))

    body = [[cell(value) for value in row] for row in table.rows]
    headers = [shown((Span(column.header),)) for column in table.columns]
    grid = _grid(headers, body, [column.kind == "text" for column in table.columns])
    legend = [f"{number} {_escape(note)}." for note, number in notes.items()]
    under = " ".join([*([_escape(table.caption)] if table.caption else []), *legend])
    return f"{grid}\n\n{under}" if under else grid


def _grid(headers: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[bool]) -> str:
    """Lay texts under headers, numbers to the right, so that the source can be read, too."""
    columns = zip(headers, *body, strict=True)
    widths = [max([len(header) + 2, *map(len, cells)]) for header, *cells in columns]

    def line(texts: Sequence[str]) -> str:
        placed = (
            f"{text:<{width}}" if to_left else f"{text:>{width}}"
            for text, width, to_left in zip(texts, widths, left, strict=True)
        )
        return f"| {' | '.join(placed)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line(headers), rule, *map(line, body)])


def _rendered(blocks: Iterable[Block], level: int, figures: str) -> list[str]:
    """Return blocks in turn, sections with their headings; `figures` is the figures' folder."""
    parts = []
    for block in blocks:
        if isinstance(block, Section):
            parts += [f"{'#' * level} {inline(block.heading)}", *_rendered(block.blocks, level + 1, figures)]
        elif isinstance(block, Table):
            parts.append(table(block))
        elif isinstance(block, Findings):
            parts.append(_bullets(block.items) if block.listed else " ".join(inline(one.text) for one in block.items))
        else:
            parts.append(f"![{_escape(block.alternative)}]({figures}/{block.name}.svg)")
    return parts


def _bullets(items: Sequence[Finding]) -> str:
    return "\n".join(f"- {inline(item.text)}" for item in items)


def _span(span: Span) -> str:
    around = _AROUND[span.style]
    text = _SPACES.sub(" ", span.text).replace("`", "'") if span.style == "code" else _escape(span.text)
    return around + text + around


@cache  # a table of files repeats names, runtimes and precisions
def _escape(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", _SPACES.sub(" ", text))
