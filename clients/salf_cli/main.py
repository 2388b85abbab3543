"""Where the `salf` command starts."""

import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from salf_cli.concepts import concepts
from salf_cli.evaluate import evaluate
from salf_cli.explain import explain, models
from salf_cli.export import export
from salf_cli.import_ import import_published
from salf_cli.probe import probe
from salf_cli.repository import list_versions, prune, publish, rollback, verify
from salf_cli.score import report, score
from salf_cli.serve import serve
from salf_cli.top import top
from salf_cli.train import train
from salf_cli.tune import tune

app = typer.Typer(
    name="salf",
    help="Vision models that say what they saw and show where.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command(no_args_is_help=True)(explain)
app.command()(models)
app.command(no_args_is_help=True)(score)
app.command(no_args_is_help=True)(report)
app.command(no_args_is_help=True)(probe)
app.command()(top)
app.command()(serve)
app.command(no_args_is_help=True)(export)
app.command("list", no_args_is_help=True)(list_versions)
app.command(no_args_is_help=True)(verify)
app.command(no_args_is_help=True)(publish)
app.command(no_args_is_help=True)(rollback)
app.command(no_args_is_help=True)(prune)
app.command(no_args_is_help=True)(tune)
app.command(no_args_is_help=True)(train)
app.command(no_args_is_help=True)(evaluate)
app.command("import", no_args_is_help=True)(import_published)
app.add_typer(concepts)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"salf {version('salf')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Vision models that say what they saw and show where."""


def main() -> None:
    """Run the command; exits the process."""
    # Pillow's, of a picture that is refused a moment later.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    app()
