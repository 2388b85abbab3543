"""Who spends processor time while a server answers: the callers, Triton, and its Python backends."""

import os
import time
from pathlib import Path

_DECODER = "salf_encoded"


def cpu_seconds(server_pid: int) -> dict[str, float]:
    """Processor time so far, in seconds, over all cores.

    Args:
        server_pid: tritonserver's.

    Returns:
        "callers" (this process), "triton", "backend" (what runs graphs) and "decoders" (the encoded endpoint).
    """
    found = {"callers": time.process_time(), "triton": 0.0, "backend": 0.0, "decoders": 0.0}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            # pid (name) state parent ... utime and stime are the 14th and 15th; a name may hold spaces.
            fields = path.read_text().rpartition(")")[2].split()
            command = path.with_name("cmdline").read_text()
        except OSError:  # it has just ended
            continue
        seconds = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if path.parent.name == str(server_pid):
            found["triton"] += seconds
        elif fields[1] == str(server_pid):
            found["decoders" if _DECODER in command else "backend"] += seconds
    return found


def cpu_ms_since(before: dict[str, float], *, server_pid: int, pictures: int) -> dict[str, float]:
    """Milliseconds of a picture since an earlier `cpu_seconds`; who spent nothing is left out."""
    spent = {who: 1e3 * (now - before[who]) / max(1, pictures) for who, now in cpu_seconds(server_pid).items()}
    return {who: value for who, value in spent.items() if value}
