"""Pictures in whatever form the caller has them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_client.errors import InvalidPictureError
from salf_contract import (
    PictureError,
    Preparation,
    Prepared,
    array_to_picture,
    decode_picture,
    prepare,
    to_rgb,
)

#: A path, encoded bytes, a Pillow picture, or UINT8 [H,W,3] (RGB) or [H,W] (grey).
Picture: TypeAlias = str | Path | bytes | Image.Image | NDArray[np.uint8]

#: Longest side, in pixels, of the copy that an explanation keeps for drawing.
_KEPT_SIDE = 512


@dataclass(frozen=True)
class Source:
    """A picture that was read.

    Attributes:
        rgb: upright RGB, at its full size.
        name: how messages call it: the file's path, or what it was given as.
    """

    rgb: Image.Image
    name: str


def read_picture(picture: Picture) -> Source:
    """Read a picture, upright and in RGB.

    Raises:
        InvalidPictureError: no such file, no picture, truncated, or an array of another shape or type.
    """
    name = _name_of(picture)
    try:
        return Source(rgb=to_rgb(_open(picture)), name=name)
    except PictureError as error:
        raise InvalidPictureError(f"{name}: {error}") from error
    except OSError as error:  # a Pillow picture is decoded late, and fails like a file
        raise InvalidPictureError(f"{name}: the picture cannot be read: {error}") from error


def prepare_source(source: Source, preparation: Preparation) -> Prepared:
    """Bring a picture to a model's size.

    Raises:
        InvalidPictureError: it cannot be prepared.
    """
    try:
        return prepare(source.rgb, preparation)
    except PictureError as error:
        raise InvalidPictureError(f"{source.name}: {error}") from error


def copy_for_drawing(source: Source) -> Image.Image:
    """The picture at no more than 512 pixels a side, so that kept explanations stay small."""
    scale = _KEPT_SIDE / max(source.rgb.size)
    if scale >= 1:
        return source.rgb
    size = (max(1, round(source.rgb.width * scale)), max(1, round(source.rgb.height * scale)))
    return source.rgb.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)


def _open(picture: object) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, np.ndarray):
        return array_to_picture(picture)
    if isinstance(picture, bytes | bytearray | memoryview):
        return decode_picture(bytes(picture))
    if isinstance(picture, str | Path):
        return decode_picture(_read_file(Path(picture)))
    raise InvalidPictureError(
        f"a picture must be a path, bytes, a Pillow image or a uint8 array, but this is a {type(picture).__name__}"
    )


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise InvalidPictureError(f"there is no file {path}; check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InvalidPictureError(f"{path} cannot be read ({reason}); pass the path of a picture file") from error


def _name_of(picture: Picture) -> str:
    if isinstance(picture, str | Path):
        return str(picture)
    if isinstance(picture, Image.Image):
        return str(getattr(picture, "filename", "") or "picture")
    return "array" if isinstance(picture, np.ndarray) else "picture"
