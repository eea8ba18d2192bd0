"""A study's records, arranged as its report reads them: by device, workload, variant, precision, seed."""

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, TypeVar

from trimlab import formats
from trimlab.config import Params, PruningPoint
from trimlab.records import Device, Epoch, Measurement, Pruning, Record, Sensitivity, Training
from trimlab.records.labels import Classified
from trimlab.report.intervals import (
    Answers,
    Difference,
    Replicated,
    over_processes,
    over_seeds,
    paired_difference,
    unpaired_difference,
)
from trimlab.report.text import count, name_ratio, precision_name, pretty

K = TypeVar("K")
T = TypeVar("T")
Identity = tuple[str, ...]
"""A device, by what tells it apart from others (`Device.identity`)."""
Scored = Training | Pruning | Measurement
"""A record with a top-1."""


class Bench(NamedTuple):
    """Where files were measured: only rows of one bench are compared in time."""

    device: Identity
    runtime: str


class Files(list[Measurement]):
    """Measurements in which `of_file` finds a file at once, however many there are."""

    @cached_property
    def held(self) -> dict[tuple[str, str], list[Measurement]]:
        """They, by variant and precision."""
        return _grouped(self, lambda record: (record.variant, record.precision))


class Spread(NamedTuple):
    """How far times of one and the same computation lie apart on a device: the largest median over the smallest."""

    single: float
    """At batch 1, of the group that lies furthest apart."""
    batch: float
    """At the large batch."""
    usual_single: float
    """Median over the groups."""
    usual_batch: float
    groups: int
    """Each of files of one shape, computed in the same precisions by one runtime."""


