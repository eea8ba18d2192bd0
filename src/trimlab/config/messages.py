"""Messages for pydantic's errors about params.yaml: key, value, bound, remedy."""

from typing import Any

from pydantic_core import ErrorDetails

from trimlab.config.choices import choice, guess
from trimlab.config.study import Params
from trimlab.errors import short


def describe(detail: ErrorDetails) -> list[str]:
    """Return the message for one of pydantic's errors, a list of lines."""
    if detail["type"] == "value_error":
        prefix = _dotted(detail["loc"])
        messages = str(detail["ctx"]["error"]).splitlines()
        return [f"{prefix}.{message}" if prefix else message for message in messages]
    if not detail["loc"]:
        return ["holds no params: start from a file in studies/"]
    return [f"{_dotted(detail['loc'])} {_complaint(detail)}"]


def _complaint(detail: ErrorDetails) -> str:
    value, context = short(detail["input"]), detail.get("ctx", {})
    match detail["type"]:
        case "extra_forbidden":
            known = _fields_at(detail["loc"][:-1])
            return f"is not a known key{guess(str(detail['loc'][-1]), known)}: {choice(known)}"
        case "missing":
            return "is missing: add it"
        case "string_pattern_mismatch":
            return f"{value} does not match {context['pattern']}: rename it"
        case "literal_error":
            expected = context["expected"].replace("'", "").replace("True, False", "true, false")
            return f"{value} is not allowed: use one of {expected}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{value} is not in {_range_at(detail)}: set it in that range"
        case kind:
            return f"{value} is invalid ({detail['msg']}): give {_EXPECTED.get(kind, 'a valid value')}"


_EXPECTED = {
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "string_type": "a string (in quotes if it looks like a number)",
    "list_type": "a list",
    "dict_type": "keys with values",
    "model_type": "keys with values",
    "too_short": "more entries",
    "string_too_short": "a longer string",
}

_BOUNDS = {"gt": "(", "ge": "[", "lt": ")", "le": "]"}


def _range_at(detail: ErrorDetails) -> str:
    """Return the whole range of a field, not just the bound that was violated."""
    bounds = _constraints_at(detail["loc"])
    low = next((f"{_BOUNDS[k]}{bounds[k]}" for k in ("gt", "ge") if k in bounds), "(-inf")
    high = next((f"{bounds[k]}{_BOUNDS[k]}" for k in ("lt", "le") if k in bounds), "inf)")
    return f"{low}, {high}"


_JSON_BOUNDS = {"exclusiveMinimum": "gt", "minimum": "ge", "exclusiveMaximum": "lt", "maximum": "le"}


def _constraints_at(location: tuple[int | str, ...]) -> dict[str, Any]:
    node = _schema_at(location)
    nodes = [node, *node.get("anyOf", [])]
    return {_JSON_BOUNDS[key]: value for n in nodes for key, value in n.items() if key in _JSON_BOUNDS}


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    return list(_schema_at(location).get("properties", {}))


def _schema_at(location: tuple[int | str, ...]) -> dict[str, Any]:
    """Walk the JSON schema along an error's location."""
    root = Params.model_json_schema()
    node: dict[str, Any] = root
    for part in location:
        properties = node.get("properties", {})
        inner = node.get("items") if isinstance(part, int) else properties.get(part)
        if part == "[values]":
            inner = next(option for option in node["oneOf"] if "$ref" in option)
        inner = inner or node.get("additionalProperties") or node.get("patternProperties", {})
        if isinstance(inner, dict) and not inner.keys() & {"type", "$ref", "anyOf", "oneOf"}:
            inner = next(iter(inner.values()), {})
        node = inner if isinstance(inner, dict) else {}
        node = next((option for option in node.get("anyOf", []) if "$ref" in option), node)  # a section or null
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(_key(part) for part in location if not str(part).startswith(("[", "constrained-")))


def _key(part: int | str) -> str:
    text = str(part)
    return text if text.isprintable() and len(text) <= 64 else short(text)
