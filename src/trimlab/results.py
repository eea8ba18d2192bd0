"""A study's records, arranged as its report reads them: by device, workload, variant, precision, seed."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from trimlab.params import Params
from trimlab.records import Epoch, Measurement, Pruning, Record, Training

MIB = 2**20
PRECISIONS = ("fp32", "fp16", "int8")
"""What files are made in."""
COMPUTED = ("fp32", "tf32", "bf16", "fp16", "int8", "int8-entropy")
"""What runtimes compute them in, in the order of rows."""
_NAMES = {
    "resnet18": "ResNet-18",
    "resnet20": "ResNet-20",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny ImageNet",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "state_dict": "state dict",
}
_SPLITS = {"test": "test set", "holdout": "hold-out"}
K = TypeVar("K")
T = TypeVar("T")


class Bench(NamedTuple):
    """Where files were measured: only rows of one bench are compared in time."""

    device: str
    runtime: str


@dataclass(frozen=True)
class Results:
    """A study and its records; each list is ordered by device, seed and digest."""

    study: Params
    trainings: list[Training]
    prunings: list[Pruning]
    measurements: list[Measurement]

    @classmethod
    def of(cls, study: Params, records: Iterable[Record]) -> "Results":
        """Arrange records; their order does not matter."""
        ordered = sorted(records, key=lambda record: (record.device.name, record.seed, record.digest))
        return cls(
            study,
            [record for record in ordered if isinstance(record, Training)],
            [record for record in ordered if isinstance(record, Pruning)],
            [record for record in ordered if isinstance(record, Measurement)],
        )

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [*self.trainings, *self.prunings, *self.measurements]

    def devices(self) -> list[str]:
        """Name the devices, the one with most records first."""
        return _by_count(record.device.name for record in self.records)

    def training_device(self) -> str:
        """Name the device that trained and pruned most: files may have been measured elsewhere."""
        worked = _by_count(record.device.name for record in (*self.trainings, *self.prunings))
        return (worked or self.devices())[0]

    def benches(self) -> list[Bench]:
        """Name where files were measured: the device with most measurements first, runtimes as the study lists them."""
        devices = _by_count(record.device.name for record in self.measurements)
        listed: list[str] = list(self.study.benchmark.runtimes)

        def order(bench: Bench) -> tuple[int, int, str]:
            known = bench.runtime in listed
            return devices.index(bench.device), listed.index(bench.runtime) if known else len(listed), bench.runtime

        return sorted({bench_of(record) for record in self.measurements}, key=order)

    def batch_size(self, bench: Bench) -> int:
        """Return the large batch of a bench."""
        return next((record.batch_latency.batch_size for record in self.at(bench)), self.study.benchmark.batch_size)

    def on(self, device: str) -> "Results":
        """Return what one device recorded."""
        return Results.of(self.study, [record for record in self.records if record.device.name == device])

    def at(self, bench: Bench) -> list[Measurement]:
        """Return the measurements of one bench."""
        return [record for record in self.measurements if bench_of(record) == bench]

    def trained(self, workload: str) -> list[Training]:
        """Return a workload's trainings, one a seed where one device is left."""
        return [record for record in self.trainings if record.workload == workload]

    def pruned(self, variant: str) -> list[Pruning]:
        """Return a variant's pruned models, one a seed where one device is left."""
        return [record for record in self.prunings if record.variant == variant]

    def variants_of(self, workload: str) -> list[str]:
        """Return a workload's variants: by ratio, rounded widths last, plain before distilled, by epochs, as listed."""
        own = [key for key, variant in self.study.variants.items() if variant.workload == workload]
        points = {key: self.study.point(key) for key in own}

        def order(key: str) -> tuple[float, ...]:
            point = points[key]
            return point.ratio, point.round_to or 0, point.distillation, point.epochs

        return sorted(own, key=order)

    def alike(self, variant: str, other: str) -> bool:
        """Say whether two variants remove the same from the same workload: they differ in fine-tuning alone."""
        a, b = (self.study.point(key) for key in (variant, other))
        same_workload = self.study.variants[variant].workload == self.study.variants[other].workload
        return same_workload and (a.ratio, a.round_to) == (b.ratio, b.round_to)

    def unpruned(self, workload: str) -> str | None:
        """Return a workload's untouched variant."""
        return next((key for key in self.variants_of(workload) if is_untouched(self.study, key)), None)

    def dataset_of(self, variant: str) -> str:
        """Return the key of a variant's dataset."""
        return self.study.workload_of(variant).dataset

    def headline_bench(self) -> Bench | None:
        """Return the first bench that measured both baseline (FP32) and candidate."""
        for bench in self.benches():
            measured = self.at(bench)
            if cell(measured, self.study.report.baseline, "fp32") and self.candidate_cell(bench):
                return bench
        return None

    def main_bench(self) -> Bench | None:
        """Return the headline's bench, or else the first."""
        return self.headline_bench() or next(iter(self.benches()), None)

    def candidate_cell(self, bench: Bench) -> list[Measurement]:
        """Return the candidate in its smallest precision there."""
        measured = self.at(bench)
        return next(
            (found for p in reversed(PRECISIONS) if (found := cell(measured, self.study.report.candidate, p))),
            [],
        )

    def cells(self, measured: Iterable[Measurement]) -> list[list[Measurement]]:
        """Group measurements by variant (by workload, then as `variants_of` orders them) and precision."""
        held = list(measured)
        variants = [variant for key in self.study.workloads for variant in self.variants_of(key)]
        found = [cell(held, variant, precision) for variant in variants for precision in COMPUTED]
        return [records for records in found if records]

    def published(self, record: Record, lookup: Callable[..., T], *key: float | str) -> T | None:
        """Look up what was published of a record's model and dataset.

        That was scored on the test set alone; and a point with rounded widths beside one of the same ratio is not
        what was published of that ratio.
        """
        source = self.study.datasets[record.dataset].source
        rounded = isinstance(record, Pruning | Measurement) and self.study.point(record.variant).round_to
        return None if record.split != "test" or (key and rounded) else lookup(record.model, source, *key)

    def missing(self) -> dict[str, list[str]]:
        """Name the cells of the study that have no record: a study in progress has some."""
        variants = self.study.variants
        measured = {(record.variant, record.precision) for record in self.measurements}
        return {
            "training": [key for key in self.study.workloads if not self.trained(key)],
            "pruning": [key for key in variants if not self.pruned(key)],
            "measurement": [
                f"{key} {precision.upper()}"
                for key, variant in variants.items()
                for precision in PRECISIONS
                if precision in variant.precisions and (key, precision) not in measured
            ],
        }


