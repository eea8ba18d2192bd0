"""A user's own code: a file or a package folder that the params name, imported by its path.

Importing runs it. No other code of the project can be imported from it, so one digest covers all the code that a model
is built from, installed packages apart.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from trimlab.digests import digest_of, sha256_of
from trimlab.errors import UserError, one_line

_loaded: dict[str, tuple[Path, str]] = {}
"""Path and digest of the code behind each module that `load` imported, by the module's top-level name."""


def sha256(code: Path) -> str:
    """Return the sha256 of a file, or one of all `.py` files in a folder.

    Raises:
        UserError: there is no such file or folder.
    """
    if code.is_file():
        return sha256_of(code)
    if not code.is_dir():
        raise UserError(f"code {code} does not exist: put the file or package folder there")
    return digest_of({file.relative_to(code).as_posix(): sha256_of(file) for file in sorted(code.rglob("*.py"))})


def load(code: Path, module: str) -> ModuleType:
    """Import a module of a user's code, again if that has changed.

    Args:
        code: the file or package folder.
        module: `my_models` for the file `my_models.py` or the folder `my_models`; `my_models.small` in that folder.

    Raises:
        UserError: the code is missing or fails, or has the name of another package.
    """
    root, version = module.partition(".")[0], (code.resolve(), sha256(code))
    # Byte code is found by time and size: an edit within a second would go unnoticed.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        if _loaded.get(root) != version:
            _import(code, root)
            _loaded[root] = version
        return importlib.import_module(module)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # whatever a user's code raises
        raise UserError(f"code {code} cannot be imported: {_described(error, code)}") from None
    finally:
        sys.dont_write_bytecode = before


def _import(code: Path, root: str) -> None:
    spec = _spec(code, root)
    for name in [name for name in sys.modules if name == root or name.startswith(f"{root}.")]:
        del sys.modules[name]
    _loaded.pop(root, None)
    module = importlib.util.module_from_spec(spec)
    sys.modules[root] = module
    importlib.invalidate_caches()
    assert spec.loader
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[root]
        raise


def _spec(code: Path, root: str) -> ModuleSpec:
    file = code / "__init__.py" if code.is_dir() else code
    if not file.is_file():
        raise UserError(f"code {code} has no __init__.py: add an empty one, so that it is a package")
    if root not in _loaded and _is_taken(root, file):
        raise UserError(f"code {code} has the name of another module, {root}: rename it")
    folders = [str(code)] if code.is_dir() else None
    spec = importlib.util.spec_from_file_location(root, file, submodule_search_locations=folders)
    assert spec
    return spec


def _is_taken(root: str, file: Path) -> bool:
    imported = sys.modules.get(root)
    spec = imported.__spec__ if imported else importlib.util.find_spec(root)
    return spec is not None and spec.origin is not None and Path(spec.origin).resolve() != file.resolve()


def _described(error: BaseException, code: Path) -> str:
    """Say in one line, with a remedy, why an import failed."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno} of {Path(error.filename or code).name} is no Python ({error.msg}): correct it"
    if isinstance(error, ModuleNotFoundError):
        return (
            f"module {error.name} is not found: install it, or put it beside the other files of a package folder and "
            "name that folder as code"
        )
    return f"{type(error).__name__}: {one_line(error, 120)}: correct it"
