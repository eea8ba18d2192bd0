"""Synthetic studies and records: deterministic, plausible, one function a kind.

Whatever a test cares about is a keyword argument; the rest follows from the study.
"""

import hashlib
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from trimlab import formats, paths, records
from trimlab.config import Params, PruningPoint, Sparsity
from trimlab.measure import timing
from trimlab.measure.contract import BOUNDS, Request
from trimlab.records import (
    Build,
    Clock,
    Device,
    Engine,
    Epoch,
    Latency,
    Layer,
    Measurement,
    Pruning,
    QuantizationAwareTraining,
    Record,
    Sensitivity,
    SparseTraining,
    TargetLatency,
    Training,
)
from trimlab.records.labels import Classified
from trimlab.report.markdown import documents
from trimlab.report.model import Report

CPU = Device(kind="cpu", name="Test CPU", features=["avx512_vnni"], threads=2, system="Linux x86_64, Python 3.12.1")
GPU = Device(kind="cuda", name="Test GPU", features=["driver 555.1"], threads=4, system="Linux x86_64, Python 3.12.1")
NUM_IMAGES = 10_000
FULL_PARAMS = {"resnet18": 11_173_962, "resnet20": 272_474}
BYTES_SHARE = {"fp32": 4.0, "tf32": 4.0, "bf16": 4.0, "fp16": 2.0, "int8": 1.0, "int8-entropy": 4.0}
BYTES_SHARE |= {"int8-mixed": 1.2, "int8-qat": 1.0}


TARGET_RATIO = 0.5731
"""What pruning found for a target."""


def study(**changes: Any) -> Params:
    """Return a study of ResNet-18 and ResNet-20 on CIFAR-10; `changes` replace whole sections."""
    files = dict.fromkeys(("code", "initial", "weights"), "data/none")
    workload = {"dataset": "cifar10", "training": "training.short", **files}
    sections: dict[str, Any] = {
        "study": "synthetic",
        "seeds": [0],
        "data": {"split": "test", "holdout_fraction": 0.1, "seed": 0},
        "datasets": {"cifar10": {"source": "cifar10", "path": "data/none"}},
        "training": {"short": {"epochs": 3}},
        "workloads": {
            "large": {**workload, "model": "resnet18", "precision": "fp32"},
            "large-amp": {**workload, "model": "resnet18", "precision": "amp"},
            "small": {**workload, "model": "resnet20", "precision": "fp32"},
        },
        "sweep": {
            "none": {"ratio": 0.0, "epochs": 0},
            "r50": {"ratio": 0.5, "epochs": 2, "learning_rate": 0.01},
            "r80": {"ratio": 0.8, "epochs": 2, "learning_rate": 0.05},
        },
        "prune": {"ratio": 0.6, "epochs": 3, "learning_rate": 0.02, "distillation": 0.5},
        "pruning": {},
        "variants": {
            "large": {"workload": "large", "pruning": "sweep.none"},
            "large-r50": {"workload": "large", "pruning": "sweep.r50"},
            "large-r80": {"workload": "large", "pruning": "sweep.r80", "precisions": []},
            "candidate": {"workload": "large", "pruning": "prune"},
            "small": {"workload": "small", "pruning": "sweep.none"},
            "small-r50": {"workload": "small", "pruning": "sweep.r50"},
        },
        "quantization": {},
        "benchmark": {},
        "report": {"title": "A synthetic study", "baseline": "large", "candidate": "candidate"},
    }
    return Params.model_validate(sections | changes)


def rounded_study() -> Params:
    """Return the study with a second point at 50 %, whose widths are multiples of 16."""
    base = study().model_dump()
    point = base["sweep"]["r50"] | {"round_to": 16}
    return study(
        sweep=base["sweep"] | {"r50-16": point},
        variants={"large-r50-16": {"workload": "large", "pruning": "sweep.r50-16"}} | base["variants"],
    )


