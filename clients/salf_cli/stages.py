"""Progress bars for work that goes through several stages."""

import time
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class StageBars:
    """One bar for each stage, made when the stage first reports; with the time gone and the time left.

    Where nobody watches (a log file, CI), each finished stage is a line instead.
    """

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._console = console
        self._began_s = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar; the same stage over another number of things gets a bar of its own."""
        if not self._console.is_terminal:
            if done == total:
                self._console.print(f"{stage}: {total} done after {time.monotonic() - self._began_s:.0f} s")
            return
        if (stage, total) not in self._tasks:
            self._tasks[stage, total] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage, total], completed=done)
