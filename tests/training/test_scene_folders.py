"""Folders of scenes: what is written is what is read; what is half written or damaged is named."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scene_pixels import pixels_of

from salf_training.scenes import CLASSES, Scene, SceneError, draw_scene, read_masks, read_scenes, write_scenes
from salf_training.scenes import folder as scenes_folder


class TestFolder:
    def test_reads_what_was_written(self, tmp_path: Path) -> None:
        done: list[int] = []
        write_scenes(tmp_path, count=20, first_seed=40, workers=2, on_progress=done.append)
        records = read_scenes(tmp_path)
        assert done[-1] == 20
        assert [record.seed for record in records] == list(range(40, 60))
        for record in records[::5]:
            scene = draw_scene(record.seed)
            assert (record.label, record.caption) == (scene.label, scene.caption)
            assert record.concepts == tuple(scene.masks)
            assert record.path == tmp_path / "images" / CLASSES[scene.label] / f"{record.seed:08d}.png"
            with Image.open(record.path) as image:
                assert np.array_equal(np.asarray(image), pixels_of(scene))
            masks = read_masks(record.mask_path)
            assert list(masks) == list(scene.masks)
            assert all(np.array_equal(masks[name], scene.masks[name]) for name in masks)

    def test_interrupted_writing_is_taken_up_without_redrawing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[int] = []

        def draw_three(seed: int) -> Scene:
            if len(drawn) == 3:
                raise KeyboardInterrupt
            drawn.append(seed)
            return draw_scene(seed)

        monkeypatch.setattr(scenes_folder, "draw_scene", draw_three)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(tmp_path, count=5, first_seed=0, workers=1)
        with pytest.raises(SceneError, match=r"scenes\.jsonl is missing: the writing was interrupted"):
            read_scenes(tmp_path)
        drawn.clear()
        write_scenes(tmp_path, count=5, first_seed=0, workers=1)
        assert drawn == [3, 4]
        assert [record.seed for record in read_scenes(tmp_path)] == [0, 1, 2, 3, 4]
        assert not list(tmp_path.rglob("*.part"))

    def test_half_a_file_and_files_of_another_version_are_drawn_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_scenes(tmp_path, count=2, first_seed=0, workers=1)
        first, second = read_scenes(tmp_path)
        first.path.write_bytes(b"half a pic")
        with Image.open(second.path) as image:
            image.copy().save(second.path)
        write_scenes(tmp_path, count=2, first_seed=0, workers=1)
        with Image.open(first.path) as image:
            assert np.array_equal(np.asarray(image), pixels_of(draw_scene(0)))
        with Image.open(second.path) as image:
            assert image.info["drawing"]

    def test_errors_name_what_is_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SceneError, match=r"no folder of scenes at .*nowhere"):
            read_scenes(tmp_path / "nowhere")
        write_scenes(tmp_path, count=2, first_seed=0, workers=1)
        record = read_scenes(tmp_path)[1]
        record.mask_path.unlink()
        with pytest.raises(SceneError, match=re.escape(str(record.mask_path))):
            read_scenes(tmp_path)
        with pytest.raises(SceneError, match="is missing"):
            read_masks(record.mask_path)
        record.mask_path.write_bytes(b"no masks")
        with pytest.raises(SceneError, match="is no file of masks"):
            read_masks(record.mask_path)

    @pytest.mark.parametrize("line", ["{", "[]", '{"path": "a.png"}', json.dumps({"label": "x"})])
    def test_a_damaged_line_is_named(self, tmp_path: Path, line: str) -> None:
        write_scenes(tmp_path, count=1, first_seed=0, workers=1)
        with (tmp_path / "scenes.jsonl").open("a") as listing:
            listing.write(line + "\n")
        with pytest.raises(SceneError, match=r"scenes\.jsonl, line 2 is no scene"):
            read_scenes(tmp_path)

    def test_other_classes_are_refused(self, tmp_path: Path) -> None:
        write_scenes(tmp_path, count=1, first_seed=0, workers=1)
        (tmp_path / "classes.txt").write_text("cat\ndog\n")
        with pytest.raises(SceneError, match="lists cat, dog; expected airfield"):
            read_scenes(tmp_path)

    @pytest.mark.parametrize(("count", "workers", "first_seed"), [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
    def test_wrong_numbers_are_refused(self, tmp_path: Path, count: int, workers: int, first_seed: int) -> None:
        with pytest.raises(SceneError, match=f"got count={count}, workers={workers}, first_seed={first_seed}"):
            write_scenes(tmp_path, count=count, first_seed=first_seed, workers=workers)
