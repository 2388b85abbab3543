"""One HTML page about a scored store, with all it needs inside."""

import base64
import io
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from salf_batch.errors import (
    BatchError,
    InvalidTargetError,
    MissingExtraError,
    StoreUnavailableError,
    TargetWriteError,
)
from salf_batch.sources import load_uri
from salf_batch.statistics import Notable, Overview, overview, wording
from salf_batch.targets import parts, read_manifest, target_of
from salf_contract import PictureError, decode_picture, to_rgb

_TEMPLATE = "report.html.j2"
_THUMBNAIL_SIDE = 160


def write_report(
    target: str, out: Path, *, shown: int = 12, report: Callable[[str], None] = lambda _stage: None
) -> Overview:
    """Write a page about a scored store: classes, their reasons, and pictures worth a look, with thumbnails.

    Args:
        target: the scored store.
        out: the HTML file to write.
        shown: pictures of each kind, at most.
        report: hears what is being done.

    Returns:
        What the page shows.

    Raises:
        InvalidTargetError: no scored store, or one without a finished part.
        MissingExtraError: jinja2 is not installed.
        TargetWriteError: the page cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError("reports need jinja2; install it with: pip install 'salf[batch]'") from error
    place = target_of(target)
    manifest = read_manifest(place)
    report("reading rows")
    found = parts(place, manifest)
    if not found:
        raise InvalidTargetError(f"{place.uri} has no finished part yet; let `salf score` go on first")
    seen = overview(found.values(), shown=shown)
    kinds: list[tuple[str, str, tuple[Notable, ...]]] = [
        ("Unsure", "the lowest probabilities", seen.unsure),
        ("Little shown", "the shown concepts are the least of the evidence (coverage)", seen.uncovered),
        ("Odd", "the reasons are unusual for the class (1 is: as all others have)", seen.odd),
    ]
    thumbnails, unread = _thumbnails(
        {one.uri for *_, notables in kinds for one in notables}, manifest.column, report=report
    )
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("salf_batch", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template(_TEMPLATE).render(
        manifest=manifest,
        overview=seen,
        kinds=kinds,
        thumbnails=thumbnails,
        unread=unread,
        wording=wording,
        target=place.uri,
    )
    aside = out.with_name(f".{out.name}.{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(page, encoding="utf-8")
        aside.replace(out)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise TargetWriteError(f"{out} cannot be written ({error.strerror}); give another file with --out") from error
    return seen


def _thumbnails(
    uris: set[str], column: str | None, *, report: Callable[[str], None]
) -> tuple[dict[str, str], set[str]]:
    """Thumbnails of those that are still there, and what was not asked for any more, since its store does not answer.

    Each host or bucket is waited for once: each further picture would take as long again.
    """
    found: dict[str, str] = {}
    unread: set[str] = set()
    silent: set[str] = set()
    for number, uri in enumerate(sorted(uris), start=1):
        report(f"reading pictures ({number} of {len(uris)})")
        if _store_of(uri) in silent:
            unread.add(uri)
            continue
        try:
            found[uri] = _thumbnail(load_uri(uri, column=column))
        except StoreUnavailableError:
            silent.add(_store_of(uri))
            unread.add(uri)
        except (BatchError, PictureError):
            continue
    return found, unread


def _store_of(uri: str) -> str:
    """Its scheme with its host or bucket."""
    return "/".join(uri.split("/")[:3])


def _thumbnail(data: bytes) -> str:
    """A small JPEG as a data URL."""
    picture = to_rgb(decode_picture(data))
    picture.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
