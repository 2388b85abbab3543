"""Masks of scenes are exact: they hold what an object covers, and nothing else."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scene_pixels import codes_of, owners_of, pixels_of

from salf_training.scenes import CLASSES, DRAWN_ATTRIBUTES, DRAWN_OBJECTS, PART_CONCEPTS, SIDE, Scene, draw_scene
from salf_training.scenes.compose import Arrangement, arrange, draw_objects, draw_setting

OUTLINE_REACH_PX = 2
"""An object's outline is drawn in neighbours too, where they touch."""


def _grown(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    grown = mask.copy()
    for _ in range(reach):
        padded = np.pad(grown, 1)
        shifts = [padded[1 + dy : 1 + dy + SIDE, 1 + dx : 1 + dx + SIDE] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
        grown = np.logical_or.reduce(shifts)
    return grown


class TestMasks:
    @pytest.mark.parametrize("seed", range(6))
    def test_removing_an_object_changes_its_masks_and_nothing_else(self, seed: int) -> None:
        scene = draw_scene(seed)
        empty, _ = draw_setting(seed)
        arrangement = arrange(seed)
        placements = arrangement.placements
        for left_out in placements:
            rest, _ = draw_objects(empty, [placement for placement in placements if placement is not left_out])
            changed = np.abs(np.asarray(rest.canvas.finish(), int) - pixels_of(scene)).max(axis=2) > 6
            touched = (owners_of(arrangement) == placements.index(left_out) + 1).any(axis=(1, 3))
            assert not (changed & ~_grown(touched, OUTLINE_REACH_PX)).any(), left_out.name
            assert changed[scene.masks[left_out.name]].mean() > 0.9, left_out.name

    def test_hold_the_pixels_covered_by_half_or_more(self, scenes: list[Scene]) -> None:
        for scene in scenes[:20]:
            arrangement = arrange(scene.seed)
            codes = codes_of(arrangement)
            for name, mask in scene.masks.items():
                values = [value for code, value in arrangement.canvas.codes.items() if name in code.concepts]
                coverage = np.isin(codes, values).mean(axis=(1, 3))
                assert np.array_equal(mask, coverage >= 0.5), (scene.seed, name)

    def test_at_least_65_percent_of_every_object_stays_visible(self) -> None:
        for seed in range(40):
            arrangement, (empty, _) = arrange(seed), draw_setting(seed)
            for placement in arrangement.placements:
                alone, _ = draw_objects(empty, [placement])
                whole = _count(alone, placement.name)
                assert _count(arrangement, placement.name) >= 0.65 * whole, (seed, placement.name)

    def test_objects_do_not_share_pixels(self, scenes: list[Scene]) -> None:
        for scene in scenes[:60]:
            owners = np.sum([mask for name, mask in scene.masks.items() if name in DRAWN_OBJECTS], axis=0)
            assert owners.max() == 1

    def test_attributes_lie_on_an_object_except_smoke(self, scenes: list[Scene]) -> None:
        for scene in scenes[:60]:
            objects = np.logical_or.reduce([scene.masks[name] for name in scene.masks if name in DRAWN_OBJECTS])
            for name, mask in scene.masks.items():
                if name in DRAWN_ATTRIBUTES and name != "smoke":
                    assert not (mask & ~objects).any(), (scene.seed, name)

    def test_every_pixel_belongs_to_something_with_a_name(self, scenes: list[Scene]) -> None:
        # Between two things no pixel may be half of either.
        for scene in scenes[:60]:
            assert np.logical_or.reduce(list(scene.masks.values())).mean() > 0.98

    def test_parts_lie_on_objects(self, scenes: list[Scene]) -> None:
        for scene in scenes[:60]:
            objects = np.logical_or.reduce([scene.masks[name] for name in scene.masks if name in DRAWN_OBJECTS])
            for name in set(PART_CONCEPTS) & set(scene.masks):
                assert not (scene.masks[name] & ~objects).any(), (scene.seed, name)

    @pytest.mark.parametrize(
        ("part", "whole"),
        [("hull", "sailboat"), ("carrot nose", "snowman"), ("flames", "campfire"), ("coconuts", "palm")],
    )
    def test_a_part_is_a_piece_of_its_own_object(self, scenes: list[Scene], part: str, whole: str) -> None:
        with_it = [scene.masks for scene in scenes if part in scene.masks]
        assert len(with_it) > 10
        for masks in with_it:
            assert not (masks[part] & ~masks[whole]).any()
            assert masks[part].sum() < masks[whole].sum()

    def test_yellow_car_is_the_whole_car(self, scenes: list[Scene]) -> None:
        yellow = [scene.masks for scene in scenes if "yellow car" in scene.masks]
        assert yellow
        assert all(np.array_equal(masks["yellow car"], masks["car"]) for masks in yellow)

    def test_attributes_come_and_go_whatever_the_class(self, scenes: list[Scene]) -> None:
        for name in ("flag", "smoke", "round window", "red roof"):
            with_it = {scene.label for scene in scenes if name in scene.masks}
            without = {scene.label for scene in scenes if name not in scene.masks}
            assert len(with_it) >= len(CLASSES) - 3, name
            assert len(without) == len(CLASSES), name


def _count(arrangement: Arrangement, name: str) -> int:
    return int(arrangement.canvas.mask(name).sum())
