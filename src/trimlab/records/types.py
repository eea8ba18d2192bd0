"""What was measured, typed, written as JSON once and never edited: Training, Sensitivity, Pruning, Measurement.

A report is a pure function of records and params. Every record carries the sha256 of the weights it speaks of, the
digest of the params that decided it, and the commit. Records come from other machines too, so every field has its
bounds: what is read is finite, in range, and fit to be shown.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from trimlab.formats import Computed
from trimlab.measure import samples


class Role(NamedTuple):
    """What a field is to those who read records, said at the field itself."""

    name: str


VOLATILE = Role("volatile")
"""Differs between two runs of one seed on one machine: times, memory, dates."""
OF_WEIGHTS = Role("of weights")
"""Follows from the weights: equal for equal weights, whenever and wherever they were made."""


def _one_line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)


def _instant(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError("needs a time zone")
    return text


MOST = 2**53
"""Bound of whole numbers: larger ones are not exact as floats."""
Share = Annotated[float, Field(ge=0, le=1)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=MOST)]
WholeNumber = Annotated[int, Field(ge=0, le=MOST)]
"""A count that may be 0."""
Milliseconds = Annotated[float, Field(ge=1e-6, le=1e9)]
"""Of a call: from a nanosecond to eleven days, so that the ratio of two is finite and above 0."""
Seconds = Annotated[float, Field(ge=0, le=1e9)]
Work = Annotated[float, Field(ge=0, le=1e30)]
"""Multiply-accumulates of a whole training: too many for `Count`."""
TRAINING_PASSES = 3
"""What an image that is trained on costs, in forward passes: backward takes one for inputs and one for weights."""
BATCHNORM_IMAGES = 2000
"""Training images from which `Pruning.top1_reestimated` has BatchNorm's statistics; all where there are fewer."""
LearningRate = Annotated[float, Field(ge=0, le=1e3)]
_SHA256, _KEY = r"^[0-9a-f]{64}$", r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_LINE = r"^[^\p{C}\p{Zl}\p{Zp}]*$"
_INSTANT = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$"
PATTERNS = {
    _SHA256: "is not a sha256 of 64 hexadecimal digits",
    _KEY: "is not a name: use letters, digits, dots and dashes",
    _LINE: "is not one line without control characters",
    _INSTANT: "is not a time such as 2026-01-02T03:04:05+00:00",
}
Sha256 = Annotated[str, Field(pattern=_SHA256)]
Key = Annotated[str, Field(pattern=_KEY, max_length=128)]
"""What a file is named by: letters, digits, dots, dashes and underscores."""
Text = Annotated[str, Field(min_length=1, max_length=200, pattern=_LINE)]
"""One line, without control characters."""
LongText = Annotated[str, Field(max_length=20_000), AfterValidator(_one_line)]
"""Turned into one line: no record is lost because of what a runtime puts into its layers' names."""
Instant = Annotated[str, Field(pattern=_INSTANT), AfterValidator(_instant)]
"""ISO 8601 with a time zone."""


