"""Build a TensorRT engine from a graph, for the GPU and the release of TensorRT that are here.

A plan runs on the same kind of GPU under the same release only, so it is built inside the server's own image.
Only the backbone is reduced: layers of the head keep float32, because explanations are read from them.
Never run on a GPU by us; see docs/tensorrt.md.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto, numpy_helper

from salf_export.errors import GraphError, OptionError
from salf_export.operators import check_operators
from salf_export.tensorrt_api import Builder, BuilderConfig, Network, Parser, TensorRt, TimingCache, load_tensorrt

PLAN_FILE = "model.plan"
#: Names of the nodes behind the features begin with it, and so do the layers that TensorRT makes of them.
_HEAD = "head/"
_BACKBONE = "backbone/"
_FLAGS: dict[str, tuple[str, ...]] = {
    "fp32": (),
    "fp16": ("FP16",),
    "bf16": ("BF16",),
    # What is not quantised may run in fp16: the fidelity gate measures both together.
    "int8": ("INT8", "FP16"),
}
_log = logging.getLogger("salf.export")


@dataclass(frozen=True)
class EngineSettings:
    """How an engine is built.

    Attributes:
        precision: of the backbone; "int8" needs a graph with quantisation nodes, which hold the calibration.
        min_batch: the smallest batch that the engine takes.
        optimal_batch: what it is tuned for; None: the largest.
        max_batch: the largest batch; at least the server's `max_batch_size`.
        workspace_bytes: GPU memory that a layer may use for a while.
        timing_cache: file with the measurements of earlier builds, read and written; None: none.
    """

    precision: Literal["fp32", "fp16", "bf16", "int8"] = "fp16"
    min_batch: int = 1
    optimal_batch: int | None = None
    max_batch: int = 8
    workspace_bytes: int = 1 << 30
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if self.precision not in _FLAGS:
            raise OptionError(f"precision is {self.precision!r}, expected one of {', '.join(_FLAGS)}")
        optimal = self.max_batch if self.optimal_batch is None else self.optimal_batch
        if not 1 <= self.min_batch <= optimal <= self.max_batch:
            raise OptionError(
                f"batch sizes are {self.min_batch}, {optimal}, {self.max_batch}; "
                "expected 1 <= min_batch <= optimal_batch <= max_batch"
            )
        if self.workspace_bytes < 1:
            raise OptionError(f"workspace_bytes is {self.workspace_bytes}, expected at least 1")

    @property
    def batches(self) -> tuple[int, int, int]:
        """Smallest, optimal and largest batch."""
        return self.min_batch, self.max_batch if self.optimal_batch is None else self.optimal_batch, self.max_batch


def build_engine(graph_bytes: bytes, settings: EngineSettings, *, tensorrt: TensorRt | None = None) -> bytes:
    """Build a plan, as Triton's `tensorrt` backend reads it from model.plan.

    Args:
        graph_bytes: an ONNX model with all weights inside; for int8 with QuantizeLinear and DequantizeLinear nodes.
        settings: how to build it.
        tensorrt: the module; None imports it.

    Returns:
        The serialised engine.

    Raises:
        MissingExtraError: tensorrt is not installed; says where to run instead.
        OptionError: another major release of tensorrt, or int8 for a graph without quantisation nodes.
        GraphError: the graph is no ONNX, uses what TensorRT does not read, or cannot be built.
    """
    model = _read(graph_bytes, settings)
    api = tensorrt or load_tensorrt()
    logger = api.Logger(api.Logger.WARNING)
    builder = api.Builder(logger)
    network = builder.create_network(0)
    parser = api.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString(deterministic=True)):
        raise GraphError(f"TensorRT {api.__version__} cannot read the graph: {'; '.join(_parser_errors(parser))}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    # Ten bits of mantissa under the name of float32 are not what the head was verified with.
    config.clear_flag(api.BuilderFlag.TF32)
    for flag in _FLAGS[settings.precision]:
        config.set_flag(getattr(api.BuilderFlag, flag))
    if settings.precision != "fp32":
        config.set_flag(api.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        _keep_head(network, api.float32)
    _add_profile(builder, network, config, settings)
    cache = _timing_cache(config, settings.timing_cache)
    plan: Any = builder.build_serialized_network(network, config)
    if plan is None:
        raise GraphError(
            f"TensorRT {api.__version__} could not build the engine; its log above says why. Too little memory is the "
            f"usual reason: the workspace was {settings.workspace_bytes} bytes"
        )
    if cache is not None and settings.timing_cache is not None:
        _replace(settings.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def with_float_biases(model: ModelProto) -> ModelProto:
    """The same graph with INT32 biases as float32 constants: TensorRT dequantises INT8 only, and scales biases itself.

    Args:
        model: with quantisation nodes, or without; left unchanged.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    folded: dict[str, TensorProto] = {}
    for node in model.graph.node:
        quantised = constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantised is None or quantised.data_type != TensorProto.INT32 or node.input[1] not in constants:
            continue
        scale = numpy_helper.to_array(constants[node.input[1]]).astype(np.float64)
        values = numpy_helper.to_array(quantised) * scale
        folded[node.output[0]] = numpy_helper.from_array(values.astype(np.float32), node.output[0])
    if not folded:
        return model
    changed = ModelProto()
    changed.CopyFrom(model)
    nodes = [node for node in model.graph.node if node.output[0] not in folded]
    used = {name for node in nodes for name in node.input}
    del changed.graph.node[:], changed.graph.initializer[:]
    changed.graph.node.extend(nodes)
    changed.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    changed.graph.initializer.extend(folded.values())
    return changed


