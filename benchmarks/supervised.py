"""`salf serve` with a front as a process of its own, and what its processes take."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.report import CannotMeasureError
from salf_serving import free_port

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def supervised(
    repository: Path, folder: Path, *, front: str, cores: str, status_port: int | None = None
) -> Iterator[tuple[str, int]]:
    """Serve a repository while a block runs; yields the front's address and the process id.

    Args:
        repository: models.
        folder: for settings and logs.
        front: the front's settings, TOML.
        cores: those of the server, as `taskset -c` takes them.
        status_port: of the status page; None for none.

    Raises:
        CannotMeasureError: it does not start.
    """
    (folder / "front.toml").write_text(front)
    port = free_port()
    command = ["taskset", "-c", cores, sys.executable, "-c", "from salf_cli.main import main; main()", "serve",
               repository, "--front-settings", folder / "front.toml", "--port", port, "--threads", 1,
               "--log-file", folder / "triton.log"]  # fmt: skip
    command += [] if status_port is None else ["--status-port", status_port]
    environment = os.environ | {"XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    log_file = folder / "serve.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=environment)
    try:
        deadline_s = time.monotonic() + 90
        while "stop it with" not in (said := log_file.read_text()):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise CannotMeasureError(f"salf serve does not start: {said[-400:]}")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(30)


def anonymous_mb(root: int) -> float:
    """Memory that a process and its descendants hold themselves."""
    total = 0
    for pid in _tree(root):
        lines = _read(pid, "status").splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))
    return total / 1024


def processor_s(root: int) -> float:
    """Processor time that a process and its descendants have used, those that ended included."""
    total = 0
    for pid in _tree(root):
        fields = _read(pid, "stat").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / _TICKS


def _tree(root: int) -> list[int]:
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _read(int(path.name), "stat").rpartition(")")[2].split()
        if fields:
            parents[int(path.name)] = int(fields[1])
    tree = [root]
    for pid in tree:
        tree += [child for child, parent in parents.items() if parent == pid]
    return tree


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""
