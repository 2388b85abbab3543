"""How far `salf score` is: a bar on a terminal, a line now and then in a log file."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from salf_batch import Progress

SCORING = "scoring"
#: A row is done in less time than a bar takes to be told of it.
_SHOWN_EVERY_S = 0.1
#: Columns of a terminal that figures of a million inputs need with the rate, and with a bar as well.
_NARROW, _WIDE = 60, 76


@contextmanager
def progress_on(console: Console, *, line_every_s: float = 60.0) -> Iterator[Callable[[Progress], None]]:
    """What a run reports to.

    Args:
        console: where to show it.
        line_every_s: seconds between two lines of a stage, where nobody watches.
    """
    if not console.is_terminal:
        yield _Lines(console, line_every_s)
        return
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), MofNCompleteColumn()]
    columns += [TextColumn("{task.fields[errors]} errors"), TimeRemainingColumn()]
    # Where they do not fit, the figures would be cut.
    if console.width >= _NARROW:
        columns.insert(2, TextColumn("{task.fields[rate]}"))
    if console.width >= _WIDE:
        columns.insert(1, BarColumn())
    with Bars(*columns, console=console) as bars:
        yield _Bar(bars, bars.add_task("starting", total=None, errors=0, rate=""))


class _Bar:
    """Progress as a bar."""

    def __init__(self, bars: Bars, task: TaskID) -> None:
        self._bars, self._task, self._stage = bars, task, ""
        self._shown_s = 0.0

    def __call__(self, progress: Progress) -> None:
        """Show how far it is, now and then; the rate counts this run's rows only."""
        now_s = time.monotonic()
        is_last = progress.done == progress.total
        if progress.stage == self._stage and now_s - self._shown_s < _SHOWN_EVERY_S and not is_last:
            return
        self._shown_s = now_s
        is_scoring = progress.stage == SCORING
        if progress.stage != self._stage:
            self._stage = progress.stage
            if is_scoring:
                self._bars.reset(self._task, total=progress.total, completed=progress.done)
        task = self._bars.tasks[self._task]
        self._bars.update(
            self._task,
            description=progress.stage if is_scoring else f"{progress.stage} ({progress.total:,} inputs)",
            completed=progress.done if is_scoring else 0,
            errors=progress.errors,
            rate=f"{task.speed:,.0f} pictures/s" if task.speed else "",
        )


class _Lines:
    """Progress in a log file: a line when a stage begins, and then one a minute."""

    def __init__(self, console: Console, line_every_s: float) -> None:
        self._console, self._line_every_s = console, line_every_s
        self._stage = ""
        self._began_s = self._lined_s = 0.0
        self._done_before = 0

    def __call__(self, progress: Progress) -> None:
        """Say how far it is, if it is time; the time left counts this run's rows only."""
        now_s = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._began_s, self._done_before = progress.stage, now_s, progress.done
        elif now_s - self._lined_s < self._line_every_s:
            return
        self._lined_s = now_s
        if progress.stage != SCORING:
            self._say(f"{progress.stage} ({progress.total} inputs)")
            return
        told = f"{progress.stage}: {progress.done} of {progress.total}, {progress.errors} errors"
        done = progress.done - self._done_before
        if done > 0:
            left_s = (progress.total - progress.done) * (now_s - self._began_s) / done
            told += f", about {timedelta(seconds=round(left_s))} left"
        self._say(told)

    def _say(self, told: str) -> None:
        self._console.print(told, soft_wrap=True, highlight=False, markup=False)
