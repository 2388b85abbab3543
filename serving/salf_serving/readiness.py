"""Ready means: each model answered a real inference right."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from salf_contract import PROBE_REQUEST_ID
from salf_serving.command import CONTROL_HEADER
from salf_serving.errors import ProbeError, ProbeTimeoutError, StartError, StartupTimeoutError, WrongAnswerError
from salf_serving.repository import PROBE_FILE

RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-3
#: Key of an input of type BYTES: one value, kept as UINT8 [n], since arrays of objects would have to be unpickled.
_BYTES = "input_bytes:"
_POLL_S = 0.05
_TRY_S = 2.0

Array = NDArray[Any]


@dataclass(frozen=True)
class ServedModel:
    """One version of a model that is ready.

    Attributes:
        name: its name in the repository.
        version: its version, as Triton writes it.
        backend: what runs it, such as "onnxruntime".
        probed: whether a real inference was compared; False if its version folder holds no probe.
    """

    name: str
    version: str
    backend: str
    probed: bool


@dataclass(frozen=True)
class Probe:
    """A question with its known answer: tensor name -> array with batch axis."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]


@contextmanager
def client(address: str) -> Iterator[triton.InferenceServerClient]:
    """A gRPC client on a server of our own, closed at the end."""
    connection = triton.InferenceServerClient(address)
    try:
        yield connection
    finally:
        connection.close()


def wait_until_ready(address: str, *, server_id: str, deadline_s: float, check_alive: Callable[[], None]) -> None:
    """Wait until Triton says that it and all its models are ready.

    Args:
        address: host:port of its gRPC interface.
        server_id: what the server must call itself; another server on the same port does not count.
        deadline_s: point of time.monotonic() until which to wait.
        check_alive: called between tries; raises when waiting has become pointless.

    Raises:
        StartupTimeoutError: not ready in time.
    """
    while True:
        check_alive()
        # A channel of its own for each try: gRPC's back-off after a refused connection would cost a second.
        with client(address) as connection:
            try:
                name = connection.get_server_metadata(client_timeout=_TRY_S).name
                if name == server_id and connection.is_server_ready(client_timeout=_TRY_S):
                    return
            except InferenceServerException:
                pass
        if time.monotonic() > deadline_s:
            raise StartupTimeoutError("Triton was not ready in time; allow more with startup_timeout_s")
        time.sleep(_POLL_S)


def probe_models(
    address: str, repository: Path, *, deadline_s: float, control_key: str | None = None
) -> tuple[ServedModel, ...]:
    """Send every loaded model its own probe and compare the answers.

    Args:
        address: host:port of Triton's gRPC interface.
        repository: where `<model>/<version>/probe.npz` lies.
        deadline_s: point of time.monotonic() until which all answers must have come.
        control_key: of a server that closes its repository index.

    Returns:
        What is served, by name and version.

    Raises:
        ProbeError: an answer is wrong, empty, or an error.
        StartError: Triton does not say what it serves.
    """
    with client(address) as connection:
        return tuple(
            probe_model(connection, repository, name, version, deadline_s=deadline_s)
            for name, version in loaded_models(connection, control_key, deadline_s=deadline_s)
        )


def loaded_models(
    connection: triton.InferenceServerClient, control_key: str | None, *, deadline_s: float
) -> tuple[tuple[str, str], ...]:
    """Names and versions that Triton serves, sorted.

    Raises:
        StartError: Triton does not say what it serves.
    """
    try:
        index = connection.get_model_repository_index(
            headers=control_headers(control_key), client_timeout=_remaining(deadline_s)
        ).models
    except InferenceServerException as error:
        raise StartError(f"Triton started, but does not tell what it serves: {error.message()}") from error
    ready = [(entry.name, entry.version) for entry in index if entry.state == "READY"]
    return tuple(sorted(ready, key=lambda entry: (entry[0], int(entry[1] or 0))))


def control_headers(control_key: str | None) -> dict[str, str] | None:
    """GRPC metadata that opens Triton's control."""
    return None if control_key is None else {CONTROL_HEADER: control_key}


