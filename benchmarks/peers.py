"""Set trimlab beside its peers on the same work: INT8 files by four tools, and training by two loops.

A file with 4-bit weights stands beside the INT8 files, as an experiment: no tool here writes one for convolutions.

    DATA_ROOT=FOLDER python benchmarks/peers.py WORK [--only int8 | training] [--weights FILE]

on a quiet machine, with CIFAR-10 in FOLDER; about ten minutes a part. WORK keeps the weights, so that the training is
not repeated, and the files. NNCF and AIMET are not trimlab's dependencies: a peer that is not installed is left out.

    pip install --constraint constraints.txt nncf==3.4.0 aimet-onnx==2.42.0

All INT8 files are made from one FP32 file and the same calibration images, each tool as its manual shows.
"""

import argparse
import contextlib
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from trimlab import config, machine, progress
from trimlab.data.dataset import Dataset
from trimlab.data.splits import drawn
from trimlab.measure import device, runtimes, timing
from trimlab.measure.session import Session, Settings
from trimlab.models import checkpoint, registry
from trimlab.quantize import export
from trimlab.quantize.int8 import Files, quantize
from trimlab.train import hardware, loop, precision
from trimlab.train.precision import UsedPrecision

RUNTIMES = ("onnxruntime", "openvino")
CALIBRATION = config.Quantization().calibration_images
CALLS = {1: 200, 64: 30}
"""Timed calls of every opened file, by batch size."""
ROUNDS = 3
BATCH = 128
IMAGES = {"resnet20": 6400, "resnet18": 1280}
"""Images of a timed training, by model."""


def main() -> None:
    """Measure both parts, or one, and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", choices=["int8", "training"])
    parser.add_argument("--weights", type=Path, help="a file that trimlab wrote, in place of a training")
    parser.add_argument("--model", default="resnet20", help="what is trained for the INT8 files")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--train", type=int, default=50_000, help="images of an epoch")
    parser.add_argument("--test", type=int, default=10_000, help="images that files are scored on")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    print(f"{device.processor_name()} ({', '.join(device.cpu(1)['features'])}), {device.cores()} cores\n")
    parts = {
        "training": compared_loops,
        "int8": compared_files,
    }  # in this order: a training crashed after the peers' libraries
    for part, compare in parts.items():
        if asked.only in (None, part):
            for line in compare(asked):
                print(line, flush=True)


def cifar10(train: int = 50_000, test: int = 10_000) -> Dataset:
    """Return the first images of CIFAR-10, with calibration images drawn as the stage `prepare` draws them."""
    parts = [datasets.CIFAR10(os.environ["DATA_ROOT"], train=split) for split in (True, False)]
    (images, labels), (test_images, test_labels) = (
        (torch.from_numpy(part.data[:count]).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets[:count]))
        for part, count in zip(parts, (train, test), strict=True)
    )
    pixels = torch.from_numpy(parts[0].data).double() / 255
    return Dataset(
        "cifar10", images, labels, test_images, test_labels,
        holdout=torch.empty(0, dtype=torch.int64),
        calibration=drawn(labels, torch.arange(len(labels)), labels.bincount(), seed=1),
        mean=pixels.mean((0, 1, 2)).float(), std=pixels.std((0, 1, 2)).float(),
        classes=parts[0].classes, sha256="0" * 64,
    )  # fmt: skip


def compared_loops(asked: argparse.Namespace) -> Iterator[str]:
    """Yield the lines about training."""
    yield from ("| model | precision | trimlab, images/s | DataLoader, images/s | ratio |", "|---" * 5 + "|")
    with machine.exclusive("peers: training") as watch:
        for name, count in IMAGES.items():
            for used in precisions():
                ours, theirs = rates(name, used, count, asked.work)
                ratio = statistics.median(ours) / statistics.median(theirs)
                yield f"| {name} | {used} | {spread(ours, 0)} | {spread(theirs, 0)} | {ratio:.2f}× |"
    yield ""
    sizes = ", ".join(f"{count} for {name}" for name, count in IMAGES.items())
    yield f"CIFAR-10, batch {BATCH}, flip and shift by up to 4 pixels; median and range of {ROUNDS} epochs in turns,"
    yield f"images of an epoch: {sizes}; the first epoch of each is not counted."
    yield f"torch {torch.__version__}, {torch.get_num_threads()} threads. {disturbed(watch)}"
    yield ""


def precisions() -> Sequence[UsedPrecision]:
    """Return FP32, and what a training computes in here by default where that is another."""
    usual = precision.resolve("auto")
    return [used for used in get_args(UsedPrecision) if used in ("fp32", usual)]


def rates(name: str, used: UsedPrecision, count: int, work: Path) -> tuple[list[float], list[float]]:
    """Return the images/s of trimlab's epochs and the tutorial's, in turns."""
    dataset = cifar10(count, BATCH)
    ours, theirs = [], []
    for turn in range(ROUNDS + 1):
        ours.append(our_rate(registry.build(name, 10), dataset, used, work / "rate.safetensors"))
        theirs.append(tutorial_rate(registry.build(name, 10), dataset, used))
        progress.say(f"{name}, {used}, turn {turn}: {ours[-1]:.0f} and {theirs[-1]:.0f} images/s")
    return ours[1:], theirs[1:]


def our_rate(model: nn.Module, dataset: Dataset, used: UsedPrecision, resumable: Path) -> float:
    resumable.unlink(missing_ok=True)
    recipe = config.Recipe(epochs=1, batch_size=BATCH)
    done = loop.fit(
        model, dataset, "test", recipe, used, 0,
        resumable=resumable, label="trimlab", on_epoch=lambda _: None,
    )  # fmt: skip
    return done.curve[-1].images_per_second


def tutorial_rate(model: nn.Module, dataset: Dataset, used: UsedPrecision) -> float:
    """Train for an epoch as PyTorch's tutorial does, with two workers; return the images/s."""
    where = hardware.device()
    model = model.to(where).train()
    batches = tutorial_batches(dataset)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    criterion, running_loss = nn.CrossEntropyLoss(), 0.0
    start = time.perf_counter()
    for inputs, targets in batches:
        optimizer.zero_grad()
        with precision.computing_in(used):
            loss = criterion(model(inputs.to(where)), targets.to(where))
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
    return len(dataset.train_labels) / (time.perf_counter() - start)


