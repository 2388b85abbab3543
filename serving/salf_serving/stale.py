"""What earlier runs left behind because they were killed with their guards."""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path

from salf_serving.guard import SHARED_MEMORY

#: Shared memory is named salf_PID_START_..., folders of a run are named (salf-)run-PID-START-RANDOM.
#: Older versions of salf had no START in them.
_NAME = re.compile(
    r"(?:salf_(?P<memory>\d+)_(?:(?P<memory_start>[0-9a-f]{8})_)?"
    r"|(?:salf-)?run-(?P<run>\d+)-(?:(?P<run_start>[0-9a-f]{8})-)?)"
)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: Place in /proc/PID/stat, behind the command's name, of the start in clock ticks since the host's boot.
_START_FIELD = 19


def process_start(pid: int) -> str | None:
    """8 hex digits that tell a process from others that had its id, such as the first ones of earlier containers.

    None if there is no such process.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = _BOOT_ID.read_text()
    except OSError:
        return None
    return hashlib.sha256(f"{boot}{fields[_START_FIELD]}".encode()).hexdigest()[:8]


def own_mark(separator: str) -> str:
    """What names of this process's things hold: its id and its start."""
    return f"{os.getpid()}{separator}{process_start(os.getpid())}"


def remove_stale(runs: Path) -> tuple[Path, ...]:
    """Remove shared memory and run folders of salf processes that no longer exist.

    Args:
        runs: the folder that holds the folders of this user's runs.

    Returns:
        What was removed. What belongs to other users stays.
    """
    removed = []
    for path in [
        *SHARED_MEMORY.glob("salf_*_*"),
        *runs.glob("run-*-*"),
        *Path(tempfile.gettempdir()).glob("salf-run-*-*"),
    ]:
        match = _NAME.match(path.name)
        if match is None:
            continue
        living = process_start(int(match["memory"] or match["run"]))
        named = match["memory_start"] or match["run_start"]
        if living is not None and named in (None, living):
            continue
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError:
            continue
        removed.append(path)
    return tuple(removed)
