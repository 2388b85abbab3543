"""Progress of long work, on a terminal and in a log file."""

import io
import re
import time

import pytest
from rich.console import Console

from salf_batch import Progress
from salf_cli.score_progress import progress_on
from salf_cli.stages import StageBars


def console(*, terminal: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=width)


def run(bars: StageBars, steps: range, total: int) -> None:
    """Reports, a hundredth of a second apart."""
    for done in steps:
        bars("similarities", done, total)
        time.sleep(0.01)


def test_a_terminal_shows_a_bar_with_the_time_left():
    shown = console(terminal=True)
    with StageBars(shown) as bars:
        run(bars, range(0, 110, 10), 100_000)
        bars._progress.refresh()
    assert "similarities" in shown.file.getvalue()
    assert "100/100000" in shown.file.getvalue()
    elapsed, left = re.findall(r"\d+:\d\d:\d\d", shown.file.getvalue())[-2:]
    assert elapsed == "0:00:00"
    assert left > elapsed


def test_a_log_file_gets_a_line_now_and_then_with_the_time_left_and_one_at_the_end():
    log = console(terminal=False)
    with StageBars(log, line_every_s=0.03) as bars:
        run(bars, range(0, 110, 10), 100)
    *between, last = log.file.getvalue().splitlines()
    assert 1 <= len(between) <= 4
    assert all(line.startswith("similarities: ") and " of 100, about 0:00:0" in line for line in between)
    assert last.startswith("similarities: 100 done after ")


def test_a_short_stage_is_one_line_in_a_log_file():
    log = console(terminal=False)
    with StageBars(log) as bars:
        run(bars, range(0, 30, 10), 20)
    assert len(log.file.getvalue().splitlines()) == 1


def test_what_an_earlier_run_has_done_is_not_taken_for_speed():
    log = console(terminal=False)
    with StageBars(log, line_every_s=0.05) as bars:
        # 900,000 were there; then 10 in a hundredth of a second: 100,000 more take 100 s at least.
        run(bars, range(900_000, 900_110, 10), 1_000_000)
    (first, *_) = log.file.getvalue().splitlines()
    minutes = int(first.split(", about 0:")[1].split(":")[0])
    assert minutes >= 1


def test_scoring_in_a_log_file_gets_a_line_for_each_stage_and_one_now_and_then():
    log = console(terminal=False)
    with progress_on(log, line_every_s=0.03) as report:
        report(Progress("listing", 1000))
        report(Progress("waiting for the model", 1900))
        # 900 were there before; then a hundred in a tenth of a second, so that the last 900 take a second.
        for done in range(900, 1010, 10):
            report(Progress("scoring", 1900, done, errors=2))
            time.sleep(0.01)
    first, second, third, *more = log.file.getvalue().splitlines()
    assert (first, second) == ("listing (1000 inputs)", "waiting for the model (1900 inputs)")
    assert third == "scoring: 900 of 1900, 2 errors"
    assert 1 <= len(more) <= 11
    assert all(re.fullmatch(r"scoring: 9\d0 of 1900, 2 errors, about \d:\d\d:\d\d left", line) for line in more)


def test_scoring_on_a_terminal_shows_a_bar_with_rate_and_errors():
    shown = console(terminal=True)
    with progress_on(shown) as report:
        report(Progress("listing", 1000))
        report(Progress("scoring", 1000, 0))
        for done in (500, 1000):
            time.sleep(0.11)
            report(Progress("scoring", 1000, done, errors=3))
    assert "1000/1000" in shown.file.getvalue()
    assert "3 errors" in shown.file.getvalue()


@pytest.mark.parametrize("columns", [45, 65, 80])
def test_figures_of_a_million_inputs_are_whole_on_a_narrow_terminal(columns):
    shown = console(terminal=True, width=columns)
    with progress_on(shown) as report:
        for done in (123_000, 123_200, 123_400, 123_456):
            report(Progress("scoring", 1_000_000, done, errors=123))
            time.sleep(0.11)
    assert "123456/1000000" in shown.file.getvalue()
    assert "123 errors" in shown.file.getvalue()
    assert ("pictures/s" in shown.file.getvalue()) is (columns > 60)
    assert ("━" in shown.file.getvalue()) is (columns > 76)