def allocated_study(**changes: Any) -> Params:
    """Return the study with a point at 50 % whose ratios are searched for from the layers' sensitivity."""
    base = study().model_dump()
    point = base["sweep"]["r50"] | {"allocation": "search"}
    return study(
        sweep=base["sweep"] | {"r50-search": point},
        variants=base["variants"] | {"large-r50-search": {"workload": "large", "pruning": "sweep.r50-search"}},
        **changes,
    )


def controlled_study(**changes: Any) -> Params:
    """Return the study with controls: from scratch with both budgets, random channels, one ratio, no distillation."""
    base = study().model_dump()
    r50 = base["sweep"]["r50"]
    points = {
        "r50-scratch": r50 | {"initial": "scratch"},
        "r50-whole": r50 | {"initial": "scratch", "budget": "whole"},
        "r50-random": r50 | {"importance": "random"},
        "r50-search": r50 | {"allocation": "search"},
        "r60-plain": base["prune"] | {"distillation": 0.0},
    }
    made = {f"large-{name}": {"workload": "large", "pruning": f"sweep.{name}"} for name in points}
    candidate = base["prune"] | {"temperature": 2.0, "soft_labels": "cached"}
    return study(prune=candidate, sweep=base["sweep"] | points, variants=base["variants"] | made, **changes)


def everything(of: Params, device: Device = CPU) -> list[Record]:
    """Return every record that the study's stages would write."""
    made: list[Record] = []
    for seed in of.seeds:
        made += [training(of, workload, seed=seed, device=device) for workload in of.workloads]
        made += [pruning(of, variant, seed=seed, device=device) for variant in of.variants]
        for name, variant in of.variants.items():
            made += [measurement(of, name, p, seed=seed, device=device) for p in variant.precisions]
    return made


def training(of: Params, workload: str, seed: int = 0, device: Device = CPU, **changes: Any) -> Training:
    """Return a workload's training record."""
    settings, recipe = of.workloads[workload], of.recipe(workload)
    low = settings.precision != "fp32"
    top1 = {"resnet18": 0.92, "resnet20": 0.9}.get(settings.model, 0.8) - 0.001 * low + 0.002 * seed
    params = FULL_PARAMS.get(settings.model, 1_000_000)
    fields = _common(of, workload, seed, device) | {
        "params_digest": of.training_digest(workload),
        "weights_sha256": weights(device.name, workload, seed),
        "origin": "trained",
        "precision": "bf16" if low else "fp32",
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "schedule": recipe.schedule,
        "top1_accuracy": top1,
        "num_params": params,
        "size_bytes": 4 * params + 40_000,
        "macs": 50 * params,
        "training_macs": 50_000.0 * recipe.epochs * 3 * 50 * params,
        "train_seconds": 30.0,
        "resumptions": 0,
        "peak_memory_bytes": 900 * 2**20,
        "curve": curve(recipe.epochs, top1, seconds=4.0 if low else 10.0),
    }
    return Training.model_validate(fields | changes)


def _target_latency(point: PruningPoint, device: Device) -> TargetLatency | None:
    if point.target is None or point.target.latency_ms is None:
        return None
    return TargetLatency(
        runtime=point.target.runtime,
        runtime_version="1.30.0",
        precision=point.target.precision,
        device=device,
        latency=latency(1.02 * point.target.value, n=200),
        predicted_ms=0.99 * point.target.value,
    )


def _sparsity(section: Sparsity) -> SparseTraining:
    measured = {"top1_accuracy": 0.9, "training_macs": 1e12, "train_seconds": 5.0, "resumptions": 0, "contended": False}
    return SparseTraining(**section.model_dump(exclude={"warmup"}), **measured)


