"""These tests need an NVIDIA GPU, `tensorrt` and a Triton with native backends; without a GPU they are deselected.

docs/tensorrt.md has the one command that runs them, inside the server's own image. None of them has run yet.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import tritonclient.grpc as triton

from salf_serving import free_port
from salf_training.checkpoint import Checkpoint, save_checkpoint
from tests.export.conftest import random_checkpoint

_START_TIMEOUT_S = 600.0  # engines are built while the server starts


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.gpu)
    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=ours)
        items[:] = [item for item in items if item not in ours]


@pytest.fixture(scope="session")
def source() -> Checkpoint:
    return random_checkpoint()


@pytest.fixture(scope="session")
def checkpoint(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "checkpoint"
    save_checkpoint(folder, source)
    return folder


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Start NVIDIA's own server ($TRITONSERVER, or the one in PATH) on a repository; gives its gRPC address."""
    program = os.environ.get("TRITONSERVER") or shutil.which("tritonserver")
    assert program, "tritonserver is not here: run this suite inside NVIDIA's image, as docs/tensorrt.md says"
    servers = []

    def start(repository: Path) -> str:
        address = f"127.0.0.1:{free_port()}"
        log = (tmp_path / "triton.log").open("wb")
        command = [program, f"--model-repository={repository}", "--allow-http=false", "--allow-metrics=false"]
        command += ["--grpc-address=127.0.0.1", f"--grpc-port={address.rpartition(':')[2]}"]
        server = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        servers.append(server)
        deadline = time.monotonic() + _START_TIMEOUT_S
        with triton.InferenceServerClient(address) as client:
            while not _is_ready(client):
                assert server.poll() is None, (tmp_path / "triton.log").read_text()[-4000:]
                assert time.monotonic() < deadline, "the server was not ready in time"
                time.sleep(0.5)
        return address

    yield start
    for server in servers:
        server.terminate()
        try:
            server.wait(timeout=60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _is_ready(client: triton.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_ready())
    except triton.InferenceServerException:
        return False
