"""Fixtures that several rooms' tests share."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from salf_serving import RunningServer, Runtime, free_port, install_runtime, launch

REPOSITORY_ROOT = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    """Triton's own environment, installed if it is missing ($SALF_RUNTIME says where)."""
    return install_runtime()


@pytest.fixture(scope="session")
def triton_server(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A real server with the committed model repository, on ports of its own."""
    log_file = tmp_path_factory.mktemp("triton") / "triton.log"
    with launch(
        REPOSITORY_ROOT / "model_repository", grpc_port=free_port(), metrics_port=free_port(), log_file=log_file
    ) as server:
        yield server
    assert not Path(f"/proc/{server.pid}").exists(), f"tritonserver {server.pid} outlived its test session"
    left = list(SHARED_MEMORY.glob(f"salf_{os.getpid()}_*"))
    assert not left, f"shared memory was left behind: {left}"
