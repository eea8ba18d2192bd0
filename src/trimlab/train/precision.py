"""What a training computes in: FP32, TF32, bf16 or fp16."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from trimlab.config import TrainingPrecision
from trimlab.measure.device import has_fast_bf16, has_native_bf16
from trimlab.train import hardware

UsedPrecision = Literal["fp32", "tf32", "bf16", "fp16"]


def resolve(precision: TrainingPrecision) -> UsedPrecision:
    """Return the precision that a params value stands for on this device.

    It is bf16 for `amp` only where it is native, and for `auto` only where it is faster too.
    """
    cuda = torch.cuda.is_available()
    if precision in ("amp", "auto") and _offers_bf16(cuda, precision):
        return "bf16"
    if cuda and precision == "amp":
        return "fp16"
    return "tf32" if cuda and precision != "fp32" and torch.cuda.get_device_capability() >= (8, 0) else "fp32"


def _offers_bf16(cuda: bool, precision: Literal["amp", "auto"]) -> bool:
    if cuda:
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return has_native_bf16() if precision == "amp" else has_fast_bf16()


@contextmanager
def computing_in(precision: UsedPrecision) -> Iterator[None]:
    """Run a block in a precision: autocast for bf16 and fp16, TF32 or strict FP32 otherwise."""
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with fp32_products(precision), torch.autocast(hardware.device().type, low, enabled=low is not None):
        yield


@contextmanager
def fp32_products(precision: UsedPrecision) -> Iterator[None]:
    """Set TF32 or strict FP32 for a GPU's float32 products within a block; backward passes run outside of autocast."""
    settings = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [setting.fp32_precision for setting in settings]
    for setting in settings:
        setting.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    try:
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value
