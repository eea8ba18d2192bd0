"""All paths, relative to the project's root. Each stage writes to the folder of its name."""

import os
import stat
from pathlib import Path

PARAMS = Path("params.yaml")
FINGERPRINTS = Path("fingerprint")
"""A digest of each stage's code: `STAGE.txt`."""
SCHEMA = Path("params.schema.json")
STUDIES = Path("studies")
RECORDS = Path("records")
REPORT = Path("report")
"""Output of the stage `report`, for the study in params.yaml."""
REPORTS = Path("reports")
"""Output of `trimlab report STUDY`, from committed records: `reports/STUDY`."""
SEARCHES = Path("searches")
"""Output of `trimlab search`: a figure for each study."""
STATE = Path(".dvc/tmp/trimlab")
"""Resumable checkpoints, kept measurements and locks. It is not an output: DVC deletes those before it runs a stage."""

MODEL = "model"
"""The output of `train` and `prune` on which later stages depend: weights and what follows from them. The record, with
times and dates, is another one: equal weights re-run nothing."""

NO_FILE = Path("data/none")
"""The committed file that stands for "none" (DVC has no optional dependency)."""
PRETRAINED = Path("data/pretrained")
"""The committed file that stands for a model's published weights."""
RELEASED = Path("released")
"""Weights that git carries, `released/WORKLOAD/seedN.safetensors`, with the records of their trainings as `.json`."""


def project_root() -> Path:
    """Return the original project's root, also inside `dvc exp run --temp`."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def regular_status(path: Path) -> os.stat_result:
    """Return a file's status, and refuse what is no regular file: reading a pipe would wait forever.

    Raises:
        OSError: the file is missing, or it is a folder, a pipe or a device.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("not a regular file")
    return status


def runtimes_file() -> Path:
    """Return the output of `runtimes`: which of the study's runtimes this machine has."""
    return Path("runtimes") / "here.json"


def kept_measurements(variant: str = "*", root: Path | None = None) -> list[Path]:
    """Return the records that unfinished `benchmark` cells have kept; their labels are beside them as `.npy`."""
    return sorted(((root or project_root()) / STATE / "measured").glob(f"{variant}/*.json"))


def kept_measurement(variant: str, request_digest: str) -> Path:
    """Return where a request's record is kept until its variant has all records."""
    return project_root() / STATE / "measured" / variant / f"{request_digest}.json"


def answers_file(variant: str) -> Path:
    """Return the list of the requests of a variant's last `benchmark`."""
    return project_root() / STATE / "answered" / variant / "benchmark.json"


def answer(variant: str, request_digest: str) -> Path:
    """Return the record that answered a request in a variant's last `benchmark`; labels lie beside it as `.npy`."""
    return answers_file(variant).with_name(f"{request_digest}.json")


def kept_latencies(digest: str) -> Path:
    """Return where the times of layers and files are kept from which a target's latency is met, see `latency`."""
    return project_root() / STATE / "latency" / f"{digest}.json"


def finished(resumable: Path) -> Path:
    """Return where a resumable checkpoint is kept once its training has a record."""
    return resumable.with_suffix(".done")


def forget_finished() -> None:
    """Delete the resumable checkpoints of finished trainings: DVC has cached the outputs."""
    for path in (project_root() / STATE).glob("*.done"):
        path.unlink(missing_ok=True)


def dataset_file(dataset: str) -> Path:
    """Return the one file that `prepare` writes for a dataset."""
    return Path("prepare") / dataset / "dataset.safetensors"


def verification(dataset: str) -> Path:
    """Return the file that remembers the digest of a dataset's file."""
    return project_root() / STATE / "verified" / f"{dataset}.json"


def damaged_images(dataset: str) -> Path:
    """Return the list of a dataset's images that could not be read, if there were many."""
    return project_root() / STATE / "damaged" / f"{dataset}.txt"


def trained(workload: str) -> Path:
    """Return the output folder of `train`."""
    return Path("train") / workload


def pruned(variant: str) -> Path:
    """Return the output folder of `prune`."""
    return Path("prune") / variant


def exported(workload: str) -> Path:
    """Return the output folder of `export`."""
    return Path("export") / workload


def quantized(variant: str) -> Path:
    """Return the output folder of `quantize`."""
    return Path("quantize") / variant


def measured(variant: str) -> Path:
    """Return the output folder of `benchmark`."""
    return Path("benchmark") / variant


def weights_file(folder: Path, seed: int) -> Path:
    """Return the weights of one seed in a `train` or `prune` folder."""
    return folder / MODEL / f"seed{seed}.safetensors"


def given_weights(given: Path, seed: int) -> Path:
    """Return the file of weights that the params name for a seed: that file, or in a folder the seed's."""
    return given / f"seed{seed}.safetensors" if given.is_dir() else given


def outcome_file(folder: Path, seed: int) -> Path:
    """Return what follows from the weights of one seed in a `train` or `prune` folder: accuracy, size, MACs."""
    return folder / MODEL / f"seed{seed}.json"


def torch_labels_file(variant: str, seed: int) -> Path:
    """Return the file of labels that the eager torch model predicts for the scored images, uint16."""
    return pruned(variant) / MODEL / f"seed{seed}-labels.npy"


def record_file(folder: Path, seed: int) -> Path:
    """Return the record of one seed in a `train` or `prune` folder."""
    return folder / "record" / f"seed{seed}.json"


def sensitivity_file(variant: str, seed: int) -> Path:
    """Return the record of the curves from which a variant's ratios were chosen."""
    return pruned(variant) / "record" / f"seed{seed}-sensitivity.json"


def onnx_file(variant: str, seed: int, precision: str, flavour: str = "") -> Path:
    """Return an exported file; an INT8 file has flavours, see `onnx_files`."""
    suffix = f"-{flavour}" if flavour else ""
    return quantized(variant) / f"seed{seed}-{precision}{suffix}.onnx"


def index_file(variant: str) -> Path:
    """Return the list of a variant's measurements."""
    return measured(variant) / "index.json"


def measurement_file(variant: str, seed: int, precision: str, runtime: str) -> Path:
    """Return a measurement's record; the predicted labels are beside it as `.npy`."""
    return measured(variant) / f"seed{seed}-{precision}-{runtime}.json"