class Part(BaseModel):
    """A piece of a record: strict, frozen, without unknown keys; no number is infinite or NaN."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy, with changes, as pydantic does; what is cached of this one is not copied."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Device(Part):
    """Where something was measured."""

    kind: Literal["cpu", "cuda"]
    """What computed."""
    name: Text
    """Model name of the processor or GPU."""
    features: Annotated[list[Text], Field(max_length=100)]
    """What decides speed: a CPU's `amx_bf16`, `avx512_bf16`, `avx512_vnni`; a GPU's compute capability and memory."""
    threads: Annotated[int, Field(ge=1, le=65536)]
    """CPU threads used."""
    system: Text
    """Operating system, architecture and Python version."""

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """What tells devices apart: name and features, and on a CPU the threads used."""
        threads = [f"{self.threads} threads"] if self.kind == "cpu" else []
        return (self.kind, self.name, *sorted(set(self.features)), *threads)


class Latency(Part):
    """Wall-clock time of one call, warm-up left out."""

    p50_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds | None = None
    """None for fewer than 1,000 calls; older records have it for any number."""
    n: Count
    """Timed calls."""
    batch_size: Count
    """Images a call."""

    @model_validator(mode="after")
    def _percentiles_rise(self) -> "Latency":
        p99_ms = self.p90_ms if self.p99_ms is None else self.p99_ms
        if not self.p50_ms <= self.p90_ms <= p99_ms:
            raise ValueError(f"p50 {self.p50_ms:g}, p90 {self.p90_ms:g}, p99 {p99_ms:g} ms do not rise")
        return self

    @property
    def tail_ms(self) -> float | None:
        """The 99th percentile; None where too few calls were timed to know it."""
        return self.p99_ms if self.n >= samples.TAIL_CALLS else None

    @property
    def images_per_second(self) -> float:
        """Throughput at the median call."""
        return 1000 * self.batch_size / self.p50_ms


class Series(Latency):
    """A latency, and every call of which it is."""

    samples: str
    """The calls in the order of time, as `measure.samples` writes them."""

    @model_validator(mode="after")
    def _each_call_is_there(self) -> "Series":
        if (found := len(self.calls_ms)) != self.n:
            raise ValueError(f"samples hold {found} calls, n is {self.n}")
        return self

    @property
    def calls_ms(self) -> list[float]:
        """Milliseconds of each call."""
        return [1000 * float(seconds) for seconds in samples.decode(self.samples)]


class Normalisation(Part):
    """What is subtracted from an image in [0, 1], and what that is divided by: a value a channel."""

    mean: Annotated[list[Annotated[float, Field(ge=-1e3, le=1e3)]], Field(min_length=1, max_length=100)]
    std: Annotated[list[Annotated[float, Field(gt=0, le=1e3)]], Field(min_length=1, max_length=100)]


class ClassCounts(Part):
    """The images of one class in the scored split, and those that were taken for it."""

    images: WholeNumber
    correct: WholeNumber
    """Of these images, those to which the class was given."""
    predicted: WholeNumber
    """Images to which the class was given, rightly or wrongly."""

    @property
    def recall(self) -> float | None:
        """Share of the class's images that were found, in [0, 1]; None without images."""
        return self.correct / self.images if self.images else None


class Epoch(Part):
    """One pass over the training set."""

    epoch: Count
    """From 1."""
    image_size: Count
    """Height and width of the training images, in pixels."""
    learning_rate: LearningRate
    """At the epoch's end."""
    train_loss: Annotated[float, Field(ge=-1, le=1e12)]
    """Mean over the epoch's steps; that of distillation alone may round to just below 0."""
    train_accuracy: Share
    """On the augmented images as they were trained on, in [0, 1]; of a mixed image, its largest class counts."""
    top1_accuracy: Share | None
    """On the scored split, in [0, 1]; None where it was not evaluated."""
    seconds: Annotated[float, Field(gt=0, le=1e9), VOLATILE]
    """Training alone, evaluation left out."""
    images_per_second: Annotated[float, Field(gt=0, le=1e12), VOLATILE]


