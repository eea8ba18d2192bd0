"""Read params.yaml and a stage's command line."""

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, Node

from trimlab import paths
from trimlab.config import messages
from trimlab.config.choices import choice, unresolved
from trimlab.config.study import Params
from trimlab.errors import UsageError, UserError, one_line

MOST_PROBLEMS = 30
"""How many problems are reported at once."""
MOST_NODES = 100_000
DEEPEST = 20
"""Limits of a params file after its aliases are expanded. A study has a few hundred values, at most five deep."""


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check a params file.

    Raises:
        UserError: the message has one line per problem: key, value, bound, remedy.
    """
    try:
        return Params.model_validate(_read(path))
    except ValidationError as error:
        lines = [line for detail in error.errors()[:MOST_PROBLEMS] for line in messages.describe(detail)]
        if error.error_count() > MOST_PROBLEMS:
            lines.append(f"{error.error_count() - MOST_PROBLEMS} more problems: fix these first")
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None


def cell(arguments: Sequence[str], section: Literal["datasets", "workloads", "variants"]) -> tuple[Params, str]:
    """Return what a stage's command line names: the study, and the key of one cell.

    Args:
        arguments: `sys.argv`.
        section: the section of params.yaml that has a cell for each of its keys.

    Raises:
        UserError: the params are invalid, or the key is unknown.
        UsageError: there is not exactly one argument.
    """
    study, role = load(), section.removesuffix("s")
    keys: Collection[str] = getattr(study, section)
    if len(arguments) != 2:
        raise UsageError(f"{arguments[0]} takes one {role}, not {len(arguments) - 1} arguments: {choice(keys)}")
    problem = unresolved(role, arguments[1], keys)
    if problem:
        raise UserError(problem)
    return study, arguments[1]


def whole(arguments: Sequence[str]) -> Params:
    """Return the study, for a stage without arguments.

    Raises:
        UserError: the params are invalid.
        UsageError: there are arguments in `sys.argv`.
    """
    study = load()
    if len(arguments) != 1:
        raise UsageError(f"{arguments[0]} takes no arguments, not {len(arguments) - 1}: leave them out")
    return study


def schema() -> str:
    """Return the JSON schema of params.yaml, for editors."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"


def _read(path: Path) -> Any:
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run in the project's root, or name an existing file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a params file") from None
    # The YAML library that DVC uses: both read `1e-4` as a number, and PyYAML reads it as a string.
    yaml = YAML(typ="safe", pure=True)
    try:
        nodes, depth = _extent(yaml.compose(written), {})
        if nodes > MOST_NODES or depth > DEEPEST:
            raise RecursionError
        return yaml.load(written)
    except RecursionError:
        raise UserError(
            f"{path} has more than {MOST_NODES} values after its aliases are expanded, or nests them more than "
            f"{DEEPEST} deep: start from a file in studies/"
        ) from None
    except Exception as error:  # a tag such as !!float raises any error of its conversion
        raise UserError(f"{path} is not valid YAML: {one_line(error, 250)}") from None


def _extent(node: Node | None, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return the number of nodes and the depth of a YAML node after its aliases are expanded; they may be circular."""
    if not isinstance(node, CollectionNode):
        return 1, 1
    if id(node) not in known:
        children = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
        extents = [_extent(child, known) for child in children]
        known[id(node)] = 1 + sum(nodes for nodes, _ in extents), 1 + max((deep for _, deep in extents), default=0)
    return known[id(node)]