def tutorial_batches(dataset: Dataset) -> Iterable[Any]:
    """Return the same images as a `DataLoader` of torchvision's transforms gives them."""
    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(dataset.mean.tolist(), dataset.std.tolist()),
        ]
    )
    images = datasets.CIFAR10(os.environ["DATA_ROOT"], train=True, transform=transform)
    chosen = Subset(images, range(len(dataset.train_labels)))
    return DataLoader(chosen, batch_size=BATCH, shuffle=True, num_workers=2)


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images for ONNX Runtime, in batches."""

    def __init__(self, images: np.ndarray) -> None:
        self._batches = iter([{"x": batch} for batch in np.array_split(images, max(1, len(images) // 50))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch."""
        return next(self._batches, None)


def by_onnxruntime(fp32: Path, images: np.ndarray, file: Path, **options: Any) -> None:
    quantize_static(fp32, file, Reader(images), **options)


def by_nncf(fp32: Path, images: np.ndarray, file: Path) -> None:
    import nncf

    calibration = nncf.Dataset(images, lambda image: {"x": image[None]})
    onnx.save(nncf.quantize(onnx.load(fp32), calibration, subset_size=len(images)), file)


def by_aimet(fp32: Path, images: np.ndarray, file: Path) -> None:
    from aimet_onnx import QuantizationSimModel

    simulated = QuantizationSimModel(onnx.load(fp32))
    simulated.compute_encodings([{"x": batch} for batch in np.array_split(images, max(1, len(images) // 50))])
    onnx.save(simulated.to_onnx_qdq(export_int32_bias=True, prequantize_constants=True), file)


def by_four_bits(fp32: Path, _: np.ndarray, file: Path) -> None:
    """Round the weights of convolutions and linear layers to 4 bits, a scale for each output channel.

    Activations stay in FP32: the runtimes expand such weights when they open the file, so it saves size alone. ONNX has
    4-bit tensors from opset 21 on.
    """
    model = version_converter.convert_version(onnx.load(fp32), 21)
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = node.input[1]
            weights = numpy_helper.to_array(held[name])
            largest = np.abs(weights).max(axis=tuple(range(1, weights.ndim)))
            scales = np.where(largest > 0, largest, 1) / 7
            rounded = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1))).astype(int)
            model.graph.initializer.remove(held[name])
            model.graph.initializer.extend(
                [
                    helper.make_tensor(f"{name}.int4", onnx.TensorProto.INT4, weights.shape, rounded.ravel().tolist()),
                    numpy_helper.from_array(scales, f"{name}.scales"),
                ]
            )
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}.int4", f"{name}.scales"], [name], axis=0))
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, file)


FOUR_BITS = "4-bit weights, computed in FP32"
U8S8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
PEERS: dict[str, tuple[str, Callable[[Path, np.ndarray, Path], None]]] = {
    "ONNX Runtime, U8S8 per channel, reduce_range": ("onnxruntime", partial(by_onnxruntime, **U8S8)),
    "ONNX Runtime, its default": ("onnxruntime", by_onnxruntime),
    "NNCF": ("nncf", by_nncf),
    "AIMET": ("aimet_onnx", by_aimet),
    FOUR_BITS: ("onnx", by_four_bits),
}
"""What makes a peer's file, and the package that it needs."""


def compared_files(asked: argparse.Namespace) -> Iterator[str]:
    """Yield the lines about INT8 files."""
    dataset = cifar10(asked.train, asked.test)
    model = checkpoint.load(asked.weights) if asked.weights else trained(asked, dataset)
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    files, absent = written(model, dataset, asked.work)
    with machine.exclusive("peers: INT8") as watch:
        for runtime in RUNTIMES:
            found = {name: labels(runtime, name, file, dataset) for name, file in files.items()}
            took = times(runtime, files, dataset)
            yield from (
                f"{runtime} {version(runtime)}",
                "",
                *table(files, found, took, dataset.test_labels.numpy()),
                "",
            )
    yield f"{asked.weights or asked.model}, {len(dataset.test_labels)} test images, {CALIBRATION} calibration images."
    yield f"Times: median and range of {ROUNDS} p50s; each is of files opened anew and timed in turns,"
    yield f"{' and '.join(f'{calls} calls at batch {size}' for size, calls in CALLS.items())}."
    yield from (f"{name} is not installed." for name in absent)
    yield f"{installed()}. {disturbed(watch)}"
    yield ""


