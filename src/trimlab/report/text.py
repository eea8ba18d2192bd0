"""How the report writes names and numbers."""

import math

from trimlab import formats
from trimlab.config import PruningSettings, Quantity
from trimlab.report.intervals import Difference, Replicated

MIB = 2**20


_NAMES = {
    "resnet18": "ResNet-18",
    "resnet20": "ResNet-20",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "tiny-imagenet": "Tiny ImageNet",
    "onnxruntime": "ONNX Runtime",
    "tensorrt": "TensorRT",
    "openvino": "OpenVINO",
    "pytorch": "PyTorch",
    "state_dict": "state dict",
}
_IMPORTANCES = {
    "group-l1": "group L1",
    "group-l2": "group L2",
    "filter-l1": "filter L1",
    "taylor": "Taylor",
    "hessian": "Hessian",
}
_UNITS = {"params": "M parameters", "macs": "M multiply-accumulates", "size_mib": "MiB", "latency_ms": "ms"}
_ALLOCATIONS = {"global": "one ranking over all layers", "isomorphic": "one ranking over all layers built alike"}
_ROUNDED = {"down": "rounded down to", "nearest": "rounded to the nearest", "up": "rounded up to"}
_SPLITS = {"test": "test set", "holdout": "hold-out"}


def pretty(name: str) -> str:
    """Return how a model, dataset or runtime is written."""
    return _NAMES.get(name, name)


def count(number: int, noun: str) -> str:
    """Write a number of things: "1 thread", "2 threads"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def precision_name(precision: str) -> str:
    """Return how a precision is written."""
    return formats.BY_NAME[precision].label


def name_ratio(ratio: float, num_params: float, with_params: bool) -> str:
    """Name a pruning point, with its parameters where the ratio does not say enough."""
    name = ratio_percent(ratio)
    return f"{name} ({millions(num_params)} M params)" if with_params else name


def ratio_percent(ratio: float) -> str:
    """Write a ratio as it was asked for: "60 %", "12.5 %"."""
    return f"{round(100 * ratio, 2):g} %"


def amount(quantity: Quantity, value: float) -> str:
    """Write what a model takes: "0.199 M parameters", "90.20 M multiply-accumulates", "1.75 MiB", "0.500 ms"."""
    return f"{decimals(value / 1e6 if _UNITS[quantity].startswith('M ') else value)} {_UNITS[quantity]}"


def percent(share: float) -> str:
    """Write a share of 1 as percent with two decimals, without the sign."""
    return f"{100 * share:.2f}"


def signed(value: float) -> str:
    """Write points with their sign; what rounds to nothing has none."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text.replace("-", "−")


def plus_minus(difference: Difference) -> str:
    """Write points gained with the half width of their interval: "−1.15 ± 0.42"."""
    return f"{signed(difference.points)} ± {difference.half_width:.2f}"


def times(found: Replicated, unit: str = "") -> str:
    """Write a ratio of times, with its interval and no digit beyond that: "5.6 (5.4–5.8)", "5.6× (5.4–5.8)".

    Of one process, which has no interval, with two digits, or whole.
    """
    if found.low is None or found.high is None:
        return f"{found.mean:,.{max(0, _places(float(f'{found.mean:.2g}'), 2))}f}{unit}"
    places = _places((found.high - found.low) / 2, 1)
    mean, low, high = (f"{round(value, places):,.{max(0, places)}f}" for value in (found.mean, found.low, found.high))
    return f"{mean}{unit} ({low}–{high})"


def _places(value: float, digits: int) -> int:
    """Return the decimals, at most two, with which a value has so many digits; -2 rounds to hundreds."""
    return min(2, digits - 1 - math.floor(math.log10(value))) if value > 0 else 2


def p_value(probability: float) -> str:
    """Write the p of a test with two digits, and what is below a thousandth as that."""
    return "< 0.001" if probability < 0.001 else f"{probability:.2g}"


def importance_name(importance: str) -> str:
    """Return how what ranks channels is written."""
    return _IMPORTANCES.get(importance, importance)


def allocation_name(allocation: str) -> str:
    """Return how it is written by what each layer's share is decided."""
    return _ALLOCATIONS.get(allocation, allocation)


def rounded_to(section: PruningSettings) -> str:
    """Write how widths are rounded: "rounded down to multiples of 16"."""
    return f"{_ROUNDED[section.rounding]} multiples of {section.round_to}"


def split_name(split: str) -> str:
    """Return how the scored split is written."""
    return _SPLITS[split]


def millions(count: float) -> str:
    """Write a count in millions: 11.17, 0.272."""
    return decimals(count / 1e6)


def mib(size_bytes: float) -> str:
    """Write a size in MiB (2^20 bytes): 42.66, 0.123."""
    return decimals(size_bytes / MIB)


def tera(count: float) -> str:
    """Write a count in units of 10^12 with about three digits: 687, 65.7, 1.41, 0.132."""
    value = count / 1e12
    if round(value, 1) < 10:
        return decimals(value)
    return f"{value:,.0f}" if round(value) >= 100 else f"{value:.1f}"


def decimals(value: float) -> str:
    """Write a value with two decimals, three below 1."""
    return f"{value:.2f}" if round(value, 2) >= 1 else f"{value:.3f}"
