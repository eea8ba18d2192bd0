"""The sections of params.yaml, each with its keys and their bounds."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from trimlab import paths
from trimlab.config.choices import unresolved
from trimlab.errors import UserError, short
from trimlab.formats import BY_NAME, Precision

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
"""Up to 64 lower-case letters, digits and dashes, starting with a letter: DVC separates keys by dots and reads bare
numbers as numbers, and names are parts of file names."""

Patterns = list[Annotated[str, Field(min_length=1)]]
"""Names of layers as `model.named_modules()` has them; `*`, `?` and `[…]` match as in file names, dots included."""

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
TrainingPrecision = Literal["auto", "amp", "tf32", "fp32"]
Evaluated = Literal["top1", "top5", "macro_f1"]
BuiltinSource = Literal["cifar10", "cifar100", "digits"]
Source = Literal["cifar10", "cifar100", "digits", "folder", "index", "npz"]
Resize = Literal["shorter-side", "stretch", "pad"]
Importance = Literal[
    "group-l1", "group-l2", "filter-l1", "lamp", "fpgm", "bn_scale", "taylor", "hessian", "random"
]  # fmt: skip
Quantity = Literal["params", "macs", "size_mib", "latency_ms"]
TargetRuntime = Literal["onnxruntime", "openvino"]
TargetPrecision = Literal["fp32", "int8"]
Regularizer = Literal["group-norm", "growing"]
Allocation = Literal["uniform", "global", "isomorphic", "sensitivity", "search"]
Rounding = Literal["down", "nearest", "up"]


class Section(BaseModel):
    """A part of params.yaml: strict types, no unknown keys, frozen; docstrings are the schema's descriptions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """How datasets are read and split."""

    root: Annotated[str, Field(min_length=1)] = "data/raw"
    """Folder of torchvision's dataset files; missing files are downloaded to it. The environment variable DATA_ROOT
    replaces it."""
    split: Literal["test", "holdout"]
    """`test` trains on the whole training set and scores on the test set. `holdout` trains without the hold-out and
    scores on it: use it to tune recipes."""
    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)]
    """Share of the training set that is held out. Each class is represented in proportion to its size."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Seed that draws the hold-out and the order of the calibration images."""


class DatasetSource(Section):
    """Where a dataset comes from."""

    source: Source
    """A built-in dataset, or what DVC tracks: a `folder` of class folders, a folder with an `index` of its images
    (index.csv or index.parquet), or an `npz` file."""
    path: str
    """The tracked folder or file; `data/none` for a built-in source."""
    image_size: Annotated[int, Field(ge=8, le=2048)] | None = None
    """Height and width in pixels that images are resized to; without it, they must be of one size."""
    resize: Resize = "shorter-side"
    """How images become square: the shorter side is scaled and the longer one is cropped at both ends, the image is
    stretched, or the longer side is scaled and the rest is padded with black."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class that becomes the test set, where a folder or an index does not say which images are."""

    @model_validator(mode="after")
    def _path_fits_source(self) -> "DatasetSource":
        builtin = self.source in get_args(BuiltinSource)
        if not self.path or builtin != (self.path == str(paths.NO_FILE)):
            need = f"`{paths.NO_FILE}`" if builtin else "the folder or file, tracked by DVC"
            raise ValueError(f"path {short(self.path)} does not fit source {self.source!r}: give {need}")
        return self

    @model_validator(mode="after")
    def _options_fit_source(self) -> "DatasetSource":
        if self.resize != _default(self, "resize") and not self.image_size:
            raise ValueError(f"resize {self.resize!r} has no size to resize to: add image_size")
        if self.test_fraction != _default(self, "test_fraction") and self.source not in ("folder", "index"):
            raise ValueError(f"test_fraction {self.test_fraction} does not fit source {self.source!r}: remove it")
        return self


