"""`salf explain` and `salf models`: ask a server."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from salf_cli.connecting import Servers, asks_servers
from salf_cli.failures import (
    FAILED,
    UsageFailure,
    in_words,
    one_line_failures,
    print_json,
    report,
    stderr_console,
    waiting,
)

if TYPE_CHECKING:
    from salf_client import Explanation

Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
ModelVersion = Annotated[
    int | None, typer.Option(min=1, help="Version that must answer; the newest that is served by default.")
]
Timeout = Annotated[float, typer.Option("--timeout", min=0.001, max=86400, help="Seconds to wait for each answer.")]


@one_line_failures(command="explain")
@asks_servers
def explain(
    pictures: Annotated[list[str], typer.Argument(help="Picture files, or their addresses.", show_default=False)],
    model: Annotated[str | None, typer.Option(help="Model to ask; the server's only one by default.")] = None,
    model_version: ModelVersion = None,
    top: Annotated[int | None, typer.Option(help="How many concepts to show; 5 by default.")] = None,
    target: Annotated[str | None, typer.Option(help="Class to explain; the predicted one by default.")] = None,
    timeout: Timeout = 30.0,
    out: Annotated[Path | None, typer.Option(help="Also draw each explanation as a PNG in this folder.")] = None,
    json: Json = False,
    *,
    servers: Servers,
) -> None:
    """Predict the class of pictures and say why.

    Goes on after a picture that cannot be read, and then ends with status 1; any other failure ends it at once.
    With --json, each picture has its entry then too: the answer, or the error.

    Example: salf explain boat.jpg farm.jpg --top 8 --out explained/
    """
    from salf_client import Client, ClientError, InvalidPictureError

    if out is not None:
        _check_plotting()
        out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    taken: set[Path] = set()
    failures = 0
    with Client(
        servers.urls,
        model=model,
        model_version=model_version,
        timeout_s=timeout,
        connection=servers.connection,
    ) as client:
        for number, picture in enumerate(pictures, start=1):
            try:
                with waiting(f"asking about picture {number} of {len(pictures)} ..."):
                    explanation = client.explain(picture, top=top, target=target)
                results.append(_shown(explanation, picture, out=out, taken=taken, quiet=json))
            except InvalidPictureError as error:
                report(str(error))
                results.append({"picture": _as_text(picture), "error": _as_text(str(error))})
                failures += 1
            except (ClientError, OSError) as error:
                if json:
                    print_json(results + _unanswered(pictures[number - 1 :], in_words(error)))
                raise
    if json:
        print_json(results)
    if failures:
        if len(pictures) > 1:
            report(f"{failures} of {len(pictures)} pictures could not be explained")
        raise typer.Exit(FAILED)


@one_line_failures(command="models")
@asks_servers
def models(
    timeout: Timeout = 30.0,
    json: Json = False,
    *,
    servers: Servers,
) -> None:
    """List the models of a server.

    Example: salf models --url localhost:8001 --json
    """
    from dataclasses import asdict

    from salf_client import Client

    with (
        Client(servers.urls, timeout_s=timeout, connection=servers.connection) as client,
        waiting(f"asking {', '.join(servers.urls)} ..."),
    ):
        served = client.models()
    if json:
        print_json([{**asdict(model), "preparation": model.preparation.model_dump()} for model in served])
        return
    from salf_cli.tables import models_table

    if served:
        Console().print(models_table(served))
    else:
        stderr_console().print(
            f"{', '.join(servers.urls)} serves no model that salf exported; add one with `salf export`"
        )


def _shown(
    explanation: "Explanation", picture: str, *, out: Path | None, taken: set[Path], quiet: bool
) -> dict[str, Any]:
    png = None
    if out is not None:
        png = _png_for(picture, out, taken=taken)
        try:
            explanation.plot(image=picture, path=png)
        except OSError as error:
            # Pillow and matplotlib raise some with words alone.
            raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(png)) from error
    if not quiet:
        from salf_cli.tables import explanation_table

        console = Console()
        console.print(explanation_table(explanation, title=_as_text(picture)))
        console.print(f"drawn in {png}\n" if png else "", soft_wrap=True, highlight=False, markup=False)
    return {"picture": _as_text(picture), **explanation.to_dict(), **({"png": str(png)} if png else {})}


def _unanswered(pictures: list[str], said: str) -> list[dict[str, Any]]:
    """Entries of the picture at which the command ends, and of those after it."""
    failed, *others = map(_as_text, pictures)
    not_asked = [{"picture": other, "error": f"not asked after {failed} failed"} for other in others]
    return [{"picture": failed, "error": _as_text(said)}, *not_asked]


def _as_text(name: str) -> str:
    """A name as terminals and JSON take it; the system's names may be no UTF-8."""
    return os.fsencode(name).decode(errors="backslashreplace")


def _png_for(picture: str, folder: Path, *, taken: set[Path]) -> Path:
    """A name for a picture's drawing; pictures of one name from several folders do not overwrite each other."""
    numbers = ("", *(f"-{number}" for number in range(2, len(taken) + 3)))
    stem = Path(picture.partition("?")[0] if "://" in picture else picture).stem
    png = next(path for path in (folder / f"{stem}{number}.png" for number in numbers) if path not in taken)
    taken.add(png)
    return png


def _check_plotting() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise UsageFailure("salf explain --out needs the extra 'plot': pip install 'salf[plot]'")
