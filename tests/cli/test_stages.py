"""Progress of long work, on a terminal and in a log file."""

import io
import re
import time

from rich.console import Console

from salf_cli.stages import StageBars


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


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
