"""Training speed of this checkout against another one's: `python benchmarks/commits.py CHECKOUT`, on a quiet machine.

`git worktree add CHECKOUT COMMIT` makes one. Both train the same small network on the same random images, 32×32 and in
memory, in processes of their own that take turns. The ratio is that of the medians.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from synthetic import synthetic

from trimlab import config, machine
from trimlab.measure import device
from trimlab.models import registry
from trimlab.train import loop

BATCH = 128
RECIPE = config.Recipe(epochs=2, batch_size=BATCH, evaluate_every=2)


def rate(steps: int) -> float:
    """Return the images/s of the second epoch."""
    dataset = synthetic(BATCH * steps)
    with tempfile.TemporaryDirectory() as scratch:
        done = loop.fit(
            registry.build("resnet20", 10), dataset, "test", RECIPE, "fp32", 0,
            resumable=Path(scratch) / "resume.safetensors", label="training", on_epoch=lambda _: None,
        )  # fmt: skip
    return done.curve[-1].images_per_second


def rate_of(checkout: Path, steps: int) -> float:
    """Return the rate that a checkout's code reaches in a process of its own."""
    command = [sys.executable, __file__, str(checkout), "--steps", str(steps), "--rate"]
    environment = os.environ | {"PYTHONPATH": str((checkout / "src").resolve())}
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return float(ended.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--steps", type=int, default=40, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rate", action="store_true", help=argparse.SUPPRESS)  # in the processes that are started
    asked = parser.parse_args()
    if asked.rate:
        print(rate(asked.steps))
        return
    checkouts = {"here": Path(__file__).parents[1], "there": asked.checkout}
    rates: dict[str, list[float]] = {where: [] for where in checkouts}
    with machine.exclusive("benchmark") as watch:
        for _ in range(asked.rounds):
            for where, checkout in checkouts.items():
                rates[where].append(rate_of(checkout, asked.steps))
    here, there = (statistics.median(values) for values in rates.values())
    print(f"{device.processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"ResNet-20, 32×32, batch {BATCH}, FP32, {asked.steps} steps, n={asked.rounds} processes each:")
    print(f"{here:.0f} images/s here, {there:.0f} there: {here / there:.3f}×")
    print(f"ranges: {', '.join(f'{min(values):.0f}-{max(values):.0f} {where}' for where, values in rates.items())}")
    print(f"Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}")


if __name__ == "__main__":
    main()
