"""A KServe v2 server in this process, over real gRPC on the loopback, that answers as Triton does."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NoReturn

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2, service_pb2_grpc

from salf_client.testing.answers import MockModel
from salf_contract import (
    ALL_MAPS_MODEL,
    ALL_MAPS_OUTPUTS,
    ALL_SCORES_MODEL,
    ALL_SCORES_OUTPUTS,
    ENCODED_INPUTS,
    ENCODED_MODEL,
    ENCODED_OUTPUTS,
    EXPLAIN_INPUTS,
    EXPLAIN_OUTPUTS,
    EXPLAIN_VERSION_PARAMETER,
    IMAGE_INPUT,
    WHAT_IF_INPUTS,
    WHAT_IF_MODEL,
    WHAT_IF_OUTPUTS,
    PictureError,
    TensorSpec,
    metadata_parameter,
)

_TYPES: dict[str, np.dtype[Any]] = {"FP32": np.dtype("<f4"), "INT32": np.dtype("<i4"), "UINT8": np.dtype("u1")}
Answer = Callable[[MockModel, Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class _Role:
    """One kind of graph: its inputs, its outputs, and what answers."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    answer: Answer


_ROLES: dict[str, tuple[str, _Role]] = {
    "explain": (
        "{name}",
        _Role(EXPLAIN_INPUTS, EXPLAIN_OUTPUTS, lambda m, i: m.explain(i["image"], int(i["target"][0]))),
    ),
    "all_maps": (ALL_MAPS_MODEL, _Role((IMAGE_INPUT,), ALL_MAPS_OUTPUTS, lambda m, i: m.all_maps(i["image"]))),
    "all_scores": (ALL_SCORES_MODEL, _Role((IMAGE_INPUT,), ALL_SCORES_OUTPUTS, lambda m, i: m.all_scores(i["image"]))),
    "what_if": (WHAT_IF_MODEL, _Role(WHAT_IF_INPUTS, WHAT_IF_OUTPUTS, lambda m, i: m.what_if(i))),
    "encoded": (
        ENCODED_MODEL,
        _Role(ENCODED_INPUTS, ENCODED_OUTPUTS, lambda m, i: m.encoded(i["encoded"][0], int(i["target"][0]))),
    ),
}
#: What a mock serves unless told otherwise.
ROLES = tuple(_ROLES)


@dataclass
class MockServer:
    """A running mock.

    Attributes:
        address: host:port for clients.
        model: what answers; set another one to load another version.
        older: other versions of it that stay loaded, for clients that are pinned to one.
        roles: which graphs are served.
        calls: name of the RPC -> how often it was called.
        delay_s: seconds that each inference takes longer.
        ready: whether it says that it is, and answers inferences.
    """

    address: str
    model: MockModel
    older: Sequence[MockModel] = ()
    roles: Sequence[str] = ROLES
    calls: Counter[str] = field(default_factory=Counter)
    delay_s: float = 0.0
    ready: bool = True
    _failures: deque[tuple[grpc.StatusCode, str]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fail(self, code: str, message: str = "as the test wishes", *, times: int = 1) -> None:
        """Let the next inferences fail.

        Args:
            code: gRPC's name of the status, such as "UNAVAILABLE".
            message: what it says; `salf_client.statuses` tells by it what it means.
            times: how many inferences.
        """
        with self._lock:
            self._failures.extend([(grpc.StatusCode[code], message)] * times)

    def next_failure(self, method: str) -> tuple[grpc.StatusCode, str] | None:
        """Count a call, and take what it shall fail with."""
        with self._lock:
            self.calls[method] += 1
            return self._failures.popleft() if method == "ModelInfer" and self._failures else None

    def versions(self) -> dict[int, MockModel]:
        """Each version that is loaded, rising."""
        return {one.metadata.version: one for one in (*self.older, self.model)}

    def served(self) -> dict[str, _Role]:
        """Name of each served model -> what it is."""
        return {_ROLES[role][0].format(name=self.model.metadata.name): _ROLES[role][1] for role in self.roles}


class _Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc] # generated code has no types
    """Triton's part of the protocol that the client uses."""

    def __init__(self, server: MockServer) -> None:
        self._server = server

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802 - gRPC's names
        self._server.next_failure("ServerLive")
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self._server.next_failure("ServerReady")
        return service_pb2.ServerReadyResponse(ready=self._server.ready)

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self._server.next_failure("ModelReady")
        return service_pb2.ModelReadyResponse(ready=self._server.ready and request.name in self._server.served())

    def ServerMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self._server.next_failure("ServerMetadata")
        return service_pb2.ServerMetadataResponse(name="salf mock", version="1")

    def RepositoryIndex(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: ARG002, N802
        self._server.next_failure("RepositoryIndex")
        state = "READY" if self._server.ready else "LOADING"
        response = service_pb2.RepositoryIndexResponse()
        for name in self._server.served():
            for version in self._server.versions():
                response.models.add(name=name, version=str(version), state=state)
        return response

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._server.next_failure("ModelConfig")
        served = self._server.served()
        if request.name not in served:
            _unknown(request.name, context)
        response = service_pb2.ModelConfigResponse()
        response.config.name, response.config.backend = request.name, "mock"
        for spec in served[request.name].outputs:
            response.config.output.add(name=spec.name)
        parameters = response.config.parameters
        for version, model in self._server.versions().items():
            parameters[metadata_parameter(version)].string_value = model.metadata.to_json()
        # As in config.pbtxt: which of the graphs it is.
        role = next(role for role, (_, found) in _ROLES.items() if found is served[request.name])
        parameters["salf_role"].string_value = role
        return response

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        failure = self._server.next_failure("ModelInfer")
        if failure is not None:
            context.abort(*failure)
        if self._server.delay_s > 0:
            time.sleep(self._server.delay_s)
        served, model = self._server.served(), self._server.model
        if request.model_name not in served:
            _unknown(request.model_name, context)
        if not self._server.ready:
            # Triton's words for a model that is known, and not loaded.
            said = f"Request for unknown model: '{request.model_name}' has no available versions"
            context.abort(grpc.StatusCode.UNAVAILABLE, said)
        pinned = request.model_version or request.parameters[EXPLAIN_VERSION_PARAMETER].int64_param
        if pinned:
            versions = self._server.versions()
            if int(pinned) not in versions:
                said = f"Request for unknown model: '{request.model_name}' version {pinned} is not found"
                context.abort(grpc.StatusCode.NOT_FOUND, said)
            model = versions[int(pinned)]
        role = served[request.model_name]
        inputs = _read_inputs(request, role.inputs, model, context)
        try:
            answer = dict(role.answer(model, inputs))
        except PictureError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"PICTURE_BROKEN: {error}")
        answer["contract_id"] = model.metadata.contract_id_words()
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1")
        kinds = {spec.name: spec.datatype for spec in role.outputs}
        wanted = [output.name for output in request.outputs] or list(kinds)
        for name in wanted:
            if name not in kinds:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"unexpected inference output '{name}'")
            values = np.asarray(answer[name]).astype(_TYPES[kinds[name]])[None]
            response.outputs.add(name=name, datatype=kinds[name], shape=values.shape)
            response.raw_output_contents.append(values.tobytes())
        return response


