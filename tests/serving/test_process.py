"""The guard in front of a server, here of a small one."""

import os
import resource
import signal
import sys
from pathlib import Path

import pytest
from served import is_gone, wait_until

from salf_serving.process import running
from salf_serving.small_logs import keep_small

#: Puts something into shared memory, has a child, and takes its time to stop.
STUBBORN = """
import pathlib, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(["sleep", "60"])  # ignores the signal as well: that is inherited
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def test_a_log_that_is_appended_to_is_set_aside_when_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr("salf_serving.small_logs.LARGEST_BYTES", 1000)
    log = tmp_path / "it.log"
    log.write_text("of an earlier start\n")
    endless = "import time\nwhile True: print('x' * 99, flush=True); time.sleep(0.001)"
    with running(
        [sys.executable, "-c", endless], os.environ, name="it", log_file=log,
        shared_memory_prefix=f"salf_{os.getpid()}_log", stop_timeout_s=5,
    ):  # fmt: skip
        wait_until(lambda: log.stat().st_size > 1000)
        keep_small(log)
        aside = log.with_name("it.log.1")
        assert aside.read_text().startswith("x" * 99 + "\n")
        wait_until(lambda: log.stat().st_size > 0)
        assert b"\0" not in log.read_bytes(), "emptied, and not a hole that is as long as before"


def test_a_crash_writes_no_memory_to_disk(tmp_path):
    """It may hold pictures; even where the host wants core dumps."""
    log = tmp_path / "log"
    allowed = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (allowed[1], allowed[1]))
    try:
        with running(
            ["sleep", "60"], os.environ, name="it", log_file=log,
            shared_memory_prefix=f"salf_{os.getpid()}_core", stop_timeout_s=5,
        ) as process:  # fmt: skip
            limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    finally:
        resource.setrlimit(resource.RLIMIT_CORE, allowed)
    (core,) = (line for line in limits if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


@pytest.mark.parametrize("with_server", [False, True])
def test_a_killed_guard_leaves_neither_processes_nor_shared_memory(tmp_path, with_server):
    prefix = f"salf_{os.getpid()}_guarded"
    memory = Path("/dev/shm") / f"{prefix}_part"
    command = [sys.executable, "-c", STUBBORN, str(memory)]
    with running(
        command, os.environ, name="it", log_file=tmp_path / "log", shared_memory_prefix=prefix, stop_timeout_s=30
    ) as process:
        wait_until(lambda: memory.exists() and memory.read_text())
        child = int(memory.read_text())
        os.kill(process.guard.pid, signal.SIGSTOP)  # it must not clean up before it is killed
        if with_server:
            os.kill(process.pid, signal.SIGKILL)
        os.kill(process.guard.pid, signal.SIGKILL)
        wait_until(process.ended)
    assert is_gone(process.pid)
    wait_until(lambda: is_gone(child), 1)
    assert not memory.exists()
