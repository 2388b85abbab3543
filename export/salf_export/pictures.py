"""Folders of pictures that an export is calibrated on and compared on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salf_contract import Preparation
from salf_export.errors import OptionError
from salf_training.checkpoint import Checkpoint
from salf_training.errors import DataError
from salf_training.evaluation.masked_pictures import MaskedPictures, read_masked_pictures
from salf_training.image_folder import batches_of_pixels
from salf_training.scenes import SceneError

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
#: More pictures change neither ranges nor shares much, and every one is held in memory.
MOST_PICTURES = 500
_BATCH = 32


@dataclass(frozen=True)
class Pictures:
    """P prepared pictures.

    Attributes:
        pixels: UINT8 [P,H,W,3].
        sha256: hex digest of the pixels.
        masked: the same pictures with their masks, in the same order; None where the folder has none.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    masked: MaskedPictures | None = None

    def __len__(self) -> int:
        """P."""
        return len(self.pixels)


def read_calibration(folder: Path, preparation: Preparation, *, limit: int = MOST_PICTURES) -> Pictures:
    """All pictures in a folder and in the folders in it, or a seeded choice of `limit` of them.

    Raises:
        OptionError: no such folder, no pictures in it, or a file that is no picture.
    """
    return _read(_chosen(_listed(folder, "calibration"), limit), preparation, "calibration")


def read_held_out(
    folder: Path, preparation: Preparation, classes: tuple[str, ...], *, limit: int = MOST_PICTURES
) -> Pictures:
    """Like `read_calibration`; where there is a folder `masks/` (docs/evaluation.md says how), with the masks.

    Raises:
        OptionError: no such folder, no pictures in it, or a file that is no picture.
    """
    if not (folder / "masks").is_dir():
        return _read(_chosen(_listed(folder, "held-out"), limit), preparation, "held-out")
    try:
        masked = read_masked_pictures(folder, classes, limit=limit)
    except (DataError, SceneError) as error:
        raise OptionError(f"the --held-out pictures cannot be used: {error}") from error
    plain = _read(masked.paths, preparation, "held-out")
    return Pictures(plain.pixels, plain.sha256, masked)


def check_apart(calibration: Pictures, held_out: Pictures) -> None:
    """Raises OptionError if a held-out picture was calibrated on: it helped to choose what it would judge."""
    known = {picture.tobytes() for picture in calibration.pixels}
    twice = sum(picture.tobytes() in known for picture in held_out.pixels)
    if twice:
        raise OptionError(
            f"{twice} of the {len(held_out)} --held-out pictures are also in --calibration; give pictures that the "
            "model is not calibrated on"
        )


@dataclass(frozen=True)
class KnownPictures:
    """What the folders of an export hold; None where no folder was given."""

    calibration: Pictures | None
    held_out: Pictures | None


def read_pictures(source: Checkpoint, *, calibration: Path | None, held_out: Path | None) -> KnownPictures:
    """Read the folders that were given.

    Raises:
        OptionError: a folder that cannot be used, a picture in both, or a model that takes no pictures.
    """
    card = source.card
    if card.starts_from_features and (calibration is not None or held_out is not None):
        raise OptionError(
            "this model has no backbone and takes no pictures; export it in fp32, without folders of them"
        )
    known = KnownPictures(
        None if calibration is None else read_calibration(calibration, card.preparation),
        None if held_out is None else read_held_out(held_out, card.preparation, source.classes),
    )
    if known.calibration is not None and known.held_out is not None:
        check_apart(known.calibration, known.held_out)
    return known


def _listed(folder: Path, option: str) -> list[Path]:
    if not folder.is_dir():
        raise OptionError(f"--{option} {folder} is no folder; give a folder of pictures")
    # Beside images/ may lie masks/, which are PNG files too.
    root = folder / "images" if (folder / "images").is_dir() else folder
    found = sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in _SUFFIXES and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )
    if not found:
        raise OptionError(
            f"--{option} {folder} holds no pictures ({', '.join(sorted(_SUFFIXES))}); give a folder that does"
        )
    return found


def _chosen(paths: Sequence[Path], limit: int) -> Sequence[Path]:
    if len(paths) <= limit:
        return paths
    places = np.sort(np.random.default_rng(0).choice(len(paths), limit, replace=False))
    return [paths[place] for place in places]


def _read(paths: Sequence[Path], preparation: Preparation, option: str) -> Pictures:
    try:
        pixels = np.concatenate(list(batches_of_pixels(paths, preparation, batch_size=_BATCH)))
    except DataError as error:
        raise OptionError(f"--{option}: {error}; remove it, or give another folder") from error
    return Pictures(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())