def _default(section: Section, field: str) -> Any:
    """Return a field's default. Written out, it means the same as left out: what a program dumps can be read again."""
    return type(section).model_fields[field].default


class LowResolution(Section):
    """The first epochs, on smaller images."""

    size: Annotated[int, Field(ge=8, le=512)]
    """Height and width in pixels."""
    epochs: Annotated[int, Field(ge=1, le=1000)]
    """Number of epochs at this size."""


Bounds = Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=2, max_length=2)]
"""Lowest and highest value."""


class RandomResizedCrop(Section):
    """A random part of every image, scaled to the image's size."""

    scale: Bounds = [0.08, 1.0]
    """Lowest and highest share of the image's area."""
    ratio: Bounds = [0.75, 1.3333]
    """Lowest and highest ratio of width to height."""

    @model_validator(mode="after")
    def _in_order(self) -> "RandomResizedCrop":
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} [{low}, {high}] is upside down: give the lowest value first")
        if self.scale[1] > 1:
            raise ValueError(f"scale {self.scale} is more than the image: give shares of at most 1")
        return self


class ColorJitter(Section):
    """Random changes of colour: a factor per image, drawn from [1 - value, 1 + value]."""

    brightness: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the pixel values."""
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of their distance from the image's mean grey."""
    saturation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of their distance from the pixel's grey."""

    @model_validator(mode="after")
    def _changes_something(self) -> "ColorJitter":
        if not self.brightness + self.contrast + self.saturation:
            raise ValueError("color_jitter changes nothing: give brightness, contrast or saturation, or leave it out")
        return self


ADAMW_LEARNING_RATE = 0.02
"""Highest learning rate for AdamW: its steps have about this size, whatever the gradient's."""
SGD_WEIGHT_DECAY = 0.1
"""Highest weight decay for SGD."""