class Record(Part):
    """What all records share."""

    study: Key
    workload: Annotated[Key, OF_WEIGHTS]
    """Key in the study's params."""
    model: Annotated[Text, OF_WEIGHTS]
    dataset: Annotated[Key, OF_WEIGHTS]
    dataset_sha256: Annotated[Sha256, OF_WEIGHTS]
    """Of the prepared dataset file."""
    split: Annotated[Literal["test", "holdout"], OF_WEIGHTS]
    """What accuracies were scored on."""
    num_classes: Annotated[Count, OF_WEIGHTS]
    class_names: Annotated[list[LongText], OF_WEIGHTS] = []
    """In the order of labels; empty in older records."""
    num_images: Annotated[Count, OF_WEIGHTS]
    """In the scored split."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1), OF_WEIGHTS]
    params_digest: Sha256
    """Of the params that decided this record (`Params.*_digest`)."""
    weights_sha256: Annotated[Sha256, OF_WEIGHTS]
    """Of the safetensors file this record speaks of."""
    commit: Annotated[Text, VOLATILE]
    """Of the project; `-dirty` where code or the pipeline differed from it (the params have their own digest)."""
    created: Annotated[Instant, VOLATILE]
    """UTC, ISO 8601."""
    device: Device
    versions: Annotated[dict[Text, Text], Field(max_length=100)]
    """Package versions that can change the figures."""
    contended: Annotated[bool, VOLATILE]
    """Whether other processes took more than a tenth of the machine while this was timed."""
    normalisation: Annotated[Normalisation | None, OF_WEIGHTS] = None
    """Of the images; None in older records, where it was the dataset's own mean and deviation."""
    top5_accuracy: Annotated[Share | None, OF_WEIGHTS] = None
    """Share of images whose class is among the first five, in [0, 1]; None up to five classes, where it says nothing,
    and in older records. This figure and the next two are of the same labels as the kind's `top1_accuracy`."""
    macro_f1: Annotated[Share | None, OF_WEIGHTS] = None
    """Mean F1 score of the classes that an image has or was given, in [0, 1]; None in older records."""
    per_class: Annotated[list[ClassCounts], OF_WEIGHTS] = []
    """In the order of labels; empty in older records."""

    @model_validator(mode="after")
    def _each_class_once(self) -> "Record":
        for name, values in (("class_names", self.class_names), ("per_class", self.per_class)):
            if values and len(values) != self.num_classes:
                raise ValueError(f"{name} has {len(values)} entries for {self.num_classes} classes")
        return self

    @property
    def moment(self) -> datetime:
        """When it was created, in UTC."""
        return datetime.fromisoformat(self.created).astimezone(UTC)

    @cached_property
    def digest(self) -> str:
        """The sha256 of the record's canonical JSON: its identity."""
        return hashlib.sha256(_canonical(self).encode()).hexdigest()


class Training(Record):
    """One workload trained with one seed."""

    kind: Literal["training"] = "training"
    origin: Literal["trained", "file"]
    """`file` where the weights were given."""
    code_sha256: Annotated[Sha256 | None, OF_WEIGHTS] = None
    """Of the user's code that the model is built from; None for a model of a package."""
    initial: LongText | None = None
    """The file or published weights from which training started, or whose place it took; None where it started from
    random ones, and in older records of given weights."""
    initial_sha256: Sha256 | None = None
    """Of that file, or of the tensors of published weights."""
    initial_dtype: Text | None = None
    """What the file holds, such as `float16`; it is computed with as float32. None where there is no file."""
    initial_training: "Training | None" = None
    """The record of the training that made these weights; None where the file has none beside it."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    """What was really computed in, after `auto` and `amp` were resolved."""
    epochs: WholeNumber
    """0 where the weights were given."""
    batch_size: Count
    learning_rate: LearningRate
    schedule: Text
    top1_accuracy: Annotated[Share, OF_WEIGHTS]
    """Of the last epoch's weights, in [0, 1]."""
    num_params: Annotated[Count, OF_WEIGHTS]
    size_bytes: Annotated[Count, OF_WEIGHTS]
    """Parameters and buffers of the eager model."""
    macs: Annotated[Count, OF_WEIGHTS]
    """Multiply-accumulates of one image."""
    training_macs: Work | None = None
    """Multiply-accumulates of the training, backward passes included, each epoch at its image size; None where the
    weights were given, and in older records."""
    train_seconds: Annotated[Seconds, VOLATILE]
    resumptions: Annotated[WholeNumber, VOLATILE]
    """How often it was interrupted and went on; if ever, its epoch times come from several processes."""
    peak_memory_bytes: Annotated[WholeNumber, VOLATILE]
    """Resident memory of the process on a CPU, allocated device memory on a GPU."""
    curve: list[Epoch]


class Target(Part):
    """What a pruned model was allowed to take: one of these."""

    params: Annotated[float, Field(gt=0, le=1e15)] | None = None
    macs: Annotated[float, Field(gt=0, le=1e15)] | None = None
    """Multiply-accumulates of one image."""
    size_mib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Parameters and buffers of the torch model, in MiB."""
    latency_ms: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Of the file at batch 1; runtime and precision are in `target_latency`."""


class TargetLatency(Part):
    """How long a pruned model's file took at batch 1 when it was pruned, where its target is a latency.

    The file has the weights that pruning left, and for INT8 ranges of random images: neither changes its speed.
    """

    runtime: Text
    runtime_version: Text
    precision: Computed
    device: Device
    latency: Latency
    predicted_ms: Milliseconds
    """What was expected of the file before it was made: the times of its layers, corrected by files measured before."""


