"""Every figure of the evaluation against a case computed by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from salf_contract import Preparation
from salf_training.errors import DataError
from salf_training.evaluation import metrics
from salf_training.evaluation.document import Segmentation
from salf_training.evaluation.faithfulness import blurred, mean_colour, ranks, replacement_curve
from salf_training.evaluation.masked_pictures import read_masked_pictures
from salf_training.evaluation.places import SegmentationSums, concept_case, concept_places, verdicts
from salf_training.evaluation.rendering import Line, chart, sentence
from salf_training.evaluation.shown_pictures import reasons, with_heatmap, with_mask
from salf_training.scenes import CLASS_OBJECTS, CLASSES, read_masks, read_scenes, write_scenes

# Two rows, four columns: the truth is the left half.
TRUTH = np.array([[1, 1, 0, 0], [1, 1, 0, 0]], dtype=bool)
# Mean 3: above it are 9, 5 and 4; two of them are inside.
HEATMAP = np.array([[9, 5, 4, 0], [3, 1, 2, 0]], dtype=np.float32)


def test_pixels_are_counted_by_truth_and_decision():
    counts = metrics.count_pixels(metrics.above_mean(HEATMAP), TRUTH)
    assert counts == metrics.PixelCounts(true_positive=2, false_positive=1, false_negative=2, true_negative=3)
    assert counts.accuracy == pytest.approx(5 / 8)
    assert counts.foreground_iou == pytest.approx(2 / 5)
    assert counts.mean_iou == pytest.approx((2 / 5 + 3 / 6) / 2)


def test_counts_add_up_over_pictures_and_nothing_counted_is_zero():
    counts = metrics.count_pixels(TRUTH, TRUTH) + metrics.count_pixels(~TRUTH, TRUTH)
    assert counts == metrics.PixelCounts(4, 4, 4, 4)
    assert metrics.PixelCounts().accuracy == metrics.PixelCounts().mean_iou == 0


def test_the_same_area_takes_as_many_pixels_as_the_truth_has():
    decided = metrics.same_area(HEATMAP, TRUTH)
    assert decided.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert metrics.same_area(np.zeros((2, 4), np.float32), TRUTH).sum() == 4, "ties do not take more"


def test_the_best_line_between_foreground_and_background_is_found():
    pixels = metrics.pixels_by_value(HEATMAP, TRUTH)
    assert pixels.above(0) == metrics.PixelCounts(true_positive=4, false_positive=4)
    best = pixels.above(pixels.best_line())
    by_hand = [metrics.count_pixels(value <= HEATMAP, TRUTH) for value in range(10)]
    assert best.mean_iou == max(counts.mean_iou for counts in by_hand)
    assert best == metrics.count_pixels(HEATMAP >= 3, TRUTH)
    sharper = metrics.pixels_by_value(HEATMAP**3, TRUTH)
    assert sharper.above(sharper.best_line()) == best, "sharpness wins nothing here"
    flat = metrics.pixels_by_value(np.full((2, 4), 7, np.float32), TRUTH)
    assert flat.above(1).true_positive == flat.above(1).false_positive == 0


def test_the_line_for_one_half_of_the_pictures_is_chosen_on_the_other():
    sums = SegmentationSums()
    # Any line above 0 is right for the first picture, so the lowest is chosen, which is too low for the second one.
    sums.add(np.array([[9, 9, 0, 0]], np.float32), np.array([[True, True, False, False]]))
    sums.add(np.array([[9, 3, 0, 0]], np.float32), np.array([[True, False, False, False]]))
    assert sums.figures().pixel_accuracy_chosen_line == pytest.approx(7 / 8)


def test_average_precision_by_hand_and_by_scikit_learn():
    # In order 9 5 4 3 2 1: hits 1 1 0 1 0 1 at ranks 1 2 4 6.
    assert metrics.average_precision(HEATMAP, TRUTH) == pytest.approx((1 / 1 + 2 / 2 + 3 / 4 + 4 / 6) / 4)
    random = np.random.default_rng(0)
    for _ in range(20):
        truth = random.random((7, 5)) < 0.3
        heatmap = random.integers(0, 6, (7, 5)).astype(np.float32)  # with ties
        if truth.any():
            expected = average_precision_score(truth.ravel(), heatmap.ravel())
            assert metrics.average_precision(heatmap, truth) == pytest.approx(expected)
    assert metrics.average_precision(HEATMAP, np.zeros_like(TRUTH)) == 0
    assert metrics.average_precision(np.ones((2, 4), np.float32), TRUTH) == pytest.approx(0.5), "flat: the mask's share"


def test_energy_inside_is_a_share_above_the_minimum():
    assert metrics.energy_inside(HEATMAP, TRUTH) == pytest.approx(18 / 24)
    assert metrics.energy_inside(HEATMAP - 7, TRUTH) == pytest.approx(18 / 24), "the zero of a map means nothing"
    assert metrics.energy_inside(np.full((2, 4), 3, np.float32), TRUTH) == pytest.approx(0.5)


def test_the_area_under_a_curve_is_the_trapezoids():
    assert metrics.area_under(np.array([1.0, 0.5, 0.0])) == pytest.approx(0.5)
    assert metrics.area_under(np.array([1.0, 0.0, 0.0])) == pytest.approx(0.25)


def test_a_concept_map_that_lies_on_its_concept_is_a_case_that_says_so():
    mask = np.zeros((80, 120), dtype=bool)
    mask[:40, :40] = True
    peak = np.zeros((2, 3), np.float32)
    peak[0, 0] = 1
    good, bad = concept_case(peak, mask, decides=True), concept_case(-peak, mask, decides=False)
    assert good.hit
    assert not bad.hit
    assert good.iou_same_area > 0.6 > bad.iou_same_area
    assert good.energy_inside > good.mask_share == pytest.approx(1 / 6)
    assert bad.energy_inside < bad.mask_share
    assert good.random_hit == pytest.approx(55 * 55 / (80 * 120))
    assert not good.centre_hit
    found = concept_places([good, bad])
    assert found is not None
    assert (found.cases, found.pointing_game) == (2, 0.5)
    assert found.iou == pytest.approx((good.iou + bad.iou) / 2)
    assert concept_places([]) is None


def test_segmentation_sums_pixels_over_pictures_and_averages_precision():
    sums = SegmentationSums()
    sums.add(HEATMAP, TRUTH)
    sums.add(TRUTH.astype(np.float32), TRUTH)
    found = sums.figures()
    assert found.pixel_accuracy == pytest.approx((5 + 8) / 16)
    assert found.mean_iou == pytest.approx(((2 + 4) / (5 + 4) + (3 + 4) / (6 + 4)) / 2)
    assert found.average_precision == pytest.approx((metrics.average_precision(HEATMAP, TRUTH) + 1) / 2)
    assert found.pixel_accuracy_same_area == pytest.approx((6 + 8) / 16)


def test_the_verdict_is_told_figure_by_figure_and_hides_no_defeat():
    ours = Segmentation(
        pixel_accuracy=0.8, mean_iou=0.5, average_precision=0.6, pixel_accuracy_same_area=0.7, mean_iou_same_area=0.5,
        pixel_accuracy_chosen_line=0.7, mean_iou_chosen_line=0.5,
    )  # fmt: skip
    theirs = ours.model_copy(update={"pixel_accuracy": 0.9, "mean_iou": 0.4})
    (verdict,) = verdicts({"SALF-CBM": ours, "Grad-CAM": theirs, "Grad-CAM, cubed": theirs, "Centre": theirs})
    assert (verdict.over, verdict.pixel_accuracy, verdict.mean_iou, verdict.average_precision) == (
        "Grad-CAM", False, True, False
    )  # fmt: skip
    text = sentence(verdict)
    assert "ahead of Grad-CAM in mIoU; not ahead of Grad-CAM in pixel accuracy, mAP" in text
    assert verdicts({"Grad-CAM": theirs}) == ()


def test_deletion_follows_the_order_of_the_heatmap():
    rank = ranks(HEATMAP, height=2, width=4)
    assert rank.tolist() == [[0, 1, 2, 6], [3, 5, 4, 7]]
    start = torch.zeros(2, 4, 3, dtype=torch.uint8)
    end = torch.full_like(start, 200)

    def brightness(pixels):
        # Only the pixel of rank 0 counts for class 0; class 1 is the share of replaced pixels.
        return torch.stack([pixels[:, 0, 0, 0] / 200.0, pixels[..., 0].float().mean(dim=(1, 2)) / 200], dim=1)

    assert replacement_curve(brightness, start, end, rank, 0, steps=4).tolist() == [0, 1, 1, 1, 1]
    assert replacement_curve(brightness, start, end, rank, 1, steps=4) == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_deleted_pixels_have_the_mean_colour_and_blurring_leaves_no_shape():
    pixels = torch.zeros(40, 60, 3, dtype=torch.uint8)
    pixels[:, ::2] = 200
    assert mean_colour(pixels, torch.tensor([0.2, 0.4, 1.0]))[3, 5].tolist() == [51, 102, 255]
    soft = blurred(pixels)
    assert soft.shape == pixels.shape
    assert soft.dtype == torch.uint8
    inside = soft[:, 10:-10].int()
    assert int(inside.max() - inside.min()) < 40
    assert torch.equal(blurred(torch.full((40, 60, 3), 77, dtype=torch.uint8)), torch.full((40, 60, 3), 77).byte())


@pytest.fixture
def folder(tmp_path):
    for name in ("cow", "ship"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(3):
            Image.fromarray(np.full((40, 80, 3), 90, np.uint8)).save(tmp_path / "images" / name / f"{index}.png")
    return tmp_path


SIZE = Preparation(height=20, width=20)


def half(columns: slice) -> np.ndarray:
    mask = np.zeros((40, 80), dtype=bool)
    mask[:, columns] = True
    return mask


def test_masks_are_cut_as_the_pictures_are(folder):
    (folder / "masks" / "ship").mkdir(parents=True)
    # Of 80 columns the model sees 20 to 60; the sail fills the left half of that, the flag lies outside.
    np.savez(folder / "masks" / "ship" / "1.npz", sail=half(slice(0, 40)), flag=half(slice(0, 20)),
             **{"class": half(slice(40, 80)).astype(np.uint8)})  # fmt: skip
    pictures = read_masked_pictures(folder, ("ant", "cow", "ship"), limit=None)
    assert pictures.labels.tolist() == [1, 1, 1, 2, 2, 2], "labels are the checkpoint's, not the folder's"
    masks = pictures.masks(4, SIZE)
    assert set(masks.concepts) == {"sail"}
    assert np.array_equal(masks.concepts["sail"], np.tile(np.arange(20) < 10, (20, 1)))
    assert np.array_equal(masks.target, np.tile(np.arange(20) >= 10, (20, 1)))
    assert pictures.masks(0, SIZE).target is None, "pictures without masks are allowed"


@pytest.mark.parametrize("colours", [False, True])
def test_label_maps_name_what_they_hold(folder, colours):
    (folder / "masks" / "cow").mkdir(parents=True)
    (folder / "masks" / "labels.txt").write_text("1 sky\n300 cow\n\n7 dog\n" if colours else "1 sky\n200 cow\n7 dog\n")
    numbers = np.where(half(slice(0, 40)), 300 if colours else 200, 1)
    values = np.stack([numbers % 256, numbers // 256, 0 * numbers], axis=-1) if colours else numbers
    Image.fromarray(values.astype(np.uint8)).save(folder / "masks" / "cow" / "2.png")
    masks = read_masked_pictures(folder, ("cow", "ship"), limit=None).masks(2, SIZE)
    assert set(masks.concepts) == {"sky", "cow"}
    assert np.array_equal(masks.target, np.tile(np.arange(20) < 10, (20, 1)))


def test_a_mask_without_names_is_the_class(folder):
    (folder / "masks" / "cow").mkdir(parents=True)
    Image.fromarray(half(slice(0, 40)).astype(np.uint8) * 3).save(folder / "masks" / "cow" / "0.png")
    masks = read_masked_pictures(folder, ("cow", "ship"), limit=None).masks(0, SIZE)
    assert masks.concepts == {}
    assert masks.target.mean() == 0.5


def test_the_class_of_a_scene_is_the_union_of_its_deciding_objects(tmp_path):
    write_scenes(tmp_path, count=1, first_seed=3, workers=1)
    (record,) = read_scenes(tmp_path)
    found = read_masks(record.mask_path)
    expected = np.logical_or.reduce([found[name] for name in CLASS_OBJECTS[CLASSES[record.label]] if name in found])
    masks = read_masked_pictures(tmp_path, CLASSES, limit=None).masks(0, Preparation(height=224, width=224))
    assert 0 < expected.mean() < 1
    assert np.array_equal(masks.target, expected)
    assert set(masks.concepts) == {name for name, mask in found.items() if mask.any()}


def test_a_limit_takes_the_same_pictures_again(folder):
    first, again = (read_masked_pictures(folder, ("cow", "ship"), limit=4) for _ in range(2))
    assert len(first) == 4
    assert first.paths == again.paths


def test_data_that_cannot_be_used_is_named(folder):
    with pytest.raises(DataError, match="ship"):
        read_masked_pictures(folder, ("cow",), limit=None)
    (folder / "masks" / "cow").mkdir(parents=True)
    (folder / "masks" / "cow" / "0.npz").write_bytes(b"no archive")
    (folder / "masks" / "cow" / "1.png").write_bytes(b"no picture")
    np.savez(folder / "masks" / "cow" / "2.npz", tail=np.zeros(3))
    pictures = read_masked_pictures(folder, ("cow", "ship"), limit=None)
    for index in range(3):
        with pytest.raises(DataError, match=rf"{index}\.(npz|png)"):
            pictures.masks(index, SIZE)
    (folder / "masks" / "labels.txt").write_text("cow 1\n")
    with pytest.raises(DataError, match=r"labels\.txt.*cow 1"):
        read_masked_pictures(folder, ("cow", "ship"), limit=None)


def test_heatmaps_and_masks_are_drawn_where_they_are():
    grey = np.full((20, 40, 3), 100, np.uint8)
    drawn = with_heatmap(grey, np.array([[0, 1]], np.float32)).astype(int)
    assert drawn[:, -1].sum() > 2 * drawn[:, 0].sum(), "bright where the value is large"
    assert with_heatmap(grey, np.zeros((1, 2), np.float32)).shape == grey.shape
    faded = with_mask(grey, np.array([[True, False]]))
    assert (faded[:, :20] == 100).all()
    assert (faded[:, 20:] > 200).all()


def test_reasons_are_the_largest_contributions_with_presence():
    found = reasons(
        np.array([0.5, -2.0, 0.0, 1.0], np.float32),
        np.array([1.0, -1.0, 3.0, -2.0], np.float32),
        ["sail", "cow", "tree", "bus"],
        count=5,
    )
    assert [(one.concept, one.contribution, one.present) for one in found] == [
        ("cow", -2.0, False), ("bus", 1.0, False), ("sail", 0.5, True)
    ]  # fmt: skip


def test_a_charts_lines_lie_between_its_ticks():
    line = Line("a", ((0.0, 0.25), (1.0, 0.75)))
    drawn = chart("label", "x", [line, replace(line, name="b")], x_ticks={0.0: "0", 1.0: "1"})
    assert (drawn.y_ticks[0].label, drawn.y_ticks[-1].label) == ("20", "80")
    (x0, y0), (x1, y1) = (tuple(map(float, pair.split(","))) for pair in drawn.lines[0].points.split())
    assert (x0, x1) == (drawn.x_ticks[0].place, drawn.x_ticks[1].place)
    assert drawn.y_ticks[-1].place < y1 < y0 < drawn.y_ticks[0].place


def test_every_line_is_drawn_however_many_there_are():
    lines = [Line(str(index), ((0.0, 0.1), (1.0, 0.2))) for index in range(9)]
    assert [line.name for line in chart("label", "x", lines, x_ticks={0.0: "0", 1.0: "1"}).lines] == list("012345678")


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_line_that_does_not_move_can_be_drawn(value):
    drawn = chart("label", "x", [Line("a", ((0.0, value), (1.0, value)))], x_ticks={0.0: "0", 1.0: "1"})
    heights = {float(pair.split(",")[1]) for pair in drawn.lines[0].points.split()}
    assert len(heights) == 1
    assert drawn.y_ticks[-1].place <= heights.pop() <= drawn.y_ticks[0].place
