"""A fake `tensorrt` out of a contract in tests/measure/contracts: names and signatures, and nothing behind them.

    fake = FakeTensorRT("8.5.3.1")
    fake.returns("EngineInspector.get_engine_information", '{"Layers": []}')
    fake.returns("ICudaEngine.get_tensor_name", lambda engine, index: ["x", "y"][index])
    fake.install(monkeypatch)
    ...
    assert ("IBuilderConfig.set_flag", {"flag": trt.BuilderFlag.FP16}) in fake.calls

A call or an attribute that the real library would refuse is refused with the same kind of error. Two things are
stricter: None is no object, though the library takes it for some pointers, and a name that contracts/called.py does not
list is no attribute. And it knows no order of calls: that a profile was added, or a tensor is there, only the library
can say.
"""

import __future__

import ast
import functools
import inspect
import json
import numbers
import operator
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contracts.called import TENSORRT, with_owners

CONTRACTS = Path(__file__).with_name("contracts")


def contract(name: str) -> Any:
    """Return a contract: `tensorrt-8.5.3.1`, `cuda-bindings-13.5.0`, ..."""
    return json.loads((CONTRACTS / f"{name}.json").read_text())


def works(function: Callable[[Any], Any]) -> Callable[[Any], bool]:
    """Return a check whether a function takes a value."""

    def check(value: Any) -> bool:
        try:
            function(value)
        except TypeError:
            return False
        return True

    return check


def instance(*of: type) -> Callable[[Any], bool]:
    """Return a check whether a value is of one of the types."""
    return lambda value: isinstance(value, of)


ACCEPTS: dict[str, Callable[[Any], bool]] = {
    "bool": instance(bool, np.bool_),
    "buffer": works(memoryview),
    "float": instance(numbers.Real),
    "int": works(operator.index),
    "list": instance(list),
    "object": lambda _: True,
    "str": instance(str, bytes),
    "tuple": instance(tuple),
}
"""What pybind11 takes for a declared type that is not a class of the module."""

DEFAULTS: dict[str, Callable[[], Any]] = {
    "List": list,
    "None": lambda: None,
    "bool": lambda: True,
    "buffer": bytes,
    "int": lambda: 1,
    "str": lambda: "text",
}
"""What a call returns, unless a test says otherwise."""

CONVERTED = {"Dims": "List[int]"}
"""Classes that pybind11 makes by itself out of an argument of another type."""


def missing(library: str, name: str) -> AttributeError:
    """Return the error for a name that a contract lacks: it says whether the library lacks it, or we never call it.

    Args:
        library: with its version: "TensorRT 8.5.3.1".
        name: dotted, as contracts/called.py has it.
    """
    if name in with_owners(TENSORRT):
        return AttributeError(f"{library} has no {name}")
    return AttributeError(
        f"{name} is not in the contract of {library}: add it to called.py and write the contracts again"
    )


