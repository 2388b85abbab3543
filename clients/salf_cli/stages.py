"""Progress bars for work that goes through several stages."""

import time
from datetime import timedelta
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

#: A large encoder on a CPU takes half a minute for a step; the time left needs two steps.
_SPEED_OVER_S = 600.0


class StageBars:
    """One bar for each stage, made when the stage first reports; with the time gone and the time left.

    Where nobody watches (a log file, CI), each finished stage is a line instead, and a long one gets a line a minute.

    Args:
        console: where to show it.
        line_every_s: seconds between two lines of an unfinished stage in a log file.
    """

    def __init__(self, console: Console, *, line_every_s: float = 60.0) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_SPEED_OVER_S,
        )
        self._tasks: dict[tuple[str, int], TaskID] = {}
        self._console = console
        self._began_s = time.monotonic()
        self._line_every_s = line_every_s
        self._lined_s: dict[tuple[str, int], float] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Move a stage's bar; the same stage over another number of things gets a bar of its own."""
        if (stage, total) not in self._tasks:
            # What an earlier run has left is no speed of this one: rich does not count a task's first report.
            self._tasks[stage, total] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage, total], completed=done)
        if not self._console.is_terminal:
            self._log(stage, done, total)

    def _log(self, stage: str, done: int, total: int) -> None:
        now_s = time.monotonic()
        if done == total:
            self._console.print(f"{stage}: {total} done after {now_s - self._began_s:.0f} s")
        elif now_s - self._lined_s.setdefault((stage, total), now_s) >= self._line_every_s:
            self._lined_s[stage, total] = now_s
            left = self._progress.tasks[self._tasks[stage, total]].time_remaining
            told = "" if left is None else f", about {timedelta(seconds=round(left))} left"
            self._console.print(f"{stage}: {done} of {total}{told}")