class SparseTraining(Part):
    """How the weights were trained before pruning, with a penalty on groups of coupled channels."""

    regularizer: Text
    strength: Annotated[float, Field(gt=0, le=1)]
    """Coefficient of the penalty."""
    epochs: Count
    learning_rate: LearningRate
    schedule: Text
    top1_accuracy: Share
    """After it, before pruning, in [0, 1]."""
    training_macs: Work
    """Multiply-accumulates, backward passes included; the penalty's own are left out."""
    train_seconds: Annotated[Seconds, VOLATILE]
    resumptions: Annotated[WholeNumber, VOLATILE]
    """How often it was interrupted and went on."""
    contended: Annotated[bool, VOLATILE]
    """Whether other processes took more than a tenth of the machine meanwhile."""


class Pruning(Record):
    """One variant: pruned and fine-tuned with one seed."""

    kind: Literal["pruning"] = "pruning"
    variant: Annotated[Key, OF_WEIGHTS]
    """Key in the study's params."""
    baseline_sha256: Annotated[Sha256, OF_WEIGHTS]
    """Of the unpruned weights it was made from."""
    code_sha256: Annotated[Sha256 | None, OF_WEIGHTS] = None
    """Of the user's code that the model is built from; None for a model of a package."""
    ratio: Annotated[Ratio, OF_WEIGHTS]
    """Share of each layer's channels asked for, or found for the target, in [0, 1)."""
    target: Target | None = None
    """What the ratio was found for, by bisection; None where the params say the ratio. What was reached is in
    `num_params`, `macs`, `size_bytes` and `target_latency`."""
    target_latency: Annotated[TargetLatency | None, VOLATILE] = None
    """What was reached where the target is a latency; None elsewhere."""
    sparsity: SparseTraining | None = None
    """The training before pruning; None without one."""
    steps: Count = 1
    """In which the channels were removed, with importance computed anew before each."""
    importance: Text
    scope: Text
    """The params' `allocation`, under its first name."""
    round_to: Count | None
    rounding: Text = "down"
    keep: list[LongText] = []
    """Patterns of the names of layers that keep all output channels."""
    reached_ratio: Annotated[Ratio | None, OF_WEIGHTS] = None
    """Share of the output channels that was removed, of all layers that can lose some; None in older records."""
    initial: Literal["pruned", "scratch"] = "pruned"
    """Weights from which the epochs started: the pruned ones, or fresh ones in the same shape."""
    epochs: WholeNumber
    """Of fine-tuning, or of training from scratch."""
    learning_rate: LearningRate
    schedule: Text
    distillation: Share
    """Weight of the unpruned model's soft labels in the loss."""
    temperature: Annotated[float, Field(gt=0, le=20)] | None = None
    """Of the soft labels; None without distillation, and in older records."""
    soft_labels: Literal["fresh", "cached"] | None = None
    """Whether they were computed for every batch, or once an image; None without distillation, and in older records."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"]
    """Of fine-tuning."""
    top1_unpruned: Annotated[Share, OF_WEIGHTS]
    """Of the unpruned weights, in [0, 1]."""
    top1_before: Annotated[Share, OF_WEIGHTS]
    """After pruning, before fine-tuning, in [0, 1]; from scratch, of the random weights."""
    top1_reestimated: Annotated[Share | None, OF_WEIGHTS] = None
    """As `top1_before`, with BatchNorm's statistics estimated anew on `BATCHNORM_IMAGES`; None at ratio 0, from
    scratch, without BatchNorm, and in older records."""
    top1_accuracy: Annotated[Share, OF_WEIGHTS]
    """After fine-tuning, in [0, 1]."""
    widths: Annotated[dict[LongText, Count], OF_WEIGHTS]
    """Output channels left in every convolution and linear layer."""
    layer_ratios: Annotated[dict[LongText, Ratio], OF_WEIGHTS] = {}
    """Share of each layer's output channels asked for, where an allocation chose it layer by layer; else empty."""
    num_params: Annotated[Count, OF_WEIGHTS]
    size_bytes: Annotated[Count, OF_WEIGHTS]
    """Parameters and buffers of the eager model."""
    macs: Annotated[Count, OF_WEIGHTS]
    training_macs: Work | None = None
    """Multiply-accumulates of fine-tuning and of the training in `sparsity`, or of training from scratch: backward
    passes and a teacher's forward passes included; None in older records."""
    eager_latency: Annotated[Latency, VOLATILE]
    """The eager torch model at batch 1, in FP32: the study's column."""
    train_seconds: Annotated[Seconds, VOLATILE]
    resumptions: Annotated[WholeNumber, VOLATILE]
    """How often fine-tuning was interrupted and went on."""
    peak_memory_bytes: Annotated[WholeNumber, VOLATILE]
    curve: list[Epoch]


