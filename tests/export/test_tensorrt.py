"""TensorRT without a GPU: configuration against golden files, and the calls that build engines."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from google.protobuf import text_format
from onnx import ModelProto, TensorProto, helper, numpy_helper
from PIL import Image
from tritonclient.grpc import model_config_pb2

from salf_contract import EXPLAIN_INPUTS, FROM_FEATURES_INPUTS, IMAGE_INPUT, WHAT_IF_INPUTS, parse_manifest
from salf_export import (
    Kind,
    MissingExtraError,
    OptionError,
    ServingSettings,
    Thresholds,
    export_checkpoint,
    exporting,
    tensorrt_session,
)
from salf_export.errors import GraphError
from salf_export.folding import graph_head
from salf_export.graph_builder import identity_features
from salf_export.graphs import explain_graph
from salf_export.operators import operator_problems
from salf_export.runtime import GraphSession
from salf_export.tensorrt_api import load_tensorrt
from salf_export.tensorrt_engine import EngineSettings, build_engine, with_float_biases
from salf_export.tensorrt_provider import TensorRtProvider, provider_lines

from .tensorrt_double import CACHE, FLOAT32, PLAN, TensorRtDouble
from .test_graphs import ID, random_head

GOLDEN = Path(__file__).parent / "golden"
SIZES = {"H": 224, "W": 320, "h": 7, "w": 10}


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


@pytest.mark.parametrize(
    ("golden", "provider", "inputs"),
    [
        ("tensorrt_fp16_cached", TensorRtProvider(cache_directory="/var/cache/salf/tensorrt"), EXPLAIN_INPUTS),
        ("tensorrt_int8", TensorRtProvider(precision="int8", optimal_batch=4, max_workspace_bytes=1), WHAT_IF_INPUTS),
        ("tensorrt_fp32", TensorRtProvider(precision="fp32", optimal_batch=99), (IMAGE_INPUT,)),
    ],
)
def test_the_providers_section_is_the_golden_one_and_tritons_protobuf_reads_it(golden, provider, inputs):
    text = "\n".join(provider_lines(provider, inputs, sizes=SIZES, max_batch_size=16)) + "\n"
    assert text == (GOLDEN / f"{golden}.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert not config.optimization.execution_accelerators.cpu_execution_accelerator
    for size, batch in (("min", 1), ("max", 16)):
        shapes = dict(entry.split(":") for entry in accelerator.parameters[f"trt_profile_{size}_shapes"].split(","))
        assert shapes["image"] == f"{batch}x224x320x3"
        assert set(shapes) == {spec.name for spec in inputs}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"precision": "bf16"}, "fp32, fp16, int8"),
        ({"max_workspace_bytes": 0}, "max_workspace_bytes is 0"),
        ({"cache_directory": "cache"}, "absolute path"),
        ({"optimal_batch": 0}, "optimal_batch is 0"),
    ],
)
def test_provider_settings_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(OptionError, match=message):
        TensorRtProvider(**wrong)


def test_a_model_without_fixed_sizes_has_no_profile():
    with pytest.raises(OptionError, match="'features' has no fixed size"):
        provider_lines(TensorRtProvider(), FROM_FEATURES_INPUTS, sizes=SIZES, max_batch_size=4)


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


@pytest.fixture
def gpu(monkeypatch, source):
    """The double as the installed `tensorrt`, a GPU that torch finds, and engines that ONNX Runtime computes."""
    exporting.backbone_graph(source.model, source.card.preparation)  # torch exports it while it sees no GPU
    api = TensorRtDouble()

    class Engine:
        """Takes no more pictures than the profile that it was built with."""

        def __init__(self, plan: bytes) -> None:
            assert plan == PLAN
            self.largest = api.called("set_shape")[-1][3][0]
            session = GraphSession(onnx.load_model_from_string(api.called("parse")[-1][0]), threads=1)
            self.runtime, self.input_names, self.output_names = (
                "tensorrt 10.7.0",
                session.input_names,
                session.output_names,
            )
            self.session = session

        def run(self, inputs):
            assert {len(inputs[name]) for name in self.input_names} <= set(range(1, self.largest + 1))
            return self.session.run(inputs)

    monkeypatch.setitem(sys.modules, "tensorrt", api)
    monkeypatch.setattr(tensorrt_session, "EngineSession", Engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    return api


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for name in ("calibration", "held_out"):
        (folder / name).mkdir()
        for number in range(8):
            pixels = random.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.parametrize(("precision", "max_batch"), [("fp16", 2), ("int8", 16)])
def test_a_whole_export_becomes_plans_that_say_what_they_are_bound_to(
    precision, max_batch, gpu, checkpoint, pictures, tmp_path
):
    lenient = Thresholds(class_agreement=0, top5_overlap=0, top5_order=0, map_cosine=0, least_pictures=8)
    report = export_checkpoint(
        checkpoint,
        tmp_path / "r",
        name="tiny",
        settings=ServingSettings(max_batch_size=max_batch, device="gpu"),
        kind=Kind("tensorrt", precision),
        calibration=pictures / "calibration" if precision == "int8" else None,
        held_out=pictures / "held_out",
        thresholds=lenient,
    )
    assert report.fidelity.runtime == "tensorrt 10.7.0"
    assert report.fidelity.precision == precision
    for name in ("tiny", "tiny_what_if", "tiny_all_scores", "tiny_all_maps"):
        assert (tmp_path / "r" / name / "1/model.plan").read_bytes() == PLAN
        config = text_format.Parse((tmp_path / "r" / name / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())
        assert (config.backend, config.max_batch_size) == ("tensorrt", max_batch)
        assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
        provenance = parse_manifest((tmp_path / "r" / name / "1/manifest.json").read_bytes()).provenance
        assert provenance["tensorrt_version"] == "10.7.0"
        assert (provenance["gpu"], provenance["gpu_compute_capability"]) == ("NVIDIA L4", "8.9")
    _, smallest, optimal, largest = gpu.called("set_shape")[-1]
    assert (smallest[0], optimal[0], largest[0]) == (1, max_batch, max(8, max_batch)), "comparisons ask for up to 8"
    graphs = [onnx.load_model_from_string(parsed) for (parsed,) in gpu.called("parse")]
    assert [operator_problems(graph) for graph in graphs] == [()] * len(graphs)
    quantised_types = {
        tensor.data_type for graph in graphs for tensor in graph.graph.initializer
    } & {TensorProto.INT8, TensorProto.UINT8}  # fmt: skip
    assert quantised_types == ({TensorProto.INT8} if precision == "int8" else set())


def test_a_machine_with_tensorrt_and_no_gpu_is_refused_before_anything_is_read(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(MissingExtraError, match=r"needs an NVIDIA GPU.*server's own image"):
        export_checkpoint(tmp_path / "none", tmp_path / "r", name="tiny", kind=Kind("tensorrt", "fp32"))