def trained(asked: argparse.Namespace, dataset: Dataset) -> nn.Module:
    """Train a model for some epochs, or read what an earlier run trained."""
    model = registry.build(asked.model, dataset.num_classes)
    recipe = config.Recipe(epochs=asked.epochs, warmup=0.15, evaluate_every=asked.epochs)
    loop.fit(
        model, dataset, "test", recipe, precision.resolve("auto"), 0,
        resumable=asked.work / f"{asked.model}-{asked.epochs}x{asked.train}.safetensors", label=asked.model,
        on_epoch=lambda _: None,
    )  # fmt: skip
    return model


def written(model: nn.Module, dataset: Dataset, folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Write all files; return them by name, and the peers that are not installed."""
    images = dataset.normalise(dataset.train_images[dataset.calibration[:CALIBRATION]]).numpy()
    fp32, ours = folder / "fp32.onnx", Files(*(folder / f"{kind}.onnx" for kind in Files._fields))
    export.export(model, dataset.image_shape, fp32)
    quantize(fp32, images, config.Quantization(), ours)
    files, absent = {"FP32": fp32, "trimlab": ours.u8s8, "trimlab, 7-bit": ours.seven_bit}, []
    for name, (package, make) in PEERS.items():
        if importlib.util.find_spec(package):
            files[name] = folder / f"{name}.onnx"
            with contextlib.redirect_stdout(sys.stderr):  # their progress is no part of the tables
                make(fp32, images, files[name])
        else:
            absent.append(name)
    return files, absent


def opened(runtime: str, name: str, file: Path) -> Session:
    computed = "fp32" if name in ("FP32", FOUR_BITS) else "int8"
    return runtimes.open_file(runtime, str(file), Settings(computed, device.cores(), 64))


def labels(runtime: str, name: str, file: Path, dataset: Dataset) -> np.ndarray:
    """Return the labels that a file gives the test images, (N,) int64."""
    session = opened(runtime, name, file)
    batches = dataset.test_images.split(250)
    return np.concatenate([session.run(dataset.normalise(batch).numpy()).argmax(1) for batch in batches])


def times(runtime: str, files: dict[str, Path], dataset: Dataset) -> dict[str, dict[int, list[float]]]:
    """Return the p50s in milliseconds by file and batch size, one a round."""
    images = dataset.normalise(dataset.test_images[: max(CALLS)]).numpy()
    found: dict[str, dict[int, list[float]]] = {name: {size: [] for size in CALLS} for name in files}
    for turn in range(ROUNDS):
        # Where a session's memory lies changes its speed, so no file is always opened first.
        order = rotated(list(files), turn)
        sessions = [opened(runtime, name, files[name]) for name in order]
        for size, calls in CALLS.items():
            stopwatches = [session.stopwatches(images[:size])["latency"] for session in sessions]
            for name, seconds in zip(order, timing.interleaved(stopwatches, calls, 10), strict=True):
                found[name][size].append(timing.latency(seconds, size)["p50_ms"])
        for session in sessions:
            session.close()
    return found


def rotated(names: list[str], turn: int) -> list[str]:
    start = turn * len(names) // ROUNDS
    return names[start:] + names[:start]


def table(
    files: dict[str, Path],
    found: dict[str, np.ndarray],
    took: dict[str, dict[int, list[float]]],
    truth: np.ndarray,
) -> Iterator[str]:
    """Yield a runtime's table in markdown."""
    yield f"| file | KiB | top-1 % | agrees with FP32 % | {' | '.join(f'batch {size}, ms' for size in CALLS)} |"
    yield "|---" * (4 + len(CALLS)) + "|"
    for name, file in files.items():
        shares = [100 * float((found[name] == other).mean()) for other in (truth, found["FP32"])]
        cells = [f"{file.stat().st_size / 1024:.0f}", *(f"{share:.2f}" for share in shares)]
        yield f"| {' | '.join([name, *cells, *(spread(took[name][size], 3) for size in CALLS)])} |"


def spread(values: Sequence[float], digits: int) -> str:
    """Return the median and the range."""
    median, low, high = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{median} ({low}–{high})"


def installed() -> str:
    packages = {"onnxruntime": "onnxruntime", "nncf": "nncf", "aimet_onnx": "aimet-onnx"}
    return ", ".join(f"{name} {version(name)}" for module, name in packages.items() if importlib.util.find_spec(module))


def disturbed(watch: device.Watch) -> str:
    return f"Other processes took more than a tenth of the machine: {'yes' if watch.contended else 'no'}."


if __name__ == "__main__":
    main()
