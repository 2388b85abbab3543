"""Starting Triton: `launch` for a block of code, `launched` for whoever wants the process as well."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from salf_serving.aliases import shell_safe
from salf_serving.command import ServerSettings, triton_command, triton_environment
from salf_serving.errors import StartError, StartupTimeoutError
from salf_serving.log import port_in_use, read_log, start_error
from salf_serving.ports import LOOPBACK, check_port, port_taken
from salf_serving.process import GuardedProcess, running
from salf_serving.readiness import ServedModel, client, probe_models, wait_until_ready
from salf_serving.repository import check_repository
from salf_serving.runtime import find_runtime
from salf_serving.settings import (
    DEFAULT_GRPC_PORT,
    DEFAULT_STARTUP_TIMEOUT_S,
    DEFAULT_STOP_TIMEOUT_S,
    LaunchSettings,
)
from salf_serving.stale import own_mark


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
        server_id: what the server calls itself; the names of its shared memory begin so.
    """

    grpc_address: str
    metrics_address: str | None
    pid: int
    log_file: Path
    version: str
    models: tuple[ServedModel, ...]
    server_id: str


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
    shared_memory: bool = False,
) -> Iterator[RunningServer]:
    """Serve a model repository while a block runs; afterwards no process and no shared memory is left.

    Args:
        repository: folder with one folder per model.
        grpc_port: loopback port.
        metrics_port: loopback port for Prometheus metrics; None for none.
        log_file: Triton's log, overwritten; by default under the user's state folder, named after the port.
        startup_timeout_s: how long loading and probing may take.
        stop_timeout_s: how long running requests may take to finish at the end.
        threads: that the instances of one graph divide, over what the models say; None: as many as there are cores to
            use, or fewer where a model says so.
        shared_memory: whether clients of this host may hand pictures over in /dev/shm.

    Yields:
        The running server, after every model answered its probe.

    Raises:
        ServingError: one of its kinds (see errors.py) says what is wrong and what to do.
    """
    settings = LaunchSettings(
        repository=repository,
        grpc_port=grpc_port,
        metrics_port=metrics_port,
        log_file=log_file,
        startup_timeout_s=startup_timeout_s,
        stop_timeout_s=stop_timeout_s,
        threads=threads,
        shared_memory=shared_memory,
    )
    with launched(settings) as (server, _process):
        yield server


@contextmanager
def launched(settings: LaunchSettings) -> Iterator[tuple[RunningServer, GuardedProcess]]:
    """Like `launch`; yields Triton's process beside the running server.

    Raises:
        ServingError: one of its kinds (see errors.py) says what is wrong and what to do.
    """
    repository = settings.repository.expanduser().absolute()
    check_repository(repository)
    runtime = find_runtime()
    check_port(settings.grpc_port, option="--grpc-port")
    if settings.metrics_port is not None:
        check_port(settings.metrics_port, option="--metrics-port")
        if settings.metrics_port == settings.grpc_port:
            raise port_taken(settings.metrics_port, option="--metrics-port")
    log_file = (settings.log_file or default_log_file(settings.grpc_port)).expanduser().absolute()
    deadline_s = time.monotonic() + settings.startup_timeout_s
    with shell_safe(repository, runtime.root) as (models, root):
        runtime = runtime.moved_to(root)
        server = ServerSettings(
            repository=models,
            grpc_port=settings.grpc_port,
            metrics_port=settings.metrics_port,
            threads=settings.threads,
            stop_timeout_s=settings.stop_timeout_s,
            server_id=f"salf_{own_mark('_')}_{secrets.token_hex(3)}",
            control_key=settings.control_key,
            shared_memory=settings.shared_memory,
            traces=settings.traces,
        )
        with running(
            [*(["nice", "-n", "10"] if settings.yields else []), *triton_command(runtime, server)],
            triton_environment(runtime, server),
            name="Triton",
            log_file=log_file,
            shared_memory_prefix=server.shared_memory_prefix,
            stop_timeout_s=settings.stop_timeout_s,
        ) as process:
            yield _wait(process, server, log_file, deadline_s, settings.startup_timeout_s), process


def state_folder() -> Path:
    """Where logs of this user's servers lie."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "salf"


def default_log_file(grpc_port: int) -> Path:
    """Triton's log, if nothing else was said."""
    return state_folder() / f"triton-{grpc_port}.log"


def _wait(
    process: GuardedProcess, settings: ServerSettings, log_file: Path, deadline_s: float, timeout_s: float
) -> RunningServer:
    def check_alive() -> None:
        if process.ended():
            if port_in_use(read_log(log_file)):
                raise port_taken(settings.grpc_port, option="--grpc-port")
            raise start_error(log_file, status=process.guard.returncode)

    address = f"{LOOPBACK}:{settings.grpc_port}"
    try:
        wait_until_ready(address, server_id=settings.server_id, deadline_s=deadline_s, check_alive=check_alive)
        models = probe_models(address, settings.repository, deadline_s=deadline_s, control_key=settings.control_key)
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
    return RunningServer(address, metrics, process.pid, log_file, version, models, settings.server_id)