class Declared:
    """Binds arguments to signatures as a contract spells them."""

    def __init__(self, module: types.ModuleType) -> None:
        self.module = module
        self.classes: dict[str, type] = {}

    @functools.cache  # noqa: B019 - as long-lived as a test's fake
    def signature(self, text: str) -> inspect.Signature:
        """Return a signature; its types stay text, its defaults are values."""
        found: dict[str, Any] = {}
        code = compile(f"def f{text}: ...", text, "exec", __future__.annotations.compiler_flag)
        exec(code, dict(vars(self.module)), found)
        return inspect.signature(found["f"])

    def bind(self, name: str, overloads: list[str], given: Any, named: Any) -> tuple[dict[str, Any], str]:
        """Return the arguments by name, with defaults, and the return type.

        Raises:
            TypeError: no overload takes the arguments.
        """
        for text in overloads:
            signature = self.signature(text)
            arguments = self.arguments(signature, given, named)
            if arguments is not None:
                return arguments, signature.return_annotation
        kinds = ", ".join([kind(value) for value in given] + [f"{key}={kind(value)}" for key, value in named.items()])
        raise TypeError(f"{name}(): incompatible function arguments: ({kinds}); supported: {overloads}")

    def arguments(self, signature: inspect.Signature, given: Any, named: Any) -> dict[str, Any] | None:
        """Return the arguments by name, or None where the signature does not take them."""
        try:
            bound = signature.bind(*given, **named)
        except TypeError:
            return None
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            # Where None is the default, it may be given.
            if parameter.annotation is parameter.empty or (value is None and parameter.default is None):
                continue
            if not self.accepts(parameter.annotation, value):
                return None
        bound.apply_defaults()
        return dict(bound.arguments)

    def accepts(self, kind: str, value: Any) -> bool:
        """Return whether a value may be given for a declared type."""
        container, items = parts(kind)
        if container == "List":
            sequence = hasattr(value, "__getitem__") and not isinstance(value, str | bytes | dict)
            return sequence and all(self.accepts(items[0], item) for item in value)
        if container in ACCEPTS:
            return ACCEPTS[container](value)
        converted = container in CONVERTED and self.accepts(CONVERTED[container], value)
        return converted or isinstance(value, self.classes[container])


@functools.cache
def parts(kind: str) -> tuple[str, list[str]]:
    """Return a type without its parameters, and those: ("List", ["int"])."""
    node = ast.parse(kind, mode="eval").body
    if not isinstance(node, ast.Subscript):
        return kind, []
    items = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    return ast.unparse(node.value), [ast.unparse(item) for item in items]


def kind(value: Any) -> str:
    """Return the name of a value's type."""
    return type(value).__name__


class Declaring(type):
    """The type of a class out of a contract: says why the class has no attribute of a name."""

    _library: str

    def __getattr__(cls, name: str) -> Any:
        raise cls.lacks(name)

    def lacks(cls, name: str) -> AttributeError:
        """Return the error for a name that neither the class nor its bases declare."""
        owners = [of.__qualname__ for of in cls.__mro__ if "_library" in vars(of)]
        if not owners:
            return AttributeError(f"type object {cls.__name__!r} has no attribute {name!r}")
        called = [f"{owner}.{name}" for owner in owners if f"{owner}.{name}" in with_owners(TENSORRT)]
        return missing(cls._library, (called or [f"{owners[0]}.{name}"])[0])


class Member(metaclass=Declaring):
    """A member of an enum, as pybind11's are: no number, but convertible to one."""

    __slots__ = ("value",)
    __members__: dict[str, "Member"]

    def __init__(self, value: int) -> None:
        self.value = value

    @property
    def name(self) -> str:
        return next((name for name, member in self.__members__.items() if member.value == self.value), "???")

    def __int__(self) -> int:
        return self.value

    __index__ = __hash__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and hash(self) == hash(other)

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __repr__(self) -> str:
        return f"<{self}: {self.value}>"


class Meta(Declaring):
    """Holds a Python subclass to calling its base's constructor."""

    def __call__(cls, *given: Any, **named: Any) -> Any:
        made = super().__call__(*given, **named)
        if "_constructed" not in vars(made):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")
        return made


