"""The progress of a training, and the checkpoint from which it resumes after an interruption."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trimlab import fingerprint, paths, progress
from trimlab.digests import digest_of
from trimlab.records import Epoch
from trimlab.train.precision import UsedPrecision

SAVE_EVERY_SECONDS = 60.0


@dataclass
class Position:
    """The progress of a training: what a resumable checkpoint holds besides tensors."""

    epoch: int = 0
    """Whole epochs done."""
    step: int = 0
    """Steps done in the current epoch."""
    seconds: float = 0.0
    """Spent in the current epoch's steps."""
    loss_sum: float = 0.0
    """Over the steps of the current epoch."""
    correct: float = 0.0
    """Training images classified correctly in those steps."""
    resumptions: int = 0
    """How often the training was interrupted and resumed: its epoch times then come from several processes."""
    curve: list[Epoch] = field(default_factory=list)


def resumable_file(module: str, precision: UsedPrecision, *identity: str) -> Path:
    """Return where the resumable checkpoint of a training lies: by all that decides its weights.

    Args:
        module: the one that trains: its code, what that imports, and torch's version are part of the digest.
        precision: what is computed in.
        identity: digests of params and data, and the seed.
    """
    digest = digest_of(fingerprint.of(module), torch.__version__, precision, *identity)
    return paths.project_root() / paths.STATE / f"{digest}.safetensors"


def finish(resumable: Path) -> None:
    """Put a resumable checkpoint aside: its training is on record, but DVC has not kept the output yet.

    A kill in between, or in the next seed, makes DVC delete the output; the cell then ends at once from here.
    `paths.forget_finished` deletes it when the report is rendered.
    """
    if resumable.exists():
        resumable.replace(paths.finished(resumable))


def save(
    file: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    position: Position,
) -> None:
    """Write a resumable checkpoint: modules, the optimizer's state and position. It appears whole or not at all."""
    state = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    for index, parameter in enumerate(_parameters(optimizer)):
        own = optimizer.state[parameter]
        state |= {f"optimizer.{index}.{key}": value for key, value in own.items() if value is not None}
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    told = {
        "position": json.dumps({**vars(position), "curve": [epoch.model_dump() for epoch in position.curve]}),
        "scaler": json.dumps(scaler.state_dict()),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file(tensors, temporary, metadata=told)
    temporary.replace(file)


def restore(
    file: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    label: str,
) -> Position | None:
    """Fill modules, the optimizer and scaler from a checkpoint, one put aside as well.

    Returns:
        Where the training stands; None where it has to start: there is no checkpoint, or it is damaged.
    """
    found = [path for path in (file, paths.finished(file)) if path.exists()]
    if not found:
        return None
    try:
        with safe_open(found[0], framework="pt") as opened:
            told = opened.metadata()
        tensors = load_file(found[0])
    except SafetensorError:
        progress.say(f"{label}: the resumable checkpoint {found[0]} is damaged: starting again")
        return None
    for name, module in modules.items():
        module.load_state_dict(_under(name, tensors))
    for index, parameter in enumerate(_parameters(optimizer)):
        for key, value in _under(f"optimizer.{index}", tensors).items():
            # AdamW counts its steps on the CPU.
            optimizer.state[parameter][key] = value if key == "step" else _like(value, parameter)
    scaler.load_state_dict(json.loads(told["scaler"]))
    position = json.loads(told["position"])
    curve = [Epoch.model_validate(epoch) for epoch in position.pop("curve")]
    return Position(**position, curve=curve)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _under(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors below a name, by the rest of their names."""
    return {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}


def _like(tensor: Tensor, parameter: Tensor) -> Tensor:
    """Lay a tensor out in memory as its parameter is: the optimizer's sums then round alike."""
    return torch.empty_like(parameter).copy_(tensor)
