"""Time `prepare` on photographs: `python benchmarks/prepare.py FOLDER`, on a quiet machine, about ten minutes.

FOLDER gets 100,000 JPEGs of 224×224 in ten class folders, made from CIFAR-10 by enlarging and cropping (1 GB, once),
and the prepared file (15 GB). CIFAR-10 is read from the folder that DATA_ROOT names, or from data/raw.
"""

import argparse
import json
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from torchvision.datasets import CIFAR10

from trimlab import config, paths
from trimlab.data import stage
from trimlab.measure import memory

SIZE, ENLARGED = 224, 256
DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)


def write(root: Path, count: int) -> None:
    """Write the images that are not there yet."""
    photographs = root / "photographs"
    print(f"writing {count} images to {photographs}", flush=True)
    shares = [range(at, min(at + 1000, count)) for at in range(0, count, 1000)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_some, photographs), shares))


def write_some(photographs: Path, numbers: range) -> None:
    raw = os.environ.get("DATA_ROOT", "data/raw")
    sets = [CIFAR10(raw, train=train) for train in (True, False)]
    for number in numbers:
        index = number % 60_000
        cifar, place = (sets[0], index) if index < 50_000 else (sets[1], index - 50_000)
        file = photographs / cifar.classes[cifar.targets[place]] / f"{number:06}.jpg"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            enlarged = Image.fromarray(cifar.data[place]).resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
            left, top = number * 7 % (ENLARGED - SIZE), number * 11 % (ENLARGED - SIZE)
            enlarged.crop((left, top, left + SIZE, top + SIZE)).save(file, quality=90)


def prepare(root: Path) -> tuple[float, int]:
    """Return the seconds that `prepare` takes and its process's peak of memory in bytes."""
    os.chdir(root)
    os.environ["DVC_ROOT"] = str(root)
    start = time.perf_counter()
    stage.prepare("photographs", config.DatasetSource(source="folder", path="photographs"), DATA)
    return time.perf_counter() - start, memory.peak_bytes()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    arguments = parser.parse_args()
    root = arguments.folder.resolve()
    write(root, arguments.images)
    # A process of its own, whose peak is that of `prepare` alone.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seconds, peak = pool.submit(prepare, root).result()
    file = root / paths.dataset_file("photographs")
    facts, size = json.loads(file.with_suffix(".json").read_text()), file.stat().st_size
    count = facts["train_images"] + facts["test_images"]
    print(
        f"{count} images of {SIZE}×{SIZE}: {seconds:.1f} s, {count / seconds:.0f} images/s, "
        f"peak {peak / 2**30:.2f} GiB, file {size / 2**30:.2f} GiB"
    )