class Object(metaclass=Meta):
    """What all classes but enums derive from."""

    def __setattr__(self, name: str, value: Any) -> None:
        declared = isinstance(getattr(type(self), name, None), property)
        if not declared and "_library" in vars(type(self)):
            raise type(self).lacks(name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise type(self).lacks(name)

    def _fill(self, *_: Any) -> None:
        """Take over what the constructor, or a test, gave."""


def construct(this: Object, arguments: dict[str, Any]) -> None:
    """Finish an object: what its constructor was given is read as the attribute of that name."""
    attributes = {name: value for name, value in arguments.items() if hasattr(type(this), name)}
    vars(this).update(attributes, _constructed=True)
    this._fill(*arguments.values())


class Sizes(Object):
    """What `Dims` does: a sequence of int that is equal to lists and tuples."""

    def _fill(self, *given: Any) -> None:
        vars(self)["_sizes"] = [operator.index(size) for size in np.ravel(given).tolist()]

    def __len__(self) -> int:
        return len(vars(self)["_sizes"])

    def __getitem__(self, index: Any) -> Any:
        found = vars(self)["_sizes"][index]
        return tuple(found) if isinstance(index, slice) else found

    def __setitem__(self, index: int, size: int) -> None:
        vars(self)["_sizes"][index] = size

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, list | tuple):
            raise TypeError("__eq__(): incompatible function arguments: Dims is compared with a list or a tuple alone")
        return tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return str(tuple(self))


class Bytes(Object, bytearray):
    """What `IHostMemory` does: its bytes are there for who reads a buffer, and for nobody else."""

    __len__ = __getitem__ = __setitem__ = __iter__ = None  # type: ignore[assignment]

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_") and hasattr(bytearray, name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return super().__getattribute__(name)

    def __bool__(self) -> bool:
        return True

    def _fill(self, *given: Any) -> None:
        bytearray.__init__(self, *given)


BEHAVIOUR = {"Dims": Sizes, "IHostMemory": Bytes}


