"""Which names of TensorRT and CUDA a source uses: the last part of each, `FP16` of `BuilderFlag.FP16`."""

import ast
import re


def of_cuda(source: str) -> set[str]:
    """Return the names that code uses of CUDA: all begin with `cuda`, except a device's properties."""
    return set(re.findall(r"\bcuda[A-Z]\w*|(?<=\bproperties\.)\w+", source))


def of_tensorrt(source: str) -> set[str]:
    """Return the names that code uses of TensorRT: on `trt`, and on what comes from there.

    What comes from there: parameters that are Any, and what is assigned from such in the same function or class.
    """
    used: set[str] = set()
    defined: set[str] = set()
    for scope in ast.parse(source).body:
        nodes = list(ast.walk(scope))
        objects = _objects(nodes)
        used |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and _is_one(node.value, objects)}
        used |= {name for node in nodes if isinstance(node, ast.Call) for name in _asked_for(node, objects)}
        defined |= {name for node in nodes if isinstance(node, ast.ClassDef) for name in _methods(node, objects)}
    # A method of a derived class that its own code does not call is TensorRT's to call.
    return (used ^ defined) - {"__init__", "__version__"}


def _objects(nodes: list[ast.AST]) -> set[str]:
    """Return the names of variables and attributes that hold objects of TensorRT."""
    parameters = [node for node in nodes if isinstance(node, ast.arg) and node.annotation]
    found = {"trt", "tensorrt"} | {node.arg for node in parameters if ast.unparse(node.annotation) == "Any"}
    for node in [node for node in nodes if isinstance(node, ast.Assign)] * 2:  # ast.walk does not go line by line
        target, value = node.targets[0], node.value
        several = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
        pairs = zip(target.elts, value.elts, strict=True) if several else [(target, value)]
        found |= {ast.unparse(to).rsplit(".", 1)[-1] for to, what in pairs if _is_one(what, found)}
    return found


def _is_one(node: ast.AST, objects: set[str]) -> bool:
    if isinstance(node, ast.Call):
        return _is_one(node.func, objects)
    if isinstance(node, ast.Attribute | ast.Subscript):
        return getattr(node, "attr", "") in objects or _is_one(node.value, objects)
    return isinstance(node, ast.Name) and node.id in objects


def _asked_for(call: ast.Call, objects: set[str]) -> list[str]:
    """Return the name that `hasattr` or `getattr` asks an object for."""
    asks = ast.unparse(call.func) in ("hasattr", "getattr") and _is_one(call.args[0], objects)
    return [ast.literal_eval(call.args[1])] if asks else []


def _methods(of: ast.ClassDef, objects: set[str]) -> list[str]:
    """Return the methods of a class that derives from one of TensorRT's."""
    derived = any(_is_one(base, objects) for base in of.bases)
    return [part.name for part in of.body if isinstance(part, ast.FunctionDef) and derived]