class Recipe(Section):
    """A training recipe."""

    epochs: Annotated[int, Field(ge=1, le=2000)]
    """Passes over the training set. The weights after the last one are kept."""
    batch_size: Annotated[int, Field(ge=2, le=8192)] = 128
    """Images per step."""
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    """Batches whose gradients are averaged for one optimizer step, for a large batch that does not fit into memory.
    An epoch's last step takes the batches that are left."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """`sgd`, or `adamw` (betas 0.9 and 0.999)."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1
    """Peak learning rate; at most 0.02 for `adamw`, where 0.001 is usual."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps in which the learning rate rises linearly to its peak."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of `sgd`."""
    nesterov: bool = True
    """Use Nesterov momentum in `sgd`."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 5e-4
    """For `sgd` an L2 penalty on weights, at most 0.1; for `adamw` decoupled decay, where 0.05 is usual. Not applied to
    normalisation layers and biases."""
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Gradients are scaled down to this norm (L2, over all parameters) where theirs is larger; null does not clip."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of a moving average of the weights, which is then evaluated and kept in place of the last step's weights;
    0 turns it off, 0.999 is usual. The first steps use a smaller decay, so that the average forgets the start."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """For rare classes. `weights` weights the loss of an image by the inverse of its class's size. `sampling` draws the
    images of an epoch, with repetition, so that all classes are equally frequent."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes."""
    flip: Literal[True, False, "alternating"] = True
    """`true` mirrors every image with a chance of one half, in every epoch anew. `alternating` draws that for the first
    epoch alone; in each later one an image is mirrored if it was not in the epoch before. `false` mirrors none, as
    digits and letters need."""
    crop_padding: Annotated[int, Field(ge=0, le=16)] = 4
    """Random translation by up to this many pixels; the border is padded with zeros."""
    random_resized_crop: RandomResizedCrop | None = None
    """Takes the place of `crop_padding`: for photographs, whose objects are of any size."""
    color_jitter: ColorJitter | None = None
    """Random brightness, contrast and saturation."""
    cutout: Annotated[int, Field(ge=0, le=512)] = 0
    """Side, in pixels, of a black square at a random place in every image; 0 leaves images whole."""
    mixup: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Blends every image with another one of its batch, and their labels alike. The share is drawn per batch from
    Beta(mixup, mixup); 0 turns it off."""
    cutmix: Annotated[float, Field(ge=0, le=10)] = 0.0
    """Replaces a rectangle of every image with that of another one of its batch, and mixes their labels by area. The
    area is drawn per batch from Beta(cutmix, cutmix); 0 turns it off. With `mixup`, each batch gets one of the two."""
    low_resolution: list[LowResolution] = []
    """The first epochs train on smaller images, in this order; the remaining epochs train at full size."""
    evaluate_every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Number of epochs between two evaluations of accuracy; the last epoch is always evaluated."""

    @property
    def unused(self) -> set[str]:
        """The names of fields that have no effect beside the others."""
        of_sgd = {"momentum", "nesterov"} if self.optimizer == "adamw" else set()
        return of_sgd | ({"crop_padding"} if self.random_resized_crop else set())

    @model_validator(mode="after")
    def _one_crop(self) -> "Recipe":
        if self.random_resized_crop and self.crop_padding not in (0, _default(self, "crop_padding")):
            raise ValueError(
                f"crop_padding {self.crop_padding} has no effect with random_resized_crop: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _low_resolution_fits(self) -> "Recipe":
        low = sum(stage.epochs for stage in self.low_resolution)
        if low >= self.epochs:
            raise ValueError(f"low_resolution takes {low} of {self.epochs} epochs: leave at least one at full size")
        return self

    @model_validator(mode="after")
    def _options_fit_the_optimizer(self) -> "Recipe":
        if problems := self._adamw_problems() if self.optimizer == "adamw" else self._sgd_problems():
            raise ValueError("\n".join(problems))
        return self

    def _adamw_problems(self) -> list[str]:
        problems = [
            f"{name} {getattr(self, name)} does not work with optimizer adamw: remove it, or use sgd"
            for name in ("momentum", "nesterov")
            if getattr(self, name) != _default(self, name)
        ]
        if problem := learning_rate_problem(self, self.learning_rate):
            problems.append(f"learning_rate {problem}")
        return problems

    def _sgd_problems(self) -> list[str]:
        problems = []
        if self.nesterov and self.momentum == 0:
            problems.append("momentum 0 does not work with nesterov true: set nesterov to false")
        if self.weight_decay > SGD_WEIGHT_DECAY:
            problems.append(
                f"weight_decay {self.weight_decay:g} is not in [0, {SGD_WEIGHT_DECAY:g}], the range for sgd: lower it"
            )
        return problems


def learning_rate_problem(recipe: Recipe, learning_rate: float) -> str | None:
    """Say what is wrong with a learning rate under a recipe's optimizer; None where it fits."""
    if recipe.optimizer == "adamw" and learning_rate > ADAMW_LEARNING_RATE:
        return f"{learning_rate:g} is not in (0, {ADAMW_LEARNING_RATE:g}], the range for adamw: set it (0.001 is usual)"
    return None


class Normalisation(Section):
    """How images in [0, 1] are normalised: one value per channel."""

    mean: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    """Subtracted from the channel."""
    std: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1)]
    """Divides the channel after the mean is subtracted."""

    @model_validator(mode="after")
    def _as_many(self) -> "Normalisation":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std has {len(self.std)}: give one each per channel")
        return self


NormalisedBy = Annotated[
    Annotated[Literal["dataset", "imagenet"], Tag("[name]")] | Annotated[Normalisation, Tag("[values]")],
    Discriminator(lambda value: "[name]" if isinstance(value, str) else "[values]"),
]


_EXPONENTS = {"k": 3, "M": 6, "G": 9}
_AMOUNT = r"(\d+\.?\d*|\.\d+) ?([kMG])"