def pruning(of: Params, variant: str, seed: int = 0, device: Device = CPU, **changes: Any) -> Pruning:
    """Return a variant's pruning record."""
    workload, point = of.variants[variant].workload, of.point(variant)
    base = training(of, workload, seed, device)
    ratio = TARGET_RATIO if point.ratio is None else point.ratio
    left = (1 - ratio) ** 2 * (0.8 if point.round_to else 1.0)
    epochs = point.epochs + round(base.epochs / left) * (point.budget == "whole")
    control = 0.02 * (point.initial == "scratch") + 0.003 * (point.importance == "random")
    top1 = base.top1_accuracy - 0.05 * ratio**2 - control
    fields = _common(of, workload, seed, device) | {
        "params_digest": of.pruning_digest(variant),
        "weights_sha256": weights(device.name, variant, seed, "pruned"),
        "baseline_sha256": base.weights_sha256,
        "variant": variant,
        "ratio": ratio,
        "target": None if point.target is None else {point.target.quantity: point.target.value},
        "target_latency": _target_latency(point, device),
        "sparsity": None if point.sparsity is None else _sparsity(point.sparsity),
        "steps": point.steps,
        "importance": of.pruning_of(variant).importance,
        "scope": of.pruning_of(variant).allocation,
        "round_to": of.pruning_of(variant).round_to,
        "rounding": of.pruning_of(variant).rounding,
        "reached_ratio": ratio,
        "initial": point.initial,
        "epochs": epochs,
        "learning_rate": point.learning_rate,
        "schedule": point.schedule,
        "distillation": point.distillation,
        "temperature": point.temperature if point.distillation else None,
        "soft_labels": point.soft_labels if point.distillation else None,
        "precision": base.precision,
        "top1_unpruned": base.top1_accuracy,
        "top1_before": base.top1_accuracy if ratio == 0 else 0.1,
        "top1_reestimated": None if ratio == 0 or point.initial == "scratch" else 0.6,
        "top1_accuracy": top1,
        "widths": {"conv1": round(64 * (1 - ratio))},
        "num_params": round(base.num_params * left),
        "size_bytes": round(base.size_bytes * left),
        "macs": round(base.macs * left),
        "eager_latency": latency(8 * left + 1, n=200),
        "training_macs": 50_000.0 * epochs * (3 * round(base.macs * left) + (base.macs if point.distillation else 0)),
        "train_seconds": 10.0 * epochs,
        "resumptions": 0,
        "peak_memory_bytes": 900 * 2**20,
        "curve": curve(epochs, top1, seconds=5.0),
    }
    return Pruning.model_validate(fields | changes)


def sensitivity(of: Params, variant: str, seed: int = 0, device: Device = CPU, **changes: Any) -> Sensitivity:
    """Return the sensitivity from which a variant's ratios are chosen: `conv1` loses most, `conv3` nothing."""
    workload = of.variants[variant].workload
    base = training(of, workload, seed, device)

    def alone(ratio: float, slope: float) -> dict[str, Any]:
        left = {"num_params": round(base.num_params * (1 - 0.3 * ratio)), "macs": round(base.macs * (1 - 0.2 * ratio))}
        top1 = base.top1_accuracy - slope * ratio
        return {"ratio": ratio, "loss": 0.3 + 2 * slope * ratio, "top1_accuracy": top1, **left}

    fields = _common(of, workload, seed, device) | {
        "params_digest": of.sensitivity_digest(variant),
        "weights_sha256": base.weights_sha256,
        "split": "holdout",
        "num_images": 1000,
        "importance": of.pruning_of(variant).importance,
        "trained_on_images": of.data.split == "test",
        "unpruned": alone(0.0, 0.0),
        "groups": [
            {"layers": layers, "width": 64, "points": [alone(ratio, slope) for ratio in (0.25, 0.5, 0.75)]}
            for layers, slope in ((["conv1", "conv2"], 0.8), (["conv3"], 0.0), (["conv4"], 0.2))
        ],
        "seconds": 100.0,
    }
    return Sensitivity.model_validate(fields | changes)


