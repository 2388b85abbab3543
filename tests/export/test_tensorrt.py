"""TensorRT without a GPU: the calls that build engines, on a double that records them."""

import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from salf_export import MissingExtraError, OptionError
from salf_export.errors import GraphError
from salf_export.folding import graph_head
from salf_export.graph_builder import identity_features
from salf_export.graphs import explain_graph
from salf_export.operators import operator_problems
from salf_export.tensorrt_api import load_tensorrt
from salf_export.tensorrt_engine import EngineSettings, build_engine, with_float_biases

from .tensorrt_double import CACHE, FLOAT32, PLAN, TensorRtDouble
from .test_graphs import ID, random_head


def explain_bytes() -> bytes:
    """From features FP32 [B,3,3,2] and a target."""
    head = random_head(seed=1, classes=3, concepts=9, channels=3, density=0.6, empty_rows=0)
    model = explain_graph(identity_features(3, 3, 2), graph_head(head), top=4, contract_id=ID)
    return bytes(model.SerializeToString())


def quantised() -> ModelProto:
    """A convolution with INT8 weights and activations and an INT32 bias, as quantisers write it."""
    scale, zero = np.float32(0.05), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="backbone/0"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"], name="backbone/1"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], name="backbone/2", axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bf"], name="backbone/3", axis=0),
        helper.make_node("Conv", ["xf", "wf", "bf"], ["y"], name="backbone/4", kernel_shape=[1, 1]),
        helper.make_node("Relu", ["y"], ["r"], name="head/relu"),
    ]
    constants = {
        "s": scale, "z": zero, "w": np.arange(-6, 6, dtype=np.int8).reshape(4, 3, 1, 1),
        "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32), "wz": np.zeros(4, np.int8),
        "b": np.array([100, -200, 300, 7], np.int32), "bs": np.array([0.005, 0.01, 0.015, 0.02], np.float32),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "quantised",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("r", TensorProto.FLOAT, ["batch", 4, 4, 4])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_an_engine_is_built_with_profiles_workspace_and_flags():
    api = TensorRtDouble()
    settings = EngineSettings(precision="fp16", min_batch=2, optimal_batch=4, max_batch=16, workspace_bytes=1 << 20)
    assert build_engine(explain_bytes(), settings, tensorrt=api) == PLAN
    assert api.called("set_memory_pool_limit") == [("WORKSPACE", 1 << 20)]
    assert api.called("clear_flag") == [("TF32",)]
    assert api.called("set_flag") == [("FP16",), ("OBEY_PRECISION_CONSTRAINTS",)]
    assert api.called("set_shape") == [
        ("features", (2, 3, 3, 2), (4, 3, 3, 2), (16, 3, 3, 2)),
        ("target", (2, 1), (4, 1), (16, 1)),
    ]
    assert [name for name, _ in api.calls[-2:]] == ["add_optimization_profile", "build_serialized_network"]
    (parsed,) = api.called("parse")
    assert operator_problems(onnx.load_model_from_string(parsed[0])) == ()


@pytest.mark.parametrize(
    ("precision", "flags"), [("fp32", []), ("fp16", ["FP16"]), ("bf16", ["BF16"]), ("int8", ["INT8", "FP16"])]
)
def test_each_precision_sets_its_flags(precision, flags):
    api = TensorRtDouble()
    graph = bytes(quantised().SerializeToString()) if precision == "int8" else explain_bytes()
    build_engine(graph, EngineSettings(precision=precision), tensorrt=api)
    pinned = ["OBEY_PRECISION_CONSTRAINTS"] if flags else []
    assert [flag for (flag,) in api.called("set_flag")] == flags + pinned


def test_the_head_stays_in_float32_and_the_backbone_may_be_reduced():
    api = TensorRtDouble()
    build_engine(explain_bytes(), EngineSettings(precision="fp16"), tensorrt=api)
    head = {layer.name.removeprefix("head/"): layer for layer in api.layers if layer.name.startswith("head/")}
    backbone = [layer for layer in api.layers if layer.name.startswith("backbone/")]
    assert backbone
    assert all(layer.precision is None and not layer.output_types for layer in backbone)
    assert head["logits"].precision == FLOAT32
    assert head["logits"].output_types == {0: FLOAT32}
    assert head["top_contributions"].precision == FLOAT32, "a choice between floats, though its condition is none"
    assert head["bias"].precision == FLOAT32, "gathered floats, though its indices are none"
    assert head["bias"].output_types == {0: FLOAT32}
    assert head["best_class"].precision is None, "neither reads nor gives floats"
    assert head["best_class"].output_types == {}
    constants = {layer.name: layer for layer in api.layers if not layer.inputs}
    assert constants["head_weight"].output_types == {0: FLOAT32}, "else it might be kept, and gathered from, in fp16"
    assert constants["contract_id_words"].precision is None


def test_an_engine_for_one_kind_of_float_pins_nothing():
    api = TensorRtDouble()
    build_engine(explain_bytes(), EngineSettings(precision="fp32"), tensorrt=api)
    assert all(layer.precision is None for layer in api.layers)


def test_the_timing_cache_is_read_and_written(tmp_path):
    api, file = TensorRtDouble(), tmp_path / "timings"
    for known in (b"", CACHE):
        build_engine(explain_bytes(), EngineSettings(timing_cache=file), tensorrt=api)
        assert api.called("create_timing_cache")[-1] == (known,)
        assert file.read_bytes() == CACHE
    assert api.called("set_timing_cache") == [(False,), (False,)]
    assert list(tmp_path.iterdir()) == [file]


def test_a_timing_cache_of_another_gpu_is_measured_anew(tmp_path, caplog):
    api, file = TensorRtDouble("cache"), tmp_path / "timings"
    file.write_bytes(b"of another GPU")
    build_engine(explain_bytes(), EngineSettings(timing_cache=file), tensorrt=api)
    assert api.called("create_timing_cache") == [(b"of another GPU",), (b"",)]
    assert "another GPU" in caplog.text
    assert file.read_bytes() == CACHE


def test_a_damaged_timing_cache_is_measured_anew(tmp_path, caplog):
    """TensorRT makes no cache of it: create_timing_cache gives None, which set_timing_cache does not take."""
    api, file = TensorRtDouble("damaged cache"), tmp_path / "timings"
    file.write_bytes(b"cut short")
    assert build_engine(explain_bytes(), EngineSettings(timing_cache=file), tensorrt=api) == PLAN
    assert api.called("set_timing_cache") == [(False,)]
    assert str(file) in caplog.text
    assert file.read_bytes() == CACHE


def test_int8_biases_become_floats_and_answers_stay():
    import onnxruntime

    model = quantised()
    before = model.SerializeToString()
    changed = with_float_biases(model)
    assert model.SerializeToString() == before
    assert "operator DequantizeLinear on INT32" in operator_problems(model)
    assert operator_problems(changed) == ()
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    answers = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
        for one in (model, changed)
    ]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    assert np.abs(answers[0]).max() > 0.1
    assert with_float_biases(changed) is changed


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("parse", "cannot read the graph: In node 3"),
        ("profile", "refuses the profile for batches of"),
        ("build", "could not build the engine"),
    ],
)
def test_what_tensorrt_refuses_is_a_graph_error(fault, message):
    with pytest.raises(GraphError, match=message):
        build_engine(explain_bytes(), EngineSettings(), tensorrt=TensorRtDouble(fault))


