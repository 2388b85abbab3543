"""Starting NVIDIA Triton without a container on a model repository, and knowing that its answers are right."""

from salf_serving.errors import (
    InstallError,
    ModelLoadError,
    PlatformError,
    PortTakenError,
    ProbeError,
    RepositoryError,
    RuntimeMissingError,
    ServerDiedError,
    ServingError,
    StartError,
    StartupTimeoutError,
)
from salf_serving.ports import free_port
from salf_serving.readiness import ServedModel
from salf_serving.runtime import Runtime, find_runtime, install_runtime, runtime_root
from salf_serving.server import RunningServer, launch, serve

__all__ = [
    "InstallError",
    "ModelLoadError",
    "PlatformError",
    "PortTakenError",
    "ProbeError",
    "RepositoryError",
    "RunningServer",
    "Runtime",
    "RuntimeMissingError",
    "ServedModel",
    "ServerDiedError",
    "ServingError",
    "StartError",
    "StartupTimeoutError",
    "find_runtime",
    "free_port",
    "install_runtime",
    "launch",
    "runtime_root",
    "serve",
]
