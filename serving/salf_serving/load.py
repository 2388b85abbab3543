"""A closed-loop load on a server: a number of callers, each of whom asks again as soon as it is answered.

The request is serialised once and answers are not parsed, so that callers cost little: sending and receiving. They run
in this process and share its machine with the server.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype

from salf_serving.errors import ServingError

_ANSWER_S = 60.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Load:
    """What came back.

    Attributes:
        latencies_ms: FP64 [R], of the requests that were answered within the measured time.
        seconds: the measured time.
        pictures: in one request.
        answered: requests that were answered, warming up included.
        failures: requests that got an error, warming up included.
        first_failure: the first error's text; empty if there was none.
    """

    latencies_ms: NDArray[np.float64]
    seconds: float
    pictures: int
    answered: int
    failures: int
    first_failure: str

    @property
    def pictures_per_s(self) -> float:
        """Answered pictures a second."""
        return len(self.latencies_ms) * self.pictures / self.seconds

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the latencies; infinite if nothing was answered."""
        return float(np.percentile(self.latencies_ms, percent)) if len(self.latencies_ms) else float("inf")


def infer_request(model: str, inputs: Mapping[str, NDArray[Any]]) -> service_pb2.ModelInferRequest:
    """A KServe v2 request for all outputs; inputs carry the batch axis."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in inputs.items():
        tensor = request.inputs.add()
        tensor.name, tensor.datatype = name, np_to_triton_dtype(values.dtype)
        tensor.shape.extend(values.shape)
        request.raw_input_contents.append(np.ascontiguousarray(values).tobytes())
    return request


def closed_loop(
    address: str, request: service_pb2.ModelInferRequest, *, concurrency: int, warm_up_s: float, measure_s: float
) -> Load:
    """Put a steady load on a server.

    Args:
        address: host:port of its gRPC interface.
        request: what every caller asks; see `infer_request`.
        concurrency: callers, each with a connection of its own.
        warm_up_s: seconds before measuring.
        measure_s: seconds of measuring.

    Raises:
        ServingError: nothing at all was answered.
    """
    message = request.SerializeToString()
    begin = time.perf_counter() + warm_up_s
    end = begin + measure_s
    spans: list[list[tuple[float, float]]] = [[] for _ in range(concurrency)]
    errors: list[str] = []

    def call(mine: list[tuple[float, float]]) -> None:
        # Connections of one process share a socket unless they are told not to.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
        with grpc.insecure_channel(address, options=options) as channel:
            ask = channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes)
            while (start := time.perf_counter()) < end:
                try:
                    ask(message, timeout=_ANSWER_S)
                except grpc.RpcError as error:
                    errors.append(str(error.details()))
                    time.sleep(0.01)  # a server that refuses at once must not be flooded
                    continue
                mine.append((start, time.perf_counter()))

    callers = [threading.Thread(target=call, args=(mine,)) for mine in spans]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    measured = [stop - start for mine in spans for start, stop in mine if begin <= stop <= end]
    if errors and not any(spans):
        raise ServingError(f"the server answered none of {len(errors)} requests: {errors[0]}")
    rows = int(request.inputs[0].shape[0])
    first = errors[0] if errors else ""
    return Load(1e3 * np.array(measured, np.float64), measure_s, rows, sum(map(len, spans)), len(errors), first)
