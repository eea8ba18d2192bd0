"""Structured pruning by torch-pruning, and the check that the ratio was reached."""

import contextlib
import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch_pruning as tp
from torch import Tensor, nn

from trimlab import config
from trimlab.errors import UserError, one_line
from trimlab.models import registry
from trimlab.models.reshape import fit_to
from trimlab.prune import coupling

GLOBAL_TOLERANCE = 0.05
"""Share of all channels that may stay beyond the request where layers are ranked together: coupled ones count once."""


class Pruned(NamedTuple):
    """What pruning did to a model."""

    whole: list[str]
    """The names of the layers besides the classifier that keep all output channels, because they have to."""
    ratio: float
    """Share of the output channels of all other layers that was removed, in [0, 1)."""


PLAIN = config.PruningKeys()
"""Of values that no params hold."""


def prune(
    model: nn.Module,
    ratio: float,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    keys: config.PruningKeys = PLAIN,
    keep: Sequence[str] = (),
    *,
    ratios: Mapping[str, float] | None = None,
    steps: int = 1,
    gradients: Mapping[str, Tensor] | None = None,
) -> Pruned:
    """Remove output channels of every layer that can lose some, in place.

    The classifier keeps its outputs, and so do layers whose channels attention or a reshape splits, those named by
    `keep`, and those coupled with one of these.

    Args:
        model: on the CPU.
        ratio: share of the output channels to remove, in [0, 1): of each layer, or where layers are ranked together of
            all of them.
        section: criterion, allocation and rounding.
        image_shape: channels, height, width.
        seed: decides the `random` criterion.
        keys: what the params call ratio, allocation, rounding and kept layers.
        keep: patterns of names of layers that keep all output channels.
        ratios: shares of single layers' output channels, in [0, 1), by the layer's name in `widths`. They take the
            place of `ratio`, which the other layers get; layers that lose channels together need equal ones. With
            them no layers are ranked together.
        steps: in how many equal steps channels are removed; before each, importance is computed from what is left of
            the weights and the gradients.
        gradients: for an importance that uses them, a tensor in the shape of each parameter, by name.

    Raises:
        UserError: a pattern matches no layer; torch-pruning cannot follow the model; the pruned model does not run, or
            cannot be rebuilt; a ratio would not be reached.
        KeyError: the model has no layer of a name in `ratios`; gradients are needed, and one is missing.
    """
    kept = config.matching(keys.keep, keep, list(widths(model)))
    before, own = widths(model), dict(ratios or {})
    if unknown := own.keys() - before.keys():
        raise KeyError(f"no convolution or linear layer is named {sorted(unknown)[0]}")
    if not any((ratio, *own.values())):
        return Pruned([], 0.0)
    torch.manual_seed(seed)
    ranked = section.ranked and not own
    for name, parameter in model.named_parameters() if section.uses_gradients else ():
        parameter.grad = (gradients or {})[name].clone()
    parts = _remove(model, kept, ratio, section, image_shape, keys, own, steps)
    layers = [
        _Layer(name, before[name], after, parts[name], own.get(name, ratio))
        for name, after in widths(model).items()
        if name in parts
    ]
    _check_reached(layers, ratio, section, keys, ranked)
    last = registry.classifier(model)
    whole = [name for name in before if name not in parts and model.get_submodule(name) is not last]
    return Pruned(whole, 1 - sum(layer.after for layer in layers) / sum(layer.before for layer in layers))


def dry_run(
    model: nn.Module,
    ratio: float,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    keys: config.PruningKeys = PLAIN,
    keep: Sequence[str] = (),
) -> None:
    """Refuse what `prune` refuses whatever the weights are; the model and the random numbers stay as they are.

    Where the allocation is not uniform, it is the weights that decide which ratio is reached.
    """
    trial = copy.deepcopy(model)
    section = of_weights_alone(section)
    with torch.random.fork_rng(devices=[]):
        if section.allocation == "uniform":
            prune(trial, ratio, section, image_shape, keys=keys, keep=keep)
        elif ratio > 0:
            _remove(trial, config.matching(keys.keep, keep, list(widths(model))), ratio, section, image_shape, keys, {})