class FakeTensorRT:
    """A fake module, `module`, and what was done with it, `calls`: (name, arguments) in order.

    The constructor of Builder is called `Builder.__init__`; a written attribute has the argument `value`.
    """

    def __init__(self, version: str) -> None:
        self.contract = contract(f"tensorrt-{version}")
        self._library = f"TensorRT {version}"
        self.module = types.ModuleType("tensorrt")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._declared = Declared(self.module)
        self._returns: dict[str, Any] = {}
        self._names: set[str] = set()
        vars(self.module)["__version__"] = self.contract["version"]
        for name in self.contract["classes"]:
            self._class(name)
        self._constants()
        vars(self.module)["__getattr__"] = self._no_attribute

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `tensorrt` be the fake."""
        monkeypatch.setitem(sys.modules, "tensorrt", self.module)

    def returns(self, name: str, value: Any) -> None:
        """Let a method or attribute return a value from now on.

        Args:
            name: `Class.name`, where Class is the one that declares it.
            value: or a function that gives it, of the object and of the arguments by name. A sequence becomes Dims,
                bytes become IHostMemory, where that is declared; None stands for itself.

        Raises:
            KeyError: the contract has no such name.
        """
        if name not in self._names:
            raise KeyError(str(missing(self._library, name)))
        self._returns[name] = value

    def make(self, name: str, *given: Any) -> Any:
        """Return an object of a class; `given` are Dims' sizes, IHostMemory's bytes."""
        of = self._declared.classes[name]
        if issubclass(of, Member):
            return min(of.__members__.values(), key=int)
        made = of.__new__(of)
        construct(made, {f"arg{n}": value for n, value in enumerate(given)})
        return made

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the arguments of each call of that name."""
        return [arguments for called, arguments in self.calls if called == name]

    def _class(self, name: str) -> type:
        """Return a class, made once, its bases before it."""
        made = self._declared.classes
        if name not in made:
            entry = self.contract["classes"][name]
            made[name] = self._enum(name, entry) if "members" in entry else self._plain(name, entry)
        return made[name]

    def _enum(self, name: str, entry: Any) -> type:
        of = Declaring(name.rsplit(".", 1)[-1], (Member,), {"__slots__": (), **self._named(name)})
        in_order = sorted(entry["members"].items(), key=lambda item: item[1])
        of.__members__ = {member: of(value) for member, value in in_order}
        for member, value in of.__members__.items():
            setattr(of, member, value)
        return of

    def _plain(self, name: str, entry: Any) -> type:
        behaviour = BEHAVIOUR.get(name, Object)
        bases = tuple(self._class(base) for base in entry.get("bases", [])) or (behaviour,)
        space: dict[str, Any] = {**self._named(name), "__init__": self._no_constructor(name)}
        for method, overloads in entry.get("methods", {}).items():
            if method not in vars(behaviour):
                space[method] = self._callable(f"{name}.{method}", overloads)
        return Meta(name.rsplit(".", 1)[-1], bases, space | self._properties(name, entry))

    def _named(self, name: str) -> dict[str, Any]:
        return {"__module__": "tensorrt", "__qualname__": name, "_library": self._library}

    def _properties(self, name: str, entry: Any) -> dict[str, Any]:
        return {
            attribute: property(
                self._getter(f"{name}.{attribute}", kinds["read"]) if "read" in kinds else None,
                self._setter(f"{name}.{attribute}", kinds["write"]) if "write" in kinds else None,
            )
            for attribute, kinds in entry.get("properties", {}).items()
        }

    def _constants(self) -> None:
        """Set the module's and the classes' names that stand for classes and members."""
        classes = self._declared.classes
        for name, of in classes.items():
            if "." not in name:
                setattr(self.module, name, of)
        for owner, entry in self.contract["classes"].items():
            for name, target in entry.get("constants", {}).items():
                of, _, member = target.rpartition(".")
                setattr(classes[owner], name, classes[target] if target in classes else classes[of].__members__[member])

    def _no_attribute(self, name: str) -> Any:
        raise missing(self._library, name)

    def _no_constructor(self, name: str) -> Callable[..., None]:
        def refuse(*_: Any, **__: Any) -> None:
            raise TypeError(f"tensorrt.{name}: No constructor defined!")

        return refuse

    def _callable(self, name: str, overloads: list[str]) -> Callable[..., Any]:
        """Return a method."""

        def call(*given: Any, **named: Any) -> Any:
            arguments, kind = self._declared.bind(name, overloads, given, named)
            this = arguments.pop("self")
            self.calls.append((name, arguments))
            if name.endswith(".__init__"):
                return construct(this, arguments)
            return self._result(name, kind, this, arguments)

        self._names.add(name)
        return call

    def _getter(self, name: str, kind: str) -> Callable[[Any], Any]:
        attribute = name.rsplit(".", 1)[-1]

        def read(this: Any) -> Any:
            if name not in self._returns:
                return vars(this).setdefault(attribute, self._default(kind))
            return self._result(name, kind, this, {})

        self._names.add(name)
        return read

    def _setter(self, name: str, kind: str) -> Callable[[Any, Any], None]:
        def write(this: Any, value: Any) -> None:
            # An object is taken away by writing None.
            if not self._declared.accepts(kind, value) and (value is not None or kind not in self._declared.classes):
                raise TypeError(f"{name}: {value!r} is not a {kind}")
            self.calls.append((name, {"value": value}))
            vars(this)[name.rsplit(".", 1)[-1]] = value

        return write

    def _result(self, name: str, kind: str, this: Any, arguments: dict[str, Any]) -> Any:
        """Return what a test asked for, or else something of the declared type."""
        if name not in self._returns:
            return self._default(kind)
        value = self._returns[name]
        if callable(value):
            value = value(this, **arguments)
        return value if value is None else self._checked(name, kind, value)

    def _checked(self, name: str, kind: str, value: Any) -> Any:
        """Return a test's value as the declared type; the library could return no other."""
        container, items = parts(kind)
        if container == "List":
            value = [self._checked(name, items[0], item) for item in value]
        if container in BEHAVIOUR and not isinstance(value, Object):
            value = self.make(container, value)
        if not self._declared.accepts(kind, value):
            raise TypeError(f"{name} returns {kind} in TensorRT {self.contract['version']}: {value!r} is none")
        return value

    def _default(self, kind: str) -> Any:
        container, _ = parts(kind)
        return DEFAULTS[container]() if container in DEFAULTS else self.make(container)
