"""Prune, rebuild, export and quantize a model of each family, and measure it in both CPU runtimes.

    DATA_ROOT=FOLDER python benchmarks/families.py ROWS.jsonl [MODEL ...]

on a quiet machine, with CIFAR-10 in FOLDER; minutes a model. A model whose row is in ROWS.jsonl is not measured again.
No pretrained weights are used: each model is trained for two epochs before and two after pruning, on some images of
CIFAR-10 enlarged to 64 × 64, so that its logits mean something. Its accuracy says nothing of the family.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import datasets, models

from trimlab import config, machine
from trimlab.data.dataset import Dataset
from trimlab.errors import UserError
from trimlab.measure import device, runtimes, timing, weights
from trimlab.measure.session import Settings
from trimlab.models.facts import count_macs, count_params
from trimlab.models.reshape import fit_to
from trimlab.prune import batchnorm, pruner
from trimlab.quantize import export
from trimlab.quantize.int8 import Files, quantize
from trimlab.train import evaluate, loop

RATIO = 0.3
BATCH = 32
RUNTIMES = ("onnxruntime", "openvino")
MODELS = [
    "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vit_b_16", "densenet121", "googlenet",
    "shufflenet_v2_x0_5", "timm/mobilenetv4_conv_small", "timm/convnextv2_atto", "timm/resnet10t", "timm/ghostnet_100",
]  # fmt: skip


def main() -> None:
    """Measure the models that have no row yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", type=Path)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--size", type=int, default=64, help="height and width of the images")
    parser.add_argument("--train", type=int, default=1500, help="images an epoch")
    parser.add_argument("--test", type=int, default=1000, help="images that FP32 and INT8 are compared on")
    parser.add_argument("--repeats", type=int, default=100, help="timed calls at batch 1; a fifth at the large batch")
    asked = parser.parse_args()
    asked.rows.touch()
    done = {row["model"]: row for row in map(json.loads, asked.rows.read_text().splitlines())}
    dataset = enlarged(asked.size, asked.train, asked.test)
    for name in asked.models:
        if name in done:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                done[name] = measured(name, dataset, Path(scratch), asked.repeats)
            except UserError as error:
                done[name] = {"model": name, "refused": str(error)}
        with asked.rows.open("a") as file:
            print(json.dumps(done[name]), file=file)
    print("\n".join(table(done.values())))
    print(f"\n{asked.train} training images an epoch, {asked.test} test images, {asked.size} × {asked.size}; p50 of")
    print(f"{asked.repeats} calls at batch 1 and {asked.repeats // 5} at batch {BATCH}, FP32 and INT8 in turns;")
    print(
        f"{device.cpu(device.cores())['name']}, {device.cores()} threads, {machine.versions('onnxruntime', 'openvino')}"
    )


def build(name: str, size: int) -> nn.Module:
    """Return an untrained model of ten classes."""
    torch.manual_seed(0)
    if name.startswith("timm/"):
        import timm

        model: nn.Module = timm.create_model(name.removeprefix("timm/"), num_classes=10)
        return model
    extra: dict[str, dict[str, Any]] = {"vit_b_16": {"image_size": size}, "googlenet": {"aux_logits": False}}
    model = models.get_model(name, weights=None, num_classes=10, **extra.get(name, {}))
    return model


def enlarged(size: int, train: int, test: int) -> Dataset:
    """Return the first images of CIFAR-10, enlarged."""
    parts = [datasets.CIFAR10(os.environ["DATA_ROOT"], train=split) for split in (True, False)]
    images = [_resized(part.data[:count], size) for part, count in zip(parts, (train, test), strict=True)]
    labels = [torch.tensor(part.targets[:count]) for part, count in zip(parts, (train, test), strict=True)]
    pixels = images[0].double() / 255
    return Dataset(
        "cifar10-enlarged", images[0], labels[0], images[1], labels[1],
        holdout=torch.empty(0, dtype=torch.int64), calibration=torch.arange(train),
        mean=pixels.mean((0, 2, 3)).float(), std=pixels.std((0, 2, 3)).float(),
        classes=parts[0].classes, sha256="0" * 64,
    )  # fmt: skip


def _resized(images: np.ndarray, size: int) -> Tensor:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte()


def measured(name: str, dataset: Dataset, scratch: Path, repeats: int) -> dict[str, Any]:
    """Take a model through everything and return its row."""
    shape = dataset.image_shape
    model = build(name, shape[1])
    row: dict[str, Any] = {"model": name, "params": [count_params(model)], "macs": [count_macs(model, shape)]}
    pruner.dry_run(model, RATIO, config.PruningSettings(), shape)
    train(model, dataset, scratch / "before.safetensors")
    row["whole"] = len(pruner.prune(model.cpu(), RATIO, config.PruningSettings(), shape).whole)
    row["params"].append(count_params(model))
    row["macs"].append(count_macs(model, shape))
    train(model, dataset, scratch / "after.safetensors")
    model = batchnorm.reestimated(model, dataset) or model  # some models move theirs by a hundredth a step
    model = model.cpu().to(memory_format=torch.contiguous_format).eval()
    row["top1"] = evaluate.top1_accuracy(evaluate.predict(model, dataset, "test"), dataset, "test")
    row["rebuilt_bit_equal"] = rebuilt_bit_equal(model, build(name, shape[1]), dataset, scratch / "pruned.safetensors")
    fp32, int8 = scratch / "fp32.onnx", Files(*(scratch / f"{kind}.onnx" for kind in Files._fields))
    export.export(model, shape, fp32)
    quantize(fp32, dataset.normalise(dataset.train_images[:200]).numpy(), config.Quantization(), int8)
    row["agreement"] = agreement(fp32, int8, dataset)
    with machine.exclusive(f"time {name}") as watch:
        row["p50_ms"] = {runtime: times(runtime, fp32, int8, dataset, repeats) for runtime in RUNTIMES}
    return row | {"contended": watch.contended}


