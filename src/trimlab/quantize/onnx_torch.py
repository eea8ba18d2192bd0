"""An ONNX graph computed by torch, node by node: gradients flow through it, and through its Q/DQ pairs.

It knows the operators of the files that `export` writes of common convolutional networks and transformers. onnx2torch
knows more of them, but neither QuantizeLinear nor DequantizeLinear.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from trimlab.errors import UserError

Array = NDArray[Any]
Arrays = Mapping[str, Array]
Attributes = dict[str, Any]
Operator = Callable[..., Tensor | tuple[Tensor, ...]]
"""Computes a node's outputs from its inputs; an optional input that is left out is None."""


class _Step(NamedTuple):
    compute: Operator
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    finished: tuple[str, ...]
    """Tensors that no later step reads."""


class Graph(nn.Module):
    """A graph with one input and one output, without parameters of its own."""

    def __init__(self, proto: ModelProto, given: Collection[str] = ()) -> None:
        """Read a graph.

        Args:
            proto: at opset 17.
            given: names of tensors that the caller of `forward` gives: whatever makes them in the graph is left out.

        Raises:
            UserError: an operator is not known here.
        """
        super().__init__()
        check(proto)
        graph = proto.graph
        (self._input,), (self._output,) = ([each.name for each in part] for part in (graph.input, graph.output))
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        nodes = [node for node in graph.node if not set(node.output) & set(given)]
        self._steps = _steps(nodes, arrays, self._output)
        self._integers: dict[str, Tensor] = {}
        """Shapes, axes and indices, which are read on the CPU."""
        self._floats: dict[str, str] = {}
        """The names of buffers, by those of constants, which may hold dots."""
        for name in sorted({name for node in nodes for name in node.input} & arrays.keys() - set(given)):
            value = torch.from_numpy(arrays[name].copy())
            if value.is_floating_point():
                self._floats[name] = f"constant{len(self._floats)}"
                self.register_buffer(self._floats[name], value, persistent=False)
            else:
                self._integers[name] = value

    def forward(self, images: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return logits, (N, classes) float32.

        Args:
            images: (N, C, H, W) float32, normalised.
            given: the tensors that were announced.
        """
        values: dict[str, Tensor] = {self._input: images, **self._integers, **(given or {})}
        values |= {name: self.get_buffer(buffer) for name, buffer in self._floats.items()}
        for step in self._steps:
            found = step.compute(*(values[name] if name else None for name in step.inputs))
            results = found if isinstance(found, tuple) else (found,)
            values.update(zip(step.outputs, results, strict=True))
            for name in step.finished:
                del values[name]
        return values[self._output]


def check(proto: ModelProto) -> None:
    """Refuse a graph that `Graph` can't compute.

    Raises:
        UserError: it holds an operator that is not known here.
    """
    for node in proto.graph.node:
        if node.op_type not in (*_KNOWN, "QuantizeLinear"):
            raise UserError(
                f"int8-qat cannot train through the operator {node.op_type} ({node.name}): leave int8-qat out of the "
                "variant's precisions"
            )


def _steps(nodes: Sequence[NodeProto], arrays: Arrays, output: str) -> list[_Step]:
    steps: list[_Step] = []
    made, read_later = {name for node in nodes for name in node.output}, {output}
    for node in reversed(nodes):
        compute, inputs = _operator(node, arrays)
        finished = made & {*inputs, *node.output} - read_later
        read_later |= set(inputs)
        steps.append(_Step(compute, inputs, tuple(node.output), tuple(finished)))
    return steps[::-1]


def _operator(node: NodeProto, arrays: Arrays) -> tuple[Operator, tuple[str, ...]]:
    """Return what computes a node, and the names of its inputs."""
    if node.op_type == "QuantizeLinear":
        source, scale, zero_point = node.input
        return _rounding(arrays[scale], arrays[zero_point]), (source,)
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Split":
        attributes["num_outputs"] = len(node.output)
    return partial(_KNOWN[node.op_type], attributes), tuple(node.input)


def _rounding(scale: Array, zero_point: Array) -> Operator:
    bounds = np.iinfo(zero_point.dtype)
    # Numbers, not tensors: a GPU's would have to be waited for.
    return lambda values: FakeQuantize.apply(values, scale.item(), zero_point.item(), int(bounds.min), int(bounds.max))


class FakeQuantize(torch.autograd.Function):
    """What QuantizeLinear and DequantizeLinear make of values; gradients pass where nothing is clipped.

    torch's fake quantization multiplies by the inverse of the scale: an average of rounded values often lies halfway
    between two steps, and then goes to the other one than by QuantizeLinear's division.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, scale: Tensor | float, zero_point: int, lowest: int, highest: int) -> Tensor:
        """Return rounded values.

        Args:
            ctx: autograd's.
            values: of any shape.
            scale: of one step; a tensor has to be of a shape that broadcasts.
            zero_point: the integer that stands for 0.
            lowest: integer.
            highest: integer.
        """
        steps = (values / scale).round_().add_(zero_point)
        ctx.save_for_backward((steps >= lowest) & (steps <= highest))
        return steps.clamp_(lowest, highest).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the values."""
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None, None


def _dequantize(attributes: Attributes, values: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    if values.is_floating_point():
        return values  # QuantizeLinear has left floats
    shape = [-1 if scale.ndim and axis == attributes.get("axis", 1) else 1 for axis in range(values.ndim)]
    return (values.float() - zero_point.reshape(shape)).to(scale.device) * scale.reshape(shape)


def _conv(attributes: Attributes, images: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    if tuple(weight.shape[2:]) == (1, 1) and not any(pads):
        images, strides = images[..., :: strides[0], :: strides[1]], [1, 1]  # see `train.onednn`
    images, padding = _padded(images, pads, 0.0)
    return F.conv2d(
        images, weight, bias, strides, padding, attributes.get("dilations", [1, 1]), attributes.get("group", 1)
    )


def _padded(images: Tensor, pads: list[int], value: float) -> tuple[Tensor, list[int]]:
    """Return images and the padding that is left to do: none where it is not the same on both sides."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return images, [top, left]
    return F.pad(images, [left, right, top, bottom], value=value), [0, 0]


def _max_pool(attributes: Attributes, images: Tensor) -> Tensor:
    images, padding = _padded(images, attributes.get("pads", [0, 0, 0, 0]), -math.inf)
    return F.max_pool2d(
        images,
        attributes["kernel_shape"],
        attributes.get("strides", [1, 1]),
        padding,
        attributes.get("dilations", [1, 1]),
        bool(attributes.get("ceil_mode", 0)),
    )


def _average_pool(attributes: Attributes, images: Tensor) -> Tensor:
    counted = bool(attributes.get("count_include_pad", 0))
    pads = attributes.get("pads", [0, 0, 0, 0])
    images, padding = _padded(images, pads, 0.0) if counted else (images, pads[:2])
    ceil_mode = bool(attributes.get("ceil_mode", 0))
    return F.avg_pool2d(
        images, attributes["kernel_shape"], attributes.get("strides", [1, 1]), padding, ceil_mode, counted
    )


def _global_average_pool(_: Attributes, images: Tensor) -> Tensor:
    return images.mean((2, 3), keepdim=True)


def _gemm(attributes: Attributes, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if attributes.get("transA", 0) else a
    b = b.t() if attributes.get("transB", 0) else b
    product: Tensor = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else torch.add(product, c, alpha=attributes.get("beta", 1.0))


def _batch_norm(
    attributes: Attributes, images: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    return F.batch_norm(images, mean, var, scale, bias, training=False, eps=attributes.get("epsilon", 1e-5))


def _layer_norm(attributes: Attributes, values: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    over = values.shape[attributes.get("axis", -1) % values.ndim :]
    return F.layer_norm(values, list(over), scale, bias, attributes.get("epsilon", 1e-5))


def _clip(_: Attributes, values: Tensor, lowest: Tensor | None = None, highest: Tensor | None = None) -> Tensor:
    return values.clamp(lowest, highest)


def _hard_sigmoid(attributes: Attributes, values: Tensor) -> Tensor:
    line: Tensor = attributes.get("alpha", 0.2) * values + attributes.get("beta", 0.5)
    return line.clamp(0, 1)


def _softmax(attributes: Attributes, values: Tensor) -> Tensor:
    return values.softmax(attributes.get("axis", -1))


def _reduce_mean(attributes: Attributes, values: Tensor) -> Tensor:
    return values.mean(attributes.get("axes"), keepdim=bool(attributes.get("keepdims", 1)))


def _reduce_l2(attributes: Attributes, values: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(values, 2, attributes.get("axes"), bool(attributes.get("keepdims", 1)))
    return found


def _reshape(attributes: Attributes, values: Tensor, shape: Tensor) -> Tensor:
    sizes = _ints(shape)
    if not attributes.get("allowzero", 0):
        sizes = [size or values.shape[index] for index, size in enumerate(sizes)]
    return values.reshape(sizes)


def _flatten(attributes: Attributes, values: Tensor) -> Tensor:
    return values.reshape(math.prod(values.shape[: attributes.get("axis", 1)]), -1)


def _transpose(attributes: Attributes, values: Tensor) -> Tensor:
    return values.permute(attributes.get("perm", list(range(values.ndim))[::-1]))


def _concat(attributes: Attributes, *parts: Tensor) -> Tensor:
    return torch.cat(parts, attributes["axis"])


def _split(attributes: Attributes, values: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0)
    each = _ints(sizes) if sizes is not None else values.shape[axis] // attributes["num_outputs"]
    return torch.split(values, each, axis)


def _squeeze(_: Attributes, values: Tensor, axes: Tensor | None = None) -> Tensor:
    return values.squeeze() if axes is None else values.squeeze(_ints(axes))


def _unsqueeze(_: Attributes, values: Tensor, axes: Tensor) -> Tensor:
    ndim = values.ndim + axes.numel()
    for axis in sorted(axis % ndim for axis in _ints(axes)):
        values = values.unsqueeze(axis)
    return values


def _shape(attributes: Attributes, values: Tensor) -> Tensor:
    return torch.tensor(values.shape[attributes.get("start", 0) : attributes.get("end")])


def _slice(
    _: Attributes, values: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    chosen = [slice(None)] * values.ndim
    every = [1] * starts.numel() if steps is None else _ints(steps)
    which = range(starts.numel()) if axes is None else _ints(axes)
    # Without bounds ONNX counts to the ends of 64 bits, of which torch warns.
    first, last = (_ints(bound.clamp(-(2**31), 2**31)) for bound in (starts, ends))
    for axis, start, end, step in zip(which, first, last, every, strict=True):
        chosen[axis] = slice(start, end, step)
    return values[tuple(chosen)]


def _gather(attributes: Attributes, values: Tensor, indices: Tensor) -> Tensor:
    axis = attributes.get("axis", 0) % values.ndim
    flat = indices.flatten().to(values.device) % values.shape[axis]
    shape = (*values.shape[:axis], *indices.shape, *values.shape[axis + 1 :])
    return values.index_select(axis, flat).reshape(shape)


def _expand(_: Attributes, values: Tensor, shape: Tensor) -> Tensor:
    return values.expand(np.broadcast_shapes(tuple(values.shape), tuple(_ints(shape))))


def _range(_: Attributes, start: Tensor, limit: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), step.item())


def _constant(attributes: Attributes) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(attributes["value"]).copy())


def _ints(values: Tensor) -> list[int]:
    return [int(value) for value in values.flatten().tolist()]


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator without attributes."""
    return lambda _, *inputs: function(*inputs)


_KNOWN: dict[str, Operator] = {
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": _plain(torch.div),
    "Erf": _plain(torch.erf),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda values: values),
    "LayerNormalization": _layer_norm,
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _plain(torch.mul),
    "Pow": _plain(torch.pow),
    "Range": _range,
    "ReduceL2": _reduce_l2,
    "ReduceMean": _reduce_mean,
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""Operators by name; each takes a node's attributes before its inputs."""
