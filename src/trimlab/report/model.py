"""What a report is made of: tables, findings and figures in sections, without any markup.

A renderer only writes this down. It escapes each span as its format needs, and computes nothing, so that two
renderers show the same digits.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

Style = Literal["plain", "strong", "code", "published"]
"""How a text is set off; `published` marks what the published study printed, so that nobody takes it for ours."""


class Span(NamedTuple):
    """A piece of text in one style, to be shown literally."""

    text: str
    style: Style = "plain"


Text = tuple[Span, ...]


def strong(text: str) -> Span:
    """Return a span that stands out."""
    return Span(text, "strong")


def code(text: str) -> Span:
    """Return a span of code."""
    return Span(text, "code")


def text_of(*parts: str | Span) -> Text:
    """Put plain strings and spans together."""
    return tuple(Span(part) if isinstance(part, str) else part for part in parts)


class Column(NamedTuple):
    """A table's column: numbers stand right, text left."""

    header: str
    unit: str = ""
    """Of the values' numbers; the header names it too."""
    kind: Literal["number", "text"] = "number"
    usual: str = ""
    """What says nothing where all rows have it, if they know; so does a column that is blank or a dash all the way."""


def words(header: str) -> Column:
    """Return a column of text."""
    return Column(header, kind="text")


class Value(NamedTuple):
    """What stands in a table at a row and a column."""

    text: str
    number: float | None = None
    """The same in the column's unit: of several seeds the mean, of percentiles the median; None for words."""
    note: str = ""
    """A footnote, without full stop."""
    style: Style = "plain"
    link: str = ""
    """Where the text leads, relative to the page."""


Row = tuple[Value, ...]


@dataclass(frozen=True)
class Table:
    """Rows of values under columns. What holds for all of them stands in the caption."""

    key: str
    """Names the table within its report, such as "pruning-resnet18"."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str = ""

    @classmethod
    def of(
        cls, key: str, columns: Sequence[Column], rows: Iterable[Sequence[str | Value]], caption: str = ""
    ) -> "Table":
        """Make a table without the columns that say nothing; a plain string in a row is a value without number."""
        made = [[Value(value) if isinstance(value, str) else value for value in row] for row in rows]
        kept = [i for i, column in enumerate(columns) if not made or _says_something(column, [row[i] for row in made])]
        return cls(key, tuple(columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in made), caption)

    def footnotes(self) -> dict[str, int]:
        """Number the notes of the values, row by row; equal ones share a number."""
        notes = dict.fromkeys(value.note for row in self.rows for value in row if value.note)
        return {note: number for number, note in enumerate(notes, start=1)}


def _says_something(column: Column, values: Iterable[Value]) -> bool:
    return any((value.note and not column.usual) or value.text not in ("", "—", column.usual) for value in values)


@dataclass(frozen=True)
class Finding:
    """A sentence or a few, and the numbers they state."""

    text: Text
    values: Mapping[str, float] = field(default_factory=dict)
    """By names that end in their unit, unrounded."""
    about: str = ""
    """The key of the table whose rows it speaks of; empty where it speaks of several."""

    @classmethod
    def of(cls, *parts: str | Span, about: str = "", **values: float) -> "Finding":
        """Make a finding from strings and spans."""
        return cls(text_of(*parts), values, about)

    @classmethod
    def joined(cls, findings: Iterable["Finding"]) -> "Finding":
        """Put findings on one subject into one."""
        found = list(findings)
        spans = tuple(span for finding in found for span in (Span(" "), *finding.text))[1:]
        values = {name: value for finding in found for name, value in finding.values.items()}
        return cls(spans, values, found[0].about)

    @property
    def plain(self) -> str:
        """The text without its styles."""
        return "".join(span.text for span in self.text)

    def led_by(self, *parts: str | Span) -> "Finding":
        """Return the finding with something in front of its text."""
        return replace(self, text=(*text_of(*parts), *self.text))


@dataclass(frozen=True)
class Findings:
    """Findings in one paragraph, or as a list."""

    items: tuple[Finding, ...]
    listed: bool = False


class Figure(NamedTuple):
    """A reference to a drawn figure: `figures/NAME.svg`."""

    name: str
    alternative: str
    """What it shows, for whoever does not see it."""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; sections in it are one level lower."""

    heading: Text
    blocks: "tuple[Block, ...]"


Block = Table | Findings | Figure | Section


@dataclass(frozen=True)
class Chapter:
    """Details on one question: a file `tables/NAME.md`, and a section of the page."""

    name: str
    heading: str
    about: str
    """What it tells, to stand after a link: without a capital letter and full stop."""
    answer: Finding | None
    """The question in a sentence or two, before everything else."""
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A whole report: an opening of two screens, and the details."""

    title: str
    opening: tuple[Section, ...]
    chapters: tuple[Chapter, ...]


def paragraph(*said: Finding | None) -> list[Block]:
    """Return findings as a paragraph; nothing where there are none."""
    items = tuple(finding for finding in said if finding)
    return [Findings(items)] if items else []


def bullets(items: Iterable[Finding | None]) -> list[Block]:
    """Return findings as a list; nothing where there are none."""
    found = tuple(finding for finding in items if finding)
    return [Findings(found, listed=True)] if found else []