def _read(graph_bytes: bytes, settings: EngineSettings) -> ModelProto:
    try:
        model = onnx.load_model_from_string(graph_bytes)
    except DecodeError as error:
        raise GraphError(f"the graph is no ONNX model: {error}") from error
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise GraphError(
            "the graph's weights lie in files beside it; read it with salf_export.shared_weights.load_graph, "
            "which puts them inside"
        )
    if settings.precision == "int8" and "QuantizeLinear" not in {node.op_type for node in model.graph.node}:
        raise OptionError(
            "an int8 engine needs a graph that was quantised on calibration pictures; export with --precision int8 and "
            "--calibration, or use --precision fp16"
        )
    readable = with_float_biases(model)
    check_operators(readable)
    return readable


def _keep_head(network: Network, float32: Any) -> None:
    """Fix the head's layers and constants to float32.

    As NVIDIA's trtexec does, a layer gets a precision if it reads or gives floats: one that gathers floats by indices,
    or chooses between floats, would else be free to do so in fp16.
    """
    for layer in (network.get_layer(index) for index in range(network.num_layers)):
        # A constant has its own name, and may be kept in fp16 before it is read.
        if not layer.name.startswith(_HEAD) and (layer.num_inputs or layer.name.startswith(_BACKBONE)):
            continue
        outputs = [layer.get_output(index).dtype for index in range(layer.num_outputs)]
        inputs = [tensor.dtype for tensor in map(layer.get_input, range(layer.num_inputs)) if tensor is not None]
        if float32 in (*inputs, *outputs):
            layer.precision = float32
        for index, kind in enumerate(outputs):
            if kind == float32:
                layer.set_output_type(index, float32)


def _add_profile(builder: Builder, network: Network, config: BuilderConfig, settings: EngineSettings) -> None:
    profile = builder.create_optimization_profile()
    for tensor in (network.get_input(index) for index in range(network.num_inputs)):
        smallest, optimal, largest = (_with_batch(tensor.name, tensor.shape, batch) for batch in settings.batches)
        profile.set_shape(tensor.name, smallest, optimal, largest)
    if config.add_optimization_profile(profile) < 0:
        raise GraphError(f"TensorRT refuses the profile for batches of {settings.batches}; its log above says why")


def _timing_cache(config: BuilderConfig, path: Path | None) -> TimingCache | None:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        _log.warning("timing cache %s is of another GPU or release, or damaged; it is measured anew", path)
        cache = config.create_timing_cache(b"")
        if cache is not None:
            config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _with_batch(name: str, shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    if shape[0] != -1 or -1 in tuple(shape)[1:]:
        raise GraphError(f"input {name!r} has the shape {list(shape)}; expected a free batch and fixed sizes behind it")
    return (batch, *tuple(shape)[1:])


def _parser_errors(parser: Parser) -> Iterator[str]:
    for index in range(parser.num_errors):
        yield str(parser.get_error(index))


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_bytes(content)
    beside.replace(path)
