"""A report's metrics and plot data for DVC."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeVar

from trimlab.records import Measurement, Pruning
from trimlab.report.findings import pareto
from trimlab.report.results import Results, batch_speedup, images_per_second, latency_ms, mean, of_file, speedup
from trimlab.report.text import MIB, millions, percent, precision_name

R = TypeVar("R", Measurement, Pruning)

_APART = 0.03
"""Share of the axis of costs, which is logarithmic, between two named points."""


def metrics(results: Results) -> dict[str, dict[str, float]]:
    """Return thirteen scalars for `dvc metrics`: baseline in FP32, candidate in its smallest precision."""
    bench = results.headline_bench()
    if bench is None:
        return {"baseline": {}, "candidate": {}}
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    candidate = results.candidate_file(bench)

    def common(found: Sequence[Measurement]) -> dict[str, float]:
        return {
            "top1_percent": round(100 * mean([r.top1_accuracy for r in found]), 2),
            "size_mib": round(_size_mib(found), 3),
            "latency_ms": round(_latency_ms(found), 3),
            "images_per_second": round(images_per_second(found).mean, 1),
        }

    gained = mean([r.top1_accuracy for r in candidate]) - mean([r.top1_accuracy for r in base])
    only = {
        "params_millions": round(mean([r.num_params for r in candidate]) / 1e6, 3),
        "points_lost": round(-100 * gained, 2),
        "speedup": round(speedup(candidate).mean, 2),
        "batch_speedup": round(batch_speedup(candidate).mean, 2),
        # 1 where other processes took part of the machine meanwhile, so that `dvc exp show` shows it.
        "contended": int(any(r.contended for r in candidate)),
    }
    return {"baseline": common(base), "candidate": common(candidate) | only}


def plot_data(results: Results) -> dict[str, str]:
    """Return CSV texts for `dvc plots`: one device, and of trainings and pruned models the candidate's workload.

    The column `label` names what nothing else beats in both accuracy and cost; in a plot other names would collide.
    """
    workload = results.study.variants[results.study.report.candidate].workload
    first = results.on(results.training_device())
    bench = results.main_bench()
    dataset = results.dataset_of(results.study.report.candidate)
    files = results.by_file(record for record in (results.at(bench) if bench else []) if record.dataset == dataset)
    return {
        "accuracy_by_size": _files_data(files, "size_mib", _size_mib),
        "accuracy_by_latency": _files_data(files, "latency_ms", _latency_ms),
        "pruning": _pruning_data(first, workload),
        "training": _training_data(first, workload),
    }


def _files_data(files: Sequence[list[Measurement]], name: str, cost: Callable[[Sequence[Measurement]], float]) -> str:
    rows = [
        [
            found[0].variant,
            found[0].precision,
            f"{cost(found):.3f}",
            percent(mean([r.top1_accuracy for r in found])),
            f"{found[0].variant} {precision_name(found[0].precision)}" if best else "",
        ]
        for found, best in zip(files, _named(files, cost), strict=True)
    ]
    return _csv(["variant", "precision", name, "top1_percent", "label"], rows)


def _pruning_data(results: Results, workload: str) -> str:
    points = [found for variant in results.swept(workload) if (found := results.pruned(variant))]
    rows = [
        [
            found[0].variant,
            f"{100 * found[0].ratio:g}",
            millions(_num_params(found)),
            percent(mean([r.top1_before for r in found])),
            percent(mean([r.top1_accuracy for r in found])),
            found[0].variant if best else "",
        ]
        for found, best in zip(points, _named(points, _num_params), strict=True)
    ]
    header = ["variant", "ratio_percent", "params_millions", "top1_before_percent", "top1_after_percent", "label"]
    return _csv(header, rows)


def _named(groups: Sequence[Sequence[R]], cost: Callable[[Sequence[R]], float]) -> list[bool]:
    """Say of each group of records whether it is named: nothing else costs less and is more accurate."""
    costs = [cost(found) for found in groups]
    front = pareto([(each, mean([r.top1_accuracy for r in found])) for each, found in zip(costs, groups, strict=True)])
    apart = _APART * math.log(max(costs, default=1.0) / min(costs, default=1.0))
    # The name of a closer one would lie under that of its more accurate neighbour.
    crowded = {index for index, dearer in pairwise(front) if math.log(costs[dearer] / costs[index]) < apart}
    return [index in front and index not in crowded for index in range(len(groups))]


def _size_mib(found: Sequence[Measurement]) -> float:
    return mean([r.deployed_bytes for r in found]) / MIB


def _latency_ms(found: Sequence[Measurement]) -> float:
    return latency_ms(found).mean


def _num_params(found: Sequence[Pruning]) -> float:
    return mean([r.num_params for r in found])


def _training_data(results: Results, workload: str) -> str:
    """Write the mean over seeds; epochs that were not evaluated are left out."""
    curves = [record.curve for record in results.trained(workload)]
    rows = []
    for epochs in zip(*curves, strict=False):
        scored = [epoch.top1_accuracy for epoch in epochs if epoch.top1_accuracy is not None]
        if scored:
            rows.append([str(epochs[0].epoch), f"{mean([e.train_loss for e in epochs]):.4f}", percent(mean(scored))])
    return _csv(["epoch", "train_loss", "top1_percent"], rows)


def _csv(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([headers, *rows])
    return text.getvalue()
