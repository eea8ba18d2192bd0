"""Building a TensorRT engine, 8.5 to 11, on one route: precision lives in the ONNX file.

Where the library has strong typing the file's types are kept to; where it has not, builder flags allow them.
Attributes are asked for, never versions.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ... import formats
from ..errors import MeasureError, UnavailableError, one_line
from ..progress import say
from ..session import Settings
from .cuda import Buffer, Cuda

WORKSPACE_BYTES = 1 << 30
TACTIC_SOURCES = "TRIMLAB_TACTIC_SOURCES"
"""Names them, with commas between: a host may lack cuBLAS and cuDNN. Unset, TensorRT chooses."""
CALIBRATION_BATCH = 64
"""Calibration images at a time, at most."""


class Engine(NamedTuple):
    """A built engine and what is known of it."""

    plan: bytes
    facts: dict[str, Any]
    """`size_bytes`, `sha256`, `build_seconds`, and the identity: whatever has to be equal for it to be used again."""


def engine_of(trt: Any, cuda: Cuda, path: str, settings: Settings, logger: Any) -> Engine:
    """Return the engine of an ONNX file: a kept one whose identity and bytes are as they were, or a new one.

    Raises:
        UnavailableError: this TensorRT has no calibrators.
        MeasureError: it can't be built.
    """
    if settings.precision == "int8-entropy" and not hasattr(trt, "IInt8EntropyCalibrator2"):
        raise UnavailableError(f"int8-entropy: TensorRT {trt.__version__} has no calibrators: int8 is Q/DQ there")
    identity = _identity(trt, cuda, path, settings)
    if settings.engines is None:
        return _built(trt, cuda, path, settings, logger, identity)
    file = _file(settings.engines, identity)
    return _kept(file, identity) or _keep(file, _built(trt, cuda, path, settings, logger, identity))


def _identity(trt: Any, cuda: Cuda, path: str, settings: Settings) -> dict[str, Any]:
    calibrated = settings.precision == "int8-entropy" and settings.calibration
    return {
        "onnx_sha256": _sha256(Path(path).read_bytes()),
        "precision": settings.precision,
        "batch_size": settings.batch_size,
        "build": settings.build,
        "calibration_sha256": _sha256(_images(Path(calibrated)).tobytes()) if calibrated else "",
        "tensorrt": str(trt.__version__),
        "gpu": cuda.name,
        "compute_capability": cuda.compute_capability,
        "driver": cuda.driver,
        "tactic_sources": os.environ.get(TACTIC_SOURCES, ""),
    }


def _file(folder: Path, identity: dict[str, Any]) -> Path:
    key = _sha256(json.dumps(identity, sort_keys=True).encode())[:16]
    return folder / f"{identity['precision']}-{key}.engine"


def _kept(path: Path, identity: dict[str, Any]) -> Engine | None:
    try:
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        plan = path.read_bytes()
    except (OSError, ValueError):
        return None
    same = isinstance(facts, dict) and {key: facts.get(key) for key in identity} == identity
    return Engine(plan, facts) if same and facts.get("sha256") == _sha256(plan) else None


def _keep(path: Path, engine: Engine) -> Engine:
    _write(path, engine.plan)
    _write(path.with_suffix(".json"), json.dumps(engine.facts, indent=1).encode())
    return engine


def _built(trt: Any, cuda: Cuda, path: str, settings: Settings, logger: Any, identity: dict[str, Any]) -> Engine:
    say(f"building an engine of {Path(path).name}, {settings.precision}")
    started = time.perf_counter()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, settings.precision))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(path).read_bytes()):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise MeasureError(f"{path} is not a file that TensorRT {trt.__version__} parses ({said}): export it again")
    config = builder.create_builder_config()
    _configure(trt, config, settings.precision)
    _add_profiles(builder, network, config, settings.batch_size)
    _use_timing_cache(config, settings, identity)
    with _calibrated(trt, cuda, builder, network, config, settings):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        said = logger.said() or "TensorRT does not say why"
        raise MeasureError(f"no engine of {path} can be built in {settings.precision} ({said}): see TACTIC_SOURCES")
    _save_timing_cache(config, settings, identity)
    content = bytes(plan)
    seconds = round(time.perf_counter() - started, 3)
    facts = {"size_bytes": len(content), "sha256": _sha256(content), "build_seconds": seconds}
    return Engine(content, {**facts, **identity})


def _network_flags(trt: Any, precision: str) -> int:
    """Strong typing where there is some; a calibrator needs weak typing."""
    flags = trt.NetworkDefinitionCreationFlag
    if hasattr(flags, "STRONGLY_TYPED") and precision != "int8-entropy":
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH) if hasattr(flags, "EXPLICIT_BATCH") else 0


def _configure(trt: Any, config: Any, precision: str) -> None:
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    # TF32 is on unless it is switched off, and `fp32` means strict.
    if precision == "tf32":
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)
    weak = not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if precision == "fp16" and weak:
        config.set_flag(trt.BuilderFlag.FP16)
    if (precision in formats.QUANTIZED and weak) or precision == "int8-entropy":
        config.set_flag(trt.BuilderFlag.INT8)
    sources = os.environ.get(TACTIC_SOURCES, "")
    if sources:
        config.set_tactic_sources(_tactic_sources(trt, sources))


def _tactic_sources(trt: Any, names: str) -> int:
    known = trt.TacticSource.__members__
    bits = 0
    for name in names.split(","):
        if name not in known:
            raise MeasureError(f"{TACTIC_SOURCES} {name!r} is unknown: use some of {', '.join(known)}")
        bits |= 1 << int(known[name])
    return bits


def _add_profiles(builder: Any, network: Any, config: Any, batch_size: int) -> None:
    """Add one profile for batch 1 and one up to the large batch: kernels that suit one do not suit the other."""
    for smallest, best in ((1, 1), (1, batch_size)):
        config.add_optimization_profile(_profile(builder, network, smallest, best))


def _profile(builder: Any, network: Any, smallest: int, best: int) -> Any:
    source = network.get_input(0)
    image = tuple(source.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(source.name, (smallest, *image), (best, *image), (best, *image))
    return profile


@contextmanager
def _calibrated(trt: Any, cuda: Cuda, builder: Any, network: Any, config: Any, settings: Settings) -> Iterator[None]:
    """Give the build its calibrator, where the precision has one, and free what that took."""
    if settings.precision != "int8-entropy":
        yield
        return
    if settings.calibration is None:
        raise MeasureError("int8-entropy needs calibration images: name their .npy as `calibration`")
    images = _images(settings.calibration)
    size = next(size for size in range(min(CALIBRATION_BATCH, len(images)), 0, -1) if len(images) % size == 0)
    buffer = Buffer(cuda, (size, *images.shape[1:]))
    try:
        config.int8_calibrator = _calibrator(trt, cuda, images, size, buffer)
        config.set_calibration_profile(_profile(builder, network, size, size))
        yield
    finally:
        buffer.free()


def _images(path: Path) -> np.ndarray[Any, Any]:
    try:
        images: np.ndarray[Any, Any] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise MeasureError(f"{path} holds no calibration images ({one_line(error)}): name a .npy of them") from None
    if images.ndim != 4 or not len(images):
        raise MeasureError(f"{path} holds {images.shape}, not (N, C, H, W) calibration images: name a .npy of them")
    return images


def _calibrator(trt: Any, cuda: Cuda, images: np.ndarray[Any, Any], size: int, buffer: Buffer) -> Any:
    batches = iter(np.split(images, len(images) // size))

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """Shows TensorRT the images; ranges are never taken from a cache of another file."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return size

        def get_batch(self, names: list[str]) -> list[int] | None:
            batch = next(batches, None)
            if batch is None:
                return None
            buffer.host[:] = batch
            buffer.upload()
            cuda.synchronize()
            return [buffer.pointer]

        def read_calibration_cache(self) -> None:
            return None

        def write_calibration_cache(self, cache: Any) -> None:
            pass

    return Calibrator()


def _timing_cache_file(folder: Path, identity: dict[str, Any]) -> Path:
    owner = {key: identity[key] for key in ("tensorrt", "gpu", "compute_capability", "driver", "tactic_sources")}
    return folder / f"timing-{_sha256(json.dumps(owner, sort_keys=True).encode())[:16]}.cache"


def _use_timing_cache(config: Any, settings: Settings, identity: dict[str, Any]) -> None:
    """Take kernels' times from former builds on this very GPU: a build takes 8 s instead of 35."""
    if settings.engines is None:
        return
    path = _timing_cache_file(settings.engines, identity)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, False)


def _save_timing_cache(config: Any, settings: Settings, identity: dict[str, Any]) -> None:
    if settings.engines is not None:
        _write(_timing_cache_file(settings.engines, identity), bytes(config.get_timing_cache().serialize()))


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