@dataclass(frozen=True, eq=False)
class Results:
    """A study and its records; each list is ordered by device, seed and digest."""

    study: Params
    trainings: list[Training]
    prunings: list[Pruning]
    measurements: list[Measurement]
    whole: "Results | None" = None
    """What these are a part of."""
    classified: Mapping[str, Classified] = field(default_factory=dict)
    """What a measured file took the images for, by its record's digest; without true labels nobody knows."""
    sensitivities: Sequence[Sensitivity] = ()

    @classmethod
    def of(
        cls,
        study: Params,
        records: Iterable[Record],
        classified: Mapping[str, Classified] | None = None,
        whole: "Results | None" = None,
    ) -> "Results":
        """Arrange records; their order does not matter."""
        ordered = sorted(records, key=lambda record: (record.device.identity, record.seed, record.digest))
        return cls(
            study,
            [record for record in ordered if isinstance(record, Training)],
            [record for record in ordered if isinstance(record, Pruning)],
            [record for record in ordered if isinstance(record, Measurement)],
            whole,
            classified or {},
            [record for record in ordered if isinstance(record, Sensitivity)],
        )

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return [*self.trainings, *self.sensitivities, *self.prunings, *self.measurements]

    def devices(self) -> list[Identity]:
        """Return the devices, the one with most records first."""
        return _by_count(record.device.identity for record in self.records)

    @cached_property
    def labels(self) -> dict[Identity, str]:
        """Name every device: by its model, and where devices share a model, also by what differs."""
        return device_labels(record.device for record in (self.whole or self).records)

    def where(self, bench: Bench) -> str:
        """Name a bench: device and runtime."""
        return f"{self.labels[bench.device]}, {pretty(bench.runtime)}"

    def runtime_name(self, bench: Bench) -> str:
        """Name a bench's runtime, and its device where several devices measured files."""
        several = len({other.device for other in (self.whole or self).benches()}) > 1
        return f"{pretty(bench.runtime)} on {self.labels[bench.device]}" if several else pretty(bench.runtime)

    def key(self, name: str, where: Bench | Identity) -> str:
        """Return the key of a table of one bench or training device: `name`, numbered from the second one on."""
        whole = self.whole or self
        listed: Sequence[object] = whole.benches() if isinstance(where, Bench) else whole.training_devices()
        number = listed.index(where) + 1
        return name if number == 1 else f"{name}-{number}"

    def training_devices(self) -> list[Identity]:
        """Return the devices that trained and pruned, the one with most records first."""
        return _by_count(record.device.identity for record in (*self.trainings, *self.prunings))

    def training_device(self) -> Identity:
        """Return the device that trained and pruned most: files may have been measured elsewhere."""
        return (self.training_devices() or self.devices())[0]

    def benches(self) -> list[Bench]:
        """Return where files were measured: the device with most of them first, runtimes as the study lists them."""
        return list(self._benches)

    @cached_property
    def _benches(self) -> list[Bench]:
        devices = _by_count(record.device.identity for record in self.measurements)
        listed: list[str] = list(self.study.benchmark.runtimes)

        def order(bench: Bench) -> tuple[int, int, str]:
            known = bench.runtime in listed
            return devices.index(bench.device), listed.index(bench.runtime) if known else len(listed), bench.runtime

        return sorted({bench_of(record) for record in self.measurements}, key=order)

    def batch_size(self, bench: Bench) -> int:
        """Return the large batch of a bench."""
        return next((record.batch_latency.batch_size for record in self.at(bench)), self.study.benchmark.batch_size)

    def on(self, device: Identity) -> "Results":
        """Return what one device recorded."""
        return self._on.get(device) or Results.of(self.study, [], self.classified, self.whole or self)

    @cached_property
    def _on(self) -> dict[Identity, "Results"]:
        return {
            device: Results.of(self.study, own, self.classified, self.whole or self)
            for device, own in _grouped(self.records, lambda record: record.device.identity).items()
        }

    def at(self, bench: Bench) -> Files:
        """Return the measurements of one bench."""
        return self._at.get(bench) or Files()

    @cached_property
    def _at(self) -> dict[Bench, Files]:
        return {bench: Files(found) for bench, found in _grouped(self.measurements, bench_of).items()}

    @cached_property
    def baseline_ms(self) -> dict[tuple[Bench, str], tuple[float, float]]:
        """The baseline file's p50 at batch 1 and at the large batch: medians over a bench's files of a workload."""
        beside = _grouped(self.measurements, lambda record: (bench_of(record), record.workload))
        return {
            key: (
                statistics.median(record.baseline_latency.p50_ms for record in found),
                statistics.median(record.baseline_batch_latency.p50_ms for record in found),
            )
            for key, found in beside.items()
        }

    def time_spread(self, device: Identity) -> Spread | None:
        """Return how far times of the same computation lie apart on a device; None where nothing was timed twice.

        The same are files of equal shape and arithmetic, and the unpruned FP32 file, which is timed beside each file.
        """
        return self._time_spreads.get(device)

    @cached_property
    def _time_spreads(self) -> dict[Identity, Spread]:
        return {
            device: spread
            for device, found in _grouped(self.measurements, lambda record: record.device.identity).items()
            if (spread := _time_spread(found))
        }

    def answers(self, record: Scored) -> Answers | None:
        """Return which images a record's model got right; None where that is not known.

        A torch model's answers are those of an FP32 file of the same weights, where both have the same top-1.
        """
        if isinstance(record, Measurement):
            return (self.whole or self)._correct.get(record.digest)
        same = (
            (self.whole or self)._correct.get(r.digest)
            for r in (self.whole or self)._fp32_files.get(record.weights_sha256, [])
            if math.isclose(r.top1_accuracy, record.top1_accuracy)
        )
        return next((answers for answers in same if answers is not None), None)

    @cached_property
    def _correct(self) -> dict[str, Answers]:
        """Which images files got right, by their records' digests."""
        return {digest: classified.correct for digest, classified in self.classified.items()}

    @cached_property
    def _fp32_files(self) -> dict[str, list[Measurement]]:
        return _grouped((r for r in self.measurements if r.precision == "fp32"), lambda record: record.weights_sha256)

    def difference(self, found: Sequence[Scored], base: Sequence[Scored]) -> Difference | None:
        """Return how much higher the top-1 of records is than that of others, seed by seed; None without common seeds.

        Image by image where the answers to the same images are known.
        """
        pairs = [(a, b) for a in found for b in base if a.seed == b.seed]
        differences = [self._difference(a, b) for a, b in pairs]
        return over_seeds(differences) if len(pairs) > 1 else next(iter(differences), None)

    def _difference(self, a: Scored, b: Scored) -> Difference:
        known = (self.whole or self)._differences
        pair = a.digest, b.digest
        if pair not in known:
            known[pair] = self._compared(a, b)
        return known[pair]

    @cached_property
    def _differences(self) -> dict[tuple[str, str], Difference]:
        """Those that are known, by both digests: tables, findings and figures ask for the same ones."""
        return {}

    def _compared(self, a: Scored, b: Scored) -> Difference:
        ours, theirs = self.answers(a), self.answers(b)
        same_images = (a.dataset_sha256, a.split) == (b.dataset_sha256, b.split)
        if same_images and ours is not None and theirs is not None:
            return paired_difference(ours, theirs)
        return unpaired_difference((a.top1_accuracy, a.num_images), (b.top1_accuracy, b.num_images))

    def trained(self, workload: str) -> list[Training]:
        """Return a workload's trainings, one a seed where one device is left."""
        return [record for record in self.trainings if record.workload == workload]

    def pruned(self, variant: str) -> list[Pruning]:
        """Return a variant's pruned models, one a seed where one device is left."""
        return list(self._pruned.get(variant, []))

    @cached_property
    def _pruned(self) -> dict[str, list[Pruning]]:
        return _grouped(self.prunings, lambda record: record.variant)

    def variants_of(self, workload: str) -> list[str]:
        """Return a workload's variants: by ratio, rounded widths last, controls after what they are controls of.

        Then those with the study's allocation first, plain ones before distilled ones, by epochs, as listed.
        """
        return list(self._ordered.get(workload, []))

    @cached_property
    def _ordered(self) -> dict[str, list[str]]:
        points = {key: self.study.point(key) for key in self.study.variants}

        def order(key: str) -> tuple[float, ...]:
            point = points[key]
            control = is_control(self.study, key) + (point.initial == "scratch") + (point.budget == "whole")
            allocated = point.allocation is not None
            return self.ratio(key), point.round_to or 0, control, allocated, point.distillation, point.epochs

        ordered = sorted(self.study.variants, key=order)
        return _grouped(ordered, lambda key: self.study.variants[key].workload)

    def ratio(self, variant: str) -> float:
        """Return a variant's ratio: of its point, or what its records found for its target; without them 1."""
        asked = self.study.point(variant).ratio
        found = (record.ratio for record in (self.whole or self).pruned(variant))
        return next(found, 1.0) if asked is None else asked

    def ratio_name(self, records: Sequence[Pruning] | Sequence[Measurement]) -> str:
        """Name a pruning point by its records, one a seed; figures are means.

        It has its ratio's name; with a target or rounded widths, also that of its parameters.
        """
        variant = records[0].variant
        point, rounded = self.study.point(variant), self.study.pruning_of(variant).round_to
        params = mean([record.num_params for record in records])
        return name_ratio(mean_ratio(records), params, bool(rounded or point.target))

    def alike(self, variant: str, other: str) -> bool:
        """Say whether two variants remove the same from the same workload: they differ in fine-tuning alone."""
        return self.likeness(variant) == self.likeness(other)

    def likeness(self, variant: str) -> Hashable:
        """Return what is equal of variants that are `alike`."""
        return self.study.shape(variant), self.study.pruning_of(variant).importance, self.study.point(variant).initial

    def swept(self, workload: str) -> list[str]:
        """Return a workload's variants without controls, ordered as `variants_of` does."""
        return [key for key in self.variants_of(workload) if not is_control(self.study, key)]

    def unpruned(self, workload: str) -> str | None:
        """Return a workload's untouched variant."""
        return next((key for key in self.variants_of(workload) if is_untouched(self.study, key)), None)

    def unpruned_params(self, workload: str) -> float | None:
        """Return the parameters of a workload's unpruned model, on whatever device it was trained."""
        found = self._unpruned_records(workload)
        return mean([record.num_params for record in found]) if found else None

    def unpruned_macs(self, workload: str) -> float | None:
        """Return the multiply-accumulates of one image in a workload's unpruned model."""
        found = self._unpruned_records(workload)
        return mean([record.macs for record in found]) if found else None

    def _unpruned_records(self, workload: str) -> Sequence[Training | Pruning]:
        whole = self.whole or self
        unpruned = whole.unpruned(workload)
        return whole.trained(workload) or (whole.pruned(unpruned) if unpruned else [])

    def fell_back(self, workload: str) -> bool:
        """Say whether a workload asks for AMP, but this device trained it without, because it has no native bf16."""
        found = self.trained(workload)
        asked = self.study.workloads[workload].precision == "amp"
        return bool(asked and found and found[0].origin == "trained" and found[0].precision in ("fp32", "tf32"))

    def twins(self, workload: str, *precisions: str) -> list[str]:
        """Return the workloads of the same model, dataset and recipe that this device trained in these precisions.

        Workloads that asked for AMP and got FP32 are left out.
        """
        own, found = self.study.workloads[workload], []
        for key, other in self.study.workloads.items():
            same = (other.model, other.dataset, other.training) == (own.model, own.dataset, own.training)
            records = self.trained(key)
            trained = bool(records) and records[0].origin == "trained" and records[0].precision in precisions
            if key != workload and same and trained and not self.fell_back(key):
                found.append(key)
        return found

    def repeats(self, workload: str) -> str | None:
        """Return the workload that this one, having fallen back from AMP, merely repeats; None where it does not."""
        twins = self.twins(workload, self.trained(workload)[0].precision) if self.fell_back(workload) else []
        return twins[0] if twins else None

    def dataset_of(self, variant: str) -> str:
        """Return the key of a variant's dataset."""
        return self.study.workload_of(variant).dataset

    def headline_bench(self) -> Bench | None:
        """Return the first bench that measured both baseline (FP32) and candidate."""
        for bench in self.benches():
            measured = self.at(bench)
            if of_file(measured, self.study.report.baseline, "fp32") and self.candidate_file(bench):
                return bench
        return None

    def main_bench(self) -> Bench | None:
        """Return the headline's bench, or else the first."""
        return self.headline_bench() or next(iter(self.benches()), None)

    def candidate_file(self, bench: Bench) -> list[Measurement]:
        """Return the candidate in the last of its precisions there, in the order of `formats`."""
        measured = self.at(bench)
        return next(
            (found for p in reversed(formats.MADE) if (found := of_file(measured, self.study.report.candidate, p))),
            [],
        )

    def by_file(self, measured: Iterable[Measurement]) -> list[list[Measurement]]:
        """Group measurements by variant (by workload, then as `variants_of` orders them) and precision."""
        held = Files(measured).held
        return [held[key] for key in sorted(held.keys() & self._file_places.keys(), key=self._file_places.__getitem__)]

    @cached_property
    def _file_places(self) -> dict[tuple[str, str], int]:
        variants = [variant for key in self.study.workloads for variant in self.variants_of(key)]
        files = itertools.product(variants, formats.COMPUTED)
        return {file: place for place, file in enumerate(files)}

    def published(self, record: Record, lookup: Callable[..., T], *key: float | str) -> T | None:
        """Look up what was published of a record's model and dataset.

        That was scored on the test set alone; and a control, or a point with widths of its own kind beside one of the
        same ratio, is not what was published of that ratio.
        """
        source = self.study.datasets[record.dataset].source
        other = isinstance(record, Pruning | Measurement) and (
            _has_own_widths(self.study.point(record.variant)) or is_control(self.study, record.variant)
        )
        return None if record.split != "test" or (key and other) else lookup(record.model, source, *key)

    def missing(self) -> list[str]:
        """Say what the study asks for that no record holds, by seed and by runtime."""
        trained = {(record.workload, record.seed) for record in self.trainings}
        pruned = {(record.variant, record.seed) for record in self.prunings}
        said = [
            f"{kind} of {_enumerated(names)}"
            for kind, names in (
                ("training", self._unseeded(self.study.workloads, trained)),
                ("pruning", self._unseeded(self.study.variants, pruned)),
            )
            if names
        ]
        return said + [text for runtime in self.study.benchmark.runtimes if (text := self._unmeasured(runtime))]

    def _unseeded(self, keys: Iterable[str], found: set[tuple[str, int]]) -> list[str]:
        """Name the keys that lack a seed, and which where they have another."""
        absent = {key: [seed for seed in self.study.seeds if (key, seed) not in found] for key in keys}
        return [key + self._some_of(seeds) for key, seeds in absent.items() if seeds]

    def _unmeasured(self, runtime: str) -> str:
        """Say which files of the study were not measured in a runtime."""
        asked = [
            (variant, known.name, seed)
            for variant, settings in self.study.variants.items()
            for known in formats.of_runtime(runtime)
            if known.asked_as in settings.precisions
            for seed in self.study.seeds
        ]
        measured = {(r.variant, r.precision, r.seed) for r in self.measurements if r.runtime == runtime}
        absent = [file for file in asked if file not in measured]
        if not absent:
            return ""
        if len(absent) == len(asked):
            return f"in {pretty(runtime)} {'the only file' if len(asked) == 1 else f'all {len(asked)} files'}"
        here = {precision for _, precision, _ in measured}
        nowhere = [p for p in formats.COMPUTED if p not in here and any(precision == p for _, precision, _ in absent)]
        named = [f"every {precision_name(p)} file" for p in nowhere]
        seeds: dict[str, list[int]] = {}
        for variant, precision, seed in absent:
            if precision not in nowhere:
                seeds.setdefault(f"{variant} {precision_name(precision)}", []).append(seed)
        named += [name + self._some_of(which) for name, which in seeds.items()]
        seldom = " or ".join(precision_name(p) for p in nowhere if formats.derived(p))
        why = f"; not every device computes {seldom}" if seldom else ""
        return f"in {pretty(runtime)} {len(absent)} of {len(asked)} files ({_enumerated(named)}{why})"

    def _some_of(self, seeds: Sequence[int]) -> str:
        """Name seeds, where they are not all of the study's."""
        listed = ", ".join(map(str, seeds))
        return f" ({'seed' if len(seeds) == 1 else 'seeds'} {listed})" if len(seeds) < len(self.study.seeds) else ""


