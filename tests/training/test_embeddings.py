"""The cache of prompt embeddings: right, resumable, and never taken for another's."""

import os

import numpy as np
import pytest
import torch
from picture_files import ColourEncoder, write_noise
from PIL import Image

from salf_contract import Preparation
from salf_training.embeddings import cached_prompt_embeddings, local_similarities
from salf_training.errors import DataError
from salf_training.image_folder import load_prepared
from salf_training.prompts import CircleSettings, circle_alphas, draw_circles, grid_centres

CIRCLES = CircleSettings(rows=2, columns=3, line_width=0.1)
SQUARE = Preparation(height=32, width=32)


def embed(cache, paths, encoder, circles=CIRCLES, **options):
    options = {"preparation": SQUARE, "batch_size": 3, **options}
    return cached_prompt_embeddings(cache, paths, encoder, circles, **options)


def test_cached_embeddings_are_the_direct_ones_when_the_last_batch_is_short(tmp_path):
    paths = write_noise(tmp_path / "in", count=7)
    encoder = ColourEncoder((20, 28))
    table = embed(tmp_path / "cache", paths, encoder, preparation=Preparation(height=40, width=56))
    assert table.shape == (7, 6, 27)
    assert table.dtype == np.float16
    size = {"height": 20, "width": 28}
    alphas = circle_alphas(grid_centres(CIRCLES, **size), CIRCLES, **size)
    for n, path in enumerate(paths):
        pixels = torch.from_numpy(load_prepared(path, Preparation(**size)))
        for cell in range(6):
            circled = draw_circles(pixels[None], alphas[cell : cell + 1])
            direct = encoder.embed_images(circled)[0].numpy().astype(np.float16)
            assert np.array_equal(table[n, cell], direct)
    assert not np.array_equal(table[0, 0], table[0, 1]), "the circle must matter"
    assert not table.flags.writeable


@pytest.mark.parametrize("pictures_before_failure", [0, 1, 4, 8, 10])
def test_an_interrupted_run_goes_on_and_gives_the_same_table(tmp_path, pictures_before_failure):
    paths = write_noise(tmp_path / "in", count=11)
    expected = np.array(embed(tmp_path / "undisturbed", paths, ColourEncoder()))
    encoder = ColourEncoder()
    encoder.fails_after = pictures_before_failure * 6
    with pytest.raises(RuntimeError, match="power"):
        embed(tmp_path / "cache", paths, encoder)
    finished = encoder.pictures_embedded // 6
    assert finished == pictures_before_failure // 3 * 3
    encoder.fails_after = None
    resumed = embed(tmp_path / "cache", paths, encoder)
    assert resumed.tobytes() == expected.tobytes()
    assert encoder.pictures_embedded == 11 * 6, "no picture may be embedded twice"


def test_a_broken_picture_is_named_and_mended_in_place_the_rest_goes_on(tmp_path):
    paths = write_noise(tmp_path / "in", count=5)
    whole = paths[4].read_bytes()
    status = paths[4].stat()
    paths[4].write_bytes(whole[:60].ljust(len(whole), b"\0"))
    os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns))
    encoder = ColourEncoder()
    with pytest.raises(DataError, match=r"004\.png"):
        embed(tmp_path / "cache", paths, encoder)
    paths[4].write_bytes(whole)
    os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert len(embed(tmp_path / "cache", paths, encoder)) == 5
    assert encoder.pictures_embedded == 5 * 6


def test_a_finished_table_is_not_computed_again(tmp_path):
    paths = write_noise(tmp_path / "in", count=4)
    encoder, told = ColourEncoder(), []
    first = np.array(embed(tmp_path / "cache", paths, encoder, on_progress=lambda *now: told.append(now)))
    assert told == [("similarities", 3, 4), ("similarities", 4, 4)]
    calls = encoder.pictures_embedded
    assert np.array_equal(embed(tmp_path / "cache", paths, encoder), first)
    assert encoder.pictures_embedded == calls
    assert len(list((tmp_path / "cache").iterdir())) == 1