class PrunedAlone(Part):
    """A model of which one group of coupled layers was pruned and nothing was fine-tuned."""

    ratio: Ratio
    """Share of the group's output channels that was removed, in [0, 1)."""
    loss: Annotated[float, Field(ge=0, le=1e12)]
    """Mean cross-entropy."""
    top1_accuracy: Share
    num_params: Count
    macs: Count
    """Multiply-accumulates of one image."""


class GroupCurve(Part):
    """How much a group of coupled layers can lose."""

    layers: Annotated[list[LongText], Field(min_length=1, max_length=10_000)]
    """Those that lose channels together, in the model's order; the first names the group."""
    width: Count
    """Output channels of the first."""
    parts: Count = 1
    """Equal parts of these that are pruned alike, because a grouped convolution asks for it."""
    points: Annotated[list[PrunedAlone], Field(max_length=100)]
    """Rising in ratio; without one where the group is too narrow to lose a channel."""


class Sensitivity(Record):
    """How much each group of a workload's layers can lose: pruned alone, with one seed's weights and one criterion.

    `split` is always `holdout`, and `num_images` a part of it. BatchNorm's statistics are estimated anew for every
    figure, on as many training images outside the hold-out.
    """

    kind: Literal["sensitivity"] = "sensitivity"
    importance: Text
    keep: list[LongText] = []
    """Patterns of the names of layers that keep all output channels."""
    trained_on_images: bool | None
    """Whether the weights were trained on the scored images, as they are with `data.split` `test`; None where the
    weights were given. On such images the unpruned loss is low, so that increases are larger than on new ones."""
    unpruned: PrunedAlone
    groups: list[GroupCurve]
    """In the model's order."""
    seconds: Annotated[Seconds, VOLATILE]
    """Of measuring."""


class Clock(Part):
    """Another way of timing the same file and its baseline file, in turns."""

    name: Literal["gpu", "gpu_graph", "latency_graph"]
    """GPU time by events, copies left out, without and with a CUDA graph; wall-clock time with copies and a graph."""
    latency: Latency
    batch_latency: Latency
    baseline_latency: Latency
    baseline_batch_latency: Latency


class Process(Part):
    """What one process timed: a file and its baseline file, in turns."""

    latency: Series
    """At batch 1."""
    batch_latency: Series
    """At the large batch."""
    baseline_latency: Series
    baseline_batch_latency: Series


class Layer(Part):
    """A part of a compiled file, as its runtime tells it."""

    name: LongText
    kind: LongText
    """The runtime's own word for what it does."""
    precision: LongText
    """Of its arithmetic."""
    channels: Count | None
    """Of its output as computed, padding included; None without weights."""
    ms: Annotated[float, Field(ge=0, le=1e9)]
    """Median of profiled runs, which are slower than timed ones."""


class Engine(Part):
    """A TensorRT engine and all it is bound to."""

    sha256: Sha256
    size_bytes: Count
    build_seconds: Seconds
    onnx_sha256: Sha256
    precision: Text
    batch_size: Count
    """The large batch of its optimization profile."""
    build: WholeNumber
    """0 is the one that was measured."""
    calibration_sha256: Literal[""] | Sha256
    """Of the calibration images, where TensorRT calibrated; else empty."""
    tensorrt: Text
    gpu: Text
    compute_capability: Text
    driver: Text
    tactic_sources: LongText
    """Those it was restricted to; empty where TensorRT chose."""