def _amount(written: Any) -> Any:
    """Read a number with a suffix, such as `90M`; leave anything else to pydantic."""
    found = re.fullmatch(_AMOUNT, written, re.ASCII) if isinstance(written, str) else None
    return float(f"{found[1]}e{_EXPONENTS[found[2]]}") if found else written


Amount = Annotated[
    float,
    BeforeValidator(_amount),
    Field(gt=0, le=1e15),
    WithJsonSchema({"type": ["number", "string"], "exclusiveMinimum": 0, "maximum": 1e15, "pattern": f"^{_AMOUNT}$"}),
]
"""A number, or one with the suffix k, M or G: `90M` is 90,000,000."""


class Target(Section):
    """What the pruned model may take, in place of a ratio. One of the first four is given; the ratio is found by
    bisection."""

    params: Amount | None = None
    """Parameters, such as `0.2M`."""
    macs: Amount | None = None
    """Multiply-accumulates of one image, such as `90M`."""
    size_mib: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """MiB (2^20 bytes) of the torch model's parameters and buffers in FP32: what the pruning table calls size. It is
    known before any file is exported; weights take half of it in FP16 and a quarter in INT8."""
    latency_ms: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Milliseconds (p50, with copies) of the deployed file at batch 1, met within 10 % on the machine that prunes."""
    runtime: TargetRuntime = "onnxruntime"
    """Where the file of `latency_ms` runs."""
    precision: TargetPrecision = "fp32"
    """What the file of `latency_ms` is computed in; for `int8`, with all layers in INT8."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of the runtime for `latency_ms`; 0 uses all cores. As `benchmark.threads`."""

    @property
    def quantity(self) -> Quantity:
        """Which one is given."""
        return self._given[0]

    @property
    def value(self) -> float:
        """How much of it."""
        value: float = getattr(self, self.quantity)
        return value

    @property
    def _given(self) -> list[Quantity]:
        quantities: tuple[Quantity, ...] = get_args(Quantity)
        return [name for name in quantities if getattr(self, name) is not None]

    def __str__(self) -> str:
        """Return what is asked for: "90M macs", "0.5 latency_ms, int8 in onnxruntime"."""
        how = f", {self.precision} in {self.runtime}" if self.latency_ms else ""
        return f"{self.written(self.value)} {self.quantity}{how}"

    def written(self, value: float) -> str:
        """Write an amount of the quantity as this section takes it, to four digits: "90.25M", "1.75"."""
        whole = self.quantity in ("params", "macs")
        suffix = next((s for s, e in _EXPONENTS.items() if 1 <= float(f"{value:.3e}") / 10**e < 1000), "")
        if not (whole and suffix):
            return f"{value:.4g}"
        return f"{value / 10 ** _EXPONENTS[suffix]:.4g}{suffix}"

    @model_validator(mode="after")
    def _one_is_given(self) -> "Target":
        if not self._given:
            raise ValueError("params, macs, size_mib and latency_ms are missing: give one of them")
        if len(self._given) > 1:
            raise ValueError(f"{self._given[0]} stands beside {self._given[1]}: leave one of them")
        return self

    @model_validator(mode="after")
    def _a_file_is_timed(self) -> "Target":
        for name in ("runtime", "precision", "threads"):
            if not self.latency_ms and (value := getattr(self, name)) != _default(self, name):
                raise ValueError(f"{name} {value!r} decides a latency alone, and {self.quantity} needs none: remove it")
        return self


class Sparsity(Section):
    """Training with a penalty on groups of coupled channels before they are pruned: the less a group matters, the more
    it is shrunk, so that less is lost with it. By the workload's recipe, with the following in place of its values."""

    regularizer: Regularizer = "group-norm"
    """torch-pruning's, by the norm of what goes with a channel. `group-norm` (Fang et al. 2023) scales the penalty of a
    channel by up to 16, the more the smaller its norm is. `growing` (Wang et al. 2021) starts with equal penalties, and
    after each epoch raises a channel's by up to `strength`, the more the smaller its norm is."""
    strength: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Coefficient of the L2 penalty; it adds to `weight_decay`."""
    epochs: Annotated[int, Field(ge=1, le=2000)]
    """Passes over the training set."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate rises linearly to its peak."""


