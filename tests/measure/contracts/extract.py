"""Write what a TensorRT or CUDA bindings wheel declares of the names in called.py, beside this file as JSON.

    python extract.py WHEEL

The wheel must be one for the Python that runs this; README.md says how to get it. It takes neither a GPU nor the
libraries that the bindings are linked with: stand-ins let them load.
"""

import ast
import ctypes
import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import types
import zipfile
from pathlib import Path

from called import CUDA, CUDA_ERRORS, TENSORRT, kept

DUNDERS = {"__init__", "__eq__", "__len__", "__getitem__", "__setitem__", "__iter__"}
"""Left out are `__enter__` and `__exit__`: context managers are deprecated in all versions."""

SPELLINGS = {
    r"\b(?:tensorrt|tensorrt_bindings)\.tensorrt\.": "",
    r"\bcollections\.abc\.|\btyping\.|\btyping_extensions\.": "",
    r"\bstd::vector<([\w:]+), std::allocator<[\w:]+> >": r"List[\1]",
    r"\bdetail::accessor<[\w:]+>": "object",
    r"\bSupportsInt\b": "int",
    r"\bSupportsFloat\b": "float",
    r"\bBuffer\b": "buffer",
    r"\bCapsuleType\b": "capsule",
    r"\b(?:list|List|Sequence)\b(?=\[)": "List",
    r"\btuple\b(?=\[)": "Tuple",
    r"<([\w.]+): -?\d+>": r"\1",
    r"<[^<>]* object at 0x[0-9a-f]+>": "...",
    r"\bin(?=: )": "in_",
}
"""pybind11's spellings, which differ by its version, and one for all."""


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the Python files and extension modules, without the libraries that the wheel may bring."""
    with zipfile.ZipFile(wheel) as archive:
        wanted = [name for name in archive.namelist() if not Path(name).name.startswith("lib")]
        archive.extractall(folder, wanted)


def stand_in(extension: Path, folder: Path) -> None:
    """Load a stand-in for each NVIDIA library that an extension is linked with; its functions return 0."""
    imported = subprocess.check_output(["nm", "-D", "--undefined-only", extension], text=True)
    dynamic = subprocess.check_output(["readelf", "-d", extension], text=True)
    process = ctypes.CDLL(None)
    # What has a version is of the C or C++ library.
    names = [name for name in re.findall(r"^ +U ([^@\s]+)$", imported, re.M) if not hasattr(process, name)]
    source = folder / "stand_in.c"
    source.write_text("".join(f"long {name}(void) {{ return 0; }}\n" for name in names))
    for library in re.findall(r"NEEDED.*\[(libnv.*)\]", dynamic):
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{library}", "-o", folder / library, source]
        subprocess.check_call(command)
        ctypes.CDLL(str(folder / library), ctypes.RTLD_GLOBAL)


class Bindings:
    """A package of pybind11 bindings, read by its docstrings."""

    def __init__(self, package):
        self.package = package
        outer = [value for name, value in vars(package).items() if isinstance(value, type) and name[0] != "_"]
        inner = [value for owner in outer for value in vars(owner).values() if isinstance(value, type)]
        own = [value for value in outer + inner if value.__module__.startswith(package.__name__)]
        self.classes = {value.__qualname__: value for value in own}

    def contract(self):
        """Return the classes by name."""
        classes = {name: self.of_class(value) for name, value in self.classes.items()}
        return {"version": self.package.__version__, "classes": classes}

    def of_class(self, of):
        """Return what a class declares itself, empty parts left out."""
        own = vars(of)
        properties = {name: value for name, value in own.items() if isinstance(value, property)}
        parts = {"bases": [base.__qualname__ for base in of.__bases__ if base.__qualname__ in self.classes]}
        if hasattr(of, "__members__"):
            parts["members"] = members(of)
            properties = {name: value for name, value in properties.items() if inspect.isfunction(value.fget)}
        else:
            parts["constants"] = self.constants(own)
            parts["methods"] = self.methods(own)
        parts["properties"] = {name: self.of_property(value) for name, value in properties.items()}
        return {key: value for key, value in parts.items() if value}

    def methods(self, own):
        """Return the overloads of each method; a static one has no `self`."""
        found = {name: getattr(value, "__func__", value) for name, value in own.items()}
        return {
            name: self.signatures(value, bound=not isinstance(own[name], staticmethod))
            for name, value in found.items()
            if inspect.isroutine(value)
            and not isinstance(value, types.WrapperDescriptorType)
            and (not name.startswith("_") or name in DUNDERS)
        }

    def constants(self, own):
        """Return names that stand for a class or an enum's member, as its dotted name."""
        pairs = {}
        for name, value in own.items():
            of = value if isinstance(value, type) else type(value)
            if self.classes.get(of.__qualname__) is not of or name == of.__qualname__:
                continue
            if hasattr(of, "__members__") or of is value:
                pairs[name] = of.__qualname__ + ("" if of is value else f".{value.name}")
        return pairs

    def of_property(self, value):
        """Return the type read, and the one that may be written, if any."""
        if inspect.isfunction(value.fget):
            return {"read": "object"}
        parts = {}
        if value.fget:
            parts["read"] = returned(self.signatures(value.fget)[0])
        if value.fset:
            given = parse(self.signatures(value.fset)[0]).args
            parts["write"] = ast.unparse((given.posonlyargs + given.args)[-1].annotation)
        return parts

    def signatures(self, function, bound=False):
        """Return each overload as Python spells a signature."""
        if inspect.isfunction(function):
            text = str(inspect.signature(function))
            return [re.sub(r"^\(\w+", "(self", text) if bound else text]
        lines = function.__doc__.splitlines()
        found = [line for line in lines if re.match(r"\d+\. \w*\(", line)] if "Overloaded function." in lines else []
        return [self.signature(line, bound) for line in found or lines[:1]]

    def signature(self, line, bound):
        """Return a docstring's line as Python spells a signature.

        A nameless parameter, `arg0` and so on, takes no keyword. C++ names are those that pybind11 met before the
        class was bound.
        """
        text = line[line.index("(") :].rstrip().rstrip(":")
        for pattern, spelling in SPELLINGS.items():
            text = re.sub(pattern, spelling, text)
        text = re.sub(r"\b\w+(?:::\w+)+", lambda match: self.python_name(match[0]), text)
        parsed = parse(text)
        given = parsed.args
        if bound:
            given.args[0].annotation = None
            given.args[0].arg = "self"
        nameless = [n for n, argument in enumerate(given.args) if re.fullmatch(r"arg\d+", argument.arg)]
        if nameless:
            given.posonlyargs, given.args = given.args[: nameless[-1] + 1], given.args[nameless[-1] + 1 :]
        for argument, default in zip(reversed(given.posonlyargs + given.args), reversed(given.defaults), strict=False):
            if isinstance(default, ast.Attribute):  # without the class that the enum is nested in
                default.value = argument.annotation
        return f"({ast.unparse(given)}) -> {ast.unparse(parsed.returns)}"

    def python_name(self, name):
        """Return the Python class of a C++ one: IEngineInspector is bound as EngineInspector."""
        parts = [part for part in name.split("::") if not part.startswith(("nv", "v_"))]
        for candidate in (".".join(parts), parts[-1], parts[-1][1:], f"ILogger.{parts[-1]}"):
            if candidate in self.classes:
                return candidate
        raise SystemExit(f"{name} is bound under no name known: add it")


