"""Scenes on disk: an image folder with masks beside it, written so that an interrupted run can be taken up again."""

import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from salf_training.scenes.classes import CLASSES
from salf_training.scenes.compose import draw_scene, label_of
from salf_training.scenes.errors import SceneError
from salf_training.scenes.files import DRAWING_VERSION, read_text, write_image, write_masks
from salf_training.whole_files import replace_file

SCENES_FILE: Final = "scenes.jsonl"
CLASSES_FILE: Final = "classes.txt"
SEEDS_PER_TASK: Final = 16
"""Enough to hide what it costs to hand a task to a worker."""


@dataclass(frozen=True)
class SceneRecord:
    """One line of ``scenes.jsonl``.

    Attributes:
        path: the picture; begins with the folder as it was given to ``read_scenes``.
        label: index into ``CLASSES``.
        caption: one line of English.
        concepts: the drawn concepts that have a mask.
        mask_path: for ``read_masks``.
        seed: what the scene was drawn from.
    """

    path: Path
    label: int
    caption: str
    concepts: tuple[str, ...]
    mask_path: Path
    seed: int


def write_scenes(
    folder: Path,
    *,
    count: int,
    first_seed: int,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Draw the scenes of ``count`` seeds from ``first_seed`` on into ``folder``.

    Writes ``images/<class>/<seed>.png`` and ``masks/<class>/<seed>.npz``, then ``classes.txt`` and ``scenes.jsonl``,
    which lists exactly this call's seeds. Every file is written aside and renamed: one that exists is whole, and a
    scene of this drawing version that exists is not drawn again.

    Args:
        folder: made if needed.
        count: how many scenes, 1 or more.
        first_seed: 0 or more.
        workers: processes that draw; 1 draws in this one. More start by "spawn", so call from an importable module
            or below ``if __name__ == "__main__"``.
        on_progress: called in this process with the number of scenes done so far.

    Raises:
        SceneError: ``count`` or ``workers`` is below 1, or ``first_seed`` is negative.
    """
    if count < 1 or workers < 1 or first_seed < 0:
        raise SceneError(
            "count and workers must be 1 or more and first_seed 0 or more, "
            f"got count={count}, workers={workers}, first_seed={first_seed}"
        )
    for name in CLASSES:
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        (folder / "masks" / name).mkdir(parents=True, exist_ok=True)
    # A list of scenes from an earlier call must not outlive the moment from which it may be wrong.
    (folder / SCENES_FILE).unlink(missing_ok=True)
    end = first_seed + count
    tasks = [
        (folder, range(start, min(start + SEEDS_PER_TASK, end))) for start in range(first_seed, end, SEEDS_PER_TASK)
    ]
    lines: list[str] = []
    for finished in _run(tasks, workers):
        lines.extend(finished)
        if on_progress is not None:
            on_progress(len(lines))
    replace_file(folder / CLASSES_FILE, "".join(f"{name}\n" for name in CLASSES).encode())
    replace_file(folder / SCENES_FILE, "".join(f"{line}\n" for line in lines).encode())


def read_scenes(folder: Path) -> tuple[SceneRecord, ...]:
    """The scenes listed in ``folder``, in the order of their seeds.

    Raises:
        SceneError: the folder or a file in it is missing or damaged, or it was drawn for other classes.
    """
    listing = folder / SCENES_FILE
    if not folder.is_dir():
        raise SceneError(f"no folder of scenes at {folder}; write_scenes makes one")
    if not listing.is_file():
        raise SceneError(f"{listing} is missing: the writing was interrupted; call write_scenes again to finish it")
    _check_classes(folder)
    lines = listing.read_text(encoding="utf-8").splitlines()
    records = tuple(_record(folder, line, f"{listing}, line {number}") for number, line in enumerate(lines, start=1))
    for record in records:
        for path in (record.path, record.mask_path):
            if not path.is_file():
                raise SceneError(f"{path} is listed in {listing} but missing; call write_scenes again to redraw it")
    return records


def _run(tasks: Sequence[tuple[Path, range]], workers: int) -> Iterator[list[str]]:
    """The lines of every task, in the order of the tasks."""
    if workers == 1 or len(tasks) == 1:
        yield from map(_write_some, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(min(workers, len(tasks))) as pool:
        yield from pool.imap(_write_some, tasks)


def _write_some(task: tuple[Path, range]) -> list[str]:
    folder, seeds = task
    return [_write_one(folder, seed) for seed in seeds]


def _write_one(folder: Path, seed: int) -> str:
    """Make sure that the scene's files exist; returns its line, without the line feed."""
    label = label_of(seed)
    image = Path("images") / CLASSES[label] / f"{seed:08d}.png"
    masks = Path("masks") / CLASSES[label] / f"{seed:08d}.npz"
    text = _text_of_whole_scene(folder / image, folder / masks)
    if text is None:
        scene = draw_scene(seed)
        text = {"caption": scene.caption, "concepts": json.dumps(list(scene.masks))}
        # The picture comes last, so that a picture that exists has its masks.
        write_masks(folder / masks, scene.masks)
        write_image(folder / image, scene.image, text)
    line = {
        "path": image.as_posix(),
        "label": label,
        "class": CLASSES[label],
        "caption": text["caption"],
        "concepts": json.loads(text["concepts"]),
        "mask_path": masks.as_posix(),
        "seed": seed,
    }
    return json.dumps(line)


def _text_of_whole_scene(image: Path, masks: Path) -> dict[str, str] | None:
    """What a finished picture says about itself; None if it has to be drawn (again)."""
    if not (image.is_file() and masks.is_file()):
        return None
    text = read_text(image)
    return text if text.get("drawing") == DRAWING_VERSION and {"caption", "concepts"} <= text.keys() else None


def _check_classes(folder: Path) -> None:
    path = folder / CLASSES_FILE
    if not path.is_file():
        raise SceneError(f"{path} is missing; call write_scenes again to finish the folder")
    found = tuple(path.read_text(encoding="utf-8").split("\n")[:-1])
    if found != CLASSES:
        raise SceneError(f"{path} lists {', '.join(found) or 'nothing'}; expected {', '.join(CLASSES)}")


def _record(folder: Path, line: str, where: str) -> SceneRecord:
    try:
        said = json.loads(line)
        record = SceneRecord(
            path=folder / said["path"],
            label=int(said["label"]),
            caption=str(said["caption"]),
            concepts=tuple(str(name) for name in said["concepts"]),
            mask_path=folder / said["mask_path"],
            seed=int(said["seed"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise SceneError(f"{where} is no scene ({error!r}); delete the file and call write_scenes again") from error
    if not 0 <= record.label < len(CLASSES):
        raise SceneError(f"{where}: label {record.label} is outside 0 to {len(CLASSES) - 1}")
    return record
