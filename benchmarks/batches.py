"""Training on images in memory and in a file, side by side: `python benchmarks/batches.py`, on a quiet machine.

Both take turns in this one run, on the same random images: rates are medians, and the ratio is that of the medians. The
models are small, so that the cost of the data shows. The file was just written, so the system may still have its pages.
"""

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from synthetic import synthetic

from trimlab import config, machine
from trimlab.data.dataset import Dataset
from trimlab.data.stored import StoredImages
from trimlab.measure import device
from trimlab.models import registry
from trimlab.train import loop

MODELS = {32: "resnet20", 224: "torchvision/shufflenet_v2_x0_5"}
AUGMENTED = {
    "flip and shift": config.Recipe(epochs=2, evaluate_every=2),
    "crop, colour, CutMix": config.Recipe(
        epochs=2,
        evaluate_every=2,
        random_resized_crop=config.RandomResizedCrop(),
        color_jitter=config.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
        cutmix=1.0,
    ),
}


def datasets(size: int, count: int, folder: Path) -> dict[str, Dataset]:
    """Return the same `count` random images of a size, in memory and in a file."""
    file, made = folder / f"{size}.safetensors", synthetic(count, (3, size, size))
    save_file({"train_images": made.train_images}, file)
    in_memory = replace(made, train_images=load_file(file)["train_images"])
    in_file = replace(in_memory, train_images=StoredImages.named(file, "train_images"))
    return {"in memory": in_memory, "in the file": in_file}


def rates(found: dict[str, Dataset], recipe: config.Recipe, rounds: int, folder: Path) -> dict[str, list[float]]:
    """Return the images/s of each round and dataset; the first epoch of each training is left out."""
    measured: dict[str, list[float]] = {where: [] for where in found}
    for turn in range(rounds):
        for where, dataset in found.items():
            label = f"{dataset.image_shape[-1]} px, {where}, round {turn + 1}"
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                done = loop.fit(
                    registry.build(MODELS[dataset.image_shape[-1]], 10), dataset, "test", recipe, "fp32", 0,
                    resumable=Path(scratch) / "resume.safetensors", label=label, on_epoch=lambda _: None,
                )  # fmt: skip
            measured[where].append(done.curve[-1].images_per_second)
    return measured


def compared(size: int, batch_size: int, arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Return a line for each augmentation at one image size."""
    said = []
    found = datasets(size, batch_size * arguments.steps, folder)
    for name, recipe in AUGMENTED.items():
        sized = recipe.model_copy(update={"batch_size": batch_size})
        memory, file = (statistics.median(values) for values in rates(found, sized, arguments.rounds, folder).values())
        said.append(
            f"{MODELS[size]}, {size}×{size}, batch {batch_size}, {name}, {arguments.steps} steps, "
            f"n={arguments.rounds}: {memory:.0f} images/s in memory, {file:.0f} in the file: {file / memory:.3f}×"
        )
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    said = [f"{device.processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"]
    with tempfile.TemporaryDirectory() as folder, machine.exclusive("benchmark") as watch:
        said += compared(32, 128, arguments, Path(folder)) + compared(224, 32, arguments, Path(folder))
    said.append(f"Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}")
    print("\n".join(f"- {line}" for line in said))


if __name__ == "__main__":
    main()