def probe_model(
    connection: triton.InferenceServerClient, repository: Path, name: str, version: str, *, deadline_s: float
) -> ServedModel:
    """Send one version of a model its probe; without a probe, only ask for its configuration.

    Raises:
        ProbeError: the answer is an error; a WrongAnswerError if it is wrong or empty, a ProbeTimeoutError if there is
            none in time.
        StartError: Triton does not know the model.
    """
    try:
        config = connection.get_model_config(name, version, client_timeout=_remaining(deadline_s)).config
    except InferenceServerException as error:
        raise StartError(f"Triton does not tell how it serves {name} version {version}: {error.message()}") from error
    probe = read_probe(repository / name / version / PROBE_FILE)
    if probe is not None:
        _check_answer(connection, name, version, probe, deadline_s)
    return ServedModel(name, version, config.backend or config.platform, probed=probe is not None)


def answered_count(connection: triton.InferenceServerClient, name: str, version: str) -> int | None:
    """How many pictures a version of a model has answered since it was loaded; None if Triton does not say."""
    try:
        statistics = connection.get_inference_statistics(name, version, client_timeout=_TRY_S)
    except InferenceServerException:
        return None
    return sum(int(one.inference_count) for one in statistics.model_stats)


def read_probe(path: Path) -> Probe | None:
    """Read a probe that the exporter wrote; None if there is none.

    Raises:
        ProbeError: the file is broken, or lacks inputs or outputs.
    """
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as arrays:
            given = {
                name.replace(_BYTES, "input:", 1): _one_value(arrays[name]) if name.startswith(_BYTES) else arrays[name]
                for name in arrays.files
            }
    # numpy raises several kinds for a broken archive (BadZipFile, ValueError, EOFError, OSError, zlib.error).
    except Exception as error:
        raise ProbeError(f"{path} cannot be read: {error}; export the model again") from error
    probe = Probe(
        inputs={name.removeprefix("input:"): array for name, array in given.items() if name.startswith("input:")},
        outputs={name.removeprefix("output:"): array for name, array in given.items() if name.startswith("output:")},
    )
    if not probe.inputs or not probe.outputs or len(probe.inputs) + len(probe.outputs) != len(given):
        raise ProbeError(
            f"{path} must hold arrays named input:NAME and output:NAME, but holds {', '.join(given) or 'nothing'}; "
            "export the model again"
        )
    return probe


def _one_value(values: Array) -> Array:
    """BYTES [1,1] of UINT8 [n], as tritonclient takes it."""
    return np.array([[values.astype(np.uint8).tobytes()]], dtype=np.object_)


def compare(expected: Mapping[str, Array], answers: Mapping[str, Array | None]) -> str | None:
    """Compare an answer with the known one: integers exactly, floats within 1e-3 (relative plus absolute).

    Returns:
        None if they agree, else what is wrong, worded to follow "model NAME".
    """
    for name, wanted in expected.items():
        got = answers.get(name)
        if got is None or (got.size == 0 and wanted.size):
            return f"answered its probe with an empty output {name!r}"
        if got.shape != wanted.shape or got.dtype != wanted.dtype:
            return (f"answered its probe with {name!r} as {got.dtype} {list(got.shape)}, "
                    f"but {wanted.dtype} {list(wanted.shape)} was expected")  # fmt: skip
        exact = not np.issubdtype(wanted.dtype, np.inexact)
        same = np.array_equal(got, wanted) if exact else np.allclose(
            got, wanted, rtol=RELATIVE_TOLERANCE, atol=ABSOLUTE_TOLERANCE, equal_nan=True
        )  # fmt: skip
        if not same:
            difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64)).max()
            return f"answered its probe wrongly: output {name!r} differs by up to {difference:.3g}"
    return None


def _check_answer(
    connection: triton.InferenceServerClient, model: str, version: str, probe: Probe, deadline_s: float
) -> None:
    inputs = []
    for name, array in probe.inputs.items():
        tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    outputs = [triton.InferRequestedOutput(name) for name in probe.outputs]
    try:
        answer = connection.infer(
            model, inputs, version, outputs, request_id=PROBE_REQUEST_ID, client_timeout=_remaining(deadline_s)
        )
        answers = {name: answer.as_numpy(name) for name in probe.outputs}
    except InferenceServerException as error:
        kind = ProbeTimeoutError if error.status() == "StatusCode.DEADLINE_EXCEEDED" else ProbeError
        raise kind(f"model {model} version {version} answered its probe with an error: {error.message()}") from error
    wrong = compare(probe.outputs, answers)
    if wrong is not None:
        raise WrongAnswerError(f"model {model} version {version} {wrong}; export the model again")


def _remaining(deadline_s: float) -> float:
    return max(0.1, deadline_s - time.monotonic())