def measurement(
    of: Params, variant: str, precision: str, seed: int = 0, device: Device = CPU, **changes: Any
) -> Measurement:
    """Return the measurement of a variant's file."""
    pruned = pruning(of, variant, seed, device)
    share = BYTES_SHARE[precision] / 4
    full = training(of, pruned.workload, seed, device).num_params
    quantized = precision in formats.QUANTIZED
    speed = (pruned.num_params / full) ** 0.8 * (0.3 if quantized else 1.0)
    weight_bytes = round(4 * pruned.num_params * share)
    top1 = changes.get("top1_accuracy", pruned.top1_accuracy - (0.0007 if precision == "int8" else 0.0))
    fields = _common(of, pruned.workload, seed, device) | {
        "params_digest": of.measurement_digest(variant, str(changes.get("runtime", "onnxruntime")), precision),
        "weights_sha256": pruned.weights_sha256,
        "variant": variant,
        "ratio": pruned.ratio,
        "precision": precision,
        "runtime": "onnxruntime",
        "runtime_version": "1.30.0",
        "file_sha256": weights(variant, precision, seed, "file"),
        "file_bytes": weight_bytes + 20_000,
        "weight_bytes": weight_bytes,
        "num_params": pruned.num_params,
        "macs": pruned.macs,
        "top1_accuracy": round(top1 * NUM_IMAGES) / NUM_IMAGES,
        "torch_top1_accuracy": pruned.top1_accuracy,
        "torch_agreement": 0.994 if quantized else 1.0,
        "predictions_sha256": _sha256(npy(predicted(variant, precision, seed, top1))),
        "calibration_sha256": weights("calibration") if quantized else None,
        "qat": learned(of, pruned) if precision in formats.TRAINED else None,
        "latency": latency(5 * speed, n=of.benchmark.repeats),
        "batch_latency": latency(240 * speed, n=of.benchmark.batch_repeats, batch_size=of.benchmark.batch_size),
        "baseline_file_sha256": weights(pruned.workload, "fp32", seed, "file"),
        "baseline_latency": latency(5.0, n=of.benchmark.repeats),
        "baseline_batch_latency": latency(240.0, n=20, batch_size=of.benchmark.batch_size),
        "peak_memory_bytes": 300 * 2**20,
        "mixed": mixed() if precision == "int8-mixed" else None,
        "layers": layers(precision, 5 * speed),
        "batch_layers": layers(precision, 230 * speed),
    }
    if of.benchmark.processes > 1:
        fields |= in_processes({name: fields[name] for name in SERIES}, of.benchmark.processes)
    return Measurement.model_validate(fields | changes)


def mixed(**changes: Any) -> dict[str, Any]:
    """Return how the layers were chosen that a file computes in float: one of three, on 5,000 images."""
    losses = {"conv2": 0.6, "conv1": 0.3, "fc": 0.1}
    chosen = {"float_layers": ["conv2"], "max_drop": 0.5, "num_images": 5000, "lost": 12, "gained": 2}
    chosen |= {"loss_rise": 0.001, "loss_half_width": 0.002}
    return chosen | {"sensitivity": [{"layer": k, "divergence": v} for k, v in losses.items()]} | changes


def learned(of: Params, pruned: Pruning) -> QuantizationAwareTraining:
    """Return how the weights of a variant's `int8-qat` file were trained."""
    asked = of.quantization.qat
    return QuantizationAwareTraining(
        epochs=asked.epochs,
        learning_rate=asked.learning_rate,
        schedule=asked.schedule,
        distillation=asked.distillation,
        weight_bits=asked.weight_bits,
        top1_accuracy=pruned.top1_accuracy,
        training_macs=50_000.0 * asked.epochs * 4 * pruned.macs,
        train_seconds=10.0 * asked.epochs,
        resumptions=0,
        contended=False,
    )


SERIES = ("latency", "batch_latency", "baseline_latency", "baseline_batch_latency")