def bench_of(record: Measurement) -> Bench:
    """Return where a file was measured."""
    return Bench(record.device.name, record.runtime)


def is_untouched(study: Params, variant: str) -> bool:
    """Say whether a variant is the workload as trained: nothing removed, nothing fine-tuned."""
    point = study.point(variant)
    return point.ratio == 0 and point.epochs == 0


def cell(measured: Iterable[Measurement], variant: str, precision: str) -> list[Measurement]:
    """Return one variant in one precision: a measurement a seed."""
    return [r for r in measured if (r.variant, r.precision) == (variant, precision)]


def full_size(curve: Sequence[Epoch]) -> list[Epoch]:
    """Return the epochs at the largest image size: those at smaller ones take less time."""
    largest = max((epoch.image_size for epoch in curve), default=0)
    return [epoch for epoch in curve if epoch.image_size == largest]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def pretty(name: str) -> str:
    """Return how a model, dataset or runtime is written."""
    return _NAMES.get(name, name)


def precision_name(precision: str) -> str:
    """Return how a precision is written."""
    return "INT8, entropy" if precision == "int8-entropy" else precision.upper()


def name_ratio(ratio: float, num_params: float, round_to: int | None) -> str:
    """Name a pruning point; rounded widths do not follow from the ratio, so parameters stand with it."""
    name = ratio_percent(ratio)
    return f"{name} ({millions(num_params)} M params)" if round_to else name


def ratio_percent(ratio: float) -> str:
    """Write a ratio as it was asked for: "60 %", "12.5 %"."""
    return f"{round(100 * ratio, 2):g} %"


def percent(share: float) -> str:
    """Write a share of 1 as percent with two decimals, without the sign."""
    return f"{100 * share:.2f}"


def signed(value: float) -> str:
    """Write points with their sign; what rounds to nothing has none."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def split_name(split: str) -> str:
    """Return how the scored split is written."""
    return _SPLITS[split]


def millions(count: float) -> str:
    """Write a count in millions: 11.17, 0.272."""
    return decimals(count / 1e6)


def mib(size_bytes: float) -> str:
    """Write a size in MiB (2^20 bytes): 42.66, 0.123."""
    return decimals(size_bytes / MIB)


def decimals(value: float) -> str:
    """Write a value with two decimals, three below 1."""
    return f"{value:.2f}" if round(value, 2) >= 1 else f"{value:.3f}"


def _by_count(keys: Iterable[K]) -> list[K]:
    counts = Counter(keys)
    return sorted(counts, key=lambda key: (-counts[key], str(key)))
