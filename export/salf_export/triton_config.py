"""config.pbtxt: what Triton needs to know about a model, in protobuf's text format.

The same file works with NVIDIA's native ONNX Runtime and OpenVINO backends and with salf's Python-based ones.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from salf_contract import Metadata, TensorSpec, metadata_parameter, quoted
from salf_export.errors import OptionError
from salf_export.kinds import Runtime
from salf_export.tensorrt_provider import TensorRtProvider, provider_lines

GRAPH_FILE = "model.onnx"
ENCODED_BACKEND = "salf_encoded"
ROLE_PARAMETER = "salf_role"
Role = Literal["explain", "all_maps", "all_scores", "what_if", "from_features", "encoded"]
_KINDS = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO"}


@dataclass(frozen=True)
class ServingSettings:
    """How Triton runs a model.

    Attributes:
        max_batch_size: pictures in one execution, at least 1.
        max_queue_delay_microseconds: how long a lone request waits for company. Short: while an execution runs,
            requests gather by themselves, so waiting longer only adds latency when the server is idle.
        device: "cpu", "gpu" (fails to load without one) or "auto" (Triton takes a GPU if it has one).
        instances: copies of the model; on the CPU one copy with all threads is fastest.
        threads: of one operator on the CPU; None: an instance's share of the cores that the server may use.
        decoders: processes that decode encoded pictures, beside the explain model. With one more than it takes to keep
            the cores busy, decoding goes on while others wait for their answers.
        tensorrt: let TensorRT compute the ONNX graphs where the server has a GPU; None: ONNX Runtime does it itself.
    """

    max_batch_size: int = 8
    max_queue_delay_microseconds: int = 100
    device: Literal["cpu", "gpu", "auto"] = "cpu"
    instances: int = 1
    threads: int | None = None
    decoders: int = 3
    tensorrt: TensorRtProvider | None = None

    def __post_init__(self) -> None:
        if self.device not in _KINDS:
            raise OptionError(f"device is {self.device!r}, expected one of {', '.join(_KINDS)}")
        if self.tensorrt is not None and self.device == "cpu":
            raise OptionError("TensorRT runs on a GPU: with `tensorrt`, device must be 'gpu' or 'auto', but is 'cpu'")
        for name, value, least in (
            ("max_batch_size", self.max_batch_size, 1),
            ("max_queue_delay_microseconds", self.max_queue_delay_microseconds, 0),
            ("instances", self.instances, 1),
            ("threads", 1 if self.threads is None else self.threads, 1),
            ("decoders", self.decoders, 1),
        ):
            if value < least:
                raise OptionError(f"{name} is {value}, expected at least {least}")

    @property
    def preferred_batch_sizes(self) -> tuple[int, ...]:
        """Half a batch and a whole one: on reaching either, waiting ends early, since more company gains little."""
        return tuple(sorted({max(1, self.max_batch_size // 2), self.max_batch_size}))


def config_text(
    *,
    model_name: str,
    role: Role,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    documents: Mapping[int, Metadata],
    settings: ServingSettings,
    runtime: Runtime = "onnxruntime",
    fixed_dims: Mapping[str, tuple[int, ...]] | None = None,
) -> str:
    """Write a model's config.pbtxt.

    Args:
        model_name: the model's folder.
        role: which of the models this is.
        inputs: the contract's specs; "H", "W", "h", "w" are filled in, and -1 (changes with the version) from
            `fixed_dims`.
        outputs: likewise.
        documents: version -> metadata, of every version in the folder; all agree in H, W, h, w.
        settings: how to run it.
        runtime: names the backend.
        fixed_dims: tensor -> its dims in the version's graph, without the batch axis. NVIDIA's native ONNX Runtime and
            OpenVINO backends compare outputs exactly, and refuse to load a model whose config.pbtxt says -1 where its
            graph says a number. None: the model has no graph, and -1 stays.
    """
    inputs, outputs = (
        [replace(spec, dims=(fixed_dims or {}).get(spec.name, spec.dims)) for spec in specs]
        for specs in (inputs, outputs)
    )
    newest = documents[max(documents)]
    sizes = {
        "H": newest.preparation.height,
        "W": newest.preparation.width,
        "h": newest.map_size[0],
        "w": newest.map_size[1],
    }
    encoded = role == "encoded"
    # Pictures are decoded on the CPU, wherever the explain model runs; an engine runs on a GPU only.
    kind = _KINDS["cpu" if encoded else "gpu" if runtime == "tensorrt" else settings.device]
    parameters: dict[str, str] = {ROLE_PARAMETER: role}
    if not encoded:
        parameters |= _runtime_parameters(runtime, settings)
    for version, document in sorted(documents.items()):
        parameters[metadata_parameter(version)] = document_line(document)
    lines = [
        "# Written by `salf export`; the next export rewrites it.",
        f"name: {quoted(model_name)}",
        f"backend: {quoted(ENCODED_BACKEND if encoded else runtime)}",
        f"max_batch_size: {settings.max_batch_size}",
        *(_tensor("input", spec, sizes) for spec in inputs),
        *(_tensor("output", spec, sizes) for spec in outputs),
        "version_policy { latest { num_versions: 1 } }",
        f"instance_group [ {{ kind: {kind} count: {settings.decoders if encoded else settings.instances} }} ]",
        "dynamic_batching {",
        f"  preferred_batch_size: [ {', '.join(map(str, settings.preferred_batch_sizes))} ]",
        f"  max_queue_delay_microseconds: {settings.max_queue_delay_microseconds}",
        "}",
        *(_accelerators(settings, inputs, sizes) if runtime == "onnxruntime" and not encoded else ()),
        *(
            f"parameters {{ key: {quoted(key)} value {{ string_value: {quoted(value)} }} }}"
            for key, value in parameters.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _runtime_parameters(runtime: Runtime, settings: ServingSettings) -> dict[str, str]:
    """What the backend shall know, under the native backend's own names."""
    if runtime == "openvino":
        # The native backend compiles for max_batch_size pictures and refuses fewer, unless it may fill up.
        parameters = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_BATCH_PADDING": "YES"}
        return parameters | ({} if settings.threads is None else {"INFERENCE_NUM_THREADS": str(settings.threads)})
    if runtime == "tensorrt" or settings.threads is None:
        return {}
    return {"intra_op_thread_count": str(settings.threads)}


def _accelerators(settings: ServingSettings, inputs: Sequence[TensorSpec], sizes: Mapping[str, int]) -> list[str]:
    """The section for ONNX Runtime's TensorRT provider; none for a model whose inputs have no fixed size."""
    if settings.tensorrt is None or any(-1 in spec.dims for spec in inputs):
        return []
    return provider_lines(settings.tensorrt, inputs, sizes=sizes, max_batch_size=settings.max_batch_size)


def _tensor(kind: str, spec: TensorSpec, sizes: Mapping[str, int]) -> str:
    dims = ", ".join(str(sizes[dim] if isinstance(dim, str) else dim) for dim in spec.dims)
    # Triton's configuration says STRING where its protocol says BYTES.
    datatype = "STRING" if spec.datatype == "BYTES" else spec.datatype
    return f"{kind} [ {{ name: {quoted(spec.name)} data_type: TYPE_{datatype} dims: [ {dims} ] }} ]"


def document_line(document: Metadata) -> str:
    """A metadata document as it stands in config.pbtxt's parameters."""
    return json.dumps(document.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
