"""Measure what docs/speed.md says: `python benchmarks/speed.py`, on a quiet machine.

Ratios are of medians measured side by side in this one run. Weights are random: speed does not depend on them.
"""

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from synthetic import SHAPE, synthetic

from trimlab import config, machine
from trimlab.benchmark import interpreters
from trimlab.measure import device, weights
from trimlab.measure.contract import Request
from trimlab.models import registry
from trimlab.prune import pruner
from trimlab.quantize import export
from trimlab.quantize.int8 import Files, quantize
from trimlab.train import loop
from trimlab.train.precision import UsedPrecision

ROUNDS = 3


def training_speed(scratch: Path) -> str:
    """ResNet-18, batch 128, forward, backward and step with augmentation: images/s, the first epoch left out."""
    dataset = synthetic(128 * 6)
    recipe = config.Recipe(epochs=2, batch_size=128, evaluate_every=2)
    rates: dict[UsedPrecision, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(ROUNDS):
        for precision, found in rates.items():
            resumable = scratch / f"{precision}-{turn}" / "resume.safetensors"
            done = loop.fit(
                registry.build("resnet18", 10), dataset, "test", recipe, precision, 0,
                resumable=resumable, label=f"{precision} {turn}", on_epoch=lambda _: None,
            )  # fmt: skip
            found.append(done.curve[-1].images_per_second)
    fp32, bf16 = (statistics.median(rates[precision]) for precision in ("fp32", "bf16"))
    return f"ResNet-18 training, batch 128, n={ROUNDS}: FP32 {fp32:.0f}, bf16 {bf16:.0f} images/s: {bf16 / fp32:.2f}×"


def deployed_speed(scratch: Path) -> list[str]:
    """ONNX Runtime, batch 64, against the unpruned FP32 file in the same process."""
    images = np.random.default_rng(0).standard_normal((64, *SHAPE)).astype(np.float32)
    benchmarking_pack = scratch / "pack.npz"
    noise = np.random.default_rng(1).integers(0, 256, (256, *SHAPE), dtype=np.uint8)
    np.save(scratch / "pack.npy", noise)
    np.savez(benchmarking_pack, labels=np.zeros(256, int), mean=np.full(3, 0.5), std=np.full(3, 0.25))
    labels = scratch / "torch-labels.npy"
    np.save(labels, np.zeros(256, np.uint16))
    files = {}
    for name, ratio in (("unpruned", 0.0), ("60 % pruned", 0.6)):
        model = registry.build("resnet18", 10).eval()
        pruner.prune(model, ratio, config.PruningSettings(), SHAPE)
        fp32 = scratch / f"{ratio}.onnx"
        int8 = Files(*(scratch / f"{ratio}-{kind}.onnx" for kind in Files._fields))
        export.export(model.eval(), SHAPE, fp32)
        quantize(fp32, images, config.Quantization(), int8)
        saturates = weights.weight_bits(device.processor_flags(), device.is_arm()) == 7
        files |= {f"{name} FP32": fp32, f"{name} INT8": int8.seven_bit if saturates else int8.u8s8}
    section = config.Benchmark(batch_size=64, repeats=200, batch_repeats=30)
    said = []
    for name, file in list(files.items())[1:]:
        request = Request(
            model=str(file), baseline=str(files["unpruned FP32"]), runtime="onnxruntime",
            precision="int8" if "INT8" in name else "fp32", images=str(scratch / "pack.npy"),
            pack=str(benchmarking_pack), predictions=str(scratch / "labels.npy"), torch_labels=str(labels),
            onnx_labels=None, exact_labels=None, seven_bit=None, calibration=None, engines=None, lineage={},
            batch_size=section.batch_size, warmup=section.warmup, repeats=section.repeats,
            batch_repeats=section.batch_repeats, processes=section.processes, threads=section.threads,
            builds=section.builds,
        )  # fmt: skip
        found = interpreters.run_measure(request)
        small = found["baseline_latency"]["p50_ms"] / found["latency"]["p50_ms"]
        large = found["baseline_batch_latency"]["p50_ms"] / found["batch_latency"]["p50_ms"]
        said.append(
            f"ONNX Runtime {found['runtime_version']}, {found['device']['threads']} threads, ResNet-18 {name} "
            f"against unpruned FP32, p50: {small:.1f}× at batch 1 (n=200), {large:.1f}× at batch 64 (n=30)"
        )
    return said


def tracking_cost(scratch: Path) -> str:
    """A cold store, 100 epochs streamed: what tracking adds to one training."""
    code = (
        "import time; start = time.perf_counter()\n"
        "from trimlab import config, records\n"
        "from trimlab.track import mlflow_runs\n"
        "study = config.load()\n"
        "with mlflow_runs.live(study, 'train', next(iter(study.workloads)), 0) as stream:\n"
        "    for n in range(1, 101):\n"
        "        stream(records.Epoch(epoch=n, image_size=32, learning_rate=0.1, train_loss=1.0, train_accuracy=0.5,"
        " top1_accuracy=0.5, seconds=1.0, images_per_second=1.0))\n"
        "print(time.perf_counter() - start)"
    )
    store = f"sqlite:///{scratch}/mlflow.db"
    seconds = float(_run([sys.executable, "-W", "ignore", "-c", code], MLFLOW_TRACKING_URI=store).splitlines()[-1])
    return f"Tracking 100 epochs into a cold store, imports included: {seconds:.1f} s, {seconds / 300:.1%} of 5 minutes"


def command_seconds(*command: str, where: Path | None = None) -> str:
    """A whole command, as a user waits for it."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        subprocess.run(command, cwd=where, capture_output=True, check=True)
        times.append(time.perf_counter() - start)
    return f"`{' '.join(command)}`, n={ROUNDS}: median {statistics.median(times):.1f} s"


def quick_study(scratch: Path) -> list[str]:
    """The quick study from nothing in a clone, then the no-op: seconds, peak memory of all processes together."""
    clone = scratch / "clone"
    subprocess.run(["git", "clone", "-q", ".", str(clone)], check=True)
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(["dvc", "repro", "-q"], cwd=clone, stderr=subprocess.DEVNULL) as repro:
        while repro.poll() is None:
            peak = max(peak, _tree_bytes(repro.pid))
            time.sleep(0.2)
    assert repro.returncode == 0
    seconds = time.perf_counter() - start
    said = f"`dvc repro` of the quick study from nothing: {seconds / 60:.1f} minutes, at most {peak / 2**30:.2f} GiB"
    return [said, f"{command_seconds('dvc', 'repro', '-q', where=clone)}, when all is up to date"]


def _tree_bytes(pid: int) -> int:
    """Resident bytes of a process and all below it; shared pages count in each."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def _run(command: list[str], **env: str) -> str:
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    said = [f"{device.processor_name()} ({', '.join(device.cpu(1)['features'])}), torch {torch.__version__}"]
    scratch = Path(tempfile.mkdtemp())
    try:
        with machine.exclusive("benchmark") as watch:
            said += [training_speed(scratch), *deployed_speed(scratch), tracking_cost(scratch)]
        said += [command_seconds("trimlab", "check"), *quick_study(scratch)]
        said.append(f"Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}")
    finally:
        shutil.rmtree(scratch)
    print("\n".join(f"- {line}" for line in said))


if __name__ == "__main__":
    main()
