"""Latency of the eager torch model, as the published study timed it."""

import time

import numpy as np
import torch
from torch import nn

from trimlab import records
from trimlab.train import hardware
from trimlab.train.precision import computing_in

LATENCY_WARMUP = 20
LATENCY_REPEATS = 100


def eager_latency(model: nn.Module, image_shape: tuple[int, int, int]) -> records.Latency:
    """Time the eager model at batch 1 in strict FP32, copies left out: the study's column."""
    device = hardware.device()
    image = torch.zeros(1, *image_shape, device=device).contiguous(memory_format=torch.channels_last)
    # All points alike: fine-tuning leaves its models in channels_last, the unpruned one was never tuned.
    model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    times = []
    with torch.no_grad(), computing_in("fp32"):
        for _ in range(LATENCY_WARMUP + LATENCY_REPEATS):
            _synchronise(device)
            start = time.perf_counter()
            model(image)
            _synchronise(device)
            times.append(1000 * (time.perf_counter() - start))
    p50, p90 = np.percentile(times[LATENCY_WARMUP:], (50, 90)).tolist()
    return records.Latency(p50_ms=p50, p90_ms=p90, n=LATENCY_REPEATS, batch_size=1)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
