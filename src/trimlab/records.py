"""What was measured, typed, written as JSON once and never edited: Training, Pruning, Measurement.

A report is a pure function of records and params. Every record carries the sha256 of the weights it speaks of, the
digest of the params that decided it, and the commit.
"""

import hashlib
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from trimlab.errors import UserError
from trimlab.params import Precision

VOLATILE = frozenset(
    {
        "created",
        "commit",
        "seconds",
        "train_seconds",
        "images_per_second",
        "peak_memory_bytes",
        "latency",
        "batch_latency",
        "yardstick_latency",
        "yardstick_batch_latency",
        "clocks",
        "layers",
        "batch_layers",
        "engine",
        "builds",
        "eager_latency",
        "contended",
        "resumptions",
    }
)
"""Fields that differ between two runs of the same seed on the same machine."""


class Part(BaseModel):
    """A piece of a record: strict, frozen, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Computed = Literal["fp32", "tf32", "bf16", "fp16", "int8", "int8-entropy"]
"""What a file is computed in. `int8-entropy` is INT8 by TensorRT's own calibrator, from the FP32 file."""

MADE_FROM: dict[str, Precision] = {"tf32": "fp32", "bf16": "fp32", "int8-entropy": "int8"}
"""The precision of a variant under which a runtime also computes another one."""


class Device(Part):
    """Where something was measured."""

    kind: Literal["cpu", "cuda"]
    """What computed."""
    name: str
    """Model name of the processor or GPU."""
    features: list[str]
    """What decides speed: a CPU's `amx_bf16`, `avx512_bf16`, `avx512_vnni`; a GPU's memory and CUDA version."""
    threads: int
    """CPU threads used."""
    system: str
    """Operating system, architecture and Python version."""

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells devices apart: name and features, and on a CPU the threads used."""
        threads = [f"{self.threads} threads"] if self.kind == "cpu" else []
        return (self.kind, self.name, *self.features, *threads)


class Latency(Part):
    """Wall-clock time of one call, warm-up left out."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    n: int
    """Timed calls."""
    batch_size: int
    """Images a call."""

    @property
    def images_per_second(self) -> float:
        """Throughput at the median call."""
        return 1000 * self.batch_size / self.p50_ms


class Normalisation(Part):
    """What is subtracted from an image in [0, 1], and what that is divided by: a value a channel."""

    mean: list[float]
    std: list[float]


class Epoch(Part):
    """One pass over the training set."""

    epoch: int
    """From 1."""
    image_size: int
    """Height and width of the training images, in pixels."""
    learning_rate: float
    """At the epoch's end."""
    train_loss: float
    """Mean over the epoch's steps."""
    train_accuracy: float
    """On the augmented images as they were trained on, in [0, 1]."""
    top1_accuracy: float | None
    """On the scored split, in [0, 1]; None where it was not evaluated."""
    seconds: float
    """Training alone, evaluation left out."""
    images_per_second: float


class Record(Part):
    """What all records share."""

    study: str
    workload: str
    """Key in the study's params."""
    model: str
    dataset: str
    dataset_sha256: str
    """Of the prepared dataset file."""
    split: Literal["test", "holdout"]
    """What accuracies were scored on."""
    num_classes: int
    num_images: int
    """In the scored split."""
    seed: int
    params_digest: str
    """Of the params that decided this record (`Params.*_digest`)."""
    weights_sha256: str
    """Of the safetensors file this record speaks of."""
    commit: str
    """Of the project; `-dirty` where code or the pipeline differed from it (the params have their own digest)."""
    created: str
    """UTC, ISO 8601."""
    device: Device
    versions: dict[str, str]
    """Package versions that can change the figures."""
    contended: bool
    """Whether other processes took more than a tenth of the machine while this was timed."""
    normalisation: Normalisation | None = None
    """Of the images; None in older records, where it was the dataset's own mean and deviation."""

    @property
    def digest(self) -> str:
        """The sha256 of the record's canonical JSON: its identity."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()


class Training(Record):
    """One workload trained with one seed."""

    kind: Literal["training"] = "training"
    origin: Literal["trained", "file"]
    """`file` where the weights were given."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    """What was really computed in, after `auto` and `amp` were resolved."""
    epochs: int
    """0 where the weights were given."""
    batch_size: int
    learning_rate: float
    schedule: str
    top1_accuracy: float
    """Of the last epoch's weights, in [0, 1]."""
    num_params: int
    size_bytes: int
    """Parameters and buffers of the eager model."""
    macs: int
    """Multiply-accumulates of one image."""
    train_seconds: float
    resumptions: int
    """How often it was interrupted and went on; if ever, its epoch times come from several processes."""
    peak_memory_bytes: int
    """Resident memory of the process on a CPU, allocated device memory on a GPU."""
    curve: list[Epoch]


