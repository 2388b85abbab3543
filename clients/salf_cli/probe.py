"""`salf probe`: a blackbox check with a known answer."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salf_cli.connecting import Servers, asks_servers
from salf_cli.explain import Json, ModelVersion
from salf_cli.failures import UsageFailure, one_line_failures, print_json, report, waiting, write_aside

if TYPE_CHECKING:
    from salf_client import Client


@one_line_failures(command="probe")
@asks_servers
def probe(
    known: Annotated[
        Path | None,
        typer.Argument(
            help="Where the known answer is: a file that --record wrote, a probe.npz, or the model repository.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model to ask; the server's only one by default.")] = None,
    model_version: ModelVersion = None,
    timeout: Annotated[
        float, typer.Option(min=0.001, max=86400, help="Seconds for each probe, connecting included.")
    ] = 5.0,
    record: Annotated[
        Path | None, typer.Option(help="Ask, and keep the answer in this file as the right one.", show_default=False)
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Picture to record an answer to; a synthetic one by default.")
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="Print metrics for Prometheus on stdout.")] = False,
    metrics_file: Annotated[
        Path | None, typer.Option(help="Write metrics for the textfile collector, ending with .prom.")
    ] = None,
    json: Json = False,
    *,
    servers: Servers,
) -> None:
    """Ask a server for an explanation whose answer is known, and compare all its values; each of several --url.

    Ends with 0: right, 3: wrong, 4: refused, 5: unreachable, 6: late, 7: another version is served than is known.

    Example: salf probe model_repository --url localhost:8001 --metrics-file /var/lib/node_exporter/salf.prom
    """
    from salf_client import Client
    from salf_client.probing import exit_status, metrics_text
    from salf_client.probing import probe as probe_server

    is_judged = json or metrics or metrics_file is not None
    for is_wrong, said in (
        (
            (known is None) == (record is None),
            "say which answer is known: salf probe FILE; or record one: --record FILE",
        ),
        (json and metrics, "--json and --metrics both want stdout; write the metrics with --metrics-file"),
        (record is None and picture is not None, "--picture is what --record asks about; a known answer has its own"),
        (record is not None and is_judged, "--record compares nothing; leave --json and --metrics away"),
        (record is not None and len(servers.urls) > 1, "an answer is recorded of one server; give one --url"),
    ):
        if is_wrong:
            raise UsageFailure(said)
    if known is None:
        assert record is not None
        with Client(
            servers.urls[0],
            model=model,
            model_version=model_version,
            timeout_s=timeout,
            connection=servers.connection,
        ) as client:
            _record(client, picture, record)
        return
    with waiting(f"asking {', '.join(servers.urls)} ..."):
        results = [
            probe_server(
                server,
                known,
                model=model,
                model_version=model_version,
                timeout_s=timeout,
                connection=servers.connection,
            )
            for server in servers.urls
        ]
    if metrics_file is not None:
        write_aside(metrics_file, metrics_text(results))
    if metrics:
        typer.echo(metrics_text(results), nl=False)
    elif json:
        print_json([asdict(result) for result in results])
    for result in results:
        if result.outcome != "good":
            report(f"{result.server} {result.outcome}: {result.message}")
        elif not (json or metrics):
            typer.echo(f"{result.server} good: {result.message}, {result.latency_ms:.1f} ms")
    raise typer.Exit(exit_status(results))


def _record(client: "Client", picture: Path | None, path: Path) -> None:
    from salf_client.probing import record

    with waiting("asking for the answer to keep ..."):
        answer = record(client, None if picture is None else picture.read_bytes())
        served = client.model()
    write_aside(path, answer)
    typer.echo(f"recorded what {served.name} version {served.version} answers, in {path}")