def in_processes(medians: dict[str, Latency], count: int) -> dict[str, Any]:
    """Return the times of a record that several processes timed, about these: each process is a little slower.

    The baseline file is, in each process, by another amount, so that no two speed-ups are equal.
    """
    processes = [
        {
            name: timing.series(calls(one, 1 + 0.02 * number * (0.5 if "baseline" in name else 1)), one.batch_size)
            for name, one in medians.items()
        }
        for number in range(count)
    ]
    return {**timing.pooled(processes), "processes": processes}


def calls(about: Latency, slower: float) -> list[float]:
    """Return the seconds of so many calls: a spread of 10 % around a median."""
    places = [(37 * number) % about.n / about.n for number in range(about.n)]
    return [about.p50_ms / 1000 * slower * (0.95 + 0.1 * place) for place in places]


def request(**changes: object) -> Request:
    """Return a request of FP32 in ONNX Runtime, at the smallest counts; none of its files exists."""
    counts = {key: max(1, least) for key, (least, _) in BOUNDS.items()}
    paths = {"baseline": "unpruned.onnx", "predictions": "out.npy", "torch_labels": "torch.npy"}
    paths |= {"images": "images.npy", "pack": "pack.npz"}
    optional = dict.fromkeys(("onnx_labels", "exact_labels", "seven_bit", "calibration", "engines"))
    own = {"model": "model.onnx", "precision": "fp32", "runtime": "onnxruntime", "lineage": {}}
    return Request(**(own | paths | optional | counts | changes))


def layers(precision: str, ms: float) -> list[Layer]:
    """Return a compiled file: two convolutions, the first of which a runtime left in FP32, and what lies between."""
    own = precision.split("-")[0].upper()
    return [
        Layer(name="conv1", kind="Conv", precision="FP32", channels=64, ms=0.3 * ms),
        Layer(name="reorder", kind="Reorder", precision=own, channels=None, ms=0.1 * ms),
        Layer(name="conv2", kind="Conv", precision=own, channels=64, ms=0.6 * ms),
    ]


