"""Training speed: image sizes and ways to distil, side by side: `python benchmarks/training.py`, on a quiet machine.

Everything takes turns in this one run: rates are medians of images/s, and ratios are those of the medians. Images and
weights are random, because speed does not depend on them. Takes some minutes on two cores.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from synthetic import SHAPE, synthetic
from torch import nn

from trimlab import config, machine
from trimlab.data.dataset import Dataset
from trimlab.measure import device
from trimlab.models import registry
from trimlab.prune import pruner
from trimlab.train import loop, soft_labels
from trimlab.train.distill import Teacher
from trimlab.train.precision import resolve

SIZES = (16, 20, 24, 28)
RATIO = 0.6
PRECISION = resolve("auto")
PLAIN = {"learning_rate": 0.01, "evaluate_every": 1000}
Rates = dict[str, list[float]]
"""Images/s of each round, by what was measured."""


def fit(
    model: nn.Module, dataset: Dataset, recipe: config.Recipe, teacher: Teacher | None, folder: Path
) -> list[float]:
    """Train a copy of a model and return the images/s of each epoch."""
    done = loop.fit(
        copy.deepcopy(model), dataset, "test", recipe, PRECISION, 0,
        resumable=folder / "resume.safetensors", label="benchmark", on_epoch=lambda _: None, teacher=teacher,
    )  # fmt: skip
    return [epoch.images_per_second for epoch in done.curve]


def in_turns(measure: dict[str, Callable[[Path], Iterable[tuple[str, float]]]], rounds: int) -> Rates:
    """Measure everything in each round."""
    found: Rates = {}
    for _ in range(rounds):
        for each in measure.values():
            with tempfile.TemporaryDirectory() as folder:
                for what, rate in each(Path(folder)):
                    found.setdefault(what, []).append(rate)
    return found


def image_sizes(name: str, batch_size: int, steps: int, rounds: int) -> str:
    """Train on images of each size for two epochs, of which the second counts."""
    model, dataset = registry.build(name, 10), synthetic(batch_size * steps)
    low = [config.LowResolution(size=size, epochs=2) for size in SIZES]
    recipe = config.Recipe(epochs=2 * len(SIZES) + 2, batch_size=batch_size, low_resolution=low, **PLAIN)

    def measure(folder: Path) -> Iterable[tuple[str, float]]:
        rates = fit(model, dataset, recipe, None, folder)
        return zip(map(str, (*SIZES, SHAPE[1])), rates[1::2], strict=True)

    rates = {size: statistics.median(found) for size, found in in_turns({"": measure}, rounds).items()}
    full = rates.pop(str(SHAPE[1]))
    smaller = ", ".join(
        f"{rate:.0f} at {size}×{size} ({rate / full:.2f}×, {(int(size) / SHAPE[1]) ** -2:.2f}× fewer pixels)"
        for size, rate in rates.items()
    )
    return f"{name}, batch {batch_size}, {steps} steps, n={rounds}: {full:.0f} images/s at 32×32, {smaller}"


def distillation(name: str, batch_size: int, steps: int, rounds: int) -> str:
    """Fine-tune a pruned model alone, with fresh and with cached soft labels, and time how these are computed."""
    whole, dataset = registry.build(name, 10), synthetic(batch_size * steps)
    student = copy.deepcopy(whole)
    pruner.prune(student, RATIO, config.PruningSettings(), SHAPE)
    recipe = config.Recipe(epochs=2, batch_size=batch_size, **PLAIN)

    def taught(cached: bool) -> Callable[[Path], Iterable[tuple[str, float]]]:
        def measure(folder: Path) -> Iterable[tuple[str, float]]:
            teacher = Teacher(copy.deepcopy(whole), 0.9, 4.0, folder / "soft.safetensors" if cached else None)
            if cached:
                started = time.perf_counter()
                soft_labels.cached(teacher, dataset, "test", True, PRECISION, "benchmark")
                yield "labels", len(dataset.train_labels) / (time.perf_counter() - started)
            yield "cached" if cached else "fresh", fit(student, dataset, recipe, teacher, folder)[-1]

        return measure

    def alone(folder: Path) -> Iterable[tuple[str, float]]:
        yield "alone", fit(student, dataset, recipe, None, folder)[-1]

    found = in_turns({"alone": alone, "fresh": taught(False), "cached": taught(True)}, rounds)
    rates = {what: statistics.median(values) for what, values in found.items()}
    epochs = (1 / rates["labels"]) / (1 / rates["fresh"] - 1 / rates["cached"])
    return (
        f"{name} pruned by {RATIO:.0%}, batch {batch_size}, {steps} steps, n={rounds}: {rates['alone']:.0f} images/s, "
        f"{rates['fresh']:.0f} with fresh soft labels, {rates['cached']:.0f} with cached ones: "
        f"{rates['cached'] / rates['fresh']:.2f}×; {rates['labels']:.0f} images/s while these are computed, "
        f"which {epochs:.1f} epochs repay"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet18"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with machine.exclusive("benchmark") as watch:
        said = [
            measure(name, asked.batch_size, asked.steps, asked.rounds)
            for name in asked.models
            for measure in (image_sizes, distillation)
        ]
    print(f"- {device.processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {PRECISION}")
    print("\n".join(f"- {line}" for line in said))
    print(f"- Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}")


if __name__ == "__main__":
    main()
