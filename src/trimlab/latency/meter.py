"""Latencies of models on this machine, from a table of its measured layers and of whole files.

A layer's time goes in steps with its width, because runtimes compute channels in blocks of 8 or 16. So each width that
is asked for is timed, and none is interpolated.
"""

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from trimlab import config, fingerprint, machine, paths, records
from trimlab.digests import digest_of
from trimlab.errors import UserError
from trimlab.latency import files
from trimlab.latency.layers import Layer, layers_of
from trimlab.measure import device, runtimes, timing
from trimlab.measure.errors import MeasureError
from trimlab.measure.session import Session, Settings, imported
from trimlab.quantize.onnx_graph import graph_of

WARMUP, REPEATS = 20, 100
"""Untimed and timed calls of a whole file, in a series."""
FILE_SERIES, LAYER_SERIES = 3, 2
"""How often a file and a layer are timed; the shortest median counts, because what disturbs only takes longer."""


class Meter:
    """The latency of a model's file at batch 1, as a target asks for it.

    What was timed is kept for this device, runtime and precision, and never timed again. Nothing else may be timed or
    trained on the machine meanwhile: whoever calls holds its lock.
    """

    def __init__(self, target: config.Target, image_shape: tuple[int, int, int]) -> None:
        """Open the table.

        Args:
            target: says runtime, precision and threads.
            image_shape: channels, height, width.

        Raises:
            UserError: the runtime is not available here.
        """
        threads = target.threads or machine.cores()
        with _for_users():
            self.version = str(imported(target.runtime).__version__).split("-")[0]
        self.runtime, self.precision, self._shape = target.runtime, target.precision, image_shape
        self.device = device.cpu(threads, onednn=target.runtime == "openvino")
        self._settings = Settings(target.precision, threads, batch_size=1)
        code = [fingerprint.of(f"trimlab.{module}") for module in ("quantize.int8", "measure.runtimes")]
        about = [device.identity(self.device), self.runtime, self.version, self.precision]
        self.kept = paths.kept_latencies(digest_of(*about, code))
        self._table: dict[str, Any] = {"about": about, "layers": {}, "files": {}}
        with contextlib.suppress(OSError, ValueError):  # there is none yet, or it is damaged
            self._table.update(json.loads(self.kept.read_text(encoding="utf-8")))

    def predicted(self, model: nn.Module) -> float:
        """Return the milliseconds of a model's convolutions and linear layers together, each timed by itself.

        What else the model computes is left out.
        """
        with self._keeping():
            return sum(self._layer(layer) for layer in layers_of(model, self._shape))

    def measured(self, model: nn.Module) -> records.Latency:
        """Return the latency of a model's file. Speed does not depend on weights: those of INT8 are of random images.

        Raises:
            UserError: torch's exporter does not take the model.
        """
        proto = graph_of(copy.deepcopy(model).eval(), self._shape)
        name, known = files.structure(proto), self._table["files"]
        if name not in known:
            with self._keeping(), self._opened(lambda path: files.write(proto, *self._how, path)) as session:
                stopwatch = session.stopwatches(files.random_images(1, self._shape))["latency"]
                series = [timing.interleaved([stopwatch], REPEATS, WARMUP)[0] for _ in range(FILE_SERIES)]
                known[name] = timing.latency(min(series, key=np.median), 1)
        return records.Latency(**known[name])

    def record(self, latency: records.Latency, predicted_ms: float) -> records.TargetLatency:
        """Return a measured latency as a record has it, beside the one that was predicted."""
        return records.TargetLatency(
            runtime=self.runtime,
            runtime_version=self.version,
            precision=self.precision,
            device=records.Device.model_validate(self.device),
            latency=latency,
            predicted_ms=predicted_ms,
        )

    @property
    def _how(self) -> tuple[str, str]:
        return self.precision, self.runtime

    def _layer(self, layer: Layer) -> float:
        known, name = self._table["layers"], json.dumps(layer)
        if name not in known:
            with self._opened(lambda path: files.write(files.graph_of(layer), *self._how, path)) as session:
                images = files.random_images(1, session.image_shape)
                known[name] = min(_last_ms(session.layers(images)) for _ in range(LAYER_SERIES))
        milliseconds: float = known[name]
        return milliseconds

    @contextlib.contextmanager
    def _opened(self, write: Callable[[Path], None]) -> Iterator[Session]:
        with tempfile.TemporaryDirectory() as scratch, _for_users():
            path = Path(scratch) / "file.onnx"
            write(path)
            with closing(runtimes.open_file(self.runtime, str(path), self._settings)) as session:
                yield session

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        """Write the table, if it has grown, even where a later layer fails."""
        before = len(self._table["layers"]), len(self._table["files"])
        try:
            yield
        finally:
            if before != (len(self._table["layers"]), len(self._table["files"])):
                self.kept.parent.mkdir(parents=True, exist_ok=True)
                temporary = self.kept.with_suffix(".tmp")
                temporary.write_text(json.dumps(self._table, indent=1), encoding="utf-8")
                temporary.replace(self.kept)


def _last_ms(ran: Sequence[Mapping[str, Any]]) -> float:
    """Return the milliseconds of the last layer with weights."""
    found: list[float] = [each["ms"] for each in ran if each["channels"] is not None]
    return found[-1]


@contextlib.contextmanager
def _for_users() -> Iterator[None]:
    try:
        yield
    except MeasureError as error:
        raise UserError(str(error)) from None
