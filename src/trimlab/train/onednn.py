"""A way around oneDNN's strided 1×1 convolution, whose weight gradient writes past a buffer.

uxlfoundation/oneDNN#6035, open, seen with torch 2.14.1: with AVX2 kernels, channels_last and fewer input channels than
a block of 8, training hangs, crashes or goes on with wrong gradients. Pruned ResNets have such convolutions. AVX-512's
kernels, in float32 and in bfloat16, gave right gradients for 1 to 17 input channels.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn


@contextmanager
def sliced(model: nn.Module) -> Iterator[None]:
    """Compute a model's strided 1×1 convolutions as slicing and a convolution of stride 1: the same values.

    Parameters, buffers and their names stay as they are; afterwards so do the convolutions.

    Args:
        model: any module; changed in place for the block.
    """
    affected = [module for module in model.modules() if isinstance(module, nn.Conv2d) and _is_affected(module)]
    strides = [convolution.stride for convolution in affected]
    hooks = [
        convolution.register_forward_pre_hook(_slicing(stride))
        for convolution, stride in zip(affected, strides, strict=True)
    ]
    for convolution in affected:
        convolution.stride = (1, 1)
    try:
        yield
    finally:
        for convolution, stride, hook in zip(affected, strides, hooks, strict=True):
            convolution.stride = stride
            hook.remove()


def _is_affected(convolution: nn.Conv2d) -> bool:
    one_by_one = convolution.kernel_size == (1, 1) and convolution.padding in ((0, 0), "valid")
    return one_by_one and convolution.stride != (1, 1)


def _slicing(stride: tuple[int, ...]) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    vertical, horizontal = stride

    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (images,) = inputs
        return (images[..., ::vertical, ::horizontal],)

    return hook
