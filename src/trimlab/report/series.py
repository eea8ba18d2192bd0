"""A report's metrics and plot data for DVC."""

import csv
import io
from collections.abc import Sequence

from trimlab.records import Measurement
from trimlab.report.results import Results, batch_speedup, mean, of_file, speedup
from trimlab.report.text import MIB, millions, percent


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
            "size_mib": round(mean([r.deployed_bytes for r in found]) / MIB, 3),
            "latency_ms": round(mean([r.latency.p50_ms for r in found]), 3),
            "images_per_second": round(mean([r.batch_latency.images_per_second for r in found]), 1),
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
    """Return CSV texts for `dvc plots`: one device, and the candidate's workload where a line is drawn."""
    workload = results.study.variants[results.study.candidate].workload
    first = results.on(results.training_device())
    return {
        "accuracy_by_size": _accuracy_by_size(results),
        "pruning": _pruning_data(first, workload),
        "training": _training_data(first, workload),
    }


def _accuracy_by_size(results: Results) -> str:
    bench = results.main_bench()
    measured = results.at(bench) if bench else []
    dataset = results.dataset_of(results.study.candidate)
    rows = [
        [
            found[0].variant,
            found[0].precision,
            f"{mean([r.deployed_bytes for r in found]) / MIB:.3f}",
            percent(mean([r.top1_accuracy for r in found])),
        ]
        for found in results.by_file(record for record in measured if record.dataset == dataset)
    ]
    return _csv(["variant", "precision", "size_mib", "top1_percent"], rows)


def _pruning_data(results: Results, workload: str) -> str:
    rows = [
        [
            variant,
            f"{100 * found[0].ratio:g}",
            millions(mean([r.num_params for r in found])),
            percent(mean([r.top1_before for r in found])),
            percent(mean([r.top1_accuracy for r in found])),
        ]
        for variant in results.swept(workload)
        if (found := results.pruned(variant))
    ]
    return _csv(["variant", "ratio_percent", "params_millions", "top1_before_percent", "top1_after_percent"], rows)


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
