"""What a measurement is compared with and recognised by: test pack, reference labels, digest of the request."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from trimlab import config, fingerprint, formats, progress
from trimlab.benchmark.targets import Target
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.measure import contract, device, runtimes, scoring
from trimlab.measure.contract import Request, SevenBit
from trimlab.measure.errors import MeasureError
from trimlab.measure.session import Settings

_CHUNK = 256
"""Images that are written at a time."""


def score(asked: Request) -> None:
    """Write the labels that ONNX Runtime predicts, once per file: for a request's file and its 7-bit variant.

    An INT8 file is computed as it is written, in float between Q and DQ: the reference that a runtime's kernels, or
    another runtime, are compared with must not depend on this machine's processor.

    Raises:
        UserError: a file is missing or broken.
    """
    parts: list[Request | SevenBit] = [asked, asked.seven_bit] if asked.seven_bit else [asked]
    for part in parts:
        labels = part.exact_labels or part.onnx_labels
        if labels and not Path(labels).exists():
            score_file(Path(part.model), asked, Path(labels), exact=bool(part.exact_labels))


def write_pack(workload: config.Workload, split: str, path: Path) -> None:
    """Write what `trimlab.measure` scores on: labels (N,), mean and std (C,) to a path, and the images beside it."""
    from trimlab.data.dataset import dataset_for  # torch: not for a variant without precisions

    prepared = dataset_for(workload)
    scored = prepared.scored(split)
    np.savez(path, labels=scored.labels.numpy(), mean=prepared.mean.numpy(), std=prepared.std.numpy())
    shape = (len(scored), *prepared.image_shape)
    with images_file(path).open("wb") as file:  # as `np.save` would, but some images at a time
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for images in scored.chunks(_CHUNK):
            images.numpy().tofile(file)


def images_file(pack: Path) -> Path:
    """Return where the images of a pack lie."""
    return pack.with_suffix(".npy")


def digest(asked: Request) -> str:
    """Return the sha256 of what decides a measurement: files by their content, because their paths change.

    The code that measures is part of it: what older code measured is not a result of the current code.
    """
    decisive = asked._replace(
        model=sha256_of_input(Path(asked.model)),
        baseline=sha256_of_input(Path(asked.baseline)),
        torch_labels=sha256_of_input(Path(asked.torch_labels)),
        calibration=asked.calibration and sha256_of_input(Path(asked.calibration)),
        images="",  # the digest of images and pack is in the lineage
        pack="",
        onnx_labels=None,  # these follow from the model
        exact_labels=None,
        predictions="",
        engines=None,
    )
    lineage = {key: value for key, value in asked.lineage.items() if key != "commit"}  # the code has its own digest
    values = contract.to_json(decisive._replace(lineage=lineage)) | {
        "installed": _installed(asked.runtime),
        "code": fingerprint.of("trimlab.measure.__main__"),
        "processor": device.identity(device.cpu(asked.threads or device.cores())),
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _installed(runtime: str) -> str:
    """Return the version of a runtime that is installed beside trimlab; nothing for one in another Python."""
    try:
        return version(runtime)
    except PackageNotFoundError:
        return ""


def sha256_of_input(path: Path) -> str:
    """Return the sha256 of a file that a former stage wrote.

    Raises:
        UserError: it is missing.
    """
    try:
        return sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): run `dvc repro`, which makes it again") from None


def labels(target: Target, file: Path, scratch: Path) -> tuple[str | None, str | None]:
    """Return a request's `onnx_labels` and `exact_labels` for a file; see `score`."""
    labels = str(labels_file(file, scratch))
    quantized = formats.BY_NAME[target.precision].quantized
    return None if target.runtime == "onnxruntime" else labels, labels if quantized else None


def labels_file(file: Path, scratch: Path) -> Path:
    """Return where the labels lie that a file is compared with."""
    return scratch / f"{file.stem}-labels.npy"


def score_file(file: Path, asked: Request, labels: Path, exact: bool) -> None:
    """Write the labels that ONNX Runtime predicts with a file; `exact` computes INT8 as it is written."""
    how = "ONNX Runtime, without fused kernels" if exact else "ONNX Runtime"
    progress.say(f"scoring {file.name} in {how}")
    settings = Settings("int8" if exact else "fp32", device.cores(), 64, exact=exact)
    try:
        session = runtimes.open_file("onnxruntime", str(file), settings)
        predicted = scoring.predict(
            session, scoring.load(asked.images, asked.pack, session.image_shape), settings.batch_size
        )
    except MeasureError as error:
        raise UserError(str(error)) from None
    np.save(labels, predicted.labels)
