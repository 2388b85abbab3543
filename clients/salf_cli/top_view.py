"""A reading of servers as tables for the terminal."""

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from salf_client.watching import Activity, Reading, ServerReading

_FAINT, _GOOD, _BAD, _HEAD = "dim", "green", "bold red", "bold cyan"
_STAGE_WORDS = {
    "front": "front, as callers wait",
    "total": "encoded endpoint",
    "decode": "  decode",
    "infer": "  infer",
    "answer": "  answer",
    "probe": "supervisor's probe",
}


def reading_view(reading: "Reading") -> Group:
    """Servers, latencies by stage, models, and what failed."""
    parts: list[RenderableType] = [_headline(reading), _servers_table(reading)]
    if reading.together is None:
        return Group(*parts, Text("\nlooking for the first time ...", style=_FAINT))
    parts += ["", _stages_table(reading.together), "", _models_table(reading.together), ""]
    return Group(*parts, _failures_table(reading.together))


def _headline(reading: "Reading") -> Text:
    text = Text("salf top", style="bold")
    if reading.together is None:
        return text
    if reading.together.requests_per_second is not None:
        text.append(f"   {reading.together.requests_per_second:,.1f} requests/s", style=_GOOD)
    text.append(f"   {reading.together.pictures_per_second:,.1f} pictures/s", style=_GOOD)
    text.append(f"   over {reading.seconds:.1f} s", style=_FAINT)
    if reading.together.restarts:
        text.append(f"   {reading.together.restarts} restarts", style=_BAD)
    return text


def _servers_table(reading: "Reading") -> Table:
    table = _table("server", "state", right=("requests/s", "pictures/s", "p95", "waiting"))
    for server in reading.servers:
        table.add_row(escape(server.address), _state(server), *_server_figures(server.activity))
    return table


def _state(server: "ServerReading") -> Text:
    if server.error:
        return Text("no answer", style=_BAD)
    if server.ready is None:
        return Text("answers", style=_GOOD)
    return Text("ready", style=_GOOD) if server.ready else Text("not ready", style=_BAD)


def _server_figures(activity: "Activity | None") -> list[str]:
    if activity is None:
        return ["-"] * 4
    slowest = activity.stages.get("front") or activity.stages.get("total")
    waiting = sum(model.pending for model in activity.models.values())
    return [
        _number(activity.requests_per_second),
        _number(activity.pictures_per_second),
        _ms(None if slowest is None else slowest.p95_ms),
        str(waiting),
    ]


def _stages_table(activity: "Activity") -> Table:
    table = _table("stage", right=("per s", "p50", "p95", "p99"))
    for name, words in _STAGE_WORDS.items():
        stage = activity.stages.get(name)
        if stage is not None:
            figures = (_ms(stage.p50_ms), _ms(stage.p95_ms), _ms(stage.p99_ms))
            table.add_row(words, _number(stage.per_second), *figures)
    return table


def _models_table(activity: "Activity") -> Table:
    table = _table("model", right=("version", "pictures/s", "waiting", "in queue", "coverage"))
    for name, model in activity.models.items():
        coverage = "-" if model.coverage is None else f"{model.coverage:.0%}"
        waiting = Text(str(model.pending), style=_BAD if model.pending > 100 else "")
        row = (str(model.version), _number(model.pictures_per_second), waiting, _ms(model.queue_ms), coverage)
        table.add_row(escape(name), *row)
    return table


def _failures_table(activity: "Activity") -> RenderableType:
    if not activity.failures_per_second:
        return Text("nothing was refused, nothing failed", style=_GOOD)
    table = _table("refused or failed", right=("per s",))
    for reason, rate in activity.failures_per_second.items():
        table.add_row(Text(reason, style=_BAD), f"{rate:.2f}")
    return table


def _table(*left: str, right: tuple[str, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style=_HEAD)
    table.add_column(left[0], min_width=22, no_wrap=True, overflow="ellipsis")
    for heading in left[1:]:
        table.add_column(heading, min_width=9, no_wrap=True)
    for heading in right:
        table.add_column(heading, justify="right", min_width=9, no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f} ms" if value < 1000 else f"{value / 1000:,.2f} s"
