"""Write ONNX nodes behind an existing graph, each constant stored once."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from salf_contract import TensorSpec
from salf_export.errors import GraphError
from salf_export.operators import foreign_operators

#: What NVIDIA's 24.12 container (ONNX Runtime 1.19) and TensorRT 10 read: at most opset 20 and IR 10.
OPSET = 18
IR_VERSION = 8

_ELEMENT_TYPES = {"UINT8": TensorProto.UINT8, "INT32": TensorProto.INT32, "FP32": TensorProto.FLOAT}


class GraphBuilder:
    """Appends nodes to a copy of a source graph.

    Args:
        source: a model whose single output is the features, FP32 [B,C,h,w].
    """

    def __init__(self, source: ModelProto) -> None:
        self._nodes = list(source.graph.node)
        self._initializers = list(source.graph.initializer)
        self._inputs = list(source.graph.input)
        self._known: dict[str, str] = {}
        self._added_once: set[str] = set()
        self.first_floats: str = _first_floats(source)
        self.first_rank: int = len(source.graph.input[0].type.tensor_type.shape.dim)
        self.features: str = source.graph.output[0].name
        self.feature_shape: tuple[int, int, int] = _feature_shape(source)

    def constant(self, name: str, array: NDArray[np.generic]) -> str:
        """Store an array; one stored before with the same type, shape and bytes is used again."""
        content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        key = f"{array.dtype}{array.shape}{content}"
        if key not in self._known:
            self._known[key] = name
            self._initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return self._known[key]

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Append a node with one output.

        Returns:
            The output's name, which is `name`.
        """
        self._nodes.append(helper.make_node(operator, inputs, [name], name=f"head/{name}", **attributes))
        return name

    def add_once(self, operator: str, *inputs: str, name: str) -> str:
        """`add`, unless a node of this name is there already."""
        if name not in self._added_once:
            self._added_once.add(name)
            self.add(operator, *inputs, name=name)
        return name

    def add_top_k(self, values: str, count: int, *, name: str) -> tuple[str, str]:
        """Append TopK over the last axis: the largest `count`, falling; ties go to the lower index.

        Returns:
            Names of the values and of the INT64 indices.
        """
        k = self.constant(f"{name}_count", np.array([count], np.int64))
        outputs = [f"{name}_values", f"{name}_indices"]
        self._nodes.append(
            helper.make_node("TopK", [values, k], outputs, name=f"head/{name}", axis=-1, largest=1, sorted=1)
        )
        return outputs[0], outputs[1]

    def add_input(self, spec: TensorSpec, *, map_size: tuple[int, int] | None = None) -> str:
        """Declare a further input of the graph, with the batch axis first; its "h" and "w" are those of `map_size`."""
        sizes = dict(zip(("h", "w"), map_size, strict=True)) if map_size else {}
        self._inputs.append(_value(spec.name, spec, [sizes[dim] if isinstance(dim, str) else dim for dim in spec.dims]))
        return spec.name

    def finish(self, outputs: Sequence[tuple[TensorSpec, Sequence[int]]], *, name: str) -> ModelProto:
        """Close the graph and check it.

        Args:
            outputs: specs, each with its concrete dims without the batch axis; a value of that name must exist.
            name: of the graph.

        Raises:
            GraphError: the graph is not valid ONNX or uses an operator outside the table (`operators`).
        """
        graph = helper.make_graph(
            self._nodes,
            name,
            self._inputs,
            [_value(spec.name, spec, dims) for spec, dims in outputs],
            self._initializers,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="salf",
        )
        check_graph(model)
        return model


def check_graph(model: ModelProto) -> None:
    """Check a graph with ONNX's own checker, with shape inference, and against the table of operators.

    Raises:
        GraphError: with the first fault found.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the graph {model.graph.name!r} is not valid ONNX: {error}") from error
    foreign = foreign_operators(model)
    if foreign:
        raise GraphError(
            f"the graph {model.graph.name!r} uses operators that not every runtime reads: {', '.join(foreign)}; "
            "choose a backbone without them"
        )


def tensor_dims(model: ModelProto) -> dict[str, tuple[int, ...]]:
    """Input or output -> its dims without the batch axis, of a graph whose dims are fixed but for that."""
    return {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
        for value in (*model.graph.input, *model.graph.output)
    }


def identity_features(channels: int, rows: int, columns: int) -> ModelProto:
    """A source without a backbone, for published cases and tests: `features` FP32 [B,C,h,w] is passed through."""
    shape: list[str | int | None] = ["batch", channels, rows, columns]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["features"], ["backbone_features"], name="backbone/identity")],
        "features",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("backbone_features", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _value(name: str, spec: TensorSpec, dims: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, _ELEMENT_TYPES[spec.datatype], ["batch", *dims])


def _feature_shape(source: ModelProto) -> tuple[int, int, int]:
    dims = [dim.dim_value for dim in source.graph.output[0].type.tensor_type.shape.dim]
    if len(dims) != 4 or not all(dims[1:]):
        raise GraphError(f"the backbone gives features of shape {dims}, expected [batch, channels, height, width]")
    return dims[1], dims[2], dims[3]


def _first_floats(source: ModelProto) -> str:
    """The picture as floats, or the input itself where it is floats already."""
    name = str(source.graph.input[0].name)
    if source.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT:
        return name
    casts = [str(node.output[0]) for node in source.graph.node if node.op_type == "Cast" and node.input[0] == name]
    if not casts:
        raise GraphError(f"the backbone does not cast its input {name!r} to floats first, as backbone_graph does")
    return casts[0]
