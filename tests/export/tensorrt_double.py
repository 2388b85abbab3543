"""A recording double of NVIDIA's `tensorrt` module: it parses with onnx, builds nothing, and remembers every call."""

from types import SimpleNamespace
from typing import Any

import onnx
from onnx import TensorProto

FLOAT32, INT32, UINT8 = "float32", "int32", "uint8"
_TYPES = {TensorProto.FLOAT: FLOAT32, TensorProto.INT32: INT32, TensorProto.UINT8: UINT8}
PLAN = b"plan"
CACHE = b"measured"


class TensorRtDouble:
    """`calls` holds (what, arguments) in order; `faults` names steps that fail."""

    __version__ = "10.7.0"
    float32 = FLOAT32
    BuilderFlag = SimpleNamespace(
        FP16="FP16", BF16="BF16", INT8="INT8", TF32="TF32", OBEY_PRECISION_CONSTRAINTS="OBEY_PRECISION_CONSTRAINTS"
    )
    MemoryPoolType = SimpleNamespace(WORKSPACE="WORKSPACE")

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.layers: list[SimpleNamespace] = []
        self.Logger = _Logger

    def note(self, what: str, *arguments: Any) -> None:
        self.calls.append((what, arguments))

    def called(self, what: str) -> list[tuple[Any, ...]]:
        return [arguments for name, arguments in self.calls if name == what]

    def Builder(self, logger: Any) -> "_Builder":  # noqa: N802
        return _Builder(self)

    def OnnxParser(self, network: Any, logger: Any) -> "_Parser":  # noqa: N802
        return _Parser(self, network)


class _Logger:
    WARNING = 2

    def __init__(self, severity: int) -> None:
        self.severity = severity


class _Parser:
    def __init__(self, api: TensorRtDouble, network: "_Network") -> None:
        self.api, self.network = api, network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        self.api.note("parse", model)
        if "parse" in self.api.faults:
            self.num_errors = 1
            return False
        self.network.fill(onnx.shape_inference.infer_shapes(onnx.load_model_from_string(model)).graph)
        return True

    def get_error(self, index: int) -> str:
        return "In node 3: no importer"


class _Network:
    def __init__(self) -> None:
        self.inputs: list[SimpleNamespace] = []
        self.layers: list[SimpleNamespace] = []

    def fill(self, graph: onnx.GraphProto) -> None:
        types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
        types |= {value.name: value.type.tensor_type.elem_type for value in graph.input}
        types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in graph.input:
            shape = tuple(dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim)
            self.inputs.append(SimpleNamespace(name=value.name, shape=shape))

        def tensor(name: str) -> SimpleNamespace:
            return SimpleNamespace(name=name, dtype=_TYPES.get(types.get(name, 0), "other"))

        # NVIDIA's parser makes a layer of each constant, under the constant's own name (convertToTensor).
        self.layers += [_Layer(constant.name, [], [tensor(constant.name)]) for constant in graph.initializer]
        for node in graph.node:
            self.layers.append(_Layer(node.name, [tensor(n) for n in node.input], [tensor(n) for n in node.output]))

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_input(self, index: int) -> SimpleNamespace:
        return self.inputs[index]

    def get_layer(self, index: int) -> "_Layer":
        return self.layers[index]


class _Layer:
    def __init__(self, name: str, inputs: list[SimpleNamespace], outputs: list[SimpleNamespace]) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs
        self.precision: str | None = None
        self.output_types: dict[int, str] = {}

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> SimpleNamespace:
        return self.inputs[index]

    def get_output(self, index: int) -> SimpleNamespace:
        return self.outputs[index]

    def set_output_type(self, index: int, dtype: str) -> None:
        self.output_types[index] = dtype


class _Profile:
    def __init__(self, api: TensorRtDouble) -> None:
        self.api = api

    def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:  # noqa: A002
        self.api.note("set_shape", input, min, opt, max)


class _Config:
    def __init__(self, api: TensorRtDouble) -> None:
        self.api = api

    def set_memory_pool_limit(self, pool: str, pool_size: int) -> None:
        self.api.note("set_memory_pool_limit", pool, pool_size)

    def set_flag(self, flag: str) -> None:
        self.api.note("set_flag", flag)

    def clear_flag(self, flag: str) -> None:
        self.api.note("clear_flag", flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.api.note("add_optimization_profile")
        return -1 if "profile" in self.api.faults else 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> SimpleNamespace | None:
        self.api.note("create_timing_cache", serialized_timing_cache)
        if "damaged cache" in self.api.faults and serialized_timing_cache:
            return None
        return SimpleNamespace(serialize=lambda: bytearray(CACHE))

    def set_timing_cache(self, cache: SimpleNamespace, ignore_mismatch: bool) -> bool:
        if cache is None:
            raise TypeError("incompatible function arguments")  # as NVIDIA's bindings say
        fits = not ("cache" in self.api.faults and len(self.api.called("set_timing_cache")) == 0)
        self.api.note("set_timing_cache", ignore_mismatch)
        return fits


class _Builder:
    def __init__(self, api: TensorRtDouble) -> None:
        self.api = api

    def create_network(self, flags: int) -> _Network:
        self.network = _Network()
        return self.network

    def create_builder_config(self) -> _Config:
        return _Config(self.api)

    def create_optimization_profile(self) -> _Profile:
        return _Profile(self.api)

    def build_serialized_network(self, network: _Network, config: _Config) -> bytearray | None:
        self.api.note("build_serialized_network")
        self.api.layers = list(network.layers)
        return None if "build" in self.api.faults else bytearray(PLAN)
