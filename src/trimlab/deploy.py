"""The file to deploy: picked among those that were measured, written with a model card, or registered in MLflow."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

import onnx

from trimlab import config, paths, records
from trimlab.config.choices import unresolved
from trimlab.digests import sha256_of
from trimlab.errors import UserError, short
from trimlab.records import Measurement, loaded
from trimlab.report import pick, recommendation
from trimlab.report.intervals import wilson
from trimlab.report.pick import File, Limits, Objective
from trimlab.report.results import Results
from trimlab.report.tables import describe
from trimlab.report.text import (
    MIB,
    count,
    decimals,
    mib,
    percent,
    plus_minus,
    precision_name,
    pretty,
    split_name,
    times,
)
from trimlab.track import registry
from trimlab.track.registry import Registered

MODEL = "model.onnx"
RECORD = "record.json"
CARD = "README.md"
CLASSES = "classes.txt"
SERVED_IN = "onnxruntime"
"""The runtime in which MLflow serves a registered file."""

_EXAMPLE = """\
import json, sys
import numpy as np, onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession("{model}")
about = session.get_modelmeta().custom_metadata_map
mean, std = (np.float32(json.loads(about[key])) for key in ("mean", "std"))
height, width = session.get_inputs()[0].shape[2:]
image = ImageOps.exif_transpose(Image.open(sys.argv[1])).convert("RGB")
bilinear = Image.Resampling.BILINEAR
pixels = (np.float32({framed}) / 255 - mean) / std
(logits,) = session.run(None, {{"{input}": pixels.transpose(2, 0, 1)[None, : len(mean)]}})
print(json.loads(about["classes"])[logits[0].argmax()])
"""
"""Runs a file. A model for one channel takes the first of three, which are equal in a grey image."""
_FRAMED = {
    "shorter-side": "ImageOps.fit(image, (width, height), bilinear)",
    "stretch": "image.resize((width, height), bilinear)",
    "pad": "ImageOps.pad(image, (width, height), bilinear)",
}
"""How an image becomes one of the model's size, by the dataset's `resize`."""


class Choice(NamedTuple):
    """A picked file, and what was asked of it."""

    file: File
    limits: Limits
    objective: Objective
    as_fast: list[File]
    """Other files within the limits whose times cannot be told apart from its own."""
    among: int
    """Files that were measured."""


def results_of(study: str | None) -> Results:
    """Return a study's records: those committed in `records/STUDY`, or without a name what the stages measured.

    Raises:
        UserError: there are none.
    """
    return Results.of(*(loaded.of_stages(config.load()) if study is None else loaded.of_committed(study)))


def choose(
    results: Results, limits: Limits, objective: Objective, device: str | None = None, runtimes: Sequence[str] = ()
) -> Choice:
    """Pick a file of one device.

    Args:
        results: the study's records.
        limits: what the file has to keep.
        objective: what counts among those that do.
        device: its name in the report; None for the device with most measurements.
        runtimes: those whose files count; all where it is empty.

    Raises:
        UserError: an unknown device or runtime; nothing was measured there; no file keeps the limits.
    """
    known = {results.labels[identity]: identity for identity in recommendation.devices(results)}
    if not known:
        raise UserError("nothing was measured: run `dvc repro`")
    name = device or next(iter(known))
    problems = [unresolved("--device", name, known)]
    problems += [unresolved("--runtime", runtime, results.study.benchmark.runtimes) for runtime in runtimes]
    if said := [problem for problem in problems if problem]:
        raise UserError("\n".join(said))
    found = pick.files(results, known[name], tuple(runtimes))
    if not found:
        raise UserError(f"{name} has not measured {results.study.report.baseline} in FP32: nothing to compare with")
    best = pick.pick(found, limits, objective)
    if best is None:
        raise UserError(_none_within(results, found, limits, name))
    as_fast = pick.as_fast(best, found, limits, objective, results.time_spread(known[name]))
    return Choice(best, limits, objective, as_fast, len(found))


def _none_within(results: Results, found: Sequence[File], limits: Limits, device: str) -> str:
    """Say that no file keeps the limits, and what the best would be without each of them."""
    lowest = pick.lowest(
        limits,
        [file.surely_lost for file in found],
        [file.size_bytes for file in found],
        [file.latency_ms.mean for file in found],
    )
    files = count(len(found), "file")
    return f"none of {files} measured on {device} is within the limits: alone they could be as low as {lowest}"


def sentence(results: Results, choice: Choice) -> str:
    """Say which file was picked, and how sure that is."""
    file, record = choice.file, choice.file.records[0]
    said = (
        f"{describe(results, file.records)} ({record.variant}), in {pretty(record.runtime)} on "
        f"{results.labels[record.device.identity]}: {percent(_top1(file))} % top-1 on the "
        f"{split_name(record.split)} ({plus_minus(file.gained)} points), {mib(file.size_bytes)} MiB, "
        f"{times(file.latency_ms)} ms at batch 1, {times(file.images_per_second)} images/s at batch "
        f"{record.batch_latency.batch_size}; the {recommendation.BEST[choice.objective]} "
        f"within the limits, of {count(choice.among, 'measured file')}"
    )
    rivals = "; ".join(f"{describe(results, r.records)} in {pretty(r.records[0].runtime)}" for r in choice.as_fast)
    return f"{said}. Its times cannot be told apart from those of {rivals}" if rivals else said


def as_json(results: Results, choice: Choice) -> str:
    """Return the same as JSON: points, MiB and ms as numbers."""
    file, record = choice.file, choice.file.records[0]
    values = {
        "study": results.study.study,
        "variant": record.variant,
        "precision": record.precision,
        "runtime": record.runtime,
        "device": results.labels[record.device.identity],
        "split": record.split,
        "seeds": [each.seed for each in file.records],
        "file_sha256": [each.file_sha256 for each in file.records],
        "top1_percent": 100 * _top1(file),
        "points_gained": file.gained.points,
        "points_half_width": file.gained.half_width,
        "size_mib": file.size_bytes / MIB,
        "latency_ms": file.latency_ms.mean,
        "images_per_second": file.images_per_second.mean,
        "objective": choice.objective,
        **choice.limits._asdict(),
    }
    return json.dumps(values, indent=2)


def _top1(file: File) -> float:
    return sum(record.top1_accuracy for record in file.records) / len(file.records)


def write(results: Results, file: File, folder: Path) -> list[Path]:
    """Write what is needed to deploy a file into a new or empty folder.

    Of several seeds it is the first one's file.

    Raises:
        UserError: the folder has something in it, or the file is not here.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another one, or remove it")
    record = min(file.records, key=lambda one: one.seed)
    source = _file_of(record)
    folder.mkdir(parents=True, exist_ok=True)
    copyfile(source, folder / MODEL)
    records.write(record, folder / RECORD)
    about = _about(source)
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in json.loads(about["classes"])), encoding="utf-8")
    (folder / CARD).write_text(card(results, file, record, about), encoding="utf-8")
    return [folder / name for name in (MODEL, RECORD, CARD, CLASSES)]


