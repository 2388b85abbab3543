"""Image folders and lists of names."""

import numpy as np
import pytest
from picture_files import write_coloured_squares, write_noise
from PIL import Image

from salf_contract import Preparation, prepare
from salf_training.errors import DataError
from salf_training.image_folder import batches_of_pixels, load_prepared, read_image_folder, read_names


def test_classes_and_pictures_come_sorted_with_their_labels(tmp_path):
    write_noise(tmp_path / "b", count=2)
    write_noise(tmp_path / "a", count=1)
    (tmp_path / "a" / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "deeper" / "x.JPG", "jpeg")
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    (tmp_path / "README.md").write_text("no class")
    pictures = read_image_folder(tmp_path)
    assert pictures.classes == ("a", "b")
    assert pictures.labels.tolist() == [0, 0, 1, 1]
    assert pictures.labels.dtype == np.int64
    assert [str(path.relative_to(tmp_path)) for path in pictures.paths] == [
        "a/000.png",
        "a/deeper/x.JPG",
        "b/000.png",
        "b/001.png",
    ]
    assert len(pictures) == 4


def test_an_images_folder_inside_is_taken_as_the_root(tmp_path):
    write_coloured_squares(tmp_path / "images", per_class=1)
    (tmp_path / "masks" / "blue").mkdir(parents=True)
    assert read_image_folder(tmp_path).classes == ("blue", "green", "yellow")


def test_what_tools_leave_behind_is_no_class_and_no_picture(tmp_path):
    write_coloured_squares(tmp_path, per_class=1)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "blue" / "._0.png").write_bytes(b"a resource fork")
    pictures = read_image_folder(tmp_path)
    assert pictures.classes == ("blue", "green", "yellow")
    assert len(pictures) == 3


def test_a_missing_empty_or_half_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no image folder .*nowhere"):
        read_image_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no folders"):
        read_image_folder(tmp_path)
    write_noise(tmp_path / "a", count=1)
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"/b holds no pictures"):
        read_image_folder(tmp_path)


def test_names_are_read_without_blanks_and_remarks(tmp_path):
    (tmp_path / "c.txt").write_text("# concepts\n sail \n\nred roof\nStraße\n", encoding="utf-8")
    assert read_names(tmp_path / "c.txt") == ("sail", "red roof", "Straße")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "must hold names"), (b"# only\n", "must hold names"), (b"a\nb\na\n", "twice: a"), (b"\xe9\n", "UTF-8")],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path, content, said):
    (tmp_path / "c.txt").write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_names(tmp_path / "c.txt")


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(DataError, match=r"c\.txt does not exist"):
        read_names(tmp_path / "c.txt")


@pytest.mark.parametrize("batch_size", [1, 2, 5, 7])
def test_batches_hold_every_picture_once_in_order_as_the_contract_prepares_it(tmp_path, batch_size):
    paths = write_noise(tmp_path, count=5, size=(50, 30))
    preparation = Preparation(height=16, width=20, crop_fraction=0.9)
    batches = list(batches_of_pixels(paths, preparation, batch_size=batch_size))
    assert [len(batch) for batch in batches] == [min(batch_size, 5 - i) for i in range(0, 5, batch_size)]
    together = np.concatenate(batches)
    assert together.shape == (5, 16, 20, 3)
    for path, pixels in zip(paths, together, strict=True):
        assert np.array_equal(pixels, prepare(Image.open(path), preparation).pixels)


def test_no_pictures_give_no_batches():
    assert list(batches_of_pixels([], Preparation(height=8, width=8), batch_size=4)) == []


def test_pictures_before_a_broken_one_are_still_given(tmp_path):
    paths = write_noise(tmp_path, count=5)
    paths[3].write_bytes(b"no picture")
    batches = batches_of_pixels(paths, Preparation(height=8, width=8), batch_size=2)
    assert len(next(batches)) == 2
    with pytest.raises(DataError, match=r"003\.png"):
        next(batches)


def test_missing_truncated_and_far_too_large_pictures_are_data_errors(tmp_path, monkeypatch):
    path = write_noise(tmp_path, count=1)[0]
    small = Preparation(height=8, width=8)
    with pytest.raises(DataError, match="nothing"):
        load_prepared(tmp_path / "nothing.png", small)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(DataError, match="000"):
        load_prepared(path, small)
    monkeypatch.undo()
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="000"):
        load_prepared(path, small)
