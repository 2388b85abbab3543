"""Pictures to evaluate on, with masks where the data has them: Scenes, or an image folder with masks/ beside images/.

Layouts of masks (docs/evaluation.md):
- Scenes: as `write_scenes` writes them; the mask of a class is the union of its deciding objects' masks.
- masks/<class>/<stem>.npz: BOOL or UINT8 [H,W] per concept, under the concept's name; under `class` that of the class.
- masks/<class>/<stem>.png: what is not zero is the class; or, with masks/labels.txt (lines `number name`), a label map
  as in COCO-Stuff and ImageNet-S: grey values, or red + 256 * green, are numbers of names.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from salf_contract import Preparation, prepare
from salf_training.errors import DataError
from salf_training.evaluation.metrics import Mask
from salf_training.image_folder import LabelledPictures, read_image_folder
from salf_training.scenes import CLASS_OBJECTS, CLASSES, read_masks, read_scenes

#: Shorter side, in pixels, that masks and maps are compared at; the tolerance of the pointing game is meant for it.
_COMPARED_SIDE = 224
_SCENES_FILE, _LABELS_FILE, _CLASS_KEY = "scenes.jsonl", "labels.txt", "class"


@dataclass(frozen=True)
class PictureMasks:
    """What is where in one picture, BOOL [H,W] at the size that figures are computed at.

    Attributes:
        concepts: by name, those that are visible.
        target: of the picture's class; None when the data does not say.
    """

    concepts: Mapping[str, Mask] = field(default_factory=dict)
    target: Mask | None = None


@dataclass(frozen=True)
class MaskedPictures:
    """N pictures.

    Attributes:
        folder: as given.
        paths: of the pictures.
        labels: INT64 [N], indices into the checkpoint's classes.
        is_scenes: whether the folder was drawn by `write_scenes`.
        label_names: number -> name of label maps; empty without labels.txt.
    """

    folder: Path
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    is_scenes: bool
    label_names: Mapping[int, str]

    def __len__(self) -> int:
        """N."""
        return len(self.paths)

    @property
    def has_masks(self) -> bool:
        """Whether there is a folder of masks."""
        return (self.folder / "masks").is_dir()

    def some(self, count: int, *, seed: int = 0) -> "MaskedPictures":
        """At most `count` of them, a seeded choice in the same order."""
        if count >= len(self):
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False))
        return replace(self, paths=tuple(self.paths[index] for index in chosen), labels=self.labels[chosen])

    def masks(self, index: int, size: Preparation) -> PictureMasks:
        """The masks of one picture, cut and resized as the model's picture is, to `size`.

        Raises:
            DataError: a mask that cannot be read.
            SceneError: the same, of a scene.
        """
        if not self.has_masks:
            return PictureMasks()
        path = self.paths[index]
        stem = self.folder / "masks" / path.parent.name / path.stem
        raw, target = self._read(stem, path.parent.name)
        concepts = {name: _prepared(mask, size) for name, mask in raw.items()}
        return PictureMasks(
            {name: mask for name, mask in concepts.items() if mask.any()},
            None if target is None else _prepared(target, size),
        )

    def _read(self, stem: Path, class_name: str) -> tuple[dict[str, Mask], Mask | None]:
        archive, image = Path(f"{stem}.npz"), Path(f"{stem}.png")
        if self.is_scenes:
            found = read_masks(archive)
            deciding = [found[name] for name in CLASS_OBJECTS[class_name] if name in found]
            return found, np.logical_or.reduce(deciding) if deciding else None
        if archive.is_file():
            arrays = _read_archive(archive)
            target = arrays.pop(_CLASS_KEY, None)
            return arrays, target
        if not image.is_file():
            return {}, None
        numbers = _read_numbers(image)
        if not self.label_names:
            return {}, numbers > 0
        concepts = {name: numbers == number for number, name in self.label_names.items() if (numbers == number).any()}
        return concepts, concepts.get(class_name)


def read_masked_pictures(folder: Path, classes: tuple[str, ...], *, limit: int | None, seed: int = 0) -> MaskedPictures:
    """List a folder's pictures.

    Args:
        folder: one folder per class, or images/ and masks/ with one folder per class each.
        classes: of the checkpoint.
        limit: most pictures; a seeded choice among all. None: all.
        seed: of the choice.

    Raises:
        DataError: no pictures, or a class that the checkpoint does not know.
        SceneError: a folder of scenes that is damaged.
    """
    is_scenes = (folder / _SCENES_FILE).is_file()
    pictures = _scenes(folder) if is_scenes else read_image_folder(folder)
    unknown = sorted(set(pictures.classes) - set(classes))
    if unknown:
        raise DataError(
            f"{folder} has pictures of {', '.join(unknown[:5])}, which the checkpoint does not know; "
            f"its classes are {', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''}"
        )
    index_of = {name: index for index, name in enumerate(classes)}
    own = np.array([index_of[name] for name in pictures.classes], dtype=np.int64)
    found = MaskedPictures(
        folder=folder,
        paths=pictures.paths,
        labels=own[pictures.labels],
        is_scenes=is_scenes,
        label_names=_read_label_names(folder / "masks" / _LABELS_FILE),
    )
    return found if limit is None else found.some(limit, seed=seed)


def compared_size(preparation: Preparation) -> Preparation:
    """The same cut of a picture as the model's, at the size that maps and masks are laid over each other."""
    scale = _COMPARED_SIDE / min(preparation.height, preparation.width)
    size = {"height": round(preparation.height * scale), "width": round(preparation.width * scale)}
    return preparation.model_copy(update=size)


def _scenes(folder: Path) -> LabelledPictures:
    """The scenes that the folder's list names; unlike in other image folders, a class may have no picture."""
    records = read_scenes(folder)
    labels = np.array([record.label for record in records], dtype=np.int64)
    return LabelledPictures(tuple(record.path for record in records), labels, CLASSES)


def _read_label_names(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    names: dict[int, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        number, _, name = line.strip().partition(" ")
        if not line.strip():
            continue
        if not number.isdigit() or not name.strip():
            raise DataError(f"{path} must hold lines `number name`; this one does not: {line!r}")
        names[int(number)] = name.strip()
    return names


def _read_archive(path: Path) -> dict[str, Mask]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"the masks {path} cannot be read: {error}") from error
    for name, array in arrays.items():
        if array.ndim != 2 or array.dtype not in (np.bool_, np.uint8):
            raise DataError(
                f"{path}: the mask {name!r} is {array.dtype} {list(array.shape)}, not bool or uint8 [rows, columns]"
            )
    return {name: array > 0 for name, array in arrays.items()}


def _read_numbers(path: Path) -> NDArray[np.int64]:
    """A label map: grey or palette values, or red + 256 * green. INT64 [H,W]."""
    try:
        with Image.open(path) as image:
            values = np.asarray(image).astype(np.int64)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"the mask {path} cannot be read: {error}") from error
    return values if values.ndim == 2 else np.asarray(values[..., 0] + 256 * values[..., 1])


def _prepared(mask: Mask, size: Preparation) -> Mask:
    """Cut and resize a mask exactly as its picture; a pixel is inside when half of it is."""
    pixels = prepare(Image.fromarray(np.where(mask, 255, 0).astype(np.uint8)), size).pixels
    return np.asarray(pixels[..., 0] > 127)
