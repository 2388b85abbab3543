"""What strangers may send: refused from the header, with a code, before memory is spent."""

import ctypes
import importlib.util
import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salf_contract import (
    PictureError,
    PictureLimits,
    PictureRefusedError,
    Preparation,
    Refusal,
    decode_picture,
    open_within,
    prepare,
    read_refusal,
    to_rgb,
)

SOURCE = Path(__file__).parents[1] / "serving" / "hostile_pictures.py"
LIMITS = PictureLimits()


@pytest.fixture(scope="module")
def hostile():
    spec = importlib.util.spec_from_file_location("hostile_pictures", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def encoded(width, height, kind="PNG", **options):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (1, 2, 3)).save(file, kind, **options)
    return file.getvalue()


def test_every_accepted_kind_gives_the_pixels_that_training_sees(hostile):
    preparation = Preparation(height=20, width=30, crop_fraction=0.9)
    files = hostile.good_files()
    assert len(files) == 14
    for name, data in files.items():
        ours = prepare(open_within(data, LIMITS), preparation)
        training = prepare(Image.open(io.BytesIO(data)), preparation)
        clients = prepare(decode_picture(data), preparation)
        assert np.array_equal(ours.pixels, training.pixels), name
        assert np.array_equal(ours.pixels, clients.pixels), name
        assert (ours.source_size, ours.crop_box) == (training.source_size, training.crop_box), name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("gif", Refusal.PICTURE_UNSUPPORTED),
        ("bmp", Refusal.PICTURE_UNSUPPORTED),
        ("tiff", Refusal.PICTURE_UNSUPPORTED),
        ("animated png", Refusal.PICTURE_TOO_LARGE),
        ("animated webp", Refusal.PICTURE_TOO_LARGE),
        ("png of 60000 x 60000", Refusal.PICTURE_TOO_LARGE),
        ("png of 5001 x 5001", Refusal.PICTURE_TOO_LARGE),
        ("png of 100000 x 1", Refusal.PICTURE_TOO_LARGE),
        ("jpeg of 65000 x 65000", Refusal.PICTURE_TOO_LARGE),
        ("webp of 16384 x 16384", Refusal.PICTURE_TOO_LARGE),
        ("jpeg of many scans", Refusal.PICTURE_TOO_LARGE),
        ("more bytes than allowed", Refusal.PICTURE_TOO_LARGE),
    ],
)
def test_what_must_be_refused_is_refused_by_its_code(hostile, name, code):
    with pytest.raises(PictureRefusedError) as caught:
        open_within(hostile.refused_files()[name], LIMITS)
    assert caught.value.code is code
    assert str(caught.value) == f"{code}: {caught.value.sentence}"


def test_a_claimed_size_costs_no_memory(hostile):
    files = [hostile.refused_files()[name] for name in ("png of 60000 x 60000", "webp of 16384 x 16384")]
    before = peak_rss_kib(from_now_on=True)
    open_within(encoded(3000, 3000), LIMITS)
    assert peak_rss_kib() - before > 24 * 1024, "a picture that is decoded is seen in this figure"
    before = peak_rss_kib(from_now_on=True)
    tracemalloc.start()
    for data in files:
        with pytest.raises(PictureRefusedError):
            open_within(data, LIMITS)
    _, traced = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert traced < 2**20
    assert peak_rss_kib() - before < 8 * 1024


def peak_rss_kib(*, from_now_on=False):
    """The most that this process has held, ever or from now on: other tests may have held more."""
    if from_now_on:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier pictures held would be used again, and not be seen
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.mark.parametrize(("data", "code"), [(b"", Refusal.PICTURE_EMPTY), (b"words", Refusal.PICTURE_UNSUPPORTED)])
def test_no_picture_is_refused(data, code):
    with pytest.raises(PictureRefusedError) as caught:
        open_within(data, LIMITS)
    assert caught.value.code is code


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_picture_is_broken(kind):
    data = encoded(64, 64, kind)
    with pytest.raises(PictureRefusedError) as caught:
        open_within(data[: len(data) * 2 // 3], LIMITS)
    assert caught.value.code is Refusal.PICTURE_BROKEN
    assert isinstance(caught.value, PictureError)


def test_limits_hold_exactly():
    limits = PictureLimits(max_pixels=200, max_side=20, max_bytes=10_000)
    assert open_within(encoded(20, 10), limits).size == (20, 10)
    for width, height in ((21, 1), (1, 21), (15, 14)):
        with pytest.raises(PictureRefusedError, match=f"PICTURE_TOO_LARGE: the picture has {width} x {height}"):
            open_within(encoded(width, height), limits)
    with pytest.raises(PictureRefusedError, match="at most 50;"):
        open_within(encoded(2, 2), PictureLimits(max_bytes=50))


def test_an_animation_within_its_limit_gives_its_first_frame(hostile):
    for name in ("animated png", "animated webp"):
        image = open_within(hostile.refused_files()[name], PictureLimits(max_frames=4))
        assert image.size == (hostile.SIDE, hostile.SIDE)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("PICTURE_TOO_LARGE: 3 frames", (Refusal.PICTURE_TOO_LARGE, "3 frames")),
        ("model x, message: PICTURE_BROKEN: it ends", (Refusal.PICTURE_BROKEN, "it ends")),
        ("NO_SUCH_CODE: words", None),
        ("unexpected shape", None),
    ],
)
def test_a_code_is_found_in_a_message(message, expected):
    assert read_refusal(message) == expected


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_become_eight_as_before(mode):
    samples = np.array([[0, 256, 257, 513, 514, 65534, 65535]], np.uint16)
    image = Image.fromarray(samples) if mode == "I;16" else Image.fromarray(samples.astype(np.int32))
    assert image.mode == mode
    expected = (samples.astype(np.float64) / 257.0).astype(np.uint8)
    assert np.array_equal(np.asarray(to_rgb(image))[..., 0], expected)


def test_the_generator_gives_the_same_files_for_the_same_seed(hostile):
    first, again = (list(hostile.hostile_files(200, seed=5)) for _ in range(2))
    assert first == again
    assert len({*first}) > 150
    assert first != list(hostile.hostile_files(200, seed=6))
