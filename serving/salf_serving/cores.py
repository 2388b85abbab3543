"""How many cores this process may keep busy: in a container fewer than the machine has."""

import math
import os
from pathlib import Path, PurePosixPath

_MEMBERSHIP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process is bound to, or as many as its control groups give it time for, if those are fewer.

    Part of a core counts as none: threads over the limit make the kernel stop all of them for the rest of its period.
    """
    try:
        limit = cores_of_groups(_MEMBERSHIP.read_text(), _MOUNT)
    except OSError:  # no control groups
        limit = math.inf
    return max(1, math.floor(min(len(os.sched_getaffinity(0)), limit)))


def cores_of_groups(membership: str, mount: Path) -> float:
    """The least limit of a process's control groups and of those around them, in cores; infinite without one.

    Args:
        membership: the process's /proc/PID/cgroup.
        mount: where control groups, of version 1 or 2, are mounted. A container sees its own group there.
    """
    limits = [math.inf]
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        group = PurePosixPath(path.lstrip("/"))
        around = (group, *group.parents)
        if not controllers:
            limits += [_limit(mount / name / "cpu.max") for name in around]
        elif "cpu" in controllers.split(","):
            limits += [
                _limit(mount / "cpu" / name / "cpu.cfs_quota_us", mount / "cpu" / name / "cpu.cfs_period_us")
                for name in around
            ]
    return min(limits)


def _limit(*files: Path) -> float:
    """Quota and period in microseconds, from one file (`max 100000`) or two; no quota is `max` or -1."""
    try:
        quota, period = " ".join(file.read_text() for file in files).split()
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # not there, or of no use
        return math.inf
