"""Runtimes by name: each opens a deployed file in a precision, ready to run."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ... import formats
from .. import device
from ..errors import MeasureError, one_line
from ..session import Session, Settings, imported
from . import onnx_runtime, openvino, tensorrt

RUNTIMES: dict[str, Callable[[str, Settings], Session]] = {
    "onnxruntime": onnx_runtime.OnnxRuntime,
    "openvino": openvino.OpenVino,
    "tensorrt": tensorrt.TensorRt,
}
"""What opens a file."""


def _processor(module: str, onednn: bool) -> dict[str, Any]:
    imported(module)
    return device.cpu(device.cores(), onednn)


DEVICES: dict[str, Callable[[], dict[str, Any]]] = {
    "onnxruntime": partial(_processor, "onnxruntime", onednn=False),
    "openvino": partial(_processor, "openvino", onednn=True),
    "tensorrt": tensorrt.gpu,
}
"""Functions that load a runtime and all it depends on, and return its device, or fail."""


def device_of(runtime: str) -> dict[str, Any]:
    """Return the device that a runtime computes on here, as records have it, with all of a processor's cores.

    Args:
        runtime: a key of `RUNTIMES`.

    Raises:
        NoRuntimeError: the runtime is not available here; the message says what is missing.
        MeasureError: it is unknown.
    """
    _known(runtime)
    return DEVICES[runtime]()


def open_file(runtime: str, path: str, settings: Settings) -> Session:
    """Open a deployed file.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file.
        settings: how.

    Raises:
        UnavailableError: the runtime or the precision is not available here.
        MeasureError: the runtime is unknown, the file is missing or not one it reads.
    """
    _known(runtime)
    known = [each.name for each in formats.of_runtime(runtime)]
    if settings.precision not in known:
        raise MeasureError(f"precision {settings.precision!r} is not one of {runtime}'s: use one of {', '.join(known)}")
    if not Path(path).is_file():
        raise MeasureError(f"{path} does not exist: name an exported file")
    try:
        return RUNTIMES[runtime](path, settings)
    except MeasureError:
        raise
    except Exception as error:  # a runtime raises whatever the bytes provoke
        raise MeasureError(f"{path} is not a file that {runtime} opens ({one_line(error)}): export it again") from None


def _known(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise MeasureError(f"runtime {runtime!r} is unknown: use one of {', '.join(RUNTIMES)}")
