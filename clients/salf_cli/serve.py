"""`salf serve`: the server."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from salf_cli.failures import UsageFailure, one_line_failures, stderr_console

if TYPE_CHECKING:
    from salf_serving import RunningServer


@one_line_failures(command="serve", extra="serve")
def serve(
    repository: Annotated[
        Path | None, typer.Argument(help="Model repository: a folder of models in Triton's layout.", show_default=False)
    ] = None,
    install: Annotated[
        bool, typer.Option("--install", help="Make the server's own environment first; alone, only that.")
    ] = False,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", "--port", min=1, max=65535, help="Port that clients connect to (gRPC).")
    ] = 8001,
    front: Annotated[
        bool, typer.Option("--front", help="Put nginx before Triton: limits, and models that change without a pause.")
    ] = False,
    front_settings: Annotated[
        Path | None, typer.Option(help="TOML file for the front: TLS, tokens, limits; implies --front.")
    ] = None,
    status_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port for /healthz, /readyz, /metrics; none by default.")
    ] = None,
    status_address: Annotated[str, typer.Option(help="Address of that port.")] = "127.0.0.1",
    metrics_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Loopback port for Triton's own metrics; none by default.")
    ] = None,
    log_file: Annotated[Path | None, typer.Option(help="Triton's log; in your state folder by default.")] = None,
    startup_timeout: Annotated[float, typer.Option(min=1, help="Seconds that loading may take.")] = 60.0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of one graph; the cores there are by default.")
    ] = None,
    shared_memory: Annotated[
        bool,
        typer.Option("--shared-memory", help="Let clients of this host pass pictures in /dev/shm; no --front."),
    ] = False,
    traces: Annotated[
        str | None,
        typer.Option(
            help="Send OpenTelemetry traces there (OTLP over HTTP: http://HOST:4318/v1/traces); none by default."
        ),
    ] = None,
    traces_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of requests that begin a trace; callers decide about their own.")
    ] = 1.0,
) -> None:
    """Serve models with Triton, until Ctrl-C.

    Example: salf serve --install model_repository
    """
    if repository is None and not install:
        raise UsageFailure("salf serve needs a model repository, such as: salf serve model_repository")
    if shared_memory and (front or front_settings):
        raise UsageFailure("--shared-memory is for clients that ask Triton itself: leave it or --front out")
    if install:
        _install()
    if repository is not None:
        from salf_serving import FrontSettings, LaunchSettings, ServeSettings, TraceSettings, read_front_settings
        from salf_serving import serve as serve_repository

        settings = ServeSettings(
            launch=LaunchSettings(
                repository=repository,
                grpc_port=grpc_port,
                metrics_port=metrics_port,
                log_file=log_file,
                startup_timeout_s=startup_timeout,
                threads=threads,
                shared_memory=shared_memory,
                traces=TraceSettings(url=traces, share=traces_share) if traces else None,
            ),
            front=read_front_settings(front_settings) if front_settings else FrontSettings() if front else None,
            status_port=status_port,
            status_address=status_address,
        )
        with _log_on_stderr():
            status = serve_repository(settings, on_ready=_say_ready)
        raise typer.Exit(status)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Say what the supervisor sees and does, one line each."""
    logger, handler = logging.getLogger("salf_serving"), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _install() -> None:
    from rich.markup import escape

    from salf_serving import install_runtime

    console = stderr_console()
    with console.status("the server's own environment ...") as status:
        runtime = install_runtime(report=lambda line: status.update(escape(line.strip()[:100])))
    console.print(f"the server's own environment is at {runtime.root}", soft_wrap=True, highlight=False, markup=False)


def _say_ready(server: "RunningServer") -> None:
    console = stderr_console()
    models = ", ".join(f"{model.name} version {model.version}" for model in server.models)
    lines = [f"Triton {server.version} is ready at {server.grpc_address} (gRPC): {models}"]
    if server.metrics_address is not None:
        lines.append(f"metrics: http://{server.metrics_address}/metrics")
    lines += [f"log: {server.log_file}", "stop it with Ctrl-C"]
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)
