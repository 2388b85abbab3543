"""What the supervisor does to a running Triton: load, unload, and look at the processes that run its models."""

import os
import time
from collections.abc import Mapping
from pathlib import Path

from tritonclient.utils import InferenceServerException

from salf_serving.errors import ModelLoadError
from salf_serving.readiness import client, control_headers

_STUB = "triton_python_backend_stub"
#: Where Triton puts `MODEL_NUMBER_DEVICE` into the command line of its Python stub (version 2.51).
_INSTANCE_ARGUMENT = 8


def load_model(address: str, name: str, *, control_key: str, timeout_s: float) -> None:
    """Let Triton read a model again: what changed is loaded first, and takes over when it is ready.

    Raises:
        ModelLoadError: Triton refuses it, or does not answer in time; what was served before still is.
    """
    try:
        with client(address) as connection:
            connection.load_model(name, headers=control_headers(control_key), client_timeout=timeout_s)
    except InferenceServerException as error:
        raise ModelLoadError(f"model {name} cannot be loaded: {error.message()}") from error


def unload_model(address: str, name: str, *, control_key: str, timeout_s: float) -> None:
    """Let Triton drop a model when its requests under way are answered.

    Raises:
        ModelLoadError: Triton refuses.
    """
    try:
        with client(address) as connection:
            connection.unload_model(name, headers=control_headers(control_key), client_timeout=timeout_s)
    except InferenceServerException as error:
        raise ModelLoadError(f"model {name} cannot be unloaded: {error.message()}") from error


def touch(model: Path) -> None:
    """Make a model look changed, so that the next load starts new workers for it (Triton compares times)."""
    now = time.time()
    for path in model.glob("[1-9]*/**/*"):
        if path.is_file():
            os.utime(path, (now, now))


def workers(triton_pid: int) -> dict[int, str]:
    """Process id -> model, of every live Python stub of a Triton."""
    found = {}
    for children in Path("/proc").glob(f"{triton_pid}/task/*/children"):
        try:
            pids = [int(pid) for pid in children.read_text().split()]
        except OSError:
            continue
        for pid in pids:
            if (model := _model_of(pid)) is not None:
                found[pid] = model
    return found


def retiring(before: Mapping[int, str], now: Mapping[int, str]) -> set[int]:
    """Workers that a load has replaced, and that end by themselves when their last requests are answered.

    Args:
        before: `workers` before the load.
        now: `workers` after it.
    """
    renewed = {model for pid, model in now.items() if pid not in before}
    return {pid for pid, model in now.items() if pid in before and model in renewed}


def _model_of(pid: int) -> str | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if not arguments[0].endswith(_STUB) or len(arguments) <= _INSTANCE_ARGUMENT:
        return None
    return arguments[_INSTANCE_ARGUMENT].rsplit("_", 2)[0]
