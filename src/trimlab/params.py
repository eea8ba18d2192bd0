"""params.yaml as one strict, frozen model: every key known, every value in range, every reference resolved.

Light on purpose (pydantic and YAML alone): every stage asks it before it imports anything heavy.
"""

import difflib
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationError, model_validator
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.nodes import CollectionNode, Node

from trimlab import paths
from trimlab.errors import UserError, one_line, short

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,63}$")]
"""Up to 64 letters, digits and dashes, a letter first: DVC addresses params by dots and reads bare numbers as numbers,
and a name is a part of file names."""

Precision = Literal["fp32", "fp16", "int8"]
"""What a variant is exported and measured in."""

Runtime = Literal["onnxruntime", "openvino", "tensorrt"]
TrainingPrecision = Literal["auto", "amp", "tf32", "fp32"]
BuiltinSource = Literal["cifar10", "cifar100", "digits"]
Source = Literal["cifar10", "cifar100", "digits", "folder", "npz"]


class Section(BaseModel):
    """A part of params.yaml: strict types, no unknown keys, frozen; docstrings are the schema's descriptions."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class Data(Section):
    """How datasets are read and split."""

    root: Annotated[str, Field(min_length=1)] = "data/raw"
    """Directory of torchvision's files: those found there are used without a network, others downloaded to it.
    The environment variable DATA_ROOT takes its place where it is set."""
    split: Literal["test", "holdout"]
    """`test` trains on the whole training set and scores on the test set. `holdout` trains without the hold-out and
    scores on it: what recipes are tuned on."""
    holdout_fraction: Annotated[float, Field(gt=0, le=0.5)]
    """Share of the training set that is held out, of each class in proportion to its size."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Draws the hold-out and the order of the calibration images."""


class Dataset(Section):
    """One dataset."""

    source: Source
    """A built-in one, or a `folder` (train/CLASS/*.png, test/CLASS/*.png) or `.npz` that DVC tracks."""
    path: str
    """The tracked folder or file; `data/none` for a built-in source."""

    @model_validator(mode="after")
    def _path_fits_source(self) -> "Dataset":
        builtin = self.source in get_args(BuiltinSource)
        if not self.path or builtin != (self.path == str(paths.NO_FILE)):
            need = f"`{paths.NO_FILE}`" if builtin else "the folder or file, tracked by DVC"
            raise ValueError(f"path {short(self.path)} does not fit source {self.source!r}: give {need}")
        return self


class LowResolution(Section):
    """First epochs on smaller images."""

    size: Annotated[int, Field(ge=8, le=512)]
    """Height and width in pixels."""
    epochs: Annotated[int, Field(ge=1, le=1000)]
    """How many epochs at this size."""


class Recipe(Section):
    """A training recipe: SGD."""

    epochs: Annotated[int, Field(ge=1, le=2000)]
    """Passes over the training set. The last one counts."""
    batch_size: Annotated[int, Field(ge=2, le=8192)] = 128
    """Images a step."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.1
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay from the peak to 0 after warm-up."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of all steps in which the learning rate rises linearly to its peak."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """SGD momentum."""
    nesterov: bool = True
    """Nesterov's form of momentum."""
    weight_decay: Annotated[float, Field(ge=0, le=0.1)] = 5e-4
    """L2 penalty on weights; none on norms and biases."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes."""
    flip: bool = True
    """Mirror half of the images (off for digits)."""
    crop_padding: Annotated[int, Field(ge=0, le=16)] = 4
    """Random translation by up to so many pixels, the border padded with zeros."""
    low_resolution: list[LowResolution] = []
    """First epochs on smaller images, in order; the others train at the images' own size."""
    evaluate_every: Annotated[int, Field(ge=1, le=1000)] = 1
    """Epochs between two accuracies in the curve; the last epoch always has one."""

    @model_validator(mode="after")
    def _low_resolution_fits(self) -> "Recipe":
        low = sum(stage.epochs for stage in self.low_resolution)
        if low >= self.epochs:
            raise ValueError(f"low_resolution takes {low} of {self.epochs} epochs: leave one at the full size")
        if self.nesterov and self.momentum == 0:
            raise ValueError("momentum 0 has no Nesterov form: set nesterov to false")
        return self


