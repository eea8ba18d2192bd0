"""Weights that git carries: those that a study trained, rounded to FP16, each beside the record of its training."""

import copy
from pathlib import Path

import torch
from torch import nn

from trimlab import config, paths, records
from trimlab.data.dataset import dataset_for
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint
from trimlab.records import Training
from trimlab.report.text import count
from trimlab.train import evaluate


def release(study: config.Params, workload: str, seed: int, folder: Path) -> str:
    """Write the weights of one training in FP16, and its record: `FOLDER/WORKLOAD/seedN.safetensors` and `.json`.

    What is already there is left alone.

    Args:
        study: the whole params.
        workload: a key of `workloads`, trained by `dvc repro`.
        seed: one of the study's.
        folder: usually `released`.

    Returns:
        One line: the file, its size, and its top-1 before and after rounding, both measured now.

    Raises:
        UserError: there is no such training of these params; a weight does not fit into FP16; or other weights are
            there.
    """
    record = _record(study, workload, seed)
    trained = paths.weights_file(paths.trained(workload), seed)
    model = checkpoint.load(trained, study.workloads[workload])
    rounded = _rounded(model, trained)
    target = folder / workload / f"seed{seed}.safetensors"
    if not _is_there(target, record):
        records.write(record, target.with_suffix(".json"))
        checkpoint.save(rounded, target, checkpoint.architecture(trained).metadata() | {"training": record.digest})
    size = f"{target.stat().st_size / 2**20:.2f} MiB"
    said = _compared(study, workload, model, rounded.float())
    return f"{target}: {size}, {count(record.epochs, 'epoch')} at commit {record.commit}; {said}"


def _record(study: config.Params, workload: str, seed: int) -> Training:
    """Return the record of a workload's weights, if they are those of these params."""
    if workload not in study.workloads:
        raise UserError(f"workload {workload!r} is not in the study: use some of {', '.join(study.workloads)}")
    if seed not in study.seeds:
        raise UserError(f"seed {seed} is not in the study: use some of {', '.join(map(str, study.seeds))}")
    file, weights = (where(paths.trained(workload), seed) for where in (paths.record_file, paths.weights_file))
    for path in (file, weights):
        if not path.is_file():
            raise UserError(f"{path} does not exist: run `dvc repro train@{workload}`")
    record = records.read(file)
    if not isinstance(record, Training) or record.params_digest != study.training_digest(workload):
        raise UserError(f"{file} is not of these params: run `dvc repro train@{workload}`")
    if record.weights_sha256 != sha256_of(weights):
        raise UserError(f"{file} is not of the weights in {weights}: run `dvc repro train@{workload}`")
    if record.origin != "trained":
        raise UserError(f"workload {workload!r} was given its weights: release them where they were trained")
    return record


def _rounded(model: nn.Module, file: Path) -> nn.Module:
    """Return a copy of a model in FP16.

    Raises:
        UserError: a value does not fit.
    """
    rounded = copy.deepcopy(model).half()
    for name, tensor in rounded.state_dict().items():
        if not torch.isfinite(tensor).all():
            largest = model.state_dict()[name].abs().max().item()
            raise UserError(
                f"{file}: {name} holds {largest:.3g}, and FP16 at most 65504: share this file with `dvc push` instead"
            )
    return rounded


def _is_there(target: Path, record: Training) -> bool:
    """Say whether a training was released before; refuse to replace another one."""
    beside = target.with_suffix(".json")
    if not target.exists() and not beside.exists():
        return False
    if target.is_file() and beside.is_file():
        named = checkpoint.read_weights(target).training
        if named == record.digest == records.read(beside).digest:
            return True
    raise UserError(f"{target} or its .json is there, of another training: remove both, or name another folder")


def _compared(study: config.Params, workload: str, model: nn.Module, rounded: nn.Module) -> str:
    """Score a model before and after rounding."""
    dataset, split = dataset_for(study.workloads[workload]), study.data.split
    before, after = (evaluate.predict(each, dataset, split) for each in (model, rounded))
    shares = (evaluate.top1_accuracy(predicted, dataset, split) for predicted in (before, after))
    percents = " and ".join(f"{100 * share:.2f} %" for share in shares)
    other = int((before.labels != after.labels).sum())
    return f"top-1 before and after rounding to FP16: {percents} ({other} of {len(before.labels)} labels differ)"
