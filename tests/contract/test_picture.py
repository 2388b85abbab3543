import contextlib
import io
import itertools
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from salf_contract import PictureError, Preparation, array_to_picture, decode_picture, prepare, to_rgb

SIDES = st.integers(1, 80)
EXACT = Preparation(height=40, width=60)


def noise(width, height, seed=0, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@given(
    width=SIDES,
    height=SIDES,
    model_width=SIDES,
    model_height=SIDES,
    fraction=st.sampled_from([0.5, 0.875, 1.0]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
@settings(max_examples=150, deadline=None)
def test_any_size_is_cropped_in_the_centre_with_the_models_aspect(
    width, height, model_width, model_height, fraction, interpolation
):
    preparation = Preparation(
        height=model_height, width=model_width, crop_fraction=fraction, interpolation=interpolation
    )
    prepared = prepare(Image.fromarray(noise(width, height)), preparation)
    left, top, right, bottom = prepared.crop_box
    assert prepared.pixels.shape == (model_height, model_width, 3)
    assert prepared.pixels.dtype == np.uint8
    assert prepared.source_size == (width, height)
    assert (right - left) / (bottom - top) == pytest.approx(model_width / model_height)
    assert (left + right) / 2 == pytest.approx(width / 2)
    assert (top + bottom) / 2 == pytest.approx(height / 2)
    assert left >= -1e-9
    assert top >= -1e-9
    touching = max((right - left) / width, (bottom - top) / height)
    assert touching == pytest.approx(fraction)


def test_a_source_of_the_models_size_passes_through_unchanged():
    pixels = noise(60, 40)
    prepared = prepare(Image.fromarray(pixels), EXACT)
    assert np.array_equal(prepared.pixels, pixels)
    assert prepared.crop_box == (0, 0, 60, 40)


def test_an_exact_half_averages_as_bilinear_antialiasing_does():
    pixels = np.zeros((80, 120, 3), np.uint8)
    pixels[:, 60:] = 200
    prepared = prepare(Image.fromarray(pixels), EXACT)
    assert (prepared.pixels[:, :29] == 0).all()
    assert (prepared.pixels[:, 31:] == 200).all()


def test_the_sides_of_a_wide_source_are_not_seen():
    pixels = noise(100, 40)
    prepared = prepare(Image.fromarray(pixels), EXACT)
    assert prepared.crop_box == (20, 0, 80, 40)
    assert np.array_equal(prepared.pixels, pixels[:, 20:80])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_first(orientation):
    upright = Image.fromarray(noise(60, 40))
    stored = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    turned = upright if stored is None else upright.transpose(stored)
    exif = Image.Exif()
    exif[0x0112] = orientation
    prepared = prepare(decode_picture(encoded(turned, exif=exif)), EXACT)
    assert prepared.source_size == (60, 40)
    assert np.array_equal(prepared.pixels, np.asarray(upright))


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB",
                                  "I;16", "I;16L", "I;16B", "I", "F"])  # fmt: skip
def test_every_mode_becomes_rgb(mode):
    image = Image.new(mode, (60, 40))
    prepared = prepare(image, EXACT)
    assert prepared.pixels.shape == (40, 60, 3)
    assert prepared.pixels.dtype == np.uint8


def test_grey_pictures_have_equal_channels():
    grey = noise(60, 40, channels=1)[..., 0]
    pixels = prepare(Image.fromarray(grey), EXACT).pixels
    assert np.array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))