def register(results: Results, file: File, name: str) -> Registered:
    """Register a picked file in MLflow's model registry, with its model card as the version's description.

    Of several seeds it is the first one's file.

    Raises:
        UserError: the name is none, the file is not here, it was measured in another runtime than ONNX Runtime, or
            the store fails.
    """
    if not re.fullmatch(r"\w[\w.-]{0,199}", name):
        raise UserError(f"--register {short(name)} is not a name: use letters, digits, dots and dashes")
    record = min(file.records, key=lambda one: one.seed)
    if record.runtime != SERVED_IN:
        raise UserError(
            f"--register {name}: MLflow serves the file in {pretty(SERVED_IN)}, and it was picked by its figures in "
            f"{pretty(record.runtime)}: add --runtime {SERVED_IN}"
        )
    source = _file_of(record)
    about = _about(source)
    tags = {
        "model": describe(results, file.records),
        "top1_percent": percent(record.top1_accuracy),
        "top1_interval_percent": _interval(record),
        "points_gained": plus_minus(file.gained),
        "split": f"{split_name(record.split)}, {record.num_images:,} images",
        "size_mib": decimals(record.file_bytes / MIB),
        "latency_ms": times(file.latency_ms),
        "device": " · ".join(record.device.identity[1:]),
        "record_sha256": record.digest,
    }
    return registry.register(results.study, record, source, name, tags, _facts(results, file, record, about))


def _about(source: Path) -> dict[str, str]:
    """Return what an exported file says of itself: class names, mean, standard deviation, input and output."""
    return {entry.key: entry.value for entry in onnx.load(source, load_external_data=False).metadata_props}


def _interval(record: Measurement) -> str:
    low, high = (100 * share for share in wilson(round(record.top1_accuracy * record.num_images), record.num_images))
    return f"{low:.1f} to {high:.1f}"


def _file_of(record: Measurement) -> Path:
    """Return the file that a record is of, among those that the stage `quantize` wrote here."""
    folder = paths.quantized(record.variant)
    for path in sorted(folder.glob("*.onnx")):
        if sha256_of(path) == record.file_sha256:
            return path
    raise UserError(
        f"{folder} does not hold the file with sha256 {record.file_sha256[:12]}…: run `dvc pull` or "
        f"`dvc repro quantize@{record.variant}`"
    )


def card(results: Results, file: File, record: Measurement, about: dict[str, str]) -> str:
    """Return the model card of a file."""
    framed = _FRAMED[results.study.datasets[record.dataset].resize]
    example = _EXAMPLE.format(model=MODEL, input=about["input"].partition(":")[0], framed=framed)
    return (
        f"# {describe(results, file.records)}\n\n{_facts(results, file, record, about)}\n\n"
        f"The classes, in the order of the outputs, are in `{CLASSES}`; the whole record is `{RECORD}`. To classify an "
        f"image, with onnxruntime and Pillow:\n\n```python\n{example}```\n"
    )


def _facts(results: Results, file: File, record: Measurement, about: dict[str, str]) -> str:
    """List what a file is and what was measured of it, in markdown."""
    baseline = results.study.report.baseline
    shown = [
        ("Model", describe(results, file.records)),
        ("Top-1", f"{percent(record.top1_accuracy)} % (95 % interval {_interval(record)} %), on "
                  f"{record.num_images:,} images of the {split_name(record.split)} of {pretty(record.dataset)}"),
        (f"Against {baseline} in FP32", f"{plus_minus(file.gained)} points ({file.gained.kind})"),
        ("Size", f"{decimals(record.file_bytes / MIB)} MiB"),
        ("Latency", f"{times(file.latency_ms)} ms at batch 1, p50, with copies"),
        ("Throughput", f"{times(file.images_per_second)} images/s at batch {record.batch_latency.batch_size}"),
        ("Measured on", f"{record.device.name}, {count(record.device.threads, 'thread')}, {pretty(record.runtime)} "
                        f"{record.runtime_version}, {record.moment.date()}"),
        ("Made by", f"trimlab at commit {record.commit}, study {results.study.study}, variant {record.variant}, "
                    f"seed {record.seed}, {precision_name(record.precision)}"),
        ("sha256", record.file_sha256),
        ("Input", about["input"]),
        ("Output", about["output"]),
    ]  # fmt: skip
    return "\n".join(f"- **{name}**: {value}" for name, value in shown)
