"""Which operators our graphs may use: those that TensorRT's ONNX parser reads, in the types it reads them in.

The table is data, `tensorrt_operators.json`, taken from onnx-tensorrt's documentation at the commit that it names. What
is in it, ONNX Runtime and OpenVINO run as well. Limits are checked where they can be met by accident.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from salf_export.errors import GraphError

#: What NVIDIA's 24.12 container (ONNX Runtime 1.19) reads at most.
IR_VERSION_MAX = 10
_TABLE_FILE = "tensorrt_operators.json"
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "FP32",
    TensorProto.FLOAT16: "FP16",
    TensorProto.BFLOAT16: "BF16",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
#: Scale and zero point, whose types follow from the others.
_SCALE_PLACES = {"QuantizeLinear": (1, 2), "DequantizeLinear": (1, 2)}
#: Inputs that must be known when an engine is built.
_CONSTANT_INPUTS = {
    "CumSum": (1,),
    "OneHot": (1,),
    "Pad": (3,),
    "Slice": (3,),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
}
_TOP_K_BELOW = 3840


@dataclass(frozen=True)
class OperatorTable:
    """What a version of TensorRT's parser reads.

    Attributes:
        source: where the table is from.
        version: of onnx-tensorrt.
        commit: of onnx-tensorrt.
        opset_max: the newest opset.
        types: operator -> types of its tensors, such as FP32 and INT64.
        limits: operator -> what is not read, in words; most have none.
    """

    source: str
    version: str
    commit: str
    opset_max: int
    types: dict[str, tuple[str, ...]]
    limits: dict[str, str]


@cache
def operator_table() -> OperatorTable:
    """The committed table."""
    document = json.loads(files("salf_export").joinpath(_TABLE_FILE).read_text())
    rows = document["operators"]
    return OperatorTable(
        source=document["source"],
        version=document["version"],
        commit=document["commit"],
        opset_max=document["opset_max"],
        types={name: tuple(row["types"]) for name, row in rows.items()},
        limits={name: row["limits"] for name, row in rows.items() if "limits" in row},
    )


def foreign_operators(model: ModelProto) -> tuple[str, ...]:
    """Names of operators that are not in the table, sorted: what no runtime of ours promises to read."""
    table = operator_table()
    return tuple(sorted({_name(node) for node in model.graph.node if node.domain or node.op_type not in table.types}))


def operator_problems(model: ModelProto) -> tuple[str, ...]:
    """What in a graph TensorRT's parser would not read; empty for a graph that may be published.

    Args:
        model: any ONNX model, quantised ones included.

    Returns:
        One phrase for each problem: opset, IR version, an operator, the type of an operator's input, a limit.
    """
    table = operator_table()
    problems: dict[str, None] = {}
    if model.ir_version > IR_VERSION_MAX:
        problems[f"IR version {model.ir_version}, at most {IR_VERSION_MAX} is read"] = None
    for opset in model.opset_import:
        if not opset.domain and opset.version > table.opset_max:
            problems[f"opset {opset.version}, at most {table.opset_max} is read"] = None
    is_plain = all(not opset.domain for opset in model.opset_import)
    is_plain = is_plain and not any(node.domain for node in model.graph.node)
    inferred = (onnx.shape_inference.infer_shapes(model) if is_plain else model).graph
    facts = _Facts(
        constants={tensor.name: tensor for tensor in inferred.initializer},
        types={value.name: value.type.tensor_type.elem_type for value in (*inferred.value_info, *inferred.input)}
        | {tensor.name: tensor.data_type for tensor in inferred.initializer},
        ranks={
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*inferred.value_info, *inferred.input, *inferred.output)
            if value.type.tensor_type.HasField("shape")
        },
    )
    for node in inferred.node:
        name = _name(node)
        if node.domain or node.op_type not in table.types:
            problems[f"operator {name}"] = None
            continue
        for problem in (*_type_problems(node, table.types[node.op_type], facts), *_limit_problems(node, facts)):
            problems[f"operator {name} {problem}"] = None
    return tuple(problems)


def check_operators(model: ModelProto) -> None:
    """Refuse a graph that TensorRT's parser does not read.

    A graph that was quantised for a CPU, with zero points, is one: quantise around zero, with INT8 activations.

    Raises:
        GraphError: names all that is not in the table.
    """
    problems = operator_problems(model)
    if problems:
        raise GraphError(
            f"the graph {model.graph.name!r} uses what TensorRT does not read: {'; '.join(problems)}. "
            "Choose a backbone without it, or quantise around zero"
        )


def _name(node: NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else str(node.op_type)


@dataclass(frozen=True)
class _Facts:
    constants: dict[str, TensorProto]
    types: dict[str, int]
    ranks: dict[str, int]

    def constant(self, node: NodeProto, place: int) -> NDArray[np.generic] | None:
        """The value of an input that is an initializer; None where it is left out or computed."""
        if place >= len(node.input) or node.input[place] not in self.constants:
            return None
        return np.asarray(numpy_helper.to_array(self.constants[node.input[place]]))


def _type_problems(node: NodeProto, allowed: tuple[str, ...], facts: _Facts) -> Iterator[str]:
    for place, name in enumerate(node.input):
        if name not in facts.types or place in _SCALE_PLACES.get(node.op_type, ()):
            continue
        kind = _TYPES.get(facts.types[name]) or str(TensorProto.DataType.Name(facts.types[name]))
        # The table lists types of data; indices, axes and conditions have their own.
        is_index = kind in ("INT32", "INT64") and place > 0
        is_condition = kind == "BOOL" and node.op_type == "Where" and place == 0
        if kind not in allowed and not is_index and not is_condition:
            yield f"on {kind}"


def _limit_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    reduces = node.op_type.startswith("Reduce")  # their second input is the axes
    for place in (1,) if reduces else _CONSTANT_INPUTS.get(node.op_type, ()):
        if place < len(node.input) and node.input[place] and node.input[place] not in facts.constants:
            yield f"with a computed input {place}"
    check = _CHECKS.get(node.op_type)
    if check is not None:
        yield from check(node, facts)


def _attributes(node: NodeProto) -> dict[str, object]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _pool_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    dilations = _attributes(node).get("dilations", [])
    if isinstance(dilations, list) and any(step != 1 for step in dilations):
        yield "with dilation"
    if facts.ranks.get(node.input[0], 4) not in (4, 5):
        yield "over other than 2 or 3 dimensions"
    if len(node.output) > 1 and node.output[1]:
        yield "with indices"


def _top_k_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    count = facts.constant(node, 1)
    if count is not None and int(count.max()) >= _TOP_K_BELOW:
        yield f"with K = {int(count.max())}, expected below {_TOP_K_BELOW}"
    if _attributes(node).get("sorted", 1) != 1:
        yield "that does not sort"


def _zero_point_problems(node: NodeProto, facts: _Facts) -> Iterator[str]:
    zero_point = facts.constant(node, 2)
    if zero_point is not None and zero_point.any():
        yield "with a zero point other than 0"
    if len(node.input) > 2 and node.input[2] and facts.types.get(node.input[2]) == TensorProto.UINT8:
        yield "with UINT8 values"


def _first_output_problems(node: NodeProto, _: _Facts) -> Iterator[str]:
    if any(node.output[1:]):
        yield "with more than its first output"


def _reduction_problems(node: NodeProto, _: _Facts) -> Iterator[str]:
    if _attributes(node).get("reduction", b"none") != b"none":
        yield "with a reduction"


def _resize_problems(node: NodeProto, _: _Facts) -> Iterator[str]:
    attributes = _attributes(node)
    if attributes.get("mode", b"nearest") not in (b"nearest", b"linear") or attributes.get("antialias", 0):
        yield "in a mode other than nearest and linear without antialiasing"


_CHECKS: dict[str, Callable[[NodeProto, _Facts], Iterator[str]]] = {
    "AveragePool": _pool_problems,
    "MaxPool": _pool_problems,
    "TopK": _top_k_problems,
    "QuantizeLinear": _zero_point_problems,
    "DequantizeLinear": _zero_point_problems,
    "LayerNormalization": _first_output_problems,
    "ScatterND": _reduction_problems,
    # The table names no limit for ScatterElements, but its sibling's: we keep clear of it.
    "ScatterElements": _reduction_problems,
    "Resize": _resize_problems,
}