def _read_inputs(
    request: Any, specs: Sequence[TensorSpec], model: MockModel, context: grpc.ServicerContext
) -> dict[str, NDArray[Any]]:
    """The request's tensors without their batch axis, as strictly as Triton takes them."""
    h, w = model.metadata.map_size
    sizes: dict[int | str, int] = {
        "H": model.metadata.preparation.height,
        "W": model.metadata.preparation.width,
        "h": h,
        "w": w,
    }
    given = {tensor.name: (tensor, raw) for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
    if set(given) != {spec.name for spec in specs}:
        expected = ", ".join(spec.name for spec in specs)
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"expected the inputs {expected}, got {', '.join(given)}")
    inputs: dict[str, NDArray[Any]] = {}
    for spec in specs:
        tensor, raw = given[spec.name]
        shape = [1, *(sizes[dim] if dim in sizes else int(dim) for dim in spec.dims)]
        if tensor.datatype != spec.datatype or list(tensor.shape) != shape:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"unexpected shape or type for input '{spec.name}': expected {spec.datatype} {shape}, "
                f"got {tensor.datatype} {list(tensor.shape)}",
            )
        if spec.datatype == "BYTES":
            inputs[spec.name] = np.array([raw[4:]], dtype=object)
        else:
            inputs[spec.name] = np.frombuffer(raw, _TYPES[spec.datatype]).reshape(shape)[0]
    return inputs


def _unknown(name: str, context: grpc.ServicerContext) -> NoReturn:
    context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{name}' is not found")
    raise AssertionError("abort raises")


@contextmanager
def mock_server(
    model: MockModel | None = None,
    *,
    classes: Sequence[str] = ("cat", "dog", "bird"),
    concepts: Sequence[str] = ("tail", "fur", "leash", "wing", "beak", "whiskers"),
    roles: Sequence[str] = ROLES,
    port: int = 0,
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[MockServer]:
    """Run a mock on the loopback until the block ends.

    Args:
        model: what answers; None makes one of `classes` and `concepts`.
        classes: names.
        concepts: names.
        roles: which graphs are served: of "explain", "all_maps", "all_scores", "what_if", "encoded".
        port: to listen on; 0 takes a free one.
        credentials: of the server, as `grpc.ssl_server_credentials` makes them; None is without encryption.
    """
    unknown = set(roles) - set(_ROLES)
    if unknown:
        raise ValueError(f"roles are {', '.join(_ROLES)}, not {', '.join(sorted(unknown))}")
    server = MockServer(address="", model=model or MockModel(classes, concepts), roles=tuple(roles))
    listening = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(_Servicer(server), listening)
    wanted = f"127.0.0.1:{port}"
    if credentials is None:
        server.address = f"127.0.0.1:{listening.add_insecure_port(wanted)}"
    else:
        server.address = f"127.0.0.1:{listening.add_secure_port(wanted, credentials)}"
    listening.start()
    try:
        yield server
    finally:
        listening.stop(0).wait()
