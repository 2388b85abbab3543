"""Fixtures that several rooms' tests share."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from salf_serving import RunningServer, Runtime, free_port, install_runtime, launch

REPOSITORY_ROOT = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
# A run's result is its commit's: the same examples each time, and no bound on the time of one on a busy machine.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")
# Colours are what a terminal asks for; the tests that want them say so.
for _name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)


@pytest.fixture(scope="session")
def hears_ctrl_c() -> tuple[str, ...]:
    """What to put before a command that shall hear Ctrl-C: a suite in the background hands on that it is deaf to it."""
    return ("env", "--default-signal=INT")


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
    left = [path for path in SHARED_MEMORY.glob("salf_*") if path.name.startswith(f"{server.server_id}_")]
    assert not left, f"shared memory was left behind: {left}"


@pytest.fixture(scope="session")
def debian_program(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Find a program (name, Debian package); a missing one is installed by root, and unpacked by anybody else.

    Whoever needs one fails without it: nothing is skipped.
    """

    def find(name: str, package: str) -> Path:
        folders = f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin"
        if found := shutil.which(name, path=folders):
            return Path(found)
        root = _installed(package, tmp_path_factory.mktemp(package))
        found = shutil.which(name, path=f"{folders}:{root}/usr/sbin:{root}/usr/bin")
        assert found, f"the package {package} brought no {name}"
        return Path(found)

    return find


@pytest.fixture(scope="session")
def debian_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """The same for a file, by its path below the root (path, Debian package)."""

    def find(path: str, package: str) -> Path:
        if (found := Path("/", path)).exists():
            return found
        found = _installed(package, tmp_path_factory.mktemp(package)) / path
        assert found.exists(), f"the package {package} brought no {path}"
        return found

    return find


def _installed(package: str, unpacked: Path) -> Path:
    """Where a Debian package's files are: below / for root, below a folder for anybody else."""
    if os.geteuid() == 0:
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=environment)
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        subprocess.run(command, check=True, env=environment)
        return Path("/")
    subprocess.run(["apt-get", "download", package], check=True, cwd=unpacked)
    for archive in unpacked.glob("*.deb"):
        subprocess.run(["dpkg", "-x", archive, unpacked], check=True)
    return unpacked
