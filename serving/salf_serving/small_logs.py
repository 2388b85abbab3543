"""Logs that others write, kept from growing without end."""

import shutil
from contextlib import suppress
from pathlib import Path

LARGEST_BYTES = 10 * 2**20


def keep_small(log: Path) -> None:
    """Set a log's text aside as NAME.1 when there is too much of it, and empty it for whoever goes on appending.

    Lines written at this very moment may be lost; where the disk has no room for NAME.1, all are.
    """
    with suppress(OSError):
        if log.stat().st_size <= LARGEST_BYTES:
            return
        aside = log.with_name(log.name + ".1")
        try:
            shutil.copyfile(log, aside)
        except OSError:
            aside.unlink(missing_ok=True)
        with log.open("r+b") as file:
            file.truncate(0)
