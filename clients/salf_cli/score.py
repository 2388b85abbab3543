"""`salf score` and `salf report`: a whole store of pictures."""

import os
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salf_cli.connecting import Servers, asks_servers
from salf_cli.explain import Json, ModelVersion, Timeout
from salf_cli.failures import UsageFailure, one_line_failures, print_json, stderr_console

if TYPE_CHECKING:
    from salf_batch import Summary

_ENGINE = "Engine"
_WORKER_CPUS = 1.0


class OnChange(StrEnum):
    """What a run does when the server begins to answer with another version."""

    STOP = "stop"
    PIN = "pin"


class Engine(StrEnum):
    """What runs the pipeline."""

    LOCAL = "local"
    RAY = "ray"


@one_line_failures(command="score", extra="batch")
@asks_servers
def score(
    source: Annotated[
        str,
        typer.Argument(
            help="Folder, glob, or .tar, .parquet, .csv, .jsonl, .txt file; a path or s3://, gs://, az://, https://.",
            show_default=False,
        ),
    ],
    out: Annotated[str, typer.Option(help="Folder for the rows, here or in an object store.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model to ask; the server's only one by default.")] = None,
    model_version: ModelVersion = None,
    if_model_changes: Annotated[
        OnChange, typer.Option(help="Stop, or go on with the version that the target was begun with.")
    ] = OnChange.STOP,
    column: Annotated[str | None, typer.Option(help="Column of a table's pictures or a manifest's paths.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Concepts in a row at most; 5 by default.")] = None,
    maps: Annotated[bool, typer.Option("--maps", help="Keep the concepts' maps too, as half floats.")] = False,
    shard_size: Annotated[int, typer.Option(min=1, help="Rows of a file: lost at most when killed.")] = 1000,
    in_flight: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 16,
    read_ahead: Annotated[int, typer.Option(min=1, help="Pictures read ahead; bounds the memory.")] = 64,
    decoders: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode pictures; all cores by default.")
    ] = None,
    encoded: Annotated[bool, typer.Option("--encoded", help="Let the server decode JPEG, PNG and WebP files.")] = False,
    timeout: Timeout = 30.0,
    patience: Annotated[float, typer.Option(min=0, help="Seconds to wait for a server that is away.")] = 60.0,
    repository: Annotated[
        Path | None,
        typer.Option(help="Model repository: compute here, without a server.", rich_help_panel=_ENGINE),
    ] = None,
    model_threads: Annotated[
        int | None, typer.Option(min=1, help="Cores that compute with it, in each process.", rich_help_panel=_ENGINE)
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="This process, or the machines of a Ray cluster.", rich_help_panel=_ENGINE)
    ] = Engine.LOCAL,
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="host:port of the cluster's head, or auto; a cluster of this machine by default.",
            envvar="RAY_ADDRESS",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes on the cluster; all it has room for by default.", rich_help_panel=_ENGINE),
    ] = None,
    worker_cpus: Annotated[
        float, typer.Option(min=0.01, help="Cores set aside for each.", rich_help_panel=_ENGINE)
    ] = _WORKER_CPUS,
    failing_shards: Annotated[
        int, typer.Option(min=0, help="Files that may fail before a run on Ray stops.", rich_help_panel=_ENGINE)
    ] = 0,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Prometheus metrics for the node exporter's textfile collector; .prom.")
    ] = None,
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Show Prometheus metrics here while it works.")
    ] = None,
    json: Json = False,
    *,
    servers: Servers,
) -> None:
    """Score a store of pictures: one row for each, in a Parquet dataset.

    Kill it when you like: the same command goes on where it stopped. A bad picture becomes a row with an error.

    Ends with 1 where trying again may help (no server, no store), 3 where it does not (another model, no such column).

    Example: salf score photos/ --out scored/
    """
    if engine is not Engine.RAY and (workers is not None or failing_shards or worker_cpus != _WORKER_CPUS):
        raise UsageFailure("--workers, --worker-cpus and --failing-shards are of a cluster; give --engine ray as well")
    if repository is None and model_threads is not None:
        raise UsageFailure("--model-threads are of a model that computes here; give its --repository as well")
    # Arrow's own allocators keep what was freed; rows are few and small, and memory shall not grow with their number.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    from salf_batch import Settings
    from salf_batch import score as score_store
    from salf_cli.score_progress import progress_on
    from salf_client import TopOutOfRangeError

    settings = Settings(
        url=servers.urls,
        connection=servers.connection,
        repository=None if repository is None else str(repository.absolute()),
        model=model,
        model_version=model_version,
        if_model_changes=if_model_changes.value,
        column=column,
        top=top,
        maps=maps,
        shard_size=shard_size,
        in_flight=in_flight,
        read_ahead=read_ahead,
        decoders=decoders,
        sends_encoded=encoded,
        timeout_s=timeout,
        patience_s=patience,
        model_threads=model_threads,
        engine=engine.value,
        ray_address=ray_address,
        workers=workers,
        worker_cpus=worker_cpus,
        failing_shards=failing_shards,
        metrics_file=metrics_file,
        metrics_port=metrics_port,
    )
    console = stderr_console()
    try:
        with progress_on(console) as shown:
            summary = score_store(source, out, settings, report=shown)
    except KeyboardInterrupt:
        console.print("interrupted; what is done stays, and the same command goes on from there", highlight=False)
        raise
    except TopOutOfRangeError as error:  # as --top 0, which needs no server to be refused
        raise UsageFailure(str(error)) from error
    if json:
        print_json(asdict(summary))
    else:
        _say(summary)


@one_line_failures(command="report", extra="batch")
def report(
    target: Annotated[str, typer.Argument(help="Folder that `salf score` wrote.", show_default=False)],
    out: Annotated[Path, typer.Option(help="HTML file to write.")] = Path("report.html"),
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each notable kind.")] = 12,
    json: Json = False,
) -> None:
    """Write a page about a scored store: classes, their reasons, and pictures worth a look.

    Example: salf report scored/ --out report.html
    """
    from salf_batch import write_report

    with stderr_console().status("reading rows ...") as status:
        seen = write_report(target, out, shown=pictures, report=lambda stage: status.update(f"{stage} ..."))
    if json:
        classes = {label: one.pictures for label, one in seen.classes.items()}
        print_json({"report": str(out), "rows": seen.rows, "errors": seen.errors, "classes": classes})
    else:
        typer.echo(f"{seen.rows} rows, {seen.errors} with an error, {len(seen.classes)} classes: {out}")


def _say(summary: "Summary") -> None:
    again = f"{summary.requests_repeated} requests, {summary.reads_repeated} reads, {summary.writes_repeated} writes"
    why = f" (why: column error, or salf report {summary.target})" if summary.errors else ""
    lines = [
        f"{summary.inputs} rows in {summary.target}: {summary.scored} scored now, {summary.already_done} before",
        f"errors now: {summary.errors}{why}; {summary.pictures_per_second:.1f} pictures/s, {summary.seconds:.1f} s",
        f"asked again: {again}",
        f"model {summary.model} version {summary.version}, contract {summary.contract_id}",
    ]
    lines += [f"  {count:>8}  {label}" for label, count in list(summary.labels.items())[:12]]
    typer.echo("\n".join(lines))
