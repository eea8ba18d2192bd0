"""Time a file against itself, and count how often the report's interval covers 1.

    python benchmarks/aa.py

on a quiet machine, about five minutes. Each trial is what a cell of the stage `benchmark` measures: the file and a copy
of it, in a few processes, one after another. Exits with 1 where the interval covers 1 in fewer than 90 % of the trials.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from trimlab import machine
from trimlab.benchmark import interpreters
from trimlab.measure import device
from trimlab.measure.contract import Request
from trimlab.models import registry
from trimlab.quantize import export
from trimlab.report.intervals import over_processes
from trimlab.report.text import times

SHAPE = (3, 32, 32)
BATCH = 16
SERIES = {"batch 1": "latency", f"batch {BATCH}": "batch_latency"}
LEAST = 0.9
"""Share of the trials in which the interval has to cover 1."""


def main() -> int:
    """Run the trials and print what they found; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--processes", type=int, default=3, choices=range(2, 21), metavar="N", help="2 to 20")
    parser.add_argument("--repeats", type=int, default=200, help="timed calls at batch 1; a tenth at the larger batch")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, machine.exclusive("A/A test") as watch:
        request = prepared(Path(scratch), asked.processes, asked.repeats)
        records = [interpreters.run_measure(request) for _ in range(asked.trials)]
    found = {name: [ratios(record, series) for record in records] for name, series in SERIES.items()}
    shares = {name: float(np.mean([covers(trial) for trial in trials])) for name, trials in found.items()}
    first = records[0]
    print(
        f"{device.processor_name()}, {first['device']['threads']} threads, ONNX Runtime {first['runtime_version']}: "
        f"ResNet-20 FP32 against itself, n={asked.trials} trials of {asked.processes} processes, p50 of "
        f"{asked.repeats} calls at batch 1 and {asked.repeats // 10} at batch {BATCH}"
    )
    for name, trials in found.items():
        within = float(np.mean([min(trial) <= 1 <= max(trial) for trial in trials]))
        spread = float(np.std(np.log(trials)))
        print(
            f"- {name}: the 95 % interval covers 1 in {shares[name]:.0%} of the trials (the range of the ratios: "
            f"{within:.0%}); all processes together {times(over_processes(np.ravel(trials).tolist()), '×')}; standard "
            f"deviation of a process's ratio {spread:.1%}"
        )
    print(f"- Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}")
    return int(min(shares.values()) < LEAST)


def prepared(scratch: Path, processes: int, repeats: int) -> Request:
    """Return a request of a file and its copy; weights are random, because speed does not depend on them."""
    export.export(registry.build("resnet20", 10).eval(), SHAPE, scratch / "file.onnx")
    shutil.copyfile(scratch / "file.onnx", scratch / "copy.onnx")
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8)
    np.save(scratch / "images.npy", images)
    np.savez(scratch / "pack.npz", labels=np.zeros(BATCH, int), mean=np.full(3, 0.5), std=np.full(3, 0.25))
    np.save(scratch / "torch.npy", np.zeros(BATCH, np.uint16))
    return Request(
        model=str(scratch / "file.onnx"), baseline=str(scratch / "copy.onnx"), precision="fp32", runtime="onnxruntime",
        images=str(scratch / "images.npy"), pack=str(scratch / "pack.npz"), predictions=str(scratch / "labels.npy"),
        torch_labels=str(scratch / "torch.npy"), onnx_labels=None, exact_labels=None, seven_bit=None, calibration=None,
        engines=None, batch_size=BATCH, warmup=10, repeats=repeats, batch_repeats=repeats // 10, processes=processes,
        threads=0, builds=1, lineage={},
    )  # fmt: skip


def ratios(record: dict[str, Any], series: str) -> list[float]:
    """Return how much faster the file was than its copy, in each process."""
    return [process[f"baseline_{series}"]["p50_ms"] / process[series]["p50_ms"] for process in record["processes"]]


def covers(trial: list[float]) -> bool:
    """Say whether the report's interval of a trial's ratios covers 1."""
    found = over_processes(trial)
    return found.low is not None and found.high is not None and found.low <= 1 <= found.high


if __name__ == "__main__":
    sys.exit(main())
