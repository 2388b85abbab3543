"""Starting a server: `launch` for a block of code, `serve` for as long as nobody stops it."""

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from salf_serving.aliases import shell_safe
from salf_serving.command import ServerSettings, triton_command, triton_environment
from salf_serving.errors import ServerDiedError, ServingError, StartError, StartupTimeoutError
from salf_serving.log import port_in_use, read_log, start_error
from salf_serving.ports import LOOPBACK, check_port, port_taken
from salf_serving.process import TritonProcess, running
from salf_serving.readiness import ServedModel, client, probe_models, wait_until_ready
from salf_serving.repository import check_repository
from salf_serving.runtime import find_runtime

DEFAULT_GRPC_PORT = 8001
DEFAULT_STARTUP_TIMEOUT_S = 60.0
DEFAULT_STOP_TIMEOUT_S = 15
_WATCH_S = 0.2
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunningServer:
    """A server that answered its models' probes.

    Attributes:
        grpc_address: host:port for clients.
        metrics_address: host:port of `/metrics`, or None.
        pid: tritonserver's process.
        log_file: Triton's log.
        version: Triton's version.
        models: what is served, by name and version.
    """

    grpc_address: str
    metrics_address: str | None
    pid: int
    log_file: Path
    version: str
    models: tuple[ServedModel, ...]


@contextmanager
def launch(
    repository: Path,
    *,
    grpc_port: int = DEFAULT_GRPC_PORT,
    metrics_port: int | None = None,
    log_file: Path | None = None,
    startup_timeout_s: float = DEFAULT_STARTUP_TIMEOUT_S,
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S,
    threads: int | None = None,
) -> Iterator[RunningServer]:
    """Serve a model repository while a block runs; afterwards no process and no shared memory is left.

    Args:
        repository: folder with one folder per model.
        grpc_port: loopback port.
        metrics_port: loopback port for Prometheus metrics; None for none.
        log_file: Triton's log, overwritten; by default under the user's state folder, named after the port.
        startup_timeout_s: how long loading and probing may take.
        stop_timeout_s: how long running requests may take to finish at the end.
        threads: threads of one inference, over what the models say.

    Yields:
        The running server, after every model answered its probe.

    Raises:
        ServingError: one of its kinds (see errors.py) says what is wrong and what to do.
    """
    with _launched(repository, grpc_port, metrics_port, log_file, startup_timeout_s, stop_timeout_s, threads) as (
        server,
        _process,
    ):
        yield server


def serve(
    repository: Path,
    *,
    grpc_port: int = DEFAULT_GRPC_PORT,
    metrics_port: int | None = None,
    log_file: Path | None = None,
    startup_timeout_s: float = DEFAULT_STARTUP_TIMEOUT_S,
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S,
    threads: int | None = None,
    on_ready: Callable[[RunningServer], None] = lambda _server: None,
) -> int:
    """Serve until SIGINT or SIGTERM; call it from the main thread.

    Args:
        repository: see `launch`, as for all that is not listed here.
        grpc_port: see `launch`.
        metrics_port: see `launch`.
        log_file: see `launch`.
        startup_timeout_s: see `launch`.
        stop_timeout_s: see `launch`.
        threads: see `launch`.
        on_ready: called once when every model answered its probe.

    Returns:
        Exit status for the process: 0 after a clean stop, 1 if Triton had to be killed.

    Raises:
        ServerDiedError: Triton stopped although nobody asked it to.
        ServingError: it could not be started.
    """
    process = None
    try:
        with _stop_signals(), _launched(
            repository, grpc_port, metrics_port, log_file, startup_timeout_s, stop_timeout_s, threads
        ) as (server, process):  # fmt: skip
            on_ready(server)
            while not process.ended():
                time.sleep(_WATCH_S)
            raise ServerDiedError(
                f"Triton stopped by itself with status {process.guard.returncode}; its log is {server.log_file}"
            )
    except _StopRequested as stop:
        status = 0 if process is None else process.guard.returncode
        if status != 0:
            _logger.warning("Triton ended with status %s after signal %s", status, stop.number)
        return 0 if status == 0 else 1


@contextmanager
def _launched(
    repository: Path,
    grpc_port: int,
    metrics_port: int | None,
    log_file: Path | None,
    startup_timeout_s: float,
    stop_timeout_s: int,
    threads: int | None,
) -> Iterator[tuple[RunningServer, TritonProcess]]:
    if threads is not None and threads < 1:
        raise ServingError(f"threads must be 1 or more, but is {threads}")
    repository = repository.expanduser().absolute()
    check_repository(repository)
    runtime = find_runtime()
    check_port(grpc_port, option="--grpc-port")
    if metrics_port is not None:
        check_port(metrics_port, option="--metrics-port")
        if metrics_port == grpc_port:
            raise port_taken(metrics_port, option="--metrics-port")
    log_file = (log_file or _default_log_file(grpc_port)).expanduser().absolute()
    deadline_s = time.monotonic() + startup_timeout_s
    with shell_safe(repository, runtime.root) as (models, root):
        runtime = runtime.moved_to(root)
        settings = ServerSettings(
            repository=models,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            threads=threads,
            stop_timeout_s=stop_timeout_s,
            server_id=f"salf_{os.getpid()}_{secrets.token_hex(3)}",
        )
        with running(
            triton_command(runtime, settings),
            triton_environment(runtime, settings),
            log_file=log_file,
            shared_memory_prefix=settings.shared_memory_prefix,
            stop_timeout_s=stop_timeout_s,
        ) as process:
            yield _wait(process, settings, log_file, deadline_s, startup_timeout_s), process


def _wait(
    process: TritonProcess, settings: ServerSettings, log_file: Path, deadline_s: float, timeout_s: float
) -> RunningServer:
    def check_alive() -> None:
        if process.ended():
            if port_in_use(read_log(log_file)):
                raise port_taken(settings.grpc_port, option="--grpc-port")
            raise start_error(log_file, status=process.guard.returncode)

    address = f"{LOOPBACK}:{settings.grpc_port}"
    try:
        wait_until_ready(address, server_id=settings.server_id, deadline_s=deadline_s, check_alive=check_alive)
        models = probe_models(address, settings.repository, deadline_s=deadline_s)
        with client(address) as connection:
            version = str(connection.get_server_metadata().version)
    except StartupTimeoutError as error:
        raise StartupTimeoutError(
            f"Triton was not ready within {timeout_s:g} s; allow more with --startup-timeout, or see why in {log_file}"
        ) from error
    except StartError:
        check_alive()  # if Triton is gone, that is the reason
        raise
    metrics = None if settings.metrics_port is None else f"{LOOPBACK}:{settings.metrics_port}"
    return RunningServer(address, metrics, process.pid, log_file, version, models)


def _default_log_file(grpc_port: int) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(state).expanduser() / "salf" / f"triton-{grpc_port}.log"


class _StopRequested(BaseException):
    """A signal asked for the end; no error, so that nothing on the way takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _stop_signals() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into `_StopRequested`; further ones change nothing while the server stops."""
    if threading.current_thread() is not threading.main_thread():
        raise ServingError("serve must be called from the main thread, which gets the signals; use launch elsewhere")
    asked = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:
            asked = True
            raise _StopRequested(number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