def parse(signature):
    """Return a signature's syntax tree."""
    try:
        return ast.parse(f"def f{signature}: ...").body[0]
    except SyntaxError:
        # TensorRT 8 has a parameter without a default after some with: those must be given as well.
        return ast.parse(f"def f{re.sub(r' = [^,)]+', '', signature)}: ...").body[0]


def returned(signature):
    """Return a signature's return type."""
    return signature.rsplit(" -> ", 1)[1]


def cuda_signature(function):
    """Return a function of the CUDA runtime as Python spells a signature, by its docstring.

    It names parameters as Cython does, `size_t count`, and what follows the status as NumPy does, `free : int`.
    """
    line, _, rest = function.__doc__.partition("\n")
    parameters = re.sub(r"\b(?:size_t|int|unsigned (?:long long|int)) (\w+)", r"\1: int", line[line.index("(") :])
    section = textwrap.dedent(rest.split("Returns\n", 1)[1].split("See Also")[0])
    values = re.findall(r"^(?:\w+ : (?::py:obj:`~\.)?)?(\w+)(?:\.cudaSuccess)?`?$", section, re.M)
    return f"{parameters} -> Tuple[{', '.join(['cudaError_t', *values[1:]])}]"


def cuda_contract(version):
    """Return the functions of the CUDA runtime that are called, and its enums and classes."""
    runtime = importlib.import_module("cuda.bindings.runtime")
    types_found = {name: value for name, value in vars(runtime).items() if isinstance(value, type)}
    classes = {name: cuda_class(value) for name, value in types_found.items() if name.startswith("cuda")}
    functions = {name: [cuda_signature(getattr(runtime, name))] for name in CUDA if "." not in name}
    return {"version": version, "classes": classes, "functions": functions}


def cuda_class(of):
    """Return an enum's members, or the names of a class's attributes."""
    if hasattr(of, "__members__"):
        return {"members": members(of)}
    return {"attributes": [name for name in dir(of) if not name.startswith("_")]}


def members(enum):
    """Return an enum's members and their values."""
    return {name: int(member) for name, member in enum.__members__.items()}


def read(wheel, folder):
    """Return the name to keep a wheel's contract under, and the contract."""
    unpack(wheel, folder)
    sys.path.insert(0, str(folder))
    version = wheel.name.split("-")[1]
    if wheel.name.startswith("cuda_bindings"):
        return f"cuda-bindings-{version}", kept(cuda_contract(version), CUDA + CUDA_ERRORS)
    extension = next(folder.glob("*/tensorrt.so"))
    stand_in(extension, folder)
    return f"tensorrt-{version}", kept(Bindings(importlib.import_module(extension.parent.name)).contract(), TENSORRT)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        name, contract = read(Path(sys.argv[1]), Path(temporary))
    text = json.dumps(contract, indent=1, sort_keys=True)
    Path(__file__).with_name(f"{name}.json").write_text(text + "\n")
