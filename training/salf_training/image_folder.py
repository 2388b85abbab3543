"""Labelled pictures in the layout every tool knows: one folder per class."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from salf_contract import PictureError, Preparation, prepare
from salf_training.errors import DataError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})


@dataclass(frozen=True)
class LabelledPictures:
    """Paths and labels of N pictures.

    Attributes:
        paths: N files, in a stable order.
        labels: INT64 [N], index into `classes`.
        classes: K names.
    """

    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """N."""
        return len(self.paths)


def read_image_folder(folder: Path) -> LabelledPictures:
    """List `folder/<class>/<picture>` (or `folder/images/<class>/<picture>`), sorted by name; hidden ones are left out.

    Raises:
        DataError: no folder, no classes, or a class without pictures.
    """
    root = folder / "images" if (folder / "images").is_dir() else folder
    if not root.is_dir():
        raise DataError(f"there is no image folder {folder}; expected one folder per class in it")
    classes = tuple(sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not _hidden(entry)))
    if not classes:
        raise DataError(f"{root} holds no folders; expected one folder per class, named as the class")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            path for path in (root / name).rglob("*") if path.suffix.lower() in _SUFFIXES and not _hidden(path)
        )
        if not found:
            raise DataError(f"the class folder {root / name} holds no pictures ({', '.join(sorted(_SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    return LabelledPictures(tuple(paths), np.array(labels, dtype=np.int64), classes)


def read_names(path: Path) -> tuple[str, ...]:
    """Read a list of names, one a line; blank lines and lines starting with # are left out.

    Raises:
        DataError: no file, no UTF-8 text, no names, or one name twice.
    """
    if not path.is_file():
        raise DataError(f"the list {path} does not exist; expected a text file with one name a line")
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"the list {path} is no UTF-8 text: {error}") from error
    names = [name for name in names if name and not name.startswith("#")]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if not names or twice:
        raise DataError(f"the list {path} must hold names, none twice" + (f"; twice: {', '.join(twice)}" * bool(twice)))
    return tuple(names)


def load_prepared(path: Path, preparation: Preparation) -> NDArray[np.uint8]:
    """One picture at the model's size, prepared exactly as clients and servers do it: UINT8 [H,W,3].

    Raises:
        DataError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            return prepare(image, preparation).pixels
    except (OSError, Image.DecompressionBombError, PictureError) as error:
        raise DataError(f"the picture {path} cannot be read: {error}") from error


def batches_of_pixels(
    paths: Sequence[Path], preparation: Preparation, *, batch_size: int, threads: int = 2
) -> Iterator[NDArray[np.uint8]]:
    """Prepared pictures in order, UINT8 [B,H,W,3]; one batch is decoded while another is used.

    Raises:
        DataError: a file is missing or no picture.
    """
    starts = range(0, len(paths), batch_size)
    with ThreadPoolExecutor(threads) as pool:

        def submit(start: int) -> list[object]:
            return [pool.submit(load_prepared, path, preparation) for path in paths[start : start + batch_size]]

        pending = submit(0) if paths else []
        for start in starts:
            ready, pending = pending, submit(start + batch_size)
            yield np.stack([future.result() for future in ready])  # type: ignore[attr-defined]


def _hidden(path: Path) -> bool:
    """Whether a tool left it there (.ipynb_checkpoints, ._picture.jpg)."""
    return path.name.startswith(".")