class PruningPoint(Section):
    """How much is pruned, and how the pruned model is fine-tuned."""

    ratio: Annotated[float, Field(ge=0, le=0.95)] | None = None
    """Share of each layer's output channels that is removed. The classifier keeps all of its outputs. A point has
    either this or a target."""
    target: Target | None = None
    """What the pruned model may take, met within 2 %, a latency within 10 %, in place of a ratio."""
    sparsity: Sparsity | None = None
    """Training before pruning that shrinks the channels that matter least."""
    steps: Annotated[int, Field(ge=1, le=100)] = 1
    """In how many equal steps the channels are removed: before each, importance is computed anew from the weights that
    are left. Nothing is trained in between, and gradients are those of the unpruned model."""
    epochs: Annotated[int, Field(ge=0, le=2000)]
    """Fine-tuning epochs; 0 leaves the pruned weights as they are."""
    initial: Literal["pruned", "scratch"] = "pruned"
    """Weights from which the point's epochs start: those that pruning leaves, or with `scratch` fresh ones in the same
    shape, the control that says what the pruned weights are worth. Its learning rate is better one of a training."""
    budget: Literal["epochs", "whole"] = "epochs"
    """How long `initial: scratch` trains: the point's epochs, as long as a fine-tuning of so many, or with `whole`
    besides them as many as take the multiply-accumulates of the unpruned model's training by the workload's recipe."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Peak learning rate of fine-tuning."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of fine-tuning's steps in which the learning rate rises linearly to its peak."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the unpruned model's soft labels in the loss, against the true labels; 0 turns distillation off."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 4.0
    """Temperature that softens the unpruned model's labels."""
    soft_labels: Literal["fresh", "cached"] = "fresh"
    """`fresh` computes the unpruned model's labels for every augmented batch. `cached` computes them once for each
    training image, and for its mirror image where the recipe mirrors; no other augmentation is in them."""
    importance: Importance | None = None
    """Replaces `pruning.importance` at this point: with `random`, the control of the criterion."""
    allocation: Allocation | None = None
    """Replaces `pruning.allocation` at this point."""
    round_to: Annotated[int, Field(ge=2, le=64)] | None = None
    """Replaces `pruning.round_to` at this point."""
    rounding: Rounding | None = None
    """Replaces `pruning.rounding` at this point."""
    keep: Patterns = []
    """Layers that keep all of their output channels, by name or pattern such as `layers.0.*`; so do the layers that
    lose channels together with them."""

    @model_validator(mode="after")
    def _ratio_or_target(self) -> "PruningPoint":
        if self.ratio is None and self.target is None:
            raise ValueError("ratio is missing: add it, or a target")
        if self.ratio is not None and self.target is not None:
            raise ValueError(f"ratio {self.ratio:g} stands beside a target: remove one of them")
        return self

    @model_validator(mode="after")
    def _sparsity_has_an_effect(self) -> "PruningPoint":
        if self.sparsity and not self.prunes:
            raise ValueError("sparsity shrinks what is pruned, and ratio 0 prunes nothing: remove it")
        if self.sparsity and self.initial == "scratch":
            raise ValueError("sparsity trains weights that initial scratch throws away: remove one of them")
        return self

    @model_validator(mode="after")
    def _control_trains(self) -> "PruningPoint":
        if self.initial == "pruned" and self.budget == "whole":
            raise ValueError("budget 'whole' is for initial scratch: fine-tuning takes its epochs, so remove it")
        if self.initial == "scratch" and not self.trained:
            raise ValueError("epochs 0 leaves the random weights of initial scratch: raise it, or set budget to whole")
        return self

    @property
    def prunes(self) -> bool:
        """Whether anything is removed at this point."""
        return self.ratio != 0

    @property
    def trained(self) -> bool:
        """Whether anything is trained at this point."""
        return self.epochs > 0 or self.budget == "whole"


