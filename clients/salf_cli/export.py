"""`salf export`: a checkpoint into a model repository."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from salf_cli.failures import one_line_failures, print_json, stderr_console


@one_line_failures(command="export", extra="export")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model.", show_default=False)],
    repository: Annotated[Path, typer.Option(help="Model repository to publish into.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the served model.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="How many concepts an answer holds.")] = 16,
    from_features: Annotated[
        bool, typer.Option("--from-features", help="Also publish NAME_from_features, for published cases and tests.")
    ] = False,
    keep: Annotated[int | None, typer.Option(min=1, help="Then keep this many of the newest versions.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Export a trained model, compare it with its source, and publish it as the next version.

    Example: salf export runs/scenes --repository model_repository --name scenes
    """
    from pydantic import TypeAdapter

    from salf_cli.repository import removed_versions
    from salf_export import drop_old_versions, export_checkpoint

    with stderr_console().status(f"exporting {escape(str(checkpoint))} ..."):
        report = export_checkpoint(checkpoint, repository, name=name, top=top, from_features=from_features)
    # Only now: should the export fail, nothing is removed.
    removed = () if keep is None else drop_old_versions(repository, report.models[0], keep=keep)
    if json:
        print_json(TypeAdapter(type(report)).dump_python(report, mode="json"))
        return
    worst = max(report.fidelity.max_abs_error.values())
    typer.echo(
        f"published {name} version {report.version} in {repository}: {', '.join(report.models)}; "
        f"at most {worst:.2g} away from the checkpoint over {report.fidelity.pictures} inputs"
        f"{removed_versions(removed)}"
    )
    typer.echo(f"serve it with: salf serve {repository}")