class Normalisation(Section):
    """What is subtracted from images in [0, 1], and what that is divided by: a value a channel."""

    mean: Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
    """Subtracted."""
    std: Annotated[list[Annotated[float, Field(gt=0, le=10)]], Field(min_length=1)]
    """Divided by."""

    @model_validator(mode="after")
    def _as_many(self) -> "Normalisation":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std {len(self.std)}: give one of each a channel")
        return self


IMAGENET = Normalisation(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
"""What torchvision's and most other pretrained weights were trained with."""

NormalisedBy = Annotated[
    Annotated[Literal["dataset", "imagenet"], Tag("[name]")] | Annotated[Normalisation, Tag("[values]")],
    Discriminator(lambda value: "[name]" if isinstance(value, str) else "[values]"),
]


class Workload(Section):
    """One model on one dataset, with its training recipe or with weights that somebody already has."""

    model: str
    """`resnet18`, `resnet20` (for 32×32 images), or one of torchvision's as `torchvision/NAME`."""
    dataset: str
    """A key of `datasets`."""
    training: str
    """A key of `training`, as `training.KEY`; with `weights`, what fine-tuning inherits (batch, augmentation …)."""
    precision: TrainingPrecision = "auto"
    """`fp32` is strict; `tf32` uses it where a GPU has it; `amp` is torch.amp in bf16, in fp16 on a GPU without bf16,
    and FP32 on a CPU that would only emulate bf16; `auto` is `amp` where the device computes bf16 natively, `tf32`
    elsewhere."""
    weights: Annotated[str, Field(min_length=1)]
    """A file of weights (safetensors, or a state dict) that takes the place of training; `data/none` to train."""
    normalisation: NormalisedBy = "dataset"
    """What images are normalised by before the model sees them: the training set's own mean and deviation
    (`dataset`), ImageNet's (`imagenet`), or `{mean: […], std: […]}`. Given weights want what they were trained with."""


class PruningPoint(Section):
    """How much is pruned and how the rest is fine-tuned."""

    ratio: Annotated[float, Field(ge=0, le=0.95)]
    """Share of each layer's output channels that is removed (the classifier keeps its own)."""
    epochs: Annotated[int, Field(ge=0, le=2000)]
    """Fine-tuning epochs; 0 leaves the pruned weights as they are."""
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    """Peak learning rate of fine-tuning."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay to 0."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps that warm up."""
    distillation: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of the unpruned model's soft labels against the true ones; 0 needs no teacher."""
    temperature: Annotated[float, Field(gt=0, le=20)] = 4.0
    """Softens the teacher's labels."""
    round_to: Annotated[int, Field(ge=2, le=64)] | None = None
    """Takes the place of `pruning.round_to` at this point."""


class Pruning(Section):
    """What all pruning points share."""

    importance: Literal["l1", "l2", "lamp", "fpgm", "bn_scale", "random"] = "l1"
    """Criterion by which channels are kept (torch-pruning)."""
    scope: Literal["uniform", "global"] = "uniform"
    """`uniform` prunes every layer by the ratio; `global` ranks the channels of all layers together."""
    round_to: Annotated[int, Field(ge=2, le=64)] | None = None
    """Keep widths that are multiples of this (hardware likes 8 or 16); null keeps `int(c·(1−ratio))`."""


class Variant(Section):
    """A workload at one pruning point."""

    workload: str
    """A key of `workloads`."""
    pruning: str
    """`prune` (the candidate's point) or `sweep.KEY`."""
    precisions: list[Precision] = ["fp32", "fp16", "int8"]
    """What is exported and measured; an empty list where only the pruning table asks for the variant."""


class Quantization(Section):
    """Post-training INT8."""

    calibration_images: Annotated[int, Field(ge=10, le=10_000)] = 500
    """How many training images calibrate: outside the hold-out, each class in proportion to its size."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How activation ranges are chosen from the calibration images."""
    percentile: Annotated[float, Field(ge=90, le=100)] = 99.99
    """Share of values inside the range, in percent, for `percentile`."""


class Benchmark(Section):
    """How exported files are timed."""

    batch_size: Annotated[int, Field(ge=2, le=65536)] = 64
    """The large batch, for throughput; latency is timed at batch 1."""
    warmup: Annotated[int, Field(ge=1, le=1000)] = 10
    """Untimed runs before each series."""
    repeats: Annotated[int, Field(ge=10, le=100_000)] = 200
    """Timed runs at batch 1."""
    batch_repeats: Annotated[int, Field(ge=5, le=100_000)] = 20
    """Timed runs at the large batch."""
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    """Threads of the runtime; 0 takes all cores."""
    runtimes: Annotated[list[Runtime], Field(min_length=1)] = ["onnxruntime"]
    """What files are measured in. One that is not available (TensorRT without a GPU) is reported and skipped."""
    gpu_batch_size: Annotated[int, Field(ge=2, le=65536)] = 1024
    """The large batch on a GPU."""
    builds: Annotated[int, Field(ge=1, le=100)] = 1
    """How often a TensorRT engine is built: no two builds need be alike, and the report gives their spread."""


class Report(Section):
    """What the report says besides its tables."""

    title: Annotated[str, Field(min_length=1)]
    """The report's heading."""
    baseline: str
    """The unpruned variant that the candidate is compared with."""
    candidate: str
    """The variant that the study proposes."""
    notes: list[str] = []
    """Assumptions, printed under the heading."""


class Params(Section):
    """The whole of params.yaml: one study."""

    study: Name
    """The study's name: `records/STUDY` and `reports/STUDY`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
    """Every variant is trained and measured once a seed."""
    data: Data
    """How datasets are read and split."""
    datasets: Annotated[dict[Name, Dataset], Field(min_length=1)]
    """The datasets, by name."""
    training: Annotated[dict[Name, Recipe], Field(min_length=1)]
    """Training recipes, by name."""
    workloads: Annotated[dict[Name, Workload], Field(min_length=1)]
    """Models on datasets, by name."""
    sweep: dict[Name, PruningPoint]
    """Pruning points shared by workloads, by name."""
    prune: PruningPoint
    """The candidate's pruning point."""
    pruning: Pruning
    """What all pruning points share."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    """Workloads at pruning points, by name."""
    quantization: Quantization
    """Post-training INT8."""
    benchmark: Benchmark
    """How exported files are timed."""
    report: Report
    """What the report says besides its tables."""

    @model_validator(mode="after")
    def _references_resolve(self) -> "Params":
        problems = [*self._workload_problems(), *self._variant_problems(), *self._report_problems()]
        problems += self._repetitions()
        problems = problems or self._role_problems()
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _workload_problems(self) -> list[str]:
        recipes = [f"training.{key}" for key in self.training]
        return [
            problem
            for key, workload in self.workloads.items()
            for problem in (
                _unresolved(f"workloads.{key}.dataset", workload.dataset, self.datasets),
                _unresolved(f"workloads.{key}.training", workload.training, recipes),
                _unresolved(f"workloads.{key}.model", workload.model, MODELS),
            )
            if problem
        ]

    def _variant_problems(self) -> list[str]:
        points = ["prune", *(f"sweep.{key}" for key in self.sweep)]
        return [
            problem
            for key, variant in self.variants.items()
            for problem in (
                _unresolved(f"variants.{key}.workload", variant.workload, self.workloads),
                _unresolved(f"variants.{key}.pruning", variant.pruning, points),
            )
            if problem
        ]

    def _report_problems(self) -> list[str]:
        found = [
            _unresolved(f"report.{role}", name, self.variants)
            for role, name in (("baseline", self.report.baseline), ("candidate", self.report.candidate))
        ]
        return [problem for problem in found if problem]

    def _repetitions(self) -> list[str]:
        lists: dict[str, Sequence[Any]] = {"seeds": self.seeds, "benchmark.runtimes": self.benchmark.runtimes}
        lists |= {f"variants.{key}.precisions": variant.precisions for key, variant in self.variants.items()}
        return [
            f"{key} {short(values)} repeat: list each once"
            for key, values in lists.items()
            if len(set(values)) < len(values)
        ]

    def _role_problems(self) -> list[str]:
        baseline, candidate, problems = self.report.baseline, self.report.candidate, []
        datasets = [self.workload_of(variant).dataset for variant in (candidate, baseline)]
        if datasets[0] != datasets[1]:
            problems.append(
                f"report.candidate {candidate!r} is on dataset {datasets[0]}, report.baseline {baseline!r} on "
                f"{datasets[1]}: name variants on one dataset"
            )
        if self.point(baseline).ratio > 0:
            problems.append(f"report.baseline {baseline!r} is pruned: name a variant of ratio 0")
        if "fp32" not in self.variants[baseline].precisions:
            problems.append(f"variants.{baseline}.precisions lacks fp32, which the report compares with: add it")
        if not self.variants[candidate].precisions:
            problems.append(f"variants.{candidate}.precisions [] leaves nothing to propose: add a precision")
        return problems

    def recipe(self, workload: str) -> Recipe:
        """Return the training recipe of a workload."""
        return self.training[self.workloads[workload].training.removeprefix("training.")]

    def point(self, variant: str) -> PruningPoint:
        """Return the pruning point of a variant."""
        reference = self.variants[variant].pruning
        return self.prune if reference == "prune" else self.sweep[reference.removeprefix("sweep.")]

    def pruning_of(self, variant: str) -> Pruning:
        """Return how a variant is pruned: the shared section, with what its point says otherwise."""
        rounded = self.point(variant).round_to
        return self.pruning.model_copy(update={"round_to": rounded}) if rounded else self.pruning

    def workload_of(self, variant: str) -> Workload:
        """Return the workload of a variant."""
        return self.workloads[self.variants[variant].workload]

    def digest(self) -> str:
        """Return the sha256 of all values."""
        return digest_of(_values(self))

    def training_digest(self, workload: str) -> str:
        """Return the sha256 of what decides a workload's training."""
        spec = self.workloads[workload]
        # Where the raw files lie decides nothing: they are verified.
        data = self.data.model_dump(exclude={"root"}, exclude_defaults=True)
        return digest_of(data, _values(spec), _values(self.datasets[spec.dataset]), _values(self.recipe(workload)))

    def pruning_digest(self, variant: str) -> str:
        """Return the sha256 of what decides a variant's pruning and fine-tuning."""
        workload = self.variants[variant].workload
        return digest_of(self.training_digest(workload), _values(self.point(variant)), _values(self.pruning))

    def measurement_digest(self, variant: str) -> str:
        """Return the sha256 of what decides a variant's files and how they are timed, in whatever runtime."""
        timing = {key: value for key, value in _values(self.benchmark).items() if key != "runtimes"}
        return digest_of(self.pruning_digest(variant), _values(self.quantization), timing)


OWN_MODELS = ("resnet18", "resnet20")

# fmt: off
TORCHVISION_MODELS = (
    "alexnet", "densenet121", "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_400mf", "regnet_x_800mf", "regnet_y_400mf",
    "regnet_y_800mf", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "vgg11",
    "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "wide_resnet50_2",
)
# fmt: on
"""Those of torchvision that end in a linear classifier and have one output."""

MODELS = (*OWN_MODELS, *(f"torchvision/{name}" for name in TORCHVISION_MODELS))


RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def runtimes(names: Sequence[str]) -> list[Runtime]:
    """Return runtimes by name; all without names.

    Raises:
        UserError: a name is unknown.
    """
    unknown = sorted(set(names) - set(RUNTIMES))
    if unknown:
        raise UserError(f"runtime {short(unknown[0])} is unknown: use some of {', '.join(RUNTIMES)}")
    return [known for known in RUNTIMES if not names or known in names]


def _values(section: BaseModel) -> dict[str, Any]:
    """Dump a section without defaults: a field that is added later changes no digest of what came before."""
    return section.model_dump(exclude_defaults=True)


def digest_of(*values: Any) -> str:
    """Return the sha256 of values' canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


MOST_PROBLEMS = 30
"""Reported at once."""
MOST_NODES = 100_000
DEEPEST = 20
"""What a params file may hold, aliases written out: a study has some hundred values, five deep at most."""


def load(path: Path = paths.PARAMS) -> Params:
    """Read and check a params file.

    Raises:
        UserError: a line for every problem: key, value, bound, remedy.
    """
    try:
        return Params.model_validate(_read(path))
    except ValidationError as error:
        lines = [line for detail in error.errors()[:MOST_PROBLEMS] for line in _describe(detail)]
        if error.error_count() > MOST_PROBLEMS:
            lines.append(f"{error.error_count() - MOST_PROBLEMS} more problems: fix these first")
        raise UserError("\n".join(f"{path}: {line}" for line in lines)) from None


def cell(arguments: Sequence[str], section: Literal["datasets", "workloads", "variants"]) -> tuple[Params, str]:
    """Return the study, and the one cell of it that a stage's command line names.

    Args:
        arguments: `sys.argv`.
        section: what the stage is fanned out over.

    Raises:
        UserError: the params are invalid, or the arguments are not exactly one known cell.
    """
    study, role = load(), section.removesuffix("s")
    cells: Collection[str] = getattr(study, section)
    if len(arguments) != 2:
        raise UserError(f"{arguments[0]} takes one {role}, not {len(arguments) - 1} arguments: {_choice(cells)}")
    problem = _unresolved(role, arguments[1], cells)
    if problem:
        raise UserError(problem)
    return study, arguments[1]


def whole(arguments: Sequence[str]) -> Params:
    """Return the study, for a stage whose command line, `sys.argv`, names nothing.

    Raises:
        UserError: the params are invalid, or there is an argument.
    """
    study = load()
    if len(arguments) != 1:
        raise UserError(f"{arguments[0]} takes no arguments, not {len(arguments) - 1}: leave them out")
    return study


def schema() -> str:
    """Return the JSON schema of params.yaml, for editors."""
    return json.dumps(Params.model_json_schema(), indent=2) + "\n"


def _read(path: Path) -> Any:
    try:
        written = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run in the project's root, or name an existing file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a params file") from None
    # DVC's own YAML library: `1e-4` is a number to both, but a string to PyYAML.
    yaml = YAML(typ="safe", pure=True)
    try:
        nodes, depth = _extent(yaml.compose(written), {})
        if nodes > MOST_NODES or depth > DEEPEST:
            raise RecursionError
        return yaml.load(written)
    except RecursionError:
        raise UserError(
            f"{path} holds more than {MOST_NODES} values, aliases written out, or nests them more than {DEEPEST} deep: "
            "start from a file in studies/"
        ) from None
    except Exception as error:  # a tag such as !!float raises whatever the conversion of its value does
        raise UserError(f"{path} is not valid YAML: {one_line(error, 250)}") from None


def _extent(node: Node | None, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Return how many nodes a YAML node unfolds to, and how deep: aliases of aliases multiply, and may be circular."""
    if not isinstance(node, CollectionNode):
        return 1, 1
    if id(node) not in known:
        children = [child for entry in node.value for child in (entry if isinstance(entry, tuple) else (entry,))]
        extents = [_extent(child, known) for child in children]
        known[id(node)] = 1 + sum(nodes for nodes, _ in extents), 1 + max((deep for _, deep in extents), default=0)
    return known[id(node)]


def _unresolved(key: str, value: str, known: Collection[str]) -> str | None:
    if value in known:
        return None
    return f"{key} {short(value)} is unknown: {_choice(known)}{_guess(value, known)}"


def _choice(known: Collection[str]) -> str:
    """Offer names: all of them, or the first few where they are too many for a line."""
    names = ", ".join(known)
    if len(names) > LISTED:
        names = f"{names[:LISTED].rpartition(', ')[0] or next(iter(known))} … ({len(known)} in all)"
    return f"use one of {names}"


LISTED = 160
"""Characters of names in a message."""


def _guess(value: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(value, known, n=1) if len(value) <= LISTED else []
    return f" (did you mean {near[0]}?)" if near else ""


def _describe(detail: ErrorDetails) -> list[str]:
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
            return f"is not a known key{_guess(str(detail['loc'][-1]), known)}: {_choice(known)}"
        case "missing":
            return "is missing: add it"
        case "string_pattern_mismatch":
            return f"{value} does not match {context['pattern']}: rename it"
        case "literal_error":
            return f"{value} is not allowed: use one of {context['expected'].replace(chr(39), '')}"
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal":
            return f"{value} is not in {_range_at(detail)}: set it in that range"
        case kind:
            return f"{value} is wrong ({detail['msg']}): give {_EXPECTED.get(kind, 'a legal value')}"


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
    """Spell the whole range of a field, not just the bound that was broken."""
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
        if "$ref" in node:
            node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def _dotted(location: tuple[int | str, ...]) -> str:
    return ".".join(_key(part) for part in location if not str(part).startswith(("[", "constrained-")))


def _key(part: int | str) -> str:
    text = str(part)
    return text if text.isprintable() and len(text) <= 64 else short(text)
