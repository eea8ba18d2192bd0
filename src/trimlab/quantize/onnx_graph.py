"""A model as an ONNX graph at opset 17, which TensorRT 8.5 and older runtimes on devices read."""

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

from trimlab.errors import UserError, one_line

OPSET = 17
INPUT, OUTPUT = "x", "logits"
_TRACED = 18
"""torch's exporter writes no older one. Its Gelu, a single operator from opset 20 on, is made of others here."""


def graph_of(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelProto:
    """Return a model's graph: any batch size, BatchNorm folded, nodes with weights named by their layers.

    Args:
        model: maps (N, C, H, W) float32, normalised, to logits (N, classes); on the CPU, in eval mode.
        image_shape: (C, H, W).

    Raises:
        UserError: torch's exporter does not take the model, or an operator does not exist at opset 17.
    """
    proto = _traced(model, image_shape)
    _name_layers(proto, [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)])
    for node in list(proto.graph.node):
        if _is_spatial_mean(proto, node):
            _use_global_pool(proto, node)
        elif _is_newer(node):
            _use_older(proto, node)
    _order_gelu(proto)
    del proto.opset_import[:]
    proto.opset_import.append(helper.make_opsetid("", OPSET))
    _forget_origin(proto)
    return proto


def _traced(model: nn.Module, image_shape: tuple[int, int, int]) -> ModelProto:
    example = torch.zeros(2, *image_shape)  # torch.export takes a batch of 1 for a constant
    try:
        with _silence():
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                opset_version=_TRACED,
                external_data=False,
                verbose=False,
            )
    except Exception as error:  # whatever a forward provokes that cannot be traced
        reason = one_line(error.__cause__ or error, 200)
        raise UserError(
            f"torch's ONNX exporter does not take the model ({reason}): change its forward, or set precisions of its "
            "variants to []"
        ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep what the exporter says of its own insides from the user, a graph of the model where it fails."""
    logging.disable(logging.WARNING)
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _name_layers(proto: ModelProto, layers: Sequence[str]) -> None:
    """Name each node with weights as its layer is named in torch, where a layer is used for the first time."""
    weights, taken = {tensor.name for tensor in proto.graph.initializer}, set()
    for node in proto.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[1] in weights:
            name = _layer_of(node, layers)
            if name and name not in taken:
                taken.add(name)
                node.name = name


def _layer_of(node: NodeProto, layers: Sequence[str]) -> str:
    """Return the layer that a node's weights belong to: by their name, else by the module that was running."""
    owner = str(node.input[1]).removesuffix(".weight")
    if owner in layers:
        return owner
    about = {entry.key: entry.value for entry in node.metadata_props}
    modules: list[str] = [name for name in ast.literal_eval(about.get("pkg.torch.onnx.name_scopes", "[]"))[:-1] if name]
    return next((name for name in reversed(modules) if name in layers), modules[-1] if modules else "")


def _order_gelu(proto: ModelProto) -> None:
    """Turn x · ((1 + erf) · ½), as torch writes GELU, into (x · (1 + erf)) · ½, which ONNX Runtime fuses."""
    made_by = {name: node for node in proto.graph.node for name in node.output}

    def operands(node: NodeProto, kind: str) -> list[str]:
        return [name for name in node.input if name in made_by and made_by[name].op_type == kind]

    for outer in [node for node in proto.graph.node if node.op_type == "Mul"]:
        for halved in operands(outer, "Mul"):
            inner = made_by[halved]
            sums = [name for name in operands(inner, "Add") if operands(made_by[name], "Erf")]
            if sums:
                (half,) = set(inner.input) - set(sums)
                (x,) = set(outer.input) - {halved}
                inner.input[:], outer.input[:] = [x, sums[0]], [halved, half]


def _is_newer(node: NodeProto) -> bool:
    return bool(onnx.defs.get_schema(node.op_type, _TRACED).since_version > OPSET)


def _use_older(proto: ModelProto, node: NodeProto) -> None:
    """Turn an operator of opset 18 into the same of opset 17."""
    if node.op_type.startswith("Reduce"):
        axes = _constant(proto, node.input[1]) if len(node.input) > 1 and node.input[1] else None
        del node.input[1:]
        _drop(node, "noop_with_empty_axes")
        if axes is not None:
            node.attribute.append(helper.make_attribute("axes", axes))
    elif node.op_type == "Split":
        _drop(node, "num_outputs")  # equal parts, as many as outputs


def _constant(proto: ModelProto, name: str) -> list[int]:
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}
    if name not in tensors:
        raise UserError(f"the model reduces over axes that are computed ({name}): write them as numbers in its forward")
    return [int(value) for value in numpy_helper.to_array(tensors[name]).ravel()]


def _drop(node: NodeProto, attribute: str) -> None:
    for found in [each for each in node.attribute if each.name == attribute]:
        node.attribute.remove(found)


def _is_spatial_mean(proto: ModelProto, node: NodeProto) -> bool:
    if node.op_type != "ReduceMean" or len(node.input) < 2:
        return False
    axes = [numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name == node.input[1]]
    return bool(axes) and sorted(int(axis) % 4 for axis in axes[0].ravel()) == [2, 3]


def _use_global_pool(proto: ModelProto, node: NodeProto) -> None:
    """Replace a mean over height and width: runtimes know it, and it is quantized."""
    source, target = node.input[0], node.output[0]
    keeps = {attribute.name: attribute.i for attribute in node.attribute}.get("keepdims", 1)
    pooled = target if keeps else f"{target}_pooled"
    nodes = [helper.make_node("GlobalAveragePool", [source], [pooled], name=f"{node.name}_pool")]
    if not keeps:
        nodes.append(helper.make_node("Flatten", [pooled], [target], name=f"{node.name}_flatten", axis=1))
    position = list(proto.graph.node).index(node)
    proto.graph.node.remove(node)
    for offset, new in enumerate(nodes):
        proto.graph.node.insert(position + offset, new)


def _forget_origin(proto: ModelProto) -> None:
    """Drop unused tensors and what names source files."""
    graph = proto.graph
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)
    for part in [
        proto,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ]:
        part.ClearField("doc_string")
        part.ClearField("metadata_props")
