"""The fingerprint of code: blind to comments and layout, not to what is computed."""

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimlab import fingerprint

CODE = '''
def area(width: int, height: int = 2) -> int:
    """Multiply."""
    return width * height  # a comment


class Box:
    """A box."""

    depth: int = 3
    """In pixels."""
'''


@pytest.mark.parametrize(
    "other",
    [
        CODE.replace("  # a comment", ""),
        CODE.replace('"""Multiply."""', '"""Give the area."""'),
        CODE.replace('    """Multiply."""\n', ""),
        CODE.replace('    """In pixels."""\n', ""),
        CODE.replace("width * height", "(\n        width * height\n    )"),
        ast.unparse(ast.parse(CODE)),
    ],
)
def test_comments_docstrings_and_layout_leave_it_alone(other):
    assert fingerprint.canonical(other) == fingerprint.canonical(CODE)


@pytest.mark.parametrize(("old", "new"), [("* height", "+ height"), ("= 2", "= 3"), ("depth: int = 3", "depth: int")])
def test_what_is_computed_changes_it(old, new):
    assert fingerprint.canonical(CODE.replace(old, new)) != fingerprint.canonical(CODE)


@given(st.integers() | st.text() | st.floats(allow_nan=False) | st.binary() | st.booleans())
def test_two_constants_are_told_apart_by_value_and_type(value):
    assert fingerprint.canonical(f"x = {value!r}") != fingerprint.canonical(f"x = {(value, 0)!r}")


def test_the_closure_holds_what_a_module_reaches_and_not_what_changes_no_result():
    found = fingerprint.closure("trimlab.train.stage")
    assert {"trimlab.train.loop", "trimlab.data.dataset", "trimlab.models.registry", "trimlab.measure.device"} <= found
    assert not {name.split(".")[1] for name in found} & fingerprint.EXEMPT
    assert "trimlab.prune.stage" not in found
    assert "trimlab.train.loop" in fingerprint.closure("trimlab.prune.stage")


def test_relative_imports_are_followed():
    found = fingerprint.closure("trimlab.measure.__main__")
    assert {"trimlab.measure.timing", "trimlab.measure.runtimes.onnx_runtime", "trimlab.measure.layers"} <= found


def test_a_constant_changed_in_an_imported_module_changes_the_fingerprint(tmp_path, monkeypatch):
    (tmp_path / "outer.py").write_text("from trimlab import inner\n")
    (tmp_path / "inner.py").write_text("SIZE = 1\n")
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    fingerprint.of.cache_clear()
    before = fingerprint.of("trimlab.outer")
    (tmp_path / "inner.py").write_text("# a comment\nSIZE = 1\n")
    fingerprint.of.cache_clear()
    assert fingerprint.of("trimlab.outer") == before
    (tmp_path / "inner.py").write_text("SIZE = 2\n")
    fingerprint.of.cache_clear()
    assert fingerprint.of("trimlab.outer") != before
    fingerprint.of.cache_clear()