def of_weights_alone(section: config.PruningSettings) -> config.PruningSettings:
    """Return a section whose importance needs no gradients: which channels go does not decide what can be pruned."""
    return section.model_copy(update={"importance": "group-l1"}) if section.uses_gradients else section


def widths(model: nn.Module) -> dict[str, int]:
    """Return the output channels of every convolution and linear layer, by name."""
    return {
        name: module.weight.shape[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _remove(
    model: nn.Module,
    kept: Sequence[str],
    ratio: float,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    keys: config.PruningKeys,
    own: Mapping[str, float],
    steps: int = 1,
) -> dict[str, int]:
    """Prune, prove that the result can be rebuilt, and return the layers that lose channels.

    Returns:
        How many equal parts each of them has, by name.
    """
    original, names, ranked = copy.deepcopy(model), widths(model), section.ranked and not own
    images = torch.randn(1, *image_shape, generator=torch.Generator().manual_seed(0))
    layers = {module: name for name, module in model.named_modules() if name in names}
    # The classifier's outputs are the classes.
    fixed = [registry.classifier(model), *(module for module, name in layers.items() if name in kept)]
    importance = coupling.Importance(_IMPORTANCES[section.importance](), fixed)
    with _refusing(f"{keys.ratio} {ratio:g}: torch-pruning cannot follow the model", "choose another model"):
        pruner = coupling.pruner(
            model,
            images,
            importance,
            global_pruning=ranked,
            isomorphic=ranked and section.allocation == "isomorphic",
            pruning_ratio=ratio,
            iterative_steps=steps,
            pruning_ratio_dict={layer: own[name] for layer, name in layers.items() if name in own},
            # Ranked together, a whole layer could go: then the network is cut in two.
            max_pruning_ratio=max(0.95, ratio) if ranked else 1.0,
            round_to=section.round_to,
            rounding=section.rounding,
        )
    for group in (group for _ in range(steps) for group in pruner.step(interactive=True)):
        name = layers.get(group[0].dep.target.module, "a layer")
        with _refusing(f"{keys.ratio} {ratio:g}: torch-pruning cannot prune {name}", f"name it in {keys.keep}"):
            group.prune()
    model.zero_grad(set_to_none=True)
    _check_rebuilds(model, original, images, keys)
    return {name: importance.parts[layer] for layer, name in layers.items() if layer in importance.parts}


@contextlib.contextmanager
def _refusing(problem: str, remedy: str) -> Iterator[None]:
    """Turn whatever an operation provokes that torch-pruning does not know into one line."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{problem} ({_reason(error)}): {remedy}") from error


def _check_rebuilds(model: nn.Module, original: nn.Module, images: Tensor, keys: config.PruningKeys) -> None:
    """Refuse a pruned model that does not run, or that its weights do not give back bit for bit."""
    outputs = _run(model, images, f"the pruned model does not run: name in {keys.keep} the layers before")
    fit_to(original, model.state_dict())
    rebuilt = _run(original, images, "the pruned model cannot be rebuilt from its weights, because of")
    if not torch.equal(outputs, rebuilt):
        raise UserError(
            "the pruned model cannot be rebuilt from its weights: the outputs differ, because its state_dict does not "
            "hold all of its widths and values"
        )


def _run(model: nn.Module, images: Tensor, problem: str) -> Tensor:
    """Return a model's outputs in eval mode, or refuse it and name the part that failed."""
    entered = [""]
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: entered.append(name))
        for name, module in model.named_modules()
    ]
    try:
        with torch.no_grad():
            outputs: Tensor = model.eval()(images)
    except Exception as error:  # whatever other widths provoke
        raise UserError(f"{problem} {entered[-1]} ({_reason(error)})") from error
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _reason(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", 120)


class _Layer(NamedTuple):
    """A layer that loses channels."""

    name: str
    before: int
    after: int
    parts: int
    """Equal parts of its channels that are pruned alike, because a grouped convolution asks for it."""
    ratio: float
    """Share of its channels asked for, in [0, 1)."""

    @property
    def width(self) -> int:
        """Channels of one part before pruning."""
        return self.before // self.parts

    @property
    def asked(self) -> int:
        """How many channels the ratio leaves, in all."""
        return int(self.width * (1 - self.ratio)) * self.parts

    def whole(self, round_to: int | None, keys: config.PruningKeys) -> str:
        """Say why the layer stays whole, and what can be changed."""
        kept, step = int(self.width * (1 - self.ratio)), round_to or 1
        remedies = [f"{keys.round_to} to at most {kept}"] if round_to and kept > 1 else []
        if step < self.width:
            remedies.append(f"{keys.ratio} to at most {self._most(step):g}")
        if not remedies:
            half = self.width // 2
            remedies = [f"{keys.round_to} to at most {half} and {keys.ratio} to at most {self._most(half):g}"]
        of = f" in each of its {self.parts} groups" if self.parts > 1 else ""
        rounded = f", fewer than {keys.round_to} {round_to}" if round_to else ""
        return (
            f"{keys.ratio} {self.ratio:g} leaves {self.name} whole: {kept} of {self.width} channels would stay{of}"
            f"{rounded}: set {' or '.join(remedies)}"
        )

    def uneven(self, keys: config.PruningKeys) -> str:
        """Say that the layer does not get the width asked for."""
        return (
            f"{keys.ratio} {self.ratio:g} would leave {self.name} {self.after} of {self.before} channels instead of "
            f"{self.asked}, because other channels go with those that are removed: name it in {keys.keep}, or "
            "choose another model"
        )

    def _most(self, kept: int) -> float:
        """Return the largest ratio, in hundredths, at which so many channels stay."""
        return math.floor(100 * (1 - kept / self.width) + 1e-9) / 100


def _check_reached(
    layers: Sequence[_Layer], ratio: float, section: config.PruningSettings, keys: config.PruningKeys, ranked: bool
) -> None:
    """Refuse a ratio that torch-pruning did not reach: it silently skips a layer of which nothing would be left."""
    if not layers:
        raise UserError(f"{keys.ratio} {ratio:g}: the model has no layer that can lose channels: set {keys.ratio} to 0")
    step = section.round_to or 0
    below = max(0, step - 1) if section.rounding != "up" else 0
    above = step if section.rounding != "down" else 0
    if ranked:
        channels = sum(layer.before for layer in layers)
        share = sum(layer.after for layer in layers) / channels
        if share > 1 - ratio + GLOBAL_TOLERANCE + above * len(layers) / channels:
            raise UserError(
                f"{keys.ratio} {ratio:g} is not reached: ranked together, {share:.0%} of all channels would stay, "
                f"because a layer whose channels all rank low stays whole: lower {keys.ratio}, or set "
                f"{keys.allocation} to uniform"
            )
        return
    if all(layer.after == layer.before for layer in layers) and above:
        raise UserError(
            f"{keys.ratio} {ratio:g} removes nothing: {keys.round_to} {section.round_to} rounds every width back to "
            f"the unpruned one: lower {keys.round_to}, or raise {keys.ratio}"
        )
    missed = [layer for layer in layers if layer.after == layer.before > layer.asked + above * layer.parts]
    if missed:
        raise UserError(min(missed, key=lambda layer: layer.width).whole(section.round_to, keys))
    for layer in layers:
        if not layer.asked - below * layer.parts <= layer.after <= layer.asked + above * layer.parts:
            raise UserError(layer.uneven(keys))


_IMPORTANCES = {
    "group-l1": lambda: tp.importance.MagnitudeImportance(p=1),
    "group-l2": lambda: tp.importance.MagnitudeImportance(p=2),
    "filter-l1": lambda: tp.importance.MagnitudeImportance(p=1, normalizer=None, group_reduction="first"),
    "lamp": lambda: tp.importance.LAMPImportance(p=2),
    "fpgm": lambda: tp.importance.FPGMImportance(p=2),
    "bn_scale": lambda: tp.importance.BNScaleImportance(),
    "taylor": lambda: tp.importance.TaylorImportance(),
    "hessian": lambda: tp.importance.HessianImportance(),
    "random": lambda: tp.importance.RandomImportance(),
}