def engine_measurement(of: Params, variant: str, precision: str, seed: int = 0, count: int = 1) -> Measurement:
    """Return what a GPU measured of the same weights as a CPU, with `count` builds of the engine."""
    record = measurement(of, variant, precision, seed=seed)
    large = of.benchmark.gpu_batch_size
    batch = {"batch_latency": latency(0.9, 20, large), "baseline_batch_latency": latency(3.6, 20, large)}
    alone = {"latency": latency(0.2), "baseline_latency": latency(0.3)}
    clocks = [
        Clock.model_validate(
            {"name": name}
            | {key: value.model_copy(update={"p50_ms": share * value.p50_ms}) for key, value in (alone | batch).items()}
        )
        for name, share in (("gpu", 0.6), ("gpu_graph", 0.3), ("latency_graph", 0.8))
    ]
    digests = [weights(variant, precision, seed, "engine", number // 2) for number in range(count)]
    built = {"size_bytes": record.file_bytes + 900_000, "build_seconds": 8.0}
    engine = Engine(
        sha256=digests[0], onnx_sha256=record.file_sha256, precision=precision, batch_size=large, build=0,
        calibration_sha256="", tensorrt="10.0.1", gpu=GPU.name, compute_capability="9.0", driver="13.0",
        tactic_sources="", **built,
    )  # fmt: skip
    builds = [
        Build(sha256=digest, latency=latency(0.06 + 0.001 * number), batch_latency=latency(0.27, 20, large), **built)
        for number, digest in enumerate(digests)
    ]
    changes = {
        "device": GPU, "runtime": "tensorrt", "runtime_version": "10.0.1", "clocks": clocks, "engine": engine,
        "builds": builds, "onnx_top1_accuracy": record.top1_accuracy + 0.0001, "onnx_agreement": 0.999,
        **alone, **batch,
    }  # fmt: skip
    return record.model_copy(update=changes)


def true_labels() -> Any:
    """Return the true labels of the scored images, (NUM_IMAGES,) uint16."""
    return (np.arange(NUM_IMAGES) % 10).astype(np.uint16)


def predicted(variant: str, precision: str, seed: int, top1: float) -> Any:
    """Return a file's predicted labels, (NUM_IMAGES,) uint16: most images are hard for all files alike."""
    own = int(hashlib.sha256(f"{variant}{precision}{seed}".encode()).hexdigest(), 16) % 100
    hardness = (7919 * np.arange(NUM_IMAGES) + own) % NUM_IMAGES
    wrong = hardness >= round(top1 * NUM_IMAGES)
    return ((true_labels() + wrong) % 10).astype(np.uint16)


def classified(made: Iterable[Record]) -> dict[str, Classified]:
    """Return what each measured file took the images for, by its record's digest."""
    return {
        r.digest: Classified(true_labels(), predicted(r.variant, r.precision, r.seed, r.top1_accuracy))
        for r in made
        if isinstance(r, Measurement)
    }


def document(report: Report) -> str:
    """Return all of a report's markdown, report.md first."""
    return "\n".join(documents(report).values())


def npy(array: Any) -> bytes:
    """Return the bytes of an array's `.npy`."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(record: Record, path: Path) -> Path:
    """Write a record, and a measurement's predicted labels beside it."""
    records.write(record, path)
    if isinstance(record, Measurement):
        labels = predicted(record.variant, record.precision, record.seed, record.top1_accuracy)
        path.with_suffix(".npy").write_bytes(npy(labels))
    return path


def run_stages(of: Params, root: Path = Path()) -> list[Record]:
    """Write every record where its stage would, below a project's root, and the indexes of measurements."""
    made = everything(of)
    for record in made:
        write(record, root / stage_file(record))
    for variant in of.variants:
        own = [record for record in made if isinstance(record, Measurement) and record.variant == variant]
        index = root / paths.index_file(variant)
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(json.dumps({"records": [stage_file(record).name for record in own]}))
    return made


def stage_file(record: Record) -> Path:
    """Return where a stage writes a record."""
    if isinstance(record, Measurement):
        return paths.measurement_file(record.variant, record.seed, record.precision, record.runtime)
    folder = paths.pruned(record.variant) if isinstance(record, Pruning) else paths.trained(record.workload)
    return paths.record_file(folder, record.seed)


def latency(p50_ms: float, n: int = 200, batch_size: int = 1) -> Latency:
    """Return a latency whose tail is a little longer than its median."""
    return Latency(p50_ms=p50_ms, p90_ms=1.1 * p50_ms, p99_ms=1.3 * p50_ms, n=n, batch_size=batch_size)


def curve(epochs: int, top1: float, seconds: float) -> list[Epoch]:
    """Return a curve that rises to `top1` in its last epoch."""
    return [
        Epoch(
            epoch=number,
            image_size=32,
            learning_rate=0.1 * (1 - number / epochs),
            train_loss=2.0 / number,
            train_accuracy=top1 * number / epochs,
            top1_accuracy=top1 * (0.7 + 0.3 * number / epochs),
            seconds=seconds,
            images_per_second=50_000 / seconds,
        )
        for number in range(1, epochs + 1)
    ]


def weights(*parts: Any) -> str:
    """Return the sha256 that stands for a file."""
    return _sha256("/".join(map(str, parts)).encode())


def _common(of: Params, workload: str, seed: int, device: Device) -> dict[str, Any]:
    settings = of.workloads[workload]
    return {
        "study": of.study,
        "workload": workload,
        "model": settings.model,
        "dataset": settings.dataset,
        "dataset_sha256": weights(settings.dataset),
        "split": of.data.split,
        "num_classes": 10,
        "num_images": NUM_IMAGES,
        "seed": seed,
        "commit": "0123456789ab",
        "created": "2026-01-02T03:04:05+00:00",
        "device": device,
        "versions": {"torch": "2.14.1"},
        "contended": False,
    }


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
