"""`salf list`, `verify`, `publish`, `rollback`, `prune`: what a repository holds, and which version of it is served."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from salf_cli.failures import FAILED, UsageFailure, one_line_failures, print_json

if TYPE_CHECKING:
    from salf_export import ListedVersion

_REPOSITORY = typer.Argument(help="Model repository.", show_default=False)
_JSON = typer.Option("--json", help="Print the outcome as JSON on stdout.")
_SHOWN_DIGITS = 12  # of a contract id: enough to tell versions apart
_TABLE_WIDTH = 120  # the table is never cut; a narrow terminal wraps it


@one_line_failures(command="list")
def list_versions(
    repository: Annotated[Path, _REPOSITORY],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """List every version of every model, and say which is served.

    Example: salf list model_repository
    """
    from pydantic import TypeAdapter

    from salf_export import list_repository

    rows = list_repository(repository)
    if json:
        print_json(TypeAdapter(type(rows)).dump_python(rows, mode="json"))
        return
    Console(width=max(Console().width, _TABLE_WIDTH)).print(_table(rows))


@one_line_failures(command="verify")
def verify(
    repository: Annotated[Path, _REPOSITORY],
    accept_config: Annotated[
        bool, typer.Option("--accept-config", help="First take every config.pbtxt, changed by hand, as right.")
    ] = False,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Find damaged, missing and added files; the exit status is 1 if there are any.

    Example: salf verify model_repository
    """
    from pydantic import TypeAdapter

    from salf_export import accept_configs, verify_repository

    if accept_config:
        accept_configs(repository)
    report = verify_repository(repository)
    if json:
        print_json(TypeAdapter(type(report)).dump_python(report, mode="json"))
    else:
        for finding in report.findings:
            place = finding.model if finding.version is None else f"{finding.model} version {finding.version}"
            typer.echo(f"{place}: {finding.problem}; {finding.remedy}")
        for model, version in report.unstamped:
            typer.echo(f"{model} version {version}: has no manifest, only its metadata was compared; export it again")
        for model in report.foreign:
            typer.echo(f"{model}: was not exported by salf, and was not checked")
        problems = f"{len(report.findings)} problems" if report.findings else "no problem"
        typer.echo(f"{report.checked} version folders compared with their manifests: {problems}")
    if report.findings:
        raise typer.Exit(FAILED)


@one_line_failures(command="publish")
def publish(
    source: Annotated[Path, typer.Argument(help="Repository that has the version.", show_default=False)],
    model: Annotated[str, typer.Argument(help="NAME, or NAME:VERSION.", metavar="NAME[:VERSION]", show_default=False)],
    to: Annotated[Path, typer.Option(help="Repository to publish to.", show_default=False)],
    keep: Annotated[int | None, typer.Option(min=1, help="Then keep this many of the newest versions.")] = None,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Take an exported version to another repository, whole and with its number, and serve it there.

    Example: salf publish staging scenes:3 --to model_repository
    """
    from salf_export import drop_old_versions, publish_version

    name, version = _name_and_version(model)
    published = publish_version(source, name, to, version=version)
    removed = () if keep is None else drop_old_versions(to, name, keep=keep)
    if json:
        print_json({"name": name, "version": published, "repository": str(to), "removed": list(removed)})
        return
    typer.echo(f"published {name} version {published} in {to}{removed_versions(removed)}")


@one_line_failures(command="rollback")
def rollback(
    repository: Annotated[Path, _REPOSITORY],
    name: Annotated[str, typer.Argument(help="Name of the explain model.", show_default=False)],
    to: Annotated[int, typer.Option(min=1, help="Version to serve.", show_default=False)],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Serve another version that is there, in all models exported together; the next export serves its own again.

    Example: salf rollback model_repository scenes --to 1
    """
    from salf_export import roll_back

    done = roll_back(repository, name, to=to)
    if json:
        print_json({"name": name, "version": to, "models": list(done.models), "before": dict(done.before),
                    "without": list(done.without)})  # fmt: skip
        return
    before = ", ".join(f"{model} {'?' if version is None else version}" for model, version in done.before.items())
    typer.echo(f"{repository} serves version {to} of {', '.join(done.models)}; before: {before}")
    for model in done.without:
        typer.echo(f"{model} has no version {to} and serves what it served: its answers carry another contract id")


@one_line_failures(command="prune")
def prune(
    repository: Annotated[Path, _REPOSITORY],
    name: Annotated[str, typer.Argument(help="Name of the explain model.", show_default=False)],
    keep: Annotated[int, typer.Option(min=1, help="How many of the newest versions to keep.", show_default=False)],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Remove all but the newest versions, in all models exported together; one that is served stays.

    Example: salf prune model_repository scenes --keep 3
    """
    from salf_export import drop_old_versions

    removed = drop_old_versions(repository, name, keep=keep)
    if json:
        print_json({"name": name, "removed": list(removed)})
        return
    typer.echo(f"{name} in {repository}{removed_versions(removed) or ': no version is older than those kept'}")


def removed_versions(removed: tuple[int, ...]) -> str:
    """What retention removed, as the end of a sentence."""
    return f"; removed version {', '.join(map(str, removed))}" if removed else ""


def _name_and_version(text: str) -> tuple[str, int | None]:
    name, colon, number = text.partition(":")
    if colon and not (number.isascii() and number.isdigit() and int(number)):
        raise UsageFailure(f"{text!r} is no NAME:VERSION, such as scenes:3; see them with: salf list REPOSITORY")
    return name, int(number) if colon else None


def _table(rows: "tuple[ListedVersion, ...]") -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "version", "served", "contract", "runtime", "accuracy", "max error", "size", "published"):
        table.add_column(heading, no_wrap=True)
    for row in rows:
        served = "yes" if row.served == row.models else "partly" if row.served else ""
        runtime, error = "?", "not compared"
        if row.fidelity is not None:
            runtime = f"{row.fidelity.runtime.partition(' ')[0]} {row.fidelity.precision}"
            error = f"{max(row.fidelity.max_abs_error.values(), default=0.0):.1g}"
        table.add_row(
            escape(row.name), str(row.version), served, row.contract_id[:_SHOWN_DIGITS], runtime,
            f"{row.accuracy['accuracy']:.1%}" if "accuracy" in row.accuracy else "?", error,
            f"{row.size_bytes / 1e6:.1f} MB", (row.published_at or "?").partition("T")[0],
        )  # fmt: skip
    return table
