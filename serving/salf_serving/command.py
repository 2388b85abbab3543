"""The command line and environment that run Triton."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from salf_serving.cores import usable_cores
from salf_serving.native import native_triton
from salf_serving.ports import LOOPBACK
from salf_serving.runtime import Runtime
from salf_serving.tracing import TraceSettings, triton_trace_options

#: These names are shared with graph_config.py, which runs inside Triton and imports nothing of ours.
BUDGET_VARIABLE = "SALF_THREAD_BUDGET"
THREADS_VARIABLE = "SALF_INTRA_OP_THREADS"
#: gRPC metadata that carries the key of a closed interface; Triton makes the name from "salf" below.
CONTROL_HEADER = "triton-grpc-protocol-salf"
_CLOSED = ("trace", "logging")
#: Libraries that start a thread for each of the machine's cores, whatever the budget, and that no backend of ours uses.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """What one server is started with.

    Attributes:
        repository: folder of models; no character in its path that a shell reads (see aliases.py).
        grpc_port: loopback port of the gRPC interface.
        metrics_port: loopback port of Prometheus metrics; None switches them off.
        threads: that the instances of one graph divide, over what the models say; None: as many as there are cores to
            use, or fewer where a model says so.
        stop_timeout_s: how long running requests may take to finish when the server stops.
        server_id: what the server calls itself; tells it from another one that took the same port.
        control_key: whoever sends it may load and unload models; None: nobody can, and the models are loaded once.
        shared_memory: whether clients of this host may hand pictures over in /dev/shm.
        traces: where traces go, if anywhere.
    """

    repository: Path
    grpc_port: int
    metrics_port: int | None
    threads: int | None
    stop_timeout_s: int
    server_id: str
    control_key: str | None = None
    shared_memory: bool = False
    traces: TraceSettings | None = None

    @property
    def shared_memory_prefix(self) -> str:
        """Start of the names of everything the server puts into /dev/shm."""
        return f"{self.server_id}_"


def triton_command(runtime: Runtime, settings: ServerSettings) -> list[str]:
    """Triton's command line: gRPC and metrics on the loopback only, no HTTP, no start with a broken model.

    What reads or writes the server's insides (shared memory, traces, logs, loading of models) asks for a key. Triton
    takes keys on its command line only, which other users of the host can read; without `control_key` the key is
    thrown away, and nothing but the repository's index is open.
    """
    closed = [*_CLOSED, *([] if settings.shared_memory else ["shared-memory"])]
    if settings.control_key is None:
        control = ["--model-control-mode=none"]
        restricted = f"{','.join(closed)}:salf={secrets.token_hex(16)}"
    else:
        control = ["--model-control-mode=explicit", "--load-model=*"]
        restricted = f"{','.join(closed)},model-repository:salf={settings.control_key}"
    command = [
        str(runtime.tritonserver),
        f"--id={settings.server_id}",
        f"--model-repository={settings.repository}",
        f"--backend-directory={runtime.backends}",
        *control,
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        f"--exit-timeout-secs={settings.stop_timeout_s}",
        "--allow-http=false",
        f"--grpc-address={LOOPBACK}",
        f"--grpc-port={settings.grpc_port}",
        f"--grpc-restricted-protocol={restricted}",
    ]
    # A backend in Python is known to Triton under its own name, not as "python".
    command += [
        f"--backend-config={backend},shm-region-prefix-name={settings.shared_memory_prefix}"
        for backend in sorted(path.name for path in runtime.backends.iterdir() if path.is_dir())
    ]
    if settings.metrics_port is None:
        command.append("--allow-metrics=false")
    else:
        command += [f"--metrics-address={LOOPBACK}", f"--metrics-port={settings.metrics_port}"]
    if settings.traces is not None:
        command += triton_trace_options(settings.traces, behind_front=settings.control_key is not None)
    return command


def triton_environment(
    runtime: Runtime, settings: ServerSettings, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Triton's environment: the runtime's packages, and nothing of what steers the user's Python."""
    given = os.environ if inherited is None else inherited
    environment = {key: value for key, value in given.items() if not key.startswith("PYTHON")}
    environment.pop(THREADS_VARIABLE, None)
    environment = dict.fromkeys(_ONE_THREAD, "1") | environment
    # An image's own Triton finds CUDA by what the image set; ours brings all that it needs.
    brought = [] if native_triton() is None else [given.get("LD_LIBRARY_PATH", "")]
    environment |= {
        "LD_LIBRARY_PATH": ":".join([*map(str, (runtime.libraries, runtime.libpython.parent)), *brought]),
        "PATH": f"{runtime.bin}:{given.get('PATH', os.defpath)}",
        "PYTHONNOUSERSITE": "1",
        BUDGET_VARIABLE: str(usable_cores()),
    }
    if settings.threads is not None:
        environment[THREADS_VARIABLE] = str(settings.threads)
    return environment
