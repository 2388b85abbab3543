"""The backbone as an ONNX graph: picture in, features out, BatchNorm folded into the convolutions."""

import copy
import io
import logging
import warnings
from contextlib import redirect_stdout

import numpy as np
import onnx
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from salf_contract import IMAGE_INPUT, Preparation
from salf_export.errors import GraphError
from salf_export.graph_builder import IR_VERSION, OPSET
from salf_training.model import SalfModel

#: Two pictures: a traced batch of one would be taken for a constant.
_TRACED_BATCH = 2


class _Features(nn.Module):
    """UINT8 [B,H,W,3] -> features [B,C,h,w]."""

    def __init__(self, model: SalfModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        # Floats first: TensorRT takes UINT8 as a network's input, but transposes nothing of this type.
        return self.model.features(image.to(self.model.pixel_std.dtype))


def backbone_graph(model: SalfModel, preparation: Preparation) -> ModelProto:
    """Export normalisation and backbone.

    The export runs in float64, so that BatchNorm is folded in float64; then every constant is rounded once to float32.

    Args:
        model: in evaluation mode; left unchanged.
        preparation: gives H and W.

    Returns:
        A model from `image` UINT8 [B,H,W,3] to `backbone_features` FP32 [B,C,h,w], without traces of this machine:
        the same model gives the same bytes.

    Raises:
        GraphError: the backbone cannot be exported.
    """
    wide = _Features(copy.deepcopy(model).double()).eval()
    image = torch.zeros(_TRACED_BATCH, preparation.height, preparation.width, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    chatter = logging.getLogger("torch.onnx")
    level = chatter.level
    chatter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                wide,
                (image,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE_INPUT.name],
                output_names=["backbone_features"],
                dynamic_shapes={"image": {0: batch}},
                optimize=True,
                verbose=False,
            )
    # torch.onnx and torch.export fail in many ways for networks they cannot trace.
    except Exception as error:
        raise GraphError(f"the backbone cannot be exported to ONNX: {error}") from error
    finally:
        chatter.setLevel(level)
    if program is None:
        raise GraphError("torch.onnx.export returned nothing; is another torch version installed than salf pins?")
    return _plain(program.model_proto)


def _plain(exported: ModelProto) -> ModelProto:
    """Round to float32, name everything by its place, drop traces, unused constants and shape annotations."""
    graph = exported.graph
    names = {IMAGE_INPUT.name: IMAGE_INPUT.name, "backbone_features": "backbone_features", "": ""}
    used = {name for node in graph.node for name in node.input}
    initializers = [tensor for tensor in graph.initializer if tensor.name in used]
    for place, tensor in enumerate(initializers):
        names[tensor.name] = f"backbone/constant_{place}"
    for place, node in enumerate(graph.node):
        for slot, output in enumerate(node.output):
            names.setdefault(output, f"backbone/{node.op_type}_{place}" + (f"_{slot}" if slot else ""))
    nodes = [
        onnx.NodeProto(
            op_type=node.op_type,
            domain=node.domain,
            name=f"backbone/{place}_{node.op_type}",
            input=[names[name] for name in node.input],
            output=[names[name] for name in node.output],
            attribute=[_single_attribute(item) for item in sorted(node.attribute, key=_name_of)],
        )
        for place, node in enumerate(graph.node)
    ]
    _ask_floats_for_their_shape(nodes)
    plain = onnx.helper.make_graph(
        nodes,
        "features",
        [_single_value(value) for value in graph.input],
        [_single_value(value) for value in graph.output],
        [_single_tensor(tensor, names[tensor.name]) for tensor in initializers],
    )
    return onnx.helper.make_model(
        plain, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="salf"
    )


def _ask_floats_for_their_shape(nodes: list[onnx.NodeProto]) -> None:
    """Let the picture be cast first, and its batch size be read from the floats: TensorRT reads no shape of UINT8."""
    cast = next(node for node in nodes if node.op_type == "Cast" and node.input[0] == IMAGE_INPUT.name)
    nodes.remove(cast)
    nodes.insert(0, cast)
    for node in nodes:
        if node.op_type == "Shape" and node.input[0] == IMAGE_INPUT.name:
            node.input[0] = cast.output[0]


def _single_tensor(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    array = numpy_helper.to_array(tensor)
    return numpy_helper.from_array(array.astype(np.float32) if array.dtype == np.float64 else array, name)


def _single_value(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    kind = value.type.tensor_type
    dims = [dim.dim_value or "batch" for dim in kind.shape.dim]
    element = TensorProto.FLOAT if kind.elem_type == TensorProto.DOUBLE else kind.elem_type
    return onnx.helper.make_tensor_value_info(value.name, element, dims)


def _name_of(attribute: onnx.AttributeProto) -> str:
    return str(attribute.name)


def _single_attribute(attribute: onnx.AttributeProto) -> onnx.AttributeProto:
    plain = onnx.AttributeProto()
    plain.CopyFrom(attribute)
    if attribute.name == "to" and attribute.i == TensorProto.DOUBLE:
        plain.i = TensorProto.FLOAT
    if attribute.type == onnx.AttributeProto.TENSOR:
        plain.t.CopyFrom(_single_tensor(attribute.t, ""))
    return plain
