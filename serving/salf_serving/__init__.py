"""Starting NVIDIA Triton without a container on a model repository, and knowing that its answers are right."""

from salf_serving.errors import (
    FrontError,
    InstallError,
    ModelLoadError,
    PlatformError,
    PortTakenError,
    ProbeError,
    RefusedVersionError,
    RepositoryError,
    RuntimeMissingError,
    ServerDiedError,
    ServingError,
    StartError,
    StartupTimeoutError,
)
from salf_serving.front_settings import FrontSettings, read_front_settings
from salf_serving.ports import free_port
from salf_serving.readiness import ServedModel
from salf_serving.runtime import Runtime, find_runtime, install_runtime, runtime_root
from salf_serving.server import RunningServer, launch
from salf_serving.settings import LaunchSettings, ServeSettings
from salf_serving.supervisor import serve
from salf_serving.tracing import TraceSettings

__all__ = [
    "FrontError",
    "FrontSettings",
    "InstallError",
    "LaunchSettings",
    "ModelLoadError",
    "PlatformError",
    "PortTakenError",
    "ProbeError",
    "RefusedVersionError",
    "RepositoryError",
    "RunningServer",
    "Runtime",
    "RuntimeMissingError",
    "ServeSettings",
    "ServedModel",
    "ServerDiedError",
    "ServingError",
    "StartError",
    "StartupTimeoutError",
    "TraceSettings",
    "find_runtime",
    "free_port",
    "install_runtime",
    "launch",
    "read_front_settings",
    "runtime_root",
    "serve",
]
