"""Starting and stopping Triton and nginx, each behind a guard."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from salf_serving import guard
from salf_serving.errors import ServingError

#: What the guard needs beyond Triton's own time to stop: killing, and removing shared memory.
_GUARD_MARGIN_S = 10.0
#: A killed process is gone after milliseconds, unless it waits for a disk.
_KILLED_S = 5.0


@dataclass(frozen=True)
class GuardedProcess:
    """A running server and the guard in front of it; see guard.py.

    Attributes:
        pid: of the server, which leads a process group of its own.
        guard: the process in front of it.
        shared_memory_prefix: what names in /dev/shm start with.
    """

    pid: int
    guard: "subprocess.Popen[str]"
    shared_memory_prefix: str

    def ended(self) -> bool:
        """Whether the guard has ended: with the server and all that is left of it, unless somebody killed the guard."""
        return self.guard.poll() is not None

    def kill(self) -> None:
        """End it at once; the guard cleans up after it."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def stop(self, timeout_s: float) -> int:
        """Ask it to stop, wait until nothing of it is left, and return its exit status (0: a clean end)."""
        if self.guard.stdin is not None:
            self.guard.stdin.close()
        try:
            status = self.guard.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.guard.kill()
            status = self.guard.wait()
        if status < 0:  # the guard itself was killed: it has cleaned up nothing, and the server may drain for a while
            self._clean_up()
        return status

    def _clean_up(self) -> None:
        self.kill()
        deadline_s = time.monotonic() + _KILLED_S
        while _is_alive(self.pid) and time.monotonic() < deadline_s:
            time.sleep(0.01)
        guard.remove_shared_memory(self.shared_memory_prefix)


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody collects keeps its number only."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def running(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    name: str,
    log_file: Path,
    shared_memory_prefix: str,
    stop_timeout_s: float,
) -> Iterator[GuardedProcess]:
    """Run a server; when the block ends, however it ends, no process and no shared memory of it is left.

    Should this process die without ending the block, the guard sees that and cleans up.

    Args:
        command: its command line.
        environment: its whole environment.
        name: for messages.
        log_file: gets its output, from its beginning.
        shared_memory_prefix: what names in /dev/shm start with; they are removed at the end.
        stop_timeout_s: after this long without stopping, it is killed.

    Raises:
        ServingError: the log cannot be written, or nothing can be started.
    """
    try:
        log_file.parent.mkdir(parents=True, exist_ok=True)
        log_file.write_bytes(b"")
        with log_file.open("ab") as log:  # appending, so that it may be emptied meanwhile
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(stop_timeout_s), shared_memory_prefix,
                 str(os.getpid()), *command],
                env=dict(environment), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd="/",  # Triton's Python stub imports from its working directory first
                start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
            )  # fmt: skip
    except OSError as error:
        raise ServingError(f"{name} cannot be started with its log in {log_file}: {error}") from error
    assert process.stdout is not None
    server = None
    try:
        with process.stdout as output:
            line = output.readline()
        server = GuardedProcess(int(line) if line else process.pid, process, shared_memory_prefix)
        yield server
    finally:
        (server or GuardedProcess(process.pid, process, shared_memory_prefix)).stop(stop_timeout_s + _GUARD_MARGIN_S)
