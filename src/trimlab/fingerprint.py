"""Which code computed something: the digest of a module and all that it imports, without comments and formatting."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "trimlab"
ROOT = Path(__file__).parent
EXEMPT = frozenset(
    {"trimlab", "errors", "fingerprint", "mlflow_store", "params", "paths", "progress", "records", "tracking"}
)
"""Modules that change no result: what params and records hold reaches it as values with digests of their own."""


@cache
def of(module: str) -> str:
    """Return the sha256 of a module's code and of the code that it imports from this package, functions' imports too.

    Comments, docstrings and formatting are left out, and so are the `EXEMPT` modules.

    Args:
        module: by its full name, `trimlab.training`.
    """
    digest = hashlib.sha256()
    for name in sorted(closure(module)):
        digest.update(f"{name}\n{canonical(_source(name))}\n".encode())
    return digest.hexdigest()


def closure(module: str) -> set[str]:
    """Return the full names of a module and all that it imports from this package, directly or not, except `EXEMPT`."""
    todo, found = {module}, set[str]()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= {other for other in _imports(name) if other not in found and not _exempt(other)}
    return found


def canonical(source: str) -> str:
    """Return the syntax tree as text: equal for equal code, whatever its comments, docstrings and layout.

    It is the same on every supported Python; `ast.dump` is not, because only some versions write empty fields.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [statement for statement in node.body if not _is_text(statement)]
    return _written(tree)


def _is_text(statement: ast.stmt) -> bool:
    """Say whether a statement is a bare string: a docstring, or the description of an attribute."""
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _written(node: object) -> str:
    if isinstance(node, ast.AST):
        fields = ((name, getattr(node, name, None)) for name in node._fields)
        inner = ", ".join(f"{name}={_written(value)}" for name, value in fields if value not in (None, []))
        return f"{type(node).__name__}({inner})"
    return f"[{', '.join(map(_written, node))}]" if isinstance(node, list) else repr(node)


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _exists(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            yield from (name for alias in node.names if _exists(name := f"{base}.{alias.name}"))
            if _exists(base):
                yield base


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _exempt(module: str) -> bool:
    return module.removeprefix(f"{PACKAGE}.") in EXEMPT


def _exists(module: str) -> bool:
    return module.split(".")[0] == PACKAGE and _file(module).is_file()


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _source(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")