class Build(Part):
    """One of several builds of an engine, timed on the GPU with a CUDA graph."""

    sha256: Sha256
    size_bytes: Count
    build_seconds: Seconds
    latency: Latency
    batch_latency: Latency


class QuantizationAwareTraining(Part):
    """How the weights of an INT8 file were learned, from those of the variant: rounding was simulated in torch."""

    epochs: Count
    learning_rate: LearningRate
    schedule: Text
    distillation: Share
    """Weight of the FP32 model's soft labels in the loss."""
    weight_bits: Literal[7, 8]
    """Of the weights that were simulated."""
    top1_accuracy: Share
    """Of the simulation after the last epoch, in [0, 1]."""
    training_macs: Work
    """Multiply-accumulates, backward passes and the teacher's forward passes included."""
    train_seconds: Annotated[Seconds, VOLATILE]
    resumptions: Annotated[WholeNumber, VOLATILE]
    """How often it was interrupted and went on."""
    contended: Annotated[bool, VOLATILE]
    """Whether other processes took more than a tenth of the machine meanwhile."""


Timed = Literal["latency", "batch_latency", "baseline_latency", "baseline_batch_latency"]
"""The series of a process, and of a measurement."""


class LayerDivergence(Part):
    """What one layer loses in INT8 where all others stay in float."""

    layer: LongText
    divergence: Annotated[float, Field(ge=0, le=1e9)]
    """Mean Kullback-Leibler divergence of the classes' probabilities from FP32's on calibration images, in nats."""


class Mixed(Part):
    """Which layers an INT8 file computes in float, and what that was decided by; all in the file's exact arithmetic."""

    float_layers: list[LongText]
    """The layers left in float besides those that `quantization.keep` names, the one that loses most first."""
    max_drop: Annotated[float, Field(ge=0, le=100)]
    """Points of top-1 that it may lose against FP32."""
    num_images: Count
    """Hold-out images that decided it: trained on where the split is `test`, scored where it is `holdout`."""
    lost: WholeNumber
    """Of these, the images that FP32 alone gets right."""
    gained: WholeNumber
    """Those that this file alone gets right."""
    loss_rise: Annotated[float, Field(ge=-1e9, le=1e9)]
    """Mean difference of the cross-entropy from FP32's on the same images, in nats."""
    loss_half_width: Annotated[float, Field(ge=0, le=1e9)]
    """Of the 95 % interval of `loss_rise`."""
    sensitivity: list[LayerDivergence]
    """Of all layers, the one that loses most first."""

    @property
    def drop_points(self) -> float:
        """Points of top-1 that it loses against FP32 on the hold-out images."""
        return 100 * (self.lost - self.gained) / self.num_images


