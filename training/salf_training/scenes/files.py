"""The two files of a scene: a PNG that carries its caption, and an NPZ with one packed mask per concept."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from salf_training.scenes.canvas import SIDE
from salf_training.scenes.errors import SceneError
from salf_training.whole_files import replace_file

DRAWING_VERSION: Final = "2"
"""Raise this when the same seed gives another picture or other masks: files of another version are then drawn anew."""
PACKED_BYTES: Final = SIDE * SIDE // 8


def write_image(path: Path, image: Image.Image, text: Mapping[str, str]) -> None:
    """Write a PNG with ``text`` and the drawing version as its text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in {**text, "drawing": DRAWING_VERSION}.items():
        chunks.add_text(key, value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=chunks, compress_level=4)
    replace_file(path, buffer.getvalue())


def read_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG; empty if the file is none."""
    try:
        with Image.open(path) as image:
            return {str(key): str(value) for key, value in image.info.items()}
    except (UnidentifiedImageError, OSError):
        return {}


def write_masks(path: Path, masks: Mapping[str, NDArray[np.bool_]]) -> None:
    """Write masks, bool [224, 224] each, eight pixels to the byte (rows first, first pixel in the highest bit)."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=4) as archive:
        for concept, mask in masks.items():
            packed = io.BytesIO()
            np.save(packed, np.packbits(mask), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{concept}.npy"), packed.getvalue(), zipfile.ZIP_DEFLATED)
    replace_file(path, buffer.getvalue())


def read_masks(path: Path) -> dict[str, NDArray[np.bool_]]:
    """Concept -> bool [224, 224], rows first.

    Raises:
        SceneError: the file is missing, no NPZ, or holds an array that is no packed mask.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            packed = {concept: archive[concept] for concept in archive.files}
    except FileNotFoundError as error:
        raise SceneError(f"{path} is missing; call write_scenes again to redraw it") from error
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise SceneError(f"{path} is no file of masks ({error}); delete it and call write_scenes again") from error
    return {concept: _unpack(array, concept, path) for concept, array in packed.items()}


def _unpack(array: NDArray[np.uint8], concept: str, path: Path) -> NDArray[np.bool_]:
    if array.dtype != np.uint8 or array.shape != (PACKED_BYTES,):
        raise SceneError(
            f"{path}: {concept!r} is {array.dtype} {list(array.shape)}, expected uint8 [{PACKED_BYTES}] (packed bits)"
        )
    return np.unpackbits(array).astype(np.bool_).reshape(SIDE, SIDE)
