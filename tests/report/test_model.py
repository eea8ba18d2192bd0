"""What renderers are given: numbers beside their text, and nothing that one format alone reads."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from test_report import CASES

from trimlab.report.model import Block, Finding, Findings, Report, Section, Table
from trimlab.report.results import Results
from trimlab.report.sections import report


def blocks(of: Report) -> Iterator[Block]:
    """Every block of a report, sections with what is in them."""
    waiting: list[Block] = [*of.opening, *(block for chapter in of.chapters for block in chapter.blocks)]
    while waiting:
        block = waiting.pop(0)
        yield block
        waiting += block.blocks if isinstance(block, Section) else ()


def tables(of: Report) -> list[Table]:
    return [block for block in blocks(of) if isinstance(block, Table)]


def findings(of: Report) -> list[Finding]:
    said = [finding for block in blocks(of) if isinstance(block, Findings) for finding in block.items]
    return [*said, *(chapter.answer for chapter in of.chapters if chapter.answer)]


@pytest.fixture(params=CASES)
def made(request: pytest.FixtureRequest) -> Report:
    return report(Results.of(*CASES[request.param]), [])


def test_a_values_text_is_its_number(made: Report) -> None:
    numbers = 0
    for table in tables(made):
        for value in (value for row in table.rows for value in row if value.number is not None):
            written = re.match(r"[+−±]?\s?([\d,]+(?:\.(\d+))?(?:e-\d+)?)", value.text)
            assert written, value
            digits = 9 if "e-" in written[1] else len(written[2] or "")
            if not digits and re.search(r"\(\d.*–", value.text):  # a wide interval rounds to tens or hundreds
                digits = len(written[1].rstrip("0")) - len(written[1])
            tolerance = 0.5001 * 10**-digits
            assert float(written[1].replace(",", "")) == pytest.approx(abs(value.number), abs=tolerance), (table, value)
            numbers += 1
    assert numbers > 200


def test_columns_of_numbers_hold_numbers_and_each_row_fills_its_columns(made: Report) -> None:
    for table in tables(made):
        for row in table.rows:
            assert len(row) == len(table.columns), table.key
            for column, value in zip(table.columns, row, strict=True):
                assert column.kind == "number" or value.number is None, (table.key, column, value)


def test_every_table_has_a_key_of_its_own_and_findings_name_one(made: Report) -> None:
    keys = [table.key for table in tables(made)]
    assert len(keys) == len(set(keys))
    spoken_of = {finding.about for finding in findings(made)} - {""}
    assert spoken_of <= set(keys)
    assert spoken_of


def test_findings_carry_the_numbers_they_state(made: Report) -> None:
    stated = [finding for finding in findings(made) if finding.values]
    assert len(stated) > 5
    headline = next(finding for finding in stated if "times_smaller" in finding.values)
    for name, write in (("top1_percent", "{:.2f} % top-1"), ("times_smaller", "{:.1f}× smaller")):
        assert write.format(headline.values[name]) in headline.plain


def test_nothing_but_a_renderer_writes_markup(made: Report) -> None:
    spans = [span.text for finding in findings(made) for span in finding.text]
    spans += [block.caption for block in tables(made)]
    spans += [value.text for table in tables(made) for row in table.rows for value in row]
    assert [text for text in spans if re.search(r"\*|`|\\|^\||</?\w", text)] == []


def test_a_file_stands_in_two_tables_of_deployed_files_at_most(made: Report) -> None:
    found: Counter[tuple[str, ...]] = Counter()
    for table in tables(made):
        headers = [column.header for column in table.columns]
        if "Δ points" in headers:
            compared = [i for i, header in enumerate(headers) if header != "Δ points"]
            rows = [row for row in table.rows if row[0].style != "published"]
            found.update(tuple(row[i].text for i in compared) for row in rows)
    assert found and max(found.values()) <= 2


def test_no_finding_is_said_twice_in_the_opening_or_in_the_details(made: Report) -> None:
    for part in (replace(made, chapters=()), replace(made, opening=())):
        said = Counter(finding.plain for finding in findings(part) if finding.values)
        assert [text for text, times in said.items() if times > 1] == []


def test_no_table_stands_twice(made: Report) -> None:
    said = Counter((table.rows, table.caption) for table in tables(made))
    assert [table for table, times in said.items() if times > 1] == []


def test_every_measurement_repeats_no_column_of_a_table_of_the_same_bench() -> None:
    of = Results.of(*CASES["two-devices"])
    found = {table.key: {column.header for column in table.columns} for table in tables(report(of, []))}
    assert "gpu-times-2" in found and "agreement-2" in found
    file = {"Variant", "Precision", "Seed"}
    others = set().union(*(headers for key, headers in found.items() if key != "measurements-2")) - file
    # Several seeds: the other tables hold means of the sizes.
    assert found["measurements-2"] & others <= {"Size MiB", *found["measurements"]}
    assert "Top-1 %" not in found["measurements-2"]
    assert "Batch 1 p50 / p90 / p99 ms" not in found["measurements-2"]