def changed(**values):
    return {"circles": CIRCLES, "preparation": SQUARE, "size": (24, 24), "fingerprint": "colours-1", **values}


@pytest.mark.parametrize(
    "now",
    [
        changed(circles=CIRCLES.model_copy(update={"radius": 0.2})),
        changed(circles=CIRCLES.model_copy(update={"rows": 3, "columns": 2})),
        changed(fingerprint="colours-2"),
        changed(size=(26, 26)),
        changed(preparation=SQUARE.model_copy(update={"crop_fraction": 0.875})),
        changed(preparation=SQUARE.model_copy(update={"interpolation": "bicubic"})),
    ],
    ids=["radius", "grid", "fingerprint", "size", "crop", "interpolation"],
)
def test_whatever_the_embeddings_depend_on_gives_another_table(tmp_path, now):
    paths = write_noise(tmp_path / "in", count=3)
    embed(tmp_path / "cache", paths, ColourEncoder())
    encoder = ColourEncoder(now["size"], fingerprint=now["fingerprint"])
    embed(tmp_path / "cache", paths, encoder, now["circles"], preparation=now["preparation"])
    assert encoder.pictures_embedded == 3 * 6
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("change", ["content", "time", "order", "fewer"])
def test_other_or_changed_pictures_give_another_table(tmp_path, change):
    paths = write_noise(tmp_path / "in", count=3)
    embed(tmp_path / "cache", paths, ColourEncoder())
    if change == "content":
        write_noise(tmp_path / "other", count=3, seed=9)[0].replace(paths[0])
    elif change == "time":
        os.utime(paths[0], (1, 1))
    else:
        paths = paths[::-1] if change == "order" else paths[:2]
    encoder = ColourEncoder()
    assert len(embed(tmp_path / "cache", paths, encoder)) == len(paths)
    assert encoder.pictures_embedded == len(paths) * 6


def test_circles_lie_over_what_the_model_sees(tmp_path):
    """The encoder is shown the model's crop, not a crop of its own."""
    # Red only outside the model's crop; the encoder may not see it.
    wide = np.zeros((60, 120, 3), dtype=np.uint8)
    wide[:, :10] = wide[:, -10:] = (255, 0, 0)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    thin = CircleSettings(rows=1, columns=1, radius=0.01, line_width=0.001)
    # (5/6 of the width is seen, at the full width's aspect)
    table = embed(
        tmp_path / "cache",
        [tmp_path / "wide.png"],
        ColourEncoder((24, 24)),
        thin,
        preparation=Preparation(height=30, width=60, crop_fraction=0.8),
    )
    parts = np.array(table[0, 0], dtype=np.float32).reshape(3, 3, 3)
    assert parts[0, 0] == pytest.approx(parts[1, 0], abs=2e-3), "no red may be seen at the left"
    whole = embed(
        tmp_path / "cache",
        [tmp_path / "wide.png"],
        ColourEncoder((24, 24)),
        thin,
        preparation=Preparation(height=30, width=60),
    )
    seen = np.array(whole[0, 0], dtype=np.float32).reshape(3, 3, 3)
    assert (seen[0, :, 0] > seen[1, :, 0] + 0.05).all(), "a model that sees the whole width sees the red"
    assert (seen[0, :, 2] > seen[1, :, 2] + 0.05).all()


def test_local_similarities_are_cosines_of_picture_concept_and_cell():
    generator = torch.Generator().manual_seed(0)
    pictures = torch.nn.functional.normalize(torch.randn(3, 4, 8, generator=generator), dim=-1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    got = local_similarities(pictures.numpy().astype(np.float16), texts)
    assert got.shape == (3, 5, 4)
    assert got.dtype == torch.float32
    for n, m, g in [(0, 0, 0), (2, 4, 3), (1, 3, 2)]:
        assert got[n, m, g].item() == pytest.approx(float(pictures[n, g] @ texts[m]), abs=2e-3)
