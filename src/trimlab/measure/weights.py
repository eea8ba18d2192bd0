"""Which INT8 file a device measures: with 8-bit weights, or with 7-bit ones where 8-bit ones would saturate."""

from collections.abc import Set

from . import device
from .contract import Request

EXACT = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""x86 flags of instructions that add products of 8 bits in 32 bits."""


def weight_bits(flags: Set[str], arm: bool) -> int:
    """Return how many bits of an INT8 weight a processor multiplies by 8-bit activations without saturating: 7 or 8.

    x86 without VNNI adds two products in 16 bits: 2 · 255 · 127 saturates there, 2 · 255 · 64 does not. Arm needs no
    dot product for 8 bits: without one, ONNX Runtime makes activations signed, and 2 · 128 · 127 fits into 16 bits. A
    processor about which nothing is known gets 7: that costs little accuracy, and saturation costs whole points.

    Args:
        flags: of the processor, as Linux spells them.
        arm: whether it is one of Arm's architecture.
    """
    return 8 if arm or flags & EXACT else 7


def fitted(request: Request) -> Request:
    """Return a request with the one INT8 file that this processor computes as it is written."""
    seven_bit = request.seven_bit
    flags = device.onednn_flags() if request.runtime == "openvino" else device.processor_flags()
    if seven_bit is None or weight_bits(flags, device.is_arm()) == 8:
        return request._replace(seven_bit=None)
    return request._replace(
        model=seven_bit.model,
        onnx_labels=seven_bit.onnx_labels,
        exact_labels=seven_bit.exact_labels,
        lineage={**request.lineage, **seven_bit.lineage},
        seven_bit=None,
    )