class Pruning(Record):
    """One variant: pruned and fine-tuned with one seed."""

    kind: Literal["pruning"] = "pruning"
    variant: str
    """Key in the study's params."""
    baseline_sha256: str
    """Of the unpruned weights it was made from."""
    ratio: float
    """Share of each layer's channels asked for, in [0, 1)."""
    importance: str
    scope: str
    round_to: int | None
    epochs: int
    """Of fine-tuning."""
    learning_rate: float
    schedule: str
    distillation: float
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    """Of fine-tuning."""
    top1_unpruned: float
    """Of the unpruned weights, in [0, 1]."""
    top1_before: float
    """After pruning, before fine-tuning, in [0, 1]."""
    top1_accuracy: float
    """After fine-tuning, in [0, 1]."""
    widths: dict[str, int]
    """Output channels left in every convolution and linear layer."""
    num_params: int
    size_bytes: int
    """Parameters and buffers of the eager model."""
    macs: int
    eager_latency: Latency
    """The eager torch model at batch 1, in FP32: the study's column."""
    train_seconds: float
    resumptions: int
    """How often fine-tuning was interrupted and went on."""
    peak_memory_bytes: int
    curve: list[Epoch]


class Clock(Part):
    """Another way of timing the same file and its yardstick, in turns."""

    name: Literal["gpu", "gpu_graph", "latency_graph"]
    """GPU time by events, copies left out, without and with a CUDA graph; wall-clock time with copies and a graph."""
    latency: Latency
    batch_latency: Latency
    yardstick_latency: Latency
    yardstick_batch_latency: Latency


class Layer(Part):
    """A part of a compiled file, as its runtime tells it."""

    name: str
    kind: str
    """The runtime's own word for what it does."""
    precision: str
    """Of its arithmetic."""
    channels: int | None
    """Of its output as computed, padding included; None without weights."""
    ms: float
    """Median of profiled runs, which are slower than timed ones."""


class Engine(Part):
    """A TensorRT engine and all it is bound to."""

    sha256: str
    size_bytes: int
    build_seconds: float
    onnx_sha256: str
    precision: str
    batch_size: int
    """The large batch of its optimization profile."""
    build: int
    """0 is the one that was measured."""
    calibration_sha256: str
    """Of the calibration images, where TensorRT calibrated; else empty."""
    tensorrt: str
    gpu: str
    compute_capability: str
    driver: str
    tactic_sources: str
    """Those it was restricted to; empty where TensorRT chose."""


class Build(Part):
    """One of several builds of an engine, timed on the GPU with a CUDA graph."""

    sha256: str
    size_bytes: int
    build_seconds: float
    latency: Latency
    batch_latency: Latency


