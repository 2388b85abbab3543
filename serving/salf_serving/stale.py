"""What earlier runs left behind because they were killed with their guards."""

import re
import shutil
import tempfile
from pathlib import Path

from salf_serving.guard import SHARED_MEMORY

#: Shared memory is named salf_PID_RANDOM_..., folders of a run are named (salf-)run-PID-RANDOM.
_NAME = re.compile(r"(?:salf_(?P<memory>\d+)_|(?:salf-)?run-(?P<run>\d+)-)")


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
        if match is None or Path("/proc", match["memory"] or match["run"]).exists():
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
