"""Compare the latency that is predicted from single layers with that of whole files, for many pruned shapes.

    python benchmarks/latency_target.py OUT [--models resnet20 torchvision/mobilenet_v3_small] [--shapes 20]

on a quiet machine, a few minutes a model. The first half of the shapes is pruned uniformly, the others have a random
ratio for each group of coupled layers. Weights are random, because speed does not depend on them. OUT gets rows.json
and predicted.svg. Times of layers and files are kept in OUT, so that what was interrupted goes on.
"""

import argparse
import copy
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from torch import nn

from trimlab import config, machine, progress
from trimlab.latency.meter import Meter
from trimlab.measure import device
from trimlab.models import registry
from trimlab.prune import pruner, sensitivity

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

SHAPE = (3, 32, 32)
RATIOS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of a group of a random shape."""


def main() -> int:
    """Measure, print the rows as JSON, and write them and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", default=["resnet20", "torchvision/mobilenet_v3_small"], metavar="MODEL")
    parser.add_argument("--shapes", type=int, default=20)
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--runtime", choices=["onnxruntime", "openvino"], default="onnxruntime")
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    os.environ["DVC_ROOT"] = str(asked.out)  # where the times are kept
    target = config.Target(latency_ms=1, precision=asked.precision, runtime=asked.runtime, threads=asked.threads)
    with machine.exclusive("latencies") as watch:
        rows = [row for name in asked.models for row in measured(name, Meter(target, SHAPE), asked.shapes)]
    meter = Meter(target, SHAPE)
    about = {
        "device": meter.device, "runtime": meter.runtime, "version": meter.version, "precision": meter.precision,
        "contended": watch.contended, "error": {name: error(rows, name) for name in asked.models},
    }  # fmt: skip
    text = json.dumps({**about, "rows": rows}, indent=1)
    (asked.out / "rows.json").write_text(text + "\n")
    draw(rows, about, asked.out / "predicted.svg")
    print(text)
    return 0


def measured(name: str, meter: Meter, count: int) -> Iterator[dict[str, Any]]:
    """Yield what each shape of a model is predicted to take, and what it takes.

    `corrected_ms` is the prediction times what the unpruned file takes more than its own: what a search for a target
    starts from.
    """
    unpruned = registry.build(name, 10).eval()
    whole = {"predicted_ms": meter.predicted(unpruned), "measured_ms": meter.measured(unpruned).p50_ms}
    for number, (kind, model) in enumerate(shapes(unpruned, count)):
        predicted, took = meter.predicted(model), meter.measured(model).p50_ms
        progress.say(f"{name} {number + 1}/{count}: {predicted:.3f} ms predicted, {took:.3f} ms measured")
        corrected = predicted * whole["measured_ms"] / whole["predicted_ms"]
        yield {
            "model": name, "kind": kind, "predicted_ms": round(predicted, 4), "corrected_ms": round(corrected, 4),
            "measured_ms": round(took, 4), "widths": list(pruner.widths(model).values()),
        }  # fmt: skip


def shapes(unpruned: nn.Module, count: int) -> Iterator[tuple[str, nn.Module]]:
    """Yield pruned copies, and whether they are pruned uniformly or by random ratios."""
    section, draws = config.PruningSettings(), random.Random(0)
    groups = sensitivity.groups(unpruned, SHAPE)
    for ratio in np.linspace(0.1, 0.8, count // 2):
        model = copy.deepcopy(unpruned)
        pruner.prune(model, round(float(ratio), 4), section, SHAPE)
        yield "uniform", model
    for _ in range(count - count // 2):
        model = copy.deepcopy(unpruned)
        ratios = {layer: ratio for group in groups for ratio in [draws.choice(RATIOS)] for layer in group.layers}
        pruner.prune(model, 0.0, section, SHAPE, ratios=ratios)
        yield "random", model


def error(rows: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Return how far corrected predictions are off, as a share of what was measured: the median and the largest."""
    off = [abs(row["corrected_ms"] / row["measured_ms"] - 1) for row in rows if row["model"] == name]
    return {"median": round(float(np.median(off)), 4), "largest": round(max(off), 4)}


def draw(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """Write the figure: measured over predicted."""
    figure, axes = plt.subplots(figsize=(6, 6))
    for index, name in enumerate(dict.fromkeys(row["model"] for row in rows)):
        for kind, form in (("uniform", "o"), ("random", "x")):
            found = [row for row in rows if (row["model"], row["kind"]) == (name, kind)]
            points = [[row[key] for row in found] for key in ("corrected_ms", "measured_ms")]
            axes.plot(*points, form, color=f"C{index}", label=f"{name}, {kind}")
    ends = [f([row[key] for row in rows for key in ("corrected_ms", "measured_ms")]) for f in (min, max)]
    axes.plot(ends, ends, color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="predicted, ms at batch 1", ylabel="measured, ms at batch 1")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 3, 4, 6, 8)))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FormatStrFormatter("%g"))
    threads = about["device"]["threads"]
    axes.set_title(
        f"{device.processor_name()}, {threads} thread{'s' * (threads > 1)}, {about['runtime']} {about['version']}, "
        f"{about['precision']}",
        fontsize=9,
    )
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