def test_int8_without_quantisation_nodes_is_refused_before_anything_is_imported():
    with pytest.raises(OptionError, match="--calibration"):
        build_engine(explain_bytes(), EngineSettings(precision="int8"))


def test_something_else_than_onnx_is_a_graph_error():
    with pytest.raises(GraphError, match="no ONNX model"):
        build_engine(b"\x08not onnx", EngineSettings(), tensorrt=TensorRtDouble())


def test_a_graph_whose_weights_lie_beside_it_is_refused():
    model = onnx.load_model_from_string(explain_bytes())
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(GraphError, match="load_graph"):
        build_engine(bytes(model.SerializeToString()), EngineSettings(), tensorrt=TensorRtDouble())


def test_a_graph_with_a_free_size_is_refused():
    model = onnx.load_model_from_string(explain_bytes())
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "rows"
    with pytest.raises(GraphError, match="'features' has the shape"):
        build_engine(bytes(model.SerializeToString()), EngineSettings(), tensorrt=TensorRtDouble())


@pytest.mark.parametrize(
    "wrong",
    [{"precision": "fp8"}, {"min_batch": 0}, {"max_batch": 0}, {"optimal_batch": 9}, {"workspace_bytes": 0}],
)
def test_engine_settings_that_cannot_be_are_refused(wrong):
    with pytest.raises(OptionError, match="expected"):
        EngineSettings(**wrong)


def test_without_tensorrt_the_error_says_where_to_run(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtraError, match=r"tensorrt.*cannot be imported.*server's own image"):
        build_engine(explain_bytes(), EngineSettings())


def test_another_major_release_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.2.0"))
    with pytest.raises(OptionError, match=r"tensorrt 11.2.0 is installed, but engines are built with 10.x"):
        load_tensorrt()
