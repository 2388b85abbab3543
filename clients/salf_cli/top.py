"""`salf top`: what servers are doing, live."""

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from salf_cli.explain import Json
from salf_cli.failures import UsageFailure, one_line_failures, print_json, waiting

if TYPE_CHECKING:
    from salf_client.watching import Reading, Watcher


@one_line_failures(command="top")
def top(
    servers: Annotated[
        list[str] | None,
        typer.Argument(
            help="host:port of status ports, or addresses of metrics.",
            envvar="SALF_STATUS",
            show_default="127.0.0.1:8003",
        ),
    ] = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Show one interval, and end.")] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=86400, help="Seconds to wait for each page of metrics.")
    ] = 5.0,
    json: Json = False,
) -> None:
    """Show rates, latencies by stage, errors, queues and versions of servers, until Ctrl-C.

    Where the output is no terminal, each interval is printed below the one before.

    Example: salf top 127.0.0.1:8003 --once --json
    """
    from salf_client.watching import Watcher

    if json and not once:
        raise UsageFailure("--json shows one interval: salf top --once --json")
    watcher = Watcher(servers or ["127.0.0.1:8003"], timeout_s=timeout)
    try:
        if once:
            with waiting(f"looking for {interval:g} s ..."):
                _look_first(watcher)
                time.sleep(interval)
                reading = _answering(watcher.look())
            _show(reading, json=json)
        else:
            with waiting("looking for the first time ..."):
                first = _look_first(watcher)
            _go_on(watcher, first, interval)
    except KeyboardInterrupt:  # the way to leave it
        return


def _look_first(watcher: "Watcher") -> "Reading":
    return _answering(watcher.look())


def _answering(reading: "Reading") -> "Reading":
    """Refuse a reading without any server: there is nothing to show."""
    from salf_client import MetricsUnavailableError

    if all(server.error for server in reading.servers):
        raise MetricsUnavailableError("; ".join(server.error for server in reading.servers))
    return reading


def _show(reading: "Reading", *, json: bool) -> None:
    if json:
        print_json(asdict(reading))
        return
    from salf_cli.top_view import reading_view

    Console().print(reading_view(reading))


def _go_on(watcher: "Watcher", reading: "Reading", interval: float) -> None:
    from rich.live import Live

    from salf_cli.top_view import reading_view

    console = Console()
    if not console.is_terminal:
        while True:
            time.sleep(interval)
            console.print(reading_view(watcher.look()))
    with Live(reading_view(reading), console=console, screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(interval)
            live.update(reading_view(watcher.look()), refresh=True)