class PruningSettings(Section):
    """What all pruning points share."""

    importance: Importance = "group-l1"
    """Criterion for the channels that are kept. `group-l1` and `group-l2` are torch-pruning's norms of a group: an
    average over all layers that a channel couples, divided by the mean of those layers' channels. `filter-l1` is the
    plain L1 norm of the filter that makes the channel. `taylor` and `hessian` estimate by how much the loss on training
    images would change, to first and second order. `random` is the control."""
    allocation: Allocation = "uniform"
    """How the ratio is shared out among layers. `uniform` prunes every layer by the ratio; `global` ranks the channels
    of all layers together; `isomorphic` ranks together the channels of layers whose groups are built alike
    (Fang et al. 2024). The others measure first what each group of coupled layers can lose alone: `sensitivity` lets
    every layer cost at most the same increase of the loss, `search` makes the sum of the increases smallest."""
    sensitivity_images: Annotated[int, Field(ge=10, le=10_000)] = 1000
    """Images of the hold-out on which the allocations `sensitivity` and `search` measure; all where there are fewer. As
    many training images re-estimate BatchNorm's statistics each time."""
    round_to: Annotated[int, Field(ge=2, le=64)] | None = None
    """Widths are rounded to multiples of this number (hardware prefers 8 or 16); null keeps `int(c·(1−ratio))`."""
    rounding: Rounding = "down"
    """Where `round_to` rounds a width: to the next multiple below, to the `nearest` (at least one multiple), or `up`. A
    layer that is narrower than the result keeps all of its channels."""

    @property
    def uses_gradients(self) -> bool:
        """Whether importance needs gradients of the loss besides the weights."""
        return self.importance in ("taylor", "hessian")

    @property
    def ranked(self) -> bool:
        """Whether channels of several layers are ranked together: then the weights decide each layer's width."""
        return self.allocation in ("global", "isomorphic")

    @property
    def measured(self) -> bool:
        """Whether each layer's ratio is chosen from its measured sensitivity."""
        return self.allocation in ("sensitivity", "search")


class Variant(Section):
    """A workload at one pruning point."""

    workload: str
    """A key of `workloads`."""
    pruning: str
    """`prune` (the candidate's point) or `sweep.KEY`."""
    precisions: list[Precision] = ["fp32", "fp16", "int8"]
    """Precisions that are exported and measured; an empty list if only the pruning table needs the variant. `int8-qat`
    is INT8 after some epochs of quantization-aware training, see `quantization.qat`."""

    @property
    def is_trained_quantized(self) -> bool:
        """Whether one of its files needs quantization-aware training."""
        return any(BY_NAME[precision].trained for precision in self.precisions)


class QuantizationAwareTraining(Section):
    """How the weights of `int8-qat` files are trained, starting from the variant's own: by the workload's recipe, with
    the following in place of its values. Always in FP32, and at full size."""

    epochs: Annotated[int, Field(ge=1, le=2000)] = 3
    """Passes over the training set."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.001
    """Peak learning rate. Usual is a hundredth of the training's."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps in which the learning rate rises linearly to its peak."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Weight of the soft labels of the variant's FP32 model in the loss, against the true labels; 0 turns distillation
    off."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 1.0
    """Temperature that softens the FP32 model's labels; 1 leaves them as they are."""
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] | None = 1.0
    """Gradients are scaled down to this norm (L2, over all parameters) where theirs is larger; null does not clip. With
    BatchNorm folded into the weights, large steps ruin a model that they would not ruin in training."""
    weight_bits: Literal[7, 8] = 8
    """Bits of the weights that the training simulates. The files with 8 and with 7 bits and TensorRT's hold the same
    learned weights: choose 7 where x86 processors without VNNI are to run them."""