def test_palettes_keep_their_colours():
    image = Image.new("RGB", (60, 40), (200, 30, 90)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert (prepare(image, EXACT).pixels == (200, 30, 90)).all()


def test_sixteen_bits_are_scaled_and_not_clipped():
    ramp = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    image = decode_picture(encoded(Image.fromarray(ramp)))
    assert image.mode.startswith("I")
    expected = (ramp / 257.0).astype(np.uint8)
    assert np.abs(prepare(image, EXACT).pixels[..., 0].astype(int) - expected).max() <= 1


def test_transparency_is_laid_over_white():
    layer = np.zeros((40, 60, 4), np.uint8)
    layer[:, :20, 3] = 255  # black, opaque
    layer[:, 40:, 3] = 128
    pixels = prepare(Image.fromarray(layer), EXACT).pixels
    assert (pixels[:, :20] == 0).all()
    assert (pixels[:, 20:40] == 255).all()
    assert np.abs(pixels[:, 40:].astype(int) - 127).max() <= 1


def test_transparent_palettes_are_laid_over_white():
    image = Image.new("P", (60, 40), 0)
    image.putpalette([10, 20, 30])
    data = encoded(image, transparency=0)
    assert (prepare(decode_picture(data), EXACT).pixels == 255).all()


def test_cmyk_jpegs_are_read():
    pixels = prepare(decode_picture(encoded(Image.new("CMYK", (60, 40)), "JPEG")), EXACT).pixels
    assert (pixels > 250).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_the_usual_formats_are_decoded(kind):
    image = Image.new("RGB", (60, 40), (0, 0, 255))
    pixels = prepare(decode_picture(encoded(image, kind)), EXACT).pixels
    assert np.abs(pixels.astype(int) - (0, 0, 255)).max() <= 4


def test_bytes_that_are_no_picture_are_refused():
    whole = encoded(Image.fromarray(noise(60, 40)), "JPEG")
    for data, words in [
        (b"", "0 bytes"),
        (b"hello", "no picture"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:20], "no picture|truncated"),
        (encoded(Image.fromarray(noise(60, 40)))[:-500], "truncated"),
    ]:
        with pytest.raises(PictureError, match=words):
            decode_picture(data)


@given(cut=st.integers(0, 2000), flips=st.lists(st.integers(0, 4000), max_size=4))
@settings(max_examples=80, deadline=None)
def test_damaged_files_are_read_or_refused_and_nothing_else(cut, flips):
    data = bytearray(encoded(Image.fromarray(noise(40, 30)), "JPEG"))
    for place in flips:
        data[place % len(data)] ^= 0x55
    data = bytes(data[: len(data) - cut % len(data)])
    with contextlib.suppress(PictureError):
        assert prepare(decode_picture(data), EXACT).pixels.shape == (40, 60, 3)


def test_decompression_bombs_are_refused(monkeypatch):
    data = encoded(Image.new("1", (200, 100)))
    for limit, action in itertools.product((5_000, 15_000), ("ignore", "error")):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)  # an error beyond twice the limit, a warning beyond once
        with warnings.catch_warnings():
            warnings.simplefilter(action)
            with pytest.raises(PictureError, match="too many pixels"):
                decode_picture(data)


def test_a_late_failure_of_a_lazy_picture_is_a_picture_error():
    data = encoded(Image.fromarray(noise(60, 40)), "JPEG")
    with pytest.raises(PictureError, match="truncated"):
        prepare(Image.open(io.BytesIO(data[: len(data) // 2])), EXACT)


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_pictures_without_pixels_are_refused(size):
    with pytest.raises(PictureError, match="no pixels"):
        to_rgb(Image.new("RGB", size))


def test_arrays_are_checked():
    grey, colour = noise(6, 4, channels=1)[..., 0], noise(6, 4)
    assert np.array_equal(np.asarray(array_to_picture(colour)), colour)
    assert np.array_equal(np.asarray(array_to_picture(colour[:, ::-1])), colour[:, ::-1])
    assert np.array_equal(np.asarray(array_to_picture(grey))[..., 1], grey)
    for bad, words in [
        (colour.astype(np.float32), "float32"),
        (colour.astype(np.int64), "int64"),
        (colour[..., :2], "shape"),
        (noise(6, 4, channels=4), "shape"),
        (colour[None], "shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape"),
        (np.zeros(3, np.uint8), "shape"),
    ]:
        with pytest.raises(PictureError, match=words):
            array_to_picture(bad)


def test_preparation_refuses_unknown_and_impossible_settings():
    for wrong in ({"height": 0}, {"width": 5000}, {"crop_fraction": 0}, {"interpolation": "nearest"}, {"mean": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Preparation(**{"height": 4, "width": 4, **wrong})


def test_the_callers_picture_stays_as_it_was():
    image = Image.fromarray(noise(90, 40))
    before = image.copy()
    prepared = prepare(image, EXACT)
    prepared.pixels[:] = 0
    assert image == before


def test_decoding_changes_no_filter_of_warnings_which_all_threads_share(monkeypatch):
    load, before, seen = ImageFile.ImageFile.load, list(warnings.filters), []

    def observed(image):
        seen.append(list(warnings.filters))
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", observed)
    decode_picture(encoded(Image.new("RGB", (4, 4)), "BMP"))
    assert seen == [before]