class Measurement(Record):
    """One exported file of one variant, precision and seed, in one runtime on one device."""

    kind: Literal["measurement"] = "measurement"
    variant: str
    ratio: float
    precision: Computed
    runtime: str
    """`onnxruntime`, and what else `trimlab.measure` offers."""
    runtime_version: str
    file_sha256: str
    """Of the deployed file."""
    file_bytes: int
    """Size of the ONNX file."""
    weight_bytes: int
    """Weights alone, inside that file."""
    num_params: int
    macs: int
    top1_accuracy: float
    """Of the deployed file on the whole scored split, in [0, 1]."""
    torch_top1_accuracy: float
    """Of the eager torch model with the same weights."""
    torch_agreement: float
    """Share of images to which the file and the torch model give the same label."""
    onnx_top1_accuracy: float | None = None
    """Of the same file in ONNX Runtime; None where that is the runtime."""
    onnx_agreement: float | None = None
    """Share of images to which both runtimes give the same label."""
    predictions_sha256: str
    """Of the `.npy` beside the record: the predicted label of every image, uint16."""
    calibration_sha256: str | None
    """Of the calibration images' indices, for INT8."""
    weight_bits: Literal[7, 8] | None = None
    """Bits of an INT8 file's weights: 7 where the processor's pairs of products would saturate at 8. None for other
    precisions, and in older records, where it was 8."""
    exact_top1_accuracy: float | None = None
    """Of an INT8 file's own arithmetic, computed without fused kernels, in [0, 1]; None where it was not computed."""
    exact_agreement: float | None = None
    """Share of images to which the runtime and the exact arithmetic give the same label."""
    latency: Latency
    """At batch 1."""
    batch_latency: Latency
    """At the large batch."""
    yardstick_sha256: str
    """Of the workload's unpruned FP32 file, timed in turn with this one in the same process."""
    yardstick_latency: Latency
    yardstick_batch_latency: Latency
    peak_memory_bytes: int
    """Of running this file alone at the large batch: the process's resident memory, or on a GPU the device memory
    that engine, contexts and buffers took."""
    clocks: list[Clock] = []
    """A GPU's other times; `latency` is wall-clock time with copies there."""
    layers: list[Layer] = []
    """At batch 1."""
    batch_layers: list[Layer] = []
    """At the large batch."""
    engine: Engine | None = None
    builds: list[Build] = []
    """The measured engine, and the same built again."""

    @property
    def deployed_bytes(self) -> int:
        """Size of what is deployed: the engine where one is built, or else the ONNX file."""
        return self.engine.size_bytes if self.engine else self.file_bytes

    @property
    def speedup(self) -> float:
        """How much faster than the yardstick at batch 1, by medians of one process."""
        return self.yardstick_latency.p50_ms / self.latency.p50_ms

    @property
    def batch_speedup(self) -> float:
        """How much faster than the yardstick at the large batch, by medians of one process."""
        return self.yardstick_batch_latency.p50_ms / self.batch_latency.p50_ms


AnyRecord = Annotated[Training | Pruning | Measurement, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[Training | Pruning | Measurement] = TypeAdapter(AnyRecord)


def write(record: Record, path: Path) -> None:
    """Write a record as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(record.model_dump(), indent=1) + "\n")
    scratch.replace(path)


def read(path: Path) -> Training | Pruning | Measurement:
    """Read a record.

    Raises:
        UserError: the file is missing or holds no record.
    """
    try:
        return _ADAPTER.validate_json(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `dvc repro`, or `trimlab import` what was measured") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is no record ({error}): name a record's .json file") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join([*(str(part) for part in first["loc"]), first["msg"]])
        raise UserError(f"{path} is no record of this version ({where}): measure again, or leave it out") from None


def stable(record: Record) -> dict[str, Any]:
    """Return a record without what differs between two runs of one seed: times, memory, commit."""
    return {key: _without_volatile(value) for key, value in record.model_dump().items() if key not in VOLATILE}


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """Return the time for a record's `created`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the project's commit; TRIMLAB_COMMIT names it where there is no git."""
    given = os.environ.get("TRIMLAB_COMMIT")
    if given:
        return given
    head, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", *_DECISIVE)
    if not head:
        return "unknown"
    return f"{head}-dirty" if changed else head


_DECISIVE = ("src", "stages", "dvc.yaml")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()


def _canonical(record: Record) -> str:
    # Without defaults: a field that is added later leaves the identity of older records alone.
    return json.dumps(
        {"kind": getattr(record, "kind", None), **record.model_dump(exclude_defaults=True)}, sort_keys=True
    )


def _without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_volatile(inner) for key, inner in value.items() if key not in VOLATILE}
    if isinstance(value, list):
        return [_without_volatile(inner) for inner in value]
    return value
