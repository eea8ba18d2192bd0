"""The hardware that torch uses: device, versions and peak memory."""

import torch

from trimlab import machine
from trimlab.measure import memory
from trimlab.measure.device import gpu, nvidia_driver
from trimlab.records import Device


def device() -> torch.device:
    """Return the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def lock_name() -> str:
    """Return the name of torch's device for `machine.exclusive`; a GPU's is the same in all processes."""
    return f"gpu-{torch.cuda.get_device_properties(0).uuid}" if torch.cuda.is_available() else machine.CPU


def device_record() -> Device:
    """Return the device that torch uses, as records have it."""
    threads = torch.get_num_threads()
    if not torch.cuda.is_available():
        return machine.cpu(threads)
    properties = torch.cuda.get_device_properties(0)
    capability = f"{properties.major}.{properties.minor}"
    return Device.model_validate(gpu(properties.name, capability, properties.total_memory, threads))


def gpu_versions() -> dict[str, str]:
    """Return the versions of CUDA and the driver, as a GPU's measurements have them; none without a GPU."""
    if not torch.cuda.is_available():
        return {}
    driver = nvidia_driver()
    return {"cuda": str(torch.version.cuda), **({"driver": driver} if driver else {})}


def peak_memory_bytes() -> int:
    """Return the peak of the process's resident memory, or of allocated memory on a GPU, since `forget_peak_memory`."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else memory.peak_bytes()


def forget_peak_memory() -> None:
    """Start `peak_memory_bytes` anew: one process trains several seeds."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        memory.forget_peak()
