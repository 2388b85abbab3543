"""Score one day's pictures, write a report about them, and say for monitoring that it went well.

Run again, for the same day or after a kill, it goes on where it stopped; a day that is done costs a moment.
Exit status: 0 done, 1 try again later (no server, no store), 2 wrong use, 3 too many pictures could not be scored,
4 the day cannot be gone on with (begun with another model, other pictures, a table without the column): somebody has to
choose, 5 the server serves a version whose answer --known does not hold: somebody has to bring it.

Run: python examples/nightly/score_day.py --pictures s3://camera/ --scored s3://scored/ --reports /srv/reports
"""

import argparse
import datetime as dt
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

DONE, TRY_AGAIN, WRONG_USE, TOO_MANY_ERRORS, FOR_SOMEBODY, UNKNOWN_VERSION = 0, 1, 2, 3, 4, 5
#: What `salf` commands end with, and what that is here; all else is worth another try.
STATUSES = {2: WRONG_USE, 3: FOR_SOMEBODY}
#: The same of `salf probe`, whose servers get well, but whose known answers do not come by themselves.
PROBE_STATUSES = {2: WRONG_USE, 7: UNKNOWN_VERSION}
SALF = Path(sys.executable).with_name("salf")
_LOG = logging.getLogger("score_day")


def main(arguments: list[str] | None = None) -> int:
    """Do the day's work; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asked = _parser().parse_args(arguments)
    day: dt.date = asked.day
    source = f"{asked.pictures.rstrip('/')}/{day:%Y-%m-%d}"
    # The day is part of the target's name: `salf score` keeps one source and one model to a target, and finds in it
    # what an earlier run of the same day has done.
    target = f"{asked.scored.rstrip('/')}/day={day:%Y-%m-%d}"

    if asked.known is not None and (status := _run("probe", asked.known)[0]) != 0:
        _LOG.error("the server does not answer its probe right (status %d), so nothing is scored", status)
        return PROBE_STATUSES.get(status, TRY_AGAIN)
    status, summary = _run("score", source, "--out", target, "--encoded", "--json")
    if status != 0:
        return STATUSES.get(status, TRY_AGAIN)
    _LOG.info("%s: %d scored now, %d before", target, summary["scored"], summary["already_done"])

    asked.reports.mkdir(parents=True, exist_ok=True)
    status, report = _run("report", target, "--out", asked.reports / f"{day:%Y-%m-%d}.html", "--json")
    if status != 0:
        return STATUSES.get(status, TRY_AGAIN)
    if asked.metrics_file is not None:
        write_metrics(asked.metrics_file, day, rows=report["rows"], errors=report["errors"])
    if report["errors"] > asked.most_errors * report["rows"]:
        _LOG.error("%d of %d pictures could not be scored: see %s", report["errors"], report["rows"], report["report"])
        return TOO_MANY_ERRORS
    return DONE


def write_metrics(path: Path, day: dt.date, *, rows: int, errors: int) -> None:
    """What monitoring sees, for the textfile collector: alert when the last success is more than 26 hours old."""
    registry = CollectorRegistry()
    finished = Gauge("salf_nightly_finished_timestamp_seconds", "When a day was last finished.", registry=registry)
    finished.set_to_current_time()
    scored_day = Gauge("salf_nightly_day_timestamp_seconds", "Start of the day that was scored.", registry=registry)
    start = dt.datetime.combine(day, dt.time(), tzinfo=dt.UTC)
    scored_day.set(start.timestamp())
    Gauge("salf_nightly_rows", "Rows of that day.", registry=registry).set(rows)
    Gauge("salf_nightly_error_rows", "Rows of that day that hold an error.", registry=registry).set(errors)
    write_to_textfile(str(path), registry)


def _run(*command: str | Path) -> tuple[int, Any]:
    """A `salf` command: its exit status, and what it printed as JSON; its progress and errors go to our stderr."""
    done = subprocess.run([SALF, *command], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 and "--json" in command else None


def _parser() -> argparse.ArgumentParser:
    yesterday = dt.datetime.now(dt.UTC).date() - dt.timedelta(days=1)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", required=True, help="folder or object store with a folder per day, YYYY-MM-DD")
    parser.add_argument("--scored", required=True, help="where rows go, a folder per day")
    parser.add_argument("--reports", required=True, type=Path, help="folder for the pages")
    parser.add_argument("--day", type=dt.date.fromisoformat, default=yesterday, help="yesterday (UTC) by default")
    parser.add_argument("--known", help="for `salf probe`: score only if the server answers this right")
    parser.add_argument("--metrics-file", type=Path, help="for the textfile collector, ending with .prom")
    parser.add_argument("--most-errors", type=float, default=0.01, help="share of pictures that may fail, 0.01")
    return parser


if __name__ == "__main__":
    sys.exit(main())
