"""KServe v2 messages: from arrays to a request's bytes, and from a response to arrays. No I/O.

A request of one shape differs from the next only in its raw tensors. So everything else is serialised once, and a
request is that, followed by the tensors: protobuf lets a message be the concatenation of its parts.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2

from salf_client.errors import ContractMismatchError
from salf_client.transport import IndexEntry, ModelConfig, Pin, ServerMetadata, Tensors

SERVICE = "/inference.GRPCInferenceService/"
#: Of `raw_input_contents` in ModelInferRequest: number 7, length-delimited.
_RAW_INPUT_TAG = bytes([(service_pb2.ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER << 3) | 2])
_RAW_OUTPUT_TAG = bytes([(service_pb2.ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER << 3) | 2])
_KEPT_LAYOUTS = 64
_DATATYPES: dict[np.dtype[Any], str] = {
    np.dtype(bool): "BOOL",
    np.dtype(np.uint8): "UINT8",
    np.dtype(np.int32): "INT32",
    np.dtype(np.int64): "INT64",
    np.dtype(np.float16): "FP16",
    np.dtype(np.float32): "FP32",
    np.dtype(np.float64): "FP64",
    np.dtype(object): "BYTES",
}
_NUMPY_TYPES = {
    "BOOL": np.dtype(bool),
    "UINT8": np.dtype("u1"),
    "INT8": np.dtype("i1"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}


def infer_request(
    model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], *, pin: Pin | None = None
) -> bytes:
    """A serialised ModelInferRequest.

    Args:
        model: name of the model.
        inputs: tensor name -> array; object arrays of bytes become BYTES.
        outputs: names of the tensors wanted.
        pin: the version that shall answer; None leaves it to the server.
    """
    heads = tuple((name, array.dtype, array.shape) for name, array in inputs.items())
    parts: list[bytes | memoryview] = [_skeleton(model, heads, tuple(outputs), pin)]
    for array in inputs.values():
        # Joining copies a contiguous array as it is; every further copy of a picture would be felt.
        raw = array.data if array.dtype != object and array.flags.c_contiguous else raw_tensor(array)
        parts += (_RAW_INPUT_TAG, _varint(raw.nbytes if isinstance(raw, memoryview) else len(raw)), raw)
    return b"".join(parts)


def raw_tensor(array: NDArray[Any]) -> bytes:
    """An array as it travels: little-endian, C order; each element of BYTES after its length."""
    if array.dtype == object:
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
    return array.tobytes()


@lru_cache(maxsize=256)
def _skeleton(
    model: str,
    heads: tuple[tuple[str, np.dtype[Any], tuple[int, ...]], ...],
    outputs: tuple[str, ...],
    pin: Pin | None,
) -> bytes:
    return bytes(request_message(model, heads, outputs, pin=pin).SerializeToString())


def request_message(
    model: str,
    heads: Sequence[tuple[str, np.dtype[Any], tuple[int, ...]]],
    outputs: Sequence[str],
    *,
    pin: Pin | None = None,
) -> service_pb2.ModelInferRequest:
    """A ModelInferRequest without its raw tensors.

    Args:
        model: name of the model.
        heads: (name, type, shape) of each input.
        outputs: names of the tensors wanted.
        pin: the version that shall answer; None leaves it to the server.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    if pin is not None and pin.parameter is None:
        request.model_version = str(pin.version)
    elif pin is not None:
        request.parameters[pin.parameter].int64_param = pin.version
    for name, kind, shape in heads:
        request.inputs.add(name=name, datatype=_DATATYPES[kind], shape=shape)
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def read_response(
    response: service_pb2.ModelInferResponse, outputs: Sequence[str], *, model: str, address: str
) -> Tensors:
    """The tensors of a response.

    Args:
        response: as received.
        outputs: the tensors that must be there.
        model: that was asked, for messages.
        address: of the server, for messages.

    Raises:
        ContractMismatchError: a tensor is missing, or its bytes do not fit its shape and type.
    """
    raw = response.raw_output_contents
    tensors: Tensors = {}
    for tensor, content in zip(response.outputs, raw, strict=False):
        try:
            tensors[tensor.name] = np.frombuffer(content, _NUMPY_TYPES[tensor.datatype]).reshape(tensor.shape)
        except (KeyError, ValueError) as error:
            raise ContractMismatchError(
                f"model '{model}' at {address} answered with {tensor.name}: {tensor.datatype} "
                f"{list(tensor.shape)} in {len(content)} bytes, which cannot be read"
            ) from error
    missing = [name for name in outputs if name not in tensors]
    if missing:
        raise ContractMismatchError(
            f"model '{model}' at {address} answered without {', '.join(missing)}; is it a salf explain model?"
        )
    return tensors


