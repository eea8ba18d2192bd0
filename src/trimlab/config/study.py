"""params.yaml as a whole: one study, in which every reference resolves."""

from collections.abc import Hashable, Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import Field, model_validator

from trimlab import formats
from trimlab.config.choices import unresolved
from trimlab.config.sections import (
    Benchmark,
    Data,
    DatasetSource,
    Name,
    PruningPoint,
    PruningSettings,
    Quantization,
    Recipe,
    Report,
    Section,
    Variant,
    learning_rate_problem,
)
from trimlab.config.workload import Workload
from trimlab.digests import digest_of
from trimlab.errors import short


class PruningKeys(NamedTuple):
    """Where params say what decides a pruning, for error messages."""

    ratio: str = "ratio"
    round_to: str = "round_to"
    keep: str = "keep"
    allocation: str = "allocation"
    target: str = "target"
    sparsity: str = "sparsity"


class Params(Section):
    """The whole of params.yaml: one study."""

    study: Name
    """The study's name: `records/STUDY` and `reports/STUDY`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**31 - 1)]], Field(min_length=1)]
    """Every variant is trained and measured once per seed."""
    data: Data
    """How datasets are read and split."""
    datasets: Annotated[dict[Name, DatasetSource], Field(min_length=1)]
    """The datasets, by name."""
    training: Annotated[dict[Name, Recipe], Field(min_length=1)]
    """Training recipes, by name."""
    workloads: Annotated[dict[Name, Workload], Field(min_length=1)]
    """Models on datasets, by name."""
    sweep: dict[Name, PruningPoint]
    """Pruning points shared by workloads, by name."""
    prune: PruningPoint | None = None
    """The candidate's pruning point; only needed where a variant refers to it."""
    pruning: PruningSettings
    """What all pruning points share."""
    variants: Annotated[dict[Name, Variant], Field(min_length=1)]
    """Workloads at pruning points, by name."""
    quantization: Quantization
    """Quantization to INT8."""
    benchmark: Benchmark
    """How exported files are timed."""
    report: Report
    """What the report says besides its tables."""

    @model_validator(mode="after")
    def _references_resolve(self) -> "Params":
        problems = [*self._workload_problems(), *self._variant_problems(), *self._report_problems()]
        problems += self._repetitions()
        problems = problems or [
            *self._role_problems(),
            *self._fine_tuning_problems(),
            *self._pruning_problems(),
            *self._latency_problems(),
        ]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _workload_problems(self) -> list[str]:
        recipes = [f"training.{key}" for key in self.training]
        return [
            problem
            for key, workload in self.workloads.items()
            for problem in (
                unresolved(f"workloads.{key}.dataset", workload.dataset, self.datasets),
                unresolved(f"workloads.{key}.training", workload.training, recipes),
            )
            if problem
        ]

    def _variant_problems(self) -> list[str]:
        return [
            problem
            for key, variant in self.variants.items()
            for problem in (
                unresolved(f"variants.{key}.workload", variant.workload, self.workloads),
                self._point_problem(f"variants.{key}.pruning", variant.pruning),
            )
            if problem
        ]

    def _point_problem(self, key: str, reference: str) -> str | None:
        if reference == "prune" and not self.prune:
            return f"{key} 'prune' refers to the section prune, which is missing: add it, or refer to a point of sweep"
        return unresolved(key, reference, ["prune", *(f"sweep.{name}" for name in self.sweep)])

    def _report_problems(self) -> list[str]:
        found = [
            unresolved(f"report.{role}", name, self.variants)
            for role, name in (("baseline", self.report.baseline), ("candidate", self.report.candidate))
        ]
        return [problem for problem in found if problem]

    def _repetitions(self) -> list[str]:
        lists: dict[str, Sequence[Any]] = {"seeds": self.seeds, "benchmark.runtimes": self.benchmark.runtimes}
        lists["report.evaluate"] = self.report.evaluate
        lists |= {f"variants.{key}.precisions": variant.precisions for key, variant in self.variants.items()}
        return [
            f"{key} {short(values)} repeats a value: list each value once"
            for key, values in lists.items()
            if len(set(values)) < len(values)
        ]

    def _role_problems(self) -> list[str]:
        baseline, candidate, problems = self.report.baseline, self.report.candidate, []
        datasets = [self.workload_of(variant).dataset for variant in (candidate, baseline)]
        if datasets[0] != datasets[1]:
            problems.append(
                f"report.candidate {candidate!r} is on dataset {datasets[0]}, report.baseline {baseline!r} on "
                f"{datasets[1]}: name variants on the same dataset"
            )
        if self.point(baseline).prunes:
            problems.append(f"report.baseline {baseline!r} is pruned: name a variant of ratio 0")
        if "fp32" not in self.variants[baseline].precisions:
            problems.append(f"variants.{baseline}.precisions lacks fp32, which the report compares with: add it")
        if not self.variants[candidate].precisions:
            problems.append(f"variants.{candidate}.precisions [] leaves nothing to propose: add a precision")
        return problems

    def _fine_tuning_problems(self) -> list[str]:
        found = {
            f"{variant.pruning}.learning_rate {problem}"
            for key, variant in self.variants.items()
            if self.point(key).trained
            and (problem := learning_rate_problem(self.recipe(variant.workload), self.point(key).learning_rate))
        }
        found |= {
            f"{variant.pruning}.sparsity.learning_rate {problem}"
            for key, variant in self.variants.items()
            if (sparsity := self.point(key).sparsity)
            and (problem := learning_rate_problem(self.recipe(variant.workload), sparsity.learning_rate))
        }
        rate = self.quantization.qat.learning_rate
        found |= {
            f"quantization.qat.learning_rate {problem}"
            for variant in self.variants.values()
            if variant.is_trained_quantized and (problem := learning_rate_problem(self.recipe(variant.workload), rate))
        }
        return sorted(found)

    def _pruning_problems(self) -> list[str]:
        """Say which values of pruning have no effect."""
        rounds = [self.pruning_of(key).round_to for key in self.variants]
        problems = (
            ["pruning.rounding has nothing to round: add round_to"]
            if self.pruning.rounding != "down" and not any(rounds)
            else []
        )
        for reference, key in {variant.pruning: key for key, variant in self.variants.items()}.items():
            point, section = self.point(key), self.pruning_of(key)
            if point.rounding and not section.round_to:
                problems.append(f"{reference}.rounding {point.rounding!r} has nothing to round: add round_to")
            if point.rounding and section.measured:
                problems.append(
                    f"{reference}.rounding {point.rounding!r} has no effect: allocation {section.allocation} chooses "
                    "among the multiples of round_to: remove it"
                )
            if point.sparsity and section.measured:
                problems.append(
                    f"{reference}.sparsity does not go with allocation {section.allocation}, which measures the "
                    "weights before it: remove it, or choose another allocation"
                )
            if point.importance and point.initial == "scratch" and section.allocation == "uniform":
                problems.append(
                    f"{reference}.importance {point.importance!r} has no effect: initial scratch takes widths from "
                    f"pruning, and with allocation {section.allocation} the ratio decides them: remove it"
                )
        return problems

    def _latency_problems(self) -> list[str]:
        """Say which latencies the benchmark would not show as they are asked for."""
        problems = []
        for key, variant in self.variants.items():
            target, name = self.point(key).target, f"{variant.pruning}.target"
            if not target or not target.latency_ms:
                continue
            if target.runtime not in self.benchmark.runtimes:
                problems.append(f"benchmark.runtimes lacks {target.runtime}, where {name} is timed: add it")
            if target.threads != self.benchmark.threads:
                threads = self.benchmark.threads
                problems.append(f"{name}.threads {target.threads} is not benchmark.threads {threads}: make them equal")
            if variant.precisions and target.precision not in variant.precisions:
                problems.append(f"variants.{key}.precisions lacks {target.precision}, in which {name} is timed: add it")
        return sorted(set(problems))

    def recipe(self, workload: str) -> Recipe:
        """Return the training recipe of a workload."""
        return self.training[self.workloads[workload].training.removeprefix("training.")]

    def point(self, variant: str) -> PruningPoint:
        """Return the pruning point of a variant."""
        reference = self.variants[variant].pruning
        if reference == "prune":
            assert self.prune
            return self.prune
        return self.sweep[reference.removeprefix("sweep.")]

    def pruning_of(self, variant: str) -> PruningSettings:
        """Return the pruning settings of a variant: the shared section, with the values that its point replaces."""
        point = self.point(variant)
        names = ("importance", "allocation", "round_to", "rounding")
        own = {name: value for name in names if (value := getattr(point, name)) is not None}
        return self.pruning.model_copy(update=own) if own else self.pruning

    def pruning_keys(self, variant: str) -> PruningKeys:
        """Return the keys that decide a variant's pruning."""
        name, point = self.variants[variant].pruning, self.point(variant)
        round_to, allocation = (
            f"{name if getattr(point, key) else 'pruning'}.{key}" for key in ("round_to", "allocation")
        )
        others = (f"{name}.{key}" for key in ("target", "sparsity"))
        return PruningKeys(f"{name}.ratio", round_to, f"{name}.keep", allocation, *others)

    def same_shape(self, variant: str, other: str) -> bool:
        """Return whether two variants of one workload are asked to have the same widths."""
        return self.shape(variant) == self.shape(other)

    def shape(self, variant: str) -> Hashable:
        """Return what is equal of variants of one workload that are asked to have the same widths."""
        point, section = self.point(variant), self.pruning_of(variant)
        ranked = (section.importance, point.steps) if section.allocation != "uniform" else None
        widths = section.allocation, section.round_to, section.rounding, tuple(point.keep)
        return self.variants[variant].workload, point.ratio, point.target, *widths, ranked

    def measures_sensitivity(self, variant: str) -> bool:
        """Return whether a variant's ratios are chosen from its workload's measured sensitivity."""
        return self.pruning_of(variant).measured and self.point(variant).prunes

    def variants_of(self, workload: str) -> list[str]:
        """Return the variants of a workload."""
        return [key for key, variant in self.variants.items() if variant.workload == workload]

    def workload_of(self, variant: str) -> Workload:
        """Return the workload of a variant."""
        return self.workloads[self.variants[variant].workload]

    def digest(self) -> str:
        """Return the sha256 of all values that decide a figure: the report's title and notes do not."""
        return digest_of(_values(self) | {"report": self.report.model_dump(include={"baseline", "candidate"})})

    def training_digest(self, workload: str) -> str:
        """Return the sha256 of what decides a workload's training."""
        spec = self.workloads[workload]
        # The folder of the raw files decides nothing: their content is verified.
        data = self.data.model_dump(exclude={"root"}, exclude_defaults=True)
        return digest_of(data, _values(spec), _values(self.datasets[spec.dataset]), _values(self.recipe(workload)))

    def pruning_digest(self, variant: str) -> str:
        """Return the sha256 of what decides a variant's pruning and fine-tuning."""
        workload, pruning = self.variants[variant].workload, _values(self.pruning)
        if not self.measures_sensitivity(variant):
            pruning.pop("sensitivity_images", None)
        return digest_of(self.training_digest(workload), _values(self.point(variant)), pruning)

    def sensitivity_digest(self, variant: str) -> str:
        """Return the sha256 of what decides the sensitivity from which a variant's ratios are chosen."""
        workload, section = self.variants[variant].workload, self.pruning_of(variant)
        own = section.importance, section.sensitivity_images, self.point(variant).keep
        return digest_of(self.training_digest(workload), *own)

    def quantization_of(self, precision: str) -> dict[str, Any]:
        """Return what decides files of a precision, without defaults."""
        values = _values(self.quantization)
        return {key: value for key, value in values.items() if key != "qat" or formats.BY_NAME[precision].trained}

    def measurement_digest(self, variant: str, runtime: str, precision: str) -> str:
        """Return the sha256 of what decides a variant's file and how it is timed in a runtime."""
        others = {"batch_size"} if runtime == "tensorrt" else {"gpu_batch_size", "builds"}
        timing = {key: value for key, value in _values(self.benchmark).items() if key not in {"runtimes", *others}}
        return digest_of(self.pruning_digest(variant), self.quantization_of(precision), timing)


def _values(section: Section) -> dict[str, Any]:
    """Dump a section without defaults: a field that is added later changes no digest of what came before."""
    return section.model_dump(exclude_defaults=True)