def train(model: nn.Module, dataset: Dataset, resumable: Path) -> None:
    """Train for two epochs."""
    recipe = config.Recipe(
        epochs=2, batch_size=32, optimizer="adamw", learning_rate=1e-3, weight_decay=0.01, warmup=0.1, evaluate_every=2
    )
    loop.fit(
        model, dataset, "test", recipe, "fp32", 0,
        resumable=resumable, label=resumable.stem, on_epoch=lambda _: None,
    )  # fmt: skip


def rebuilt_bit_equal(model: nn.Module, fresh: nn.Module, dataset: Dataset, path: Path) -> bool:
    """Return whether the weights' file gives back a model with the same outputs."""
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    fit_to(fresh, load_file(path))
    images = dataset.normalise(dataset.test_images[:16])
    with torch.no_grad():
        return torch.equal(fresh.eval()(images), model(images))


def for_this_processor(runtime: str, files: Files) -> Path:
    """Return the INT8 file that the benchmark would choose."""
    flags = device.onednn_flags() if runtime == "openvino" else device.processor_flags()
    return files.u8s8 if weights.weight_bits(flags, device.is_arm()) == 8 else files.seven_bit


def agreement(fp32: Path, int8: Files, dataset: Dataset) -> dict[str, float]:
    """Return the share of test images to which INT8 files give FP32's label, by file and runtime."""
    exact = Settings("int8", device.cores(), BATCH, exact=True)
    expected = labels("onnxruntime", fp32, Settings("fp32", device.cores(), BATCH), dataset)
    found = {f"{kind}, exact": labels("onnxruntime", file, exact, dataset) for kind, file in int8._asdict().items()}
    for runtime in RUNTIMES:
        file = for_this_processor(runtime, int8)
        found[runtime] = labels(runtime, file, Settings("int8", device.cores(), BATCH), dataset)
    return {what: float((each == expected).mean()) for what, each in found.items()}


def labels(runtime: str, file: Path, settings: Settings, dataset: Dataset) -> np.ndarray:
    """Return the labels that a file gives the test images."""
    session = runtimes.open_file(runtime, str(file), settings)
    return np.concatenate([session.run(batch).argmax(1) for batch in batches(dataset)])


def batches(dataset: Dataset) -> Iterator[np.ndarray]:
    """Yield the test images, normalised, in whole batches."""
    for part in dataset.test_images.split(BATCH):
        if len(part) == BATCH:
            yield dataset.normalise(part).numpy()


def times(runtime: str, fp32: Path, int8: Files, dataset: Dataset, repeats: int) -> dict[str, list[float]]:
    """Return the p50 in milliseconds of FP32 and INT8, timed in turns, by batch size."""
    files = [("fp32", fp32), ("int8", for_this_processor(runtime, int8))]
    sessions = [
        runtimes.open_file(runtime, str(file), Settings(precision, device.cores(), BATCH)) for precision, file in files
    ]
    found = {}
    for size, count in ((1, repeats), (BATCH, max(5, repeats // 5))):
        batch = next(batches(dataset))[:size]
        stopwatches = [session.stopwatches(batch)["latency"] for session in sessions]
        found[str(size)] = [
            timing.latency(seconds, size)["p50_ms"] for seconds in timing.interleaved(stopwatches, count, 5)
        ]
    return found


def table(rows: Any) -> Iterator[str]:
    """Yield the lines of the table in markdown."""
    yield (
        "| model | parameters, M | MACs, M | rebuilt | top-1 | INT8 agrees with FP32 | "
        + " | ".join(f"{runtime}, batch {size}: FP32, INT8, ms" for runtime in RUNTIMES for size in (1, BATCH))
        + " |"
    )
    yield "|---" * (6 + 2 * len(RUNTIMES)) + "|"
    for row in rows:
        if "refused" in row:
            yield f"| {row['model']} | {row['refused']} " + "| " * (4 + 2 * len(RUNTIMES)) + "|"
            continue
        changes = [" → ".join(f"{value / 1e6:.2f}" for value in row[key]) for key in ("params", "macs")]
        agree = " / ".join(f"{100 * row['agreement'][runtime]:.1f} %" for runtime in RUNTIMES)
        speeds = [
            ", ".join(f"{value:.2f}" for value in row["p50_ms"][runtime][str(size)])
            for runtime in RUNTIMES
            for size in (1, BATCH)
        ]
        top1 = f"{100 * row['top1']:.1f} %"
        equal = "bit-equal" if row["rebuilt_bit_equal"] else "differs"
        yield f"| {' | '.join([row['model'], *changes, equal, top1, agree, *speeds])} |"


if __name__ == "__main__":
    main()