def _grouped(found: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: dict[K, list[T]] = {}
    for each in found:
        groups.setdefault(key(each), []).append(each)
    return groups


def bench_of(record: Measurement) -> Bench:
    """Return where a file was measured."""
    return Bench(record.device.identity, record.runtime)


def device_labels(devices: Iterable[Device]) -> dict[Identity, str]:
    """Name devices, each by its model's name; those of one name also by the features and threads that differ."""
    known = {device.identity: device for device in devices}
    groups: dict[str, list[Device]] = {}
    for device in known.values():
        groups.setdefault(device.name, []).append(device)
    return {identity: _label(device, groups[device.name]) for identity, device in known.items()}


def _label(device: Device, alike: Sequence[Device]) -> str:
    features = [set(other.features) for other in alike]
    differing = sorted(set[str]().union(*features) - features[0].intersection(*features))
    own = [feature for feature in differing if feature in device.features]
    parts = [device.name]
    if len({other.kind for other in alike}) > 1:
        parts.append("GPU" if device.kind == "cuda" else "CPU")
    if differing:
        parts += own or [f"without {' or '.join(differing)}"]
    twins = {o.threads for o in alike if (o.kind, set(o.features)) == (device.kind, set(device.features))}
    if device.kind == "cpu" and len(twins) > 1:
        parts.append(count(device.threads, "thread"))
    return ", ".join(parts)


def _time_spread(measured: Sequence[Measurement]) -> Spread | None:
    """Compare the medians of files that compute the same; see `Results.time_spread`."""
    alike = _grouped(measured, _computation)
    beside = _grouped(measured, lambda record: (bench_of(record), record.workload))
    medians = [([r.latency.p50_ms for r in own], [r.batch_latency.p50_ms for r in own]) for own in alike.values()]
    medians += [
        ([r.baseline_latency.p50_ms for r in own], [r.baseline_batch_latency.p50_ms for r in own])
        for own in beside.values()
    ]
    apart = [(max(one) / min(one), max(many) / min(many)) for one, many in medians if len(one) > 1]
    if not apart:
        return None
    single, batch = zip(*apart, strict=True)
    return Spread(max(single), max(batch), statistics.median(single), statistics.median(batch), len(apart))


def _computation(record: Measurement) -> Hashable:
    """Return what is equal of files that compute the same: runtime, shape, and each layer's precision where known."""
    computed = tuple(layer.precision for layer in record.batch_layers if layer.channels is not None)
    shape = (record.model, record.num_classes, record.num_params, record.macs, record.batch_latency.batch_size)
    return bench_of(record), shape, computed or record.precision


def paired_noise(disagreement: float, num_images: int) -> float:
    """Return the difference in top-1 up to which two ways of computing one file cannot be told apart.

    McNemar's test at 5 %, with the continuity correction: of n images, b are right only in the one and c only in
    the other, and |b − c| − 1 must exceed 1.96 · √(b + c). A record has no b + c, but they are among the images that
    got different labels, so n · disagreement takes their place: the bound is never too small.

    Args:
        disagreement: share of the images with different labels, in [0, 1].
        num_images: n.
    """
    return 1.96 * math.sqrt(disagreement / num_images) + 1 / num_images


def exact_difference(record: Measurement) -> float | None:
    """Return the runtime's top-1 less the exact arithmetic's, in [−1, 1]; None where that was not computed."""
    exact = record.exact_top1_accuracy
    return None if exact is None or record.exact_agreement is None else record.top1_accuracy - exact


def is_inexact(record: Measurement) -> bool:
    """Say whether a runtime's top-1 differs from the file's exact arithmetic by more than noise."""
    difference, agreement = exact_difference(record), record.exact_agreement
    if difference is None or agreement is None:
        return False
    return abs(difference) > paired_noise(1 - agreement, record.num_images)


def is_untouched(study: Params, variant: str) -> bool:
    """Say whether a variant is the workload as trained: nothing removed, nothing fine-tuned."""
    point = study.point(variant)
    return not point.prunes and not point.trained


def _has_own_widths(point: PruningPoint) -> bool:
    """Say whether a point's widths do not follow from its ratio and the section `pruning`."""
    return bool(point.round_to or point.allocation or point.target)


def is_control(study: Params, variant: str) -> bool:
    """Say whether a variant is there to be compared with others: trained from scratch, or by a criterion of its own."""
    point = study.point(variant)
    return point.initial == "scratch" or point.importance is not None


def of_file(measured: Iterable[Measurement], variant: str, precision: str) -> list[Measurement]:
    """Return one variant in one precision: a measurement a seed."""
    if isinstance(measured, Files):
        return list(measured.held.get((variant, precision), []))
    return [r for r in measured if (r.variant, r.precision) == (variant, precision)]


def speedup(found: Iterable[Measurement]) -> Replicated:
    """Return how many times as fast as its unpruned FP32 file a file is at batch 1, over the processes of all seeds."""
    return over_processes([ratio for record in found for ratio in record.speedups])


def batch_speedup(found: Iterable[Measurement]) -> Replicated:
    """Return the same as `speedup` at the large batch."""
    return over_processes([ratio for record in found for ratio in record.batch_speedups])


def latency_ms(found: Iterable[Measurement]) -> Replicated:
    """Return a file's latency at batch 1, over the processes of all seeds."""
    return over_processes([ms for record in found for ms in record.medians_ms("latency")])


def batch_latency_ms(found: Iterable[Measurement]) -> Replicated:
    """Return a file's latency at the large batch, over the processes of all seeds."""
    return over_processes([ms for record in found for ms in record.medians_ms("batch_latency")])


def images_per_second(found: Sequence[Measurement]) -> Replicated:
    """Return a file's throughput at the large batch, over the processes of all seeds."""
    images = 1000 * found[0].batch_latency.batch_size
    mean, low, high, processes = batch_latency_ms(found)
    return Replicated(images / mean, high and images / high, low and images / low, processes)


def full_size(curve: Sequence[Epoch]) -> list[Epoch]:
    """Return the epochs at the largest image size: those at smaller ones take less time."""
    largest = max((epoch.image_size for epoch in curve), default=0)
    return [epoch for epoch in curve if epoch.image_size == largest]


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean."""
    return sum(values) / len(values)


def mean_ratio(records: Sequence[Pruning] | Sequence[Measurement]) -> float:
    """Return the mean ratio over seeds, which differ with a target alone; that of equal ones is the same number."""
    return statistics.fmean(record.ratio for record in records)


def _enumerated(names: Sequence[str]) -> str:
    """List names, of many the first four."""
    more = f" and {len(names) - 4} more" if len(names) > 5 else ""
    return ", ".join(names[: 4 if more else 5]) + more


def _by_count(keys: Iterable[K]) -> list[K]:
    counts = Counter(keys)
    return sorted(counts, key=lambda key: (-counts[key], str(key)))
