"""The committed table of operators, and what in a graph it does not allow."""

import json
import re
from importlib.resources import files

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from salf_export.errors import GraphError
from salf_export.operators import check_operators, operator_problems, operator_table

FLOAT, INT8 = TensorProto.FLOAT, TensorProto.INT8


def graph_of(*nodes: onnx.NodeProto, inputs=None, outputs=(), constants=(), opset: int = 18, ir: int = 8) -> ModelProto:
    """A graph from x FP32 [B,3,8,8]."""
    inputs = inputs or [helper.make_tensor_value_info("x", FLOAT, ["B", 3, 8, 8])]
    graph = helper.make_graph(
        list(nodes), "some", inputs, list(outputs), [numpy_helper.from_array(v, n) for n, v in constants]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)


def test_the_table_names_its_source_and_looks_like_one():
    table = operator_table()
    assert "onnx-tensorrt" in table.source
    assert re.fullmatch(r"[0-9a-f]{40}", table.commit)
    assert table.version.startswith("10.")
    assert table.opset_max == 20
    assert len(table.types) > 140
    assert {"Conv", "Gemm", "MatMul", "Softmax", "TopK", "QuantizeLinear"} <= table.types.keys()
    assert "NonMaxSuppression" in table.types
    assert not {"MatMulInteger", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear", "Det"} & table.types.keys()
    assert set().union(*table.types.values()) <= {
        "FP32", "FP16", "BF16", "FP8", "INT4", "INT8", "UINT8", "INT32", "INT64", "BOOL"
    }  # fmt: skip
    assert table.limits["TopK"] == "sorted; K below 3840"
    document = json.loads(files("salf_export").joinpath("tensorrt_operators.json").read_text())
    assert list(document["operators"]) == sorted(document["operators"])


def test_a_plain_graph_has_no_problems():
    model = graph_of(
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("ReduceMean", ["r", "axes"], ["m"]),
        constants=[("axes", np.array([2, 3]))],
    )
    assert operator_problems(model) == ()
    check_operators(model)


@pytest.mark.parametrize(
    ("problem", "model"),
    [
        ("opset 21", graph_of(helper.make_node("Relu", ["x"], ["y"]), opset=21)),
        ("IR version 11", graph_of(helper.make_node("Relu", ["x"], ["y"]), ir=11)),
        ("operator Det", graph_of(helper.make_node("Det", ["x"], ["y"]))),
        ("operator com.microsoft.Gelu", graph_of(helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))),
        (
            "operator Transpose on UINT8",
            graph_of(
                helper.make_node("Transpose", ["u"], ["y"], perm=[0, 3, 1, 2]),
                inputs=[helper.make_tensor_value_info("u", TensorProto.UINT8, ["B", 8, 8, 3])],
            ),
        ),
        (
            "operator ReduceSum with a computed input 1",
            graph_of(
                helper.make_node("Relu", ["x"], ["r"]),
                helper.make_node("ReduceSum", ["r", "axes"], ["y"]),
                inputs=[
                    helper.make_tensor_value_info("x", FLOAT, ["B", 3, 8, 8]),
                    helper.make_tensor_value_info("axes", TensorProto.INT64, [1]),
                ],
            ),
        ),
        (
            "operator TopK with K = 3840",
            graph_of(helper.make_node("TopK", ["x", "k"], ["v", "i"]), constants=[("k", np.array([3840]))]),
        ),
        (
            "operator TopK that does not sort",
            graph_of(helper.make_node("TopK", ["x", "k"], ["v", "i"], sorted=0), constants=[("k", np.array([3]))]),
        ),
        (
            "operator MaxPool with dilation",
            graph_of(helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])),
        ),
        (
            "operator MaxPool with indices",
            graph_of(helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])),
        ),
        (
            "operator QuantizeLinear with a zero point other than 0",
            graph_of(
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
                constants=[("s", np.float32(0.1)), ("z", np.int8(3))],
            ),
        ),
        (
            "operator QuantizeLinear with UINT8 values",
            graph_of(
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"]),
                constants=[("s", np.float32(0.1)), ("z", np.uint8(0))],
            ),
        ),
        (
            "operator DequantizeLinear on INT32",
            graph_of(
                helper.make_node("DequantizeLinear", ["b", "s"], ["y"]),
                constants=[("s", np.float32(0.1)), ("b", np.zeros(3, np.int32))],
            ),
        ),
        (
            "operator ScatterElements with a reduction",
            graph_of(
                helper.make_node("ScatterElements", ["x", "i", "x"], ["y"], reduction="add"),
                constants=[("i", np.zeros((1, 3, 8, 8), np.int64))],
            ),
        ),
        (
            "operator Resize in a mode",
            graph_of(
                helper.make_node("Resize", ["x", "", "s"], ["y"], mode="cubic"),
                constants=[("s", np.array([1, 1, 2, 2], np.float32))],
            ),
        ),
        (
            "operator Resize in a mode other than nearest and linear without antialiasing",
            graph_of(
                helper.make_node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1),
                constants=[("s", np.array([1, 1, 0.5, 0.5], np.float32))],
            ),
        ),
        (
            "operator Slice with a computed input 3",
            graph_of(
                helper.make_node("Relu", ["x"], ["r"]),
                helper.make_node("Slice", ["r", "b", "e", "axes"], ["y"]),
                inputs=[
                    helper.make_tensor_value_info("x", FLOAT, ["B", 3, 8, 8]),
                    helper.make_tensor_value_info("axes", TensorProto.INT64, [1]),
                ],
                constants=[("b", np.array([0])), ("e", np.array([1]))],
            ),
        ),
        (
            "operator MaxPool over other than 2 or 3 dimensions",
            graph_of(
                helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2]),
                inputs=[helper.make_tensor_value_info("x", FLOAT, ["B", 3, 8])],
            ),
        ),
        ("operator LayerNormalization with more than its first output", graph_of(
            helper.make_node("LayerNormalization", ["x", "w"], ["y", "mean"]),
            constants=[("w", np.ones(8, np.float32))],
        )),
    ],
)  # fmt: skip
def test_what_the_table_does_not_allow_is_named(problem, model):
    assert [found for found in operator_problems(model) if found.startswith(problem)], operator_problems(model)
    with pytest.raises(GraphError, match="Choose a backbone without it"):
        check_operators(model)


def test_int8_quantisation_around_zero_is_allowed():
    model = graph_of(
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
        constants=[("s", np.float32(0.1)), ("z", np.int8(0))],
    )
    assert operator_problems(model) == ()
