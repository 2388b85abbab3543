"""What a server is started with: one place for every setting and its default."""

from dataclasses import dataclass
from pathlib import Path

from salf_serving.errors import ServingError
from salf_serving.front_settings import FrontSettings
from salf_serving.tracing import TraceSettings

DEFAULT_GRPC_PORT = 8001
DEFAULT_STARTUP_TIMEOUT_S = 60.0
DEFAULT_STOP_TIMEOUT_S = 15


@dataclass(frozen=True, kw_only=True)
class LaunchSettings:
    """One Triton.

    Attributes:
        repository: folder with one folder per model.
        grpc_port: loopback port.
        metrics_port: loopback port for Prometheus metrics; None for none.
        log_file: Triton's log, overwritten; None puts it into the user's state folder, named after the port.
        startup_timeout_s: how long loading and probing may take.
        stop_timeout_s: how long running requests may take to finish at the end.
        threads: that the instances of one graph divide, over what the models say; None: as many as there are cores to
            use, or fewer where a model says so.
        control_key: whoever sends it may load and unload models; None: nobody can.
        shared_memory: whether clients of this host may hand pictures over in /dev/shm; the front does not pass that.
        traces: where OpenTelemetry traces go; None: there are none.
        yields: lets other processes go first, for a Triton that only tries models.
    """

    repository: Path
    grpc_port: int = DEFAULT_GRPC_PORT
    metrics_port: int | None = None
    log_file: Path | None = None
    startup_timeout_s: float = DEFAULT_STARTUP_TIMEOUT_S
    stop_timeout_s: int = DEFAULT_STOP_TIMEOUT_S
    threads: int | None = None
    control_key: str | None = None
    shared_memory: bool = False
    traces: TraceSettings | None = None
    yields: bool = False

    def __post_init__(self) -> None:
        if self.threads is not None and self.threads < 1:
            raise ServingError(f"threads must be 1 or more, but is {self.threads}")


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """A supervised server.

    Attributes:
        launch: Triton. With a front, `grpc_port` is the front's, and Triton takes a free port of the loopback.
        front: what stands between clients and Triton; None: nothing does, and clients must be on this host.
        status_port: loopback port of /healthz, /readyz and /metrics; None for none.
        status_address: address that this port is opened on.
        probe_interval_s: from one probe of all models to the next.
        probe_timeout_s: how long a model may take to answer its probe, its queue included.
        watch_interval_s: from one look at the repository to the next; a change counts when two looks agree.
    """

    launch: LaunchSettings
    front: FrontSettings | None = None
    status_port: int | None = None
    status_address: str = "127.0.0.1"
    probe_interval_s: float = 2.0
    probe_timeout_s: float = 10.0
    watch_interval_s: float = 1.0

    def __post_init__(self) -> None:
        ports: dict[int | None, str] = {}
        for option, port in (
            ("--port", self.launch.grpc_port),
            ("--metrics-port", self.launch.metrics_port),
            ("--status-port", self.status_port),
        ):
            if port is not None and ports.setdefault(port, option) != option:
                raise ServingError(f"{ports[port]} and {option} are both {port}; choose another for one of them")