class InferReader:
    """Reads the serialised ModelInferResponses of one endpoint; threads may share it.

    Two responses of a model differ only in their raw tensors, which come last. So where each tensor lies is kept, and
    a response that begins as one before it, and is as long, is not parsed again.

    Args:
        address: of the endpoint, for messages.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._layouts: dict[tuple[str, tuple[str, ...]], _Layout] = {}

    def read(self, response: bytes, outputs: tuple[str, ...], *, model: str) -> Tensors:
        """The tensors of a response.

        Args:
            response: as received.
            outputs: the tensors that must be there.
            model: that was asked.

        Raises:
            ContractMismatchError: a tensor is missing, or its bytes do not fit its shape and type.
        """
        layout = self._layouts.get((model, outputs))
        if layout is not None and len(response) == layout.length and response.startswith(layout.head):
            return {name: np.ndarray(shape, kind, response, offset) for name, shape, kind, offset in layout.tensors}
        try:
            message = service_pb2.ModelInferResponse.FromString(response)
        except DecodeError as error:
            raise ContractMismatchError(
                f"model '{model}' at {self._address} answered with {len(response)} bytes that cannot be read"
            ) from error
        tensors = read_response(message, outputs, model=model, address=self._address)
        layout = _layout_of(response, message)
        if layout is not None:
            if len(self._layouts) >= _KEPT_LAYOUTS:
                self._layouts.clear()
            self._layouts[model, outputs] = layout
        return tensors


class _Layout(NamedTuple):
    """Where the tensors of a response lie.

    Attributes:
        head: everything before the first raw tensor.
        length: of the response.
        tensors: name, shape, type and offset in bytes of each.
    """

    head: bytes
    length: int
    tensors: tuple[tuple[str, tuple[int, ...], np.dtype[Any], int], ...]


def _layout_of(response: bytes, message: service_pb2.ModelInferResponse) -> _Layout | None:
    """The layout of a response, or None if its raw tensors do not end it one after the other."""
    sizes = [len(raw) for raw in message.raw_output_contents]
    if len(sizes) != len(message.outputs):
        return None
    offset = start = len(response) - sum(len(_RAW_OUTPUT_TAG) + len(_varint(size)) + size for size in sizes)
    tensors = []
    for tensor, size in zip(message.outputs, sizes, strict=True):
        mark = _RAW_OUTPUT_TAG + _varint(size)
        if offset < 0 or response[offset : offset + len(mark)] != mark:
            return None
        offset += len(mark)
        tensors.append((tensor.name, tuple(tensor.shape), _NUMPY_TYPES[tensor.datatype], offset))
        offset += size
    return _Layout(response[:start], len(response), tuple(tensors))


def read_config(response: service_pb2.ModelConfigResponse) -> ModelConfig:
    """What a ModelConfigResponse says, as far as clients need it."""
    config = response.config
    return ModelConfig(
        name=config.name,
        backend=config.backend or config.platform,
        outputs=tuple(output.name for output in config.output),
        parameters={key: value.string_value for key, value in config.parameters.items()},
    )


def read_index(response: service_pb2.RepositoryIndexResponse) -> tuple[IndexEntry, ...]:
    """The entries of a RepositoryIndexResponse."""
    return tuple(
        IndexEntry(
            model=entry.name,
            version=int(entry.version) if entry.version.isdigit() else None,
            ready=entry.state == "READY",
            reason=entry.reason,
        )
        for entry in response.models
    )


def read_metadata(response: service_pb2.ServerMetadataResponse) -> ServerMetadata:
    """Name and version of the server."""
    return ServerMetadata(name=response.name, version=response.version)