class Quantization(Section):
    """Quantization to INT8."""

    calibration_images: Annotated[int, Field(ge=10, le=10_000)] = 500
    """Number of training images for calibration. None is in the hold-out. Each class is represented in proportion to
    its size."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How activation ranges are chosen from the calibration images."""
    percentile: Annotated[float, Field(ge=90, le=100)] = 99.99
    """Percentage of values inside the range, for the method `percentile`."""
    keep: Patterns = []
    """Layers that INT8 files compute in FP32, by name or pattern such as `layers.0.*`."""
    max_drop: Annotated[float, Field(ge=0, le=100)] = 0.5
    """Points of top-1 that `int8-mixed` may lose against FP32 on hold-out images: it leaves as few layers in FP32 as
    that takes."""
    bias_correction: bool = False
    """Shift the biases of INT8 layers by what rounding their weights changes their outputs' means, measured on the
    calibration images."""
    qat: QuantizationAwareTraining = QuantizationAwareTraining()
    """Quantization-aware training, for the precision `int8-qat`."""


MOST_CALLS = 500_000
"""Timed runs of a file, in all of its processes."""


class Benchmark(Section):
    """How exported files are timed."""

    batch_size: Annotated[int, Field(ge=2, le=65536)] = 64
    """The large batch, which measures throughput; latency is timed at batch 1."""
    warmup: Annotated[int, Field(ge=1, le=1000)] = 10
    """Untimed runs before each series."""
    repeats: Annotated[int, Field(ge=10, le=100_000)] = 200
    """Timed runs at batch 1."""
    batch_repeats: Annotated[int, Field(ge=5, le=100_000)] = 20
    """Timed runs at the large batch."""
    processes: Annotated[int, Field(ge=1, le=20)] = 1
    """Processes that time a file, one after another. Of several, the report gives speed-ups with an interval: use 3 for
    a study that you publish."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of the runtime; 0 uses all cores."""
    runtimes: Annotated[list[Runtime], Field(min_length=1)] = ["onnxruntime"]
    """Where files are measured. A runtime that is not available (TensorRT without a GPU) is reported and skipped."""
    gpu_batch_size: Annotated[int, Field(ge=2, le=65536)] = 1024
    """The large batch on a GPU."""
    builds: Annotated[int, Field(ge=1, le=100)] = 1
    """How many times a TensorRT engine is built: builds can differ, and the report gives their spread."""

    @model_validator(mode="after")
    def _calls_fit_into_a_record(self) -> "Benchmark":
        calls = self.processes * (self.repeats + self.batch_repeats)
        if calls > MOST_CALLS:
            raise ValueError(
                f"processes {self.processes} of repeats {self.repeats} and batch_repeats {self.batch_repeats} are "
                f"{calls} calls, and a record holds {MOST_CALLS}: lower one of them"
            )
        return self


class Report(Section):
    """What the report says besides its tables."""

    title: Annotated[str, Field(min_length=1)]
    """The report's heading."""
    baseline: str
    """The unpruned variant that the candidate is compared with."""
    candidate: str
    """The variant that the study proposes; the baseline in a study that only trains."""
    notes: list[str] = []
    """Assumptions, printed under the heading."""
    evaluate: Annotated[list[Evaluated], Field(min_length=1)] = ["top1"]
    """Which figures of accuracy have a section of their own: add `top5` for many classes, and `macro_f1` for classes of
    unequal size. Records hold them all, so that no stage runs again. All other tables show top-1."""


RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def runtimes(names: Sequence[str]) -> list[Runtime]:
    """Return the runtimes of these names, or all of them if there are no names.

    Raises:
        UserError: a name is unknown.
    """
    for name in names:
        if problem := unresolved("runtime", name, RUNTIMES):
            raise UserError(problem)
    return [known for known in RUNTIMES if not names or known in names]
