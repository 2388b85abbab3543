"""Asking an encoded endpoint with messages of our own making: no client library between test and server."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from salf_contract import sum_tolerance

_TYPES = {"FP32": np.float32, "INT32": np.int32}
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True)
class Failure:
    """A gRPC error."""

    status: grpc.StatusCode
    message: str


class Endpoint:
    """NAME_encoded at an address; with TLS if there is an authority that its certificate comes from."""

    def __init__(
        self,
        address: str,
        model: str = "scenes_encoded",
        *,
        authority: Path | None = None,
        options: Sequence[tuple[str, int]] = (),
    ) -> None:
        options = [("grpc.max_receive_message_length", -1), *options]
        self.channel = (
            grpc.insecure_channel(address, options)
            if authority is None
            else grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.read_bytes()), options)
        )
        self._infer = self.channel.unary_unary(
            _METHOD,
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        self.model = model

    def ask(self, *files: bytes, target: int = -1, timeout_s: float = 120) -> dict[str, np.ndarray] | Failure:
        """One request for B pictures; arrays keep their batch axis."""
        message = service_pb2.ModelInferRequest(model_name=self.model)
        packed = b"".join(len(file).to_bytes(4, "little") + file for file in files)
        for name, datatype, raw in (
            ("encoded", "BYTES", packed),
            ("target", "INT32", np.full(len(files), target, np.int32).tobytes()),
        ):
            tensor = message.inputs.add()
            tensor.name, tensor.datatype = name, datatype
            tensor.shape.extend([len(files), 1])
            message.raw_input_contents.append(raw)
        try:
            answer = self._infer(message, timeout=timeout_s)
        except grpc.RpcError as error:
            return Failure(error.code(), error.details())
        return {
            tensor.name: np.frombuffer(raw, _TYPES[tensor.datatype]).reshape(tuple(tensor.shape))
            for tensor, raw in zip(answer.outputs, answer.raw_output_contents, strict=True)
        }


def assert_sums_hold(answer: dict[str, np.ndarray]) -> None:
    """Contributions, rest and bias make the logit, in every row."""
    assert answer["logits"].size
    for row in range(len(answer["logits"])):
        shown = answer["top_contributions"][row].astype(np.float64)
        total = shown.sum() + answer["rest_contribution"][row, 0] + answer["bias"][row, 0]
        logit = answer["logits"][row, answer["target_class"][row, 0]]
        everything = np.array([np.abs(shown).sum() / max(float(answer["coverage"][row, 0]), 1e-6)])
        assert abs(total - logit) <= sum_tolerance(everything)


def workers(server_pid: int, model: str = "scenes_encoded") -> dict[int, int]:
    """Process id -> RssAnon in KiB of a model's Python stubs."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent != server_pid or f"/{model}/" not in (folder / "cmdline").read_text():
                continue
            status = (folder / "status").read_text()
        except OSError:
            continue
        lines = (line.split() for line in status.splitlines())
        found[int(folder.name)] = next(int(line[1]) for line in lines if line[0] == "RssAnon:")
    return found
