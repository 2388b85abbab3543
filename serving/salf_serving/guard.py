"""Stands between salf and Triton (or nginx), so that it never outlives whoever started it.

Run as a script with the standard library alone: `python -I -S guard.py STOP_TIMEOUT_S SHM_PREFIX PARENT_PID COMMAND...`
Standard input is the life line: when it closes (the parent stopped, crashed or was killed), or on SIGTERM or SIGINT,
Triton is asked to stop, is killed with all its children when it does not, and its shared memory is removed.
Standard output gets one line, Triton's process id; standard error is Triton's log. Exits with Triton's status.
"""

import ctypes
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - POSIX shared memory lives there
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PARENT_CHECK_S = 1.0


def main() -> int:
    """Run a command under guard; see the module's text."""
    stop_timeout_s, prefix, parent = float(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash must not write pictures to the disk
    libc = ctypes.CDLL(None)
    # Orphaned stubs become ours, so that they can be waited for.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stops: list[int] = []
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stops.append(received))
    signal.signal(signal.SIGCHLD, lambda *_: None)
    triton = subprocess.Popen(
        sys.argv[4:],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        process_group=0,
        # Should the guard itself be killed, Triton gets a polite end. (Safe: this process has one thread.)
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
    )
    os.write(1, f"{triton.pid}\n".encode())
    os.close(1)
    try:
        while triton.poll() is None and not stops and os.getppid() == parent:
            ready, _, _ = select.select([0, wake_read], [], [], _PARENT_CHECK_S)
            if 0 in ready and not os.read(0, 1):
                break
            if wake_read in ready:
                os.read(wake_read, 4096)
        return _stop(triton, stop_timeout_s)
    finally:
        remove_shared_memory(prefix)


def _stop(triton: "subprocess.Popen[bytes]", timeout_s: float) -> int:
    if triton.poll() is None:
        triton.terminate()
    try:
        status = triton.wait(timeout_s)
    except subprocess.TimeoutExpired:
        triton.kill()
        status = triton.wait()
    # The stubs share Triton's process group; they notice its end themselves, but nobody waits for that.
    deadline = time.monotonic() + 1.0
    while _children_left() and time.monotonic() < deadline:
        time.sleep(0.02)
    while _children_left():
        try:
            os.killpg(triton.pid, signal.SIGKILL)
        except ProcessLookupError:
            break
        time.sleep(0.02)
    return status if status >= 0 else 128 - status


def _children_left() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def remove_shared_memory(prefix: str) -> None:
    """Remove everything in /dev/shm whose name starts so."""
    for path in SHARED_MEMORY.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
