"""Which code computed something: the digest of a module and all that it imports, without comments and formatting."""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = "trimlab"
ROOT = Path(__file__).parent
EXEMPT = frozenset(
    {"config", "errors", "fingerprint", "latency", "machine", "paths", "progress", "records", "rehearsal", "track"}
)
"""Modules and packages that change no result: what params and records hold reaches it as values, with digests of their
own; the others say, refuse, lock and log. `latency` measures this machine: the ratio that it leads to was checked on a
real file, and stays right whatever later code would predict."""
REPORT = "report"
"""The stage whose result is what it says: nothing is exempt there."""


def write(scripts: Path, folder: Path) -> None:
    """Write a digest for each stage, of its script and all that this imports, to `STAGE.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    for script in sorted(scripts.glob("*.py")):
        (folder / f"{script.stem}.txt").write_text(f"{of_script(script)}\n")


def of_script(script: Path) -> str:
    """Return the sha256 of a stage's script and of the code that it imports from this package."""
    source, exempt = script.read_text(encoding="utf-8"), frozenset() if script.stem == REPORT else EXEMPT
    return _sha256(canonical(source), _reached(_imports(source), exempt))


@cache
def of(module: str) -> str:
    """Return the sha256 of a module's code and of the code that it imports from this package, functions' imports too.

    Comments, docstrings and formatting are left out, and so are the `EXEMPT` modules.

    Args:
        module: by its full name, `trimlab.train.stage`.
    """
    return _sha256("", closure(module))


def closure(module: str) -> set[str]:
    """Return the full names of a module and all that it imports from this package, directly or not, except `EXEMPT`."""
    return _reached([module])


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


def _reached(first: Iterable[str], exempt: frozenset[str] = EXEMPT) -> set[str]:
    todo, found = {name for name in first if not _is_exempt(name, exempt)}, set[str]()
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= {other for other in imports(name) if other not in found and not _is_exempt(other, exempt)}
    return found


def _sha256(script: str, modules: Iterable[str]) -> str:
    digest = hashlib.sha256(script.encode())
    for name in sorted(modules):
        digest.update(f"{name}\n{canonical(_source(name))}\n".encode())
    return digest.hexdigest()


def imports(module: str) -> set[str]:
    """Return the full names of the modules of this package that a module imports, inside functions too."""
    return set(_imports(_source(module), module))


def _imports(source: str, module: str = "") -> Iterator[str]:
    """Yield the modules of this package that a source imports; `module` is its own name, for relative imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _exists(alias.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, module)
            names = [f"{base}.{alias.name}" for alias in node.names]
            yield from filter(_exists, names)
            if _exists(base) and not all(map(_exists, names)):
                yield base


def _absolute(node: ast.ImportFrom, module: str) -> str:
    if not node.level:
        return node.module or ""
    package = module if _file(module).name == "__init__.py" else module.rpartition(".")[0]
    for _ in range(node.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{node.module}" if node.module else package


def _is_exempt(module: str, exempt: frozenset[str]) -> bool:
    return module == PACKAGE or module.split(".")[1] in exempt


def _exists(module: str) -> bool:
    return module.split(".")[0] == PACKAGE and _file(module).is_file()


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _source(module: str) -> str:
    return _file(module).read_text(encoding="utf-8")