class Measurement(Record):
    """One exported file of one variant, precision and seed, in one runtime on one device."""

    kind: Literal["measurement"] = "measurement"
    variant: Key
    ratio: Ratio
    precision: Computed
    runtime: Key
    """`onnxruntime`, and what else `trimlab.measure` offers."""
    runtime_version: Text
    file_sha256: Sha256
    """Of the deployed file."""
    file_bytes: Count
    """Size of the ONNX file."""
    weight_bytes: Count
    """Weights alone, inside that file."""
    num_params: Count
    macs: Count
    top1_accuracy: Share
    """Of the deployed file on the whole scored split, in [0, 1]."""
    torch_top1_accuracy: Share
    """Of the eager torch model with the same weights."""
    torch_agreement: Share
    """Share of images to which the file and the torch model give the same label."""
    onnx_top1_accuracy: Share | None = None
    """Of the same file in ONNX Runtime; None where that is the runtime."""
    onnx_agreement: Share | None = None
    """Share of images to which both runtimes give the same label."""
    predictions_sha256: Sha256
    """Of the `.npy` beside the record: the predicted label of every image, uint16."""
    calibration_sha256: Sha256 | None
    """Of the calibration images' indices, for INT8."""
    weight_bits: Literal[7, 8] | None = None
    """Bits of an INT8 file's weights: 7 where the processor's pairs of products would saturate at 8. None for other
    precisions, and in older records, where it was 8."""
    qat: QuantizationAwareTraining | None = None
    """How the file's weights were learned, where it holds others than the torch model of `weights_sha256`."""
    exact_top1_accuracy: Share | None = None
    """Of an INT8 file's own arithmetic, computed without fused kernels, in [0, 1]; None where it was not computed."""
    exact_agreement: Share | None = None
    """Share of images to which the runtime and the exact arithmetic give the same label."""
    mixed: Mixed | None = None
    """Of a file in `int8-mixed`; None for other precisions."""
    latency: Annotated[Latency, VOLATILE]
    """At batch 1. This and the next three are of the calls of all processes."""
    batch_latency: Annotated[Latency, VOLATILE]
    """At the large batch."""
    baseline_file_sha256: Sha256
    """Of the workload's unpruned FP32 file, timed in turn with this one in the same process."""
    baseline_latency: Annotated[Latency, VOLATILE]
    baseline_batch_latency: Annotated[Latency, VOLATILE]
    peak_memory_bytes: Annotated[WholeNumber, VOLATILE]
    """Of running this file alone at the large batch: the process's resident memory, or on a GPU the device memory
    that engine, contexts and buffers took."""
    clocks: Annotated[list[Clock], VOLATILE] = []
    """A GPU's other times, in the first process; `latency` is wall-clock time with copies there."""
    processes: Annotated[list[Process], VOLATILE, Field(max_length=20)] = []
    """Each process that timed the file; empty in older records, where it was one."""
    layers: Annotated[list[Layer], VOLATILE] = []
    """At batch 1."""
    batch_layers: Annotated[list[Layer], VOLATILE] = []
    """At the large batch."""
    engine: Annotated[Engine | None, VOLATILE] = None
    builds: Annotated[list[Build], VOLATILE] = []
    """The measured engine, and the same built again."""

    @model_validator(mode="after")
    def _clocks_are_complete(self) -> "Measurement":
        names = sorted(clock.name for clock in self.clocks)
        if names not in ([], ["gpu", "gpu_graph", "latency_graph"]):
            raise ValueError(f"clocks {names} are not gpu, gpu_graph and latency_graph, each once")
        return self

    @property
    def deployed_bytes(self) -> int:
        """Size of what is deployed: the engine where one is built, or else the ONNX file."""
        return self.engine.size_bytes if self.engine else self.file_bytes

    def medians_ms(self, name: Timed) -> list[float]:
        """Return the p50 of one series in each process."""
        processes: list[Process] | list[Measurement] = self.processes or [self]
        return [getattr(process, name).p50_ms for process in processes]

    @property
    def speedups(self) -> list[float]:
        """How much faster than the baseline file at batch 1, by the medians of each process."""
        return _ratios(self.medians_ms("baseline_latency"), self.medians_ms("latency"))

    @property
    def batch_speedups(self) -> list[float]:
        """How much faster than the baseline file at the large batch, by the medians of each process."""
        return _ratios(self.medians_ms("baseline_batch_latency"), self.medians_ms("batch_latency"))

    @property
    def speedup(self) -> float:
        """The geometric mean of `speedups`."""
        return _geometric_mean(self.speedups)

    @property
    def batch_speedup(self) -> float:
        """The geometric mean of `batch_speedups`."""
        return _geometric_mean(self.batch_speedups)


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _canonical(record: Record) -> str:
    # Without defaults: a field that is added later leaves the identity of older records alone.
    return json.dumps(
        {"kind": getattr(record, "kind", None), **record.model_dump(exclude_defaults=True)},
        sort_keys=True,
    )


def fields_with(kind: type[Part], role: Role) -> set[str]:
    """Return the names of a record type's fields that have a role; those of its parts as `part.field`."""
    found = set()
    for name, field in kind.model_fields.items():
        if role in field.metadata:
            found.add(name)
        for part in _parts(field.annotation):
            found |= {f"{name}.{inner}" for inner in fields_with(part, role)}
    return found


def _parts(annotation: Any) -> Iterator[type[Part]]:
    """Yield the parts that a field may hold, alone or in a list; a record within a record speaks of another one."""
    if isinstance(annotation, type) and issubclass(annotation, Part) and not issubclass(annotation, Record):
        yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)
