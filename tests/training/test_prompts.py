"""Visual prompts: circles of the right size, in the right place, on pictures that are not square."""

import pytest
import torch
from pydantic import ValidationError

from salf_training.prompts import CircleSettings, circle_alphas, draw_circles, grid_centres

HEIGHT, WIDTH = 60, 100


def test_centres_go_row_by_row_with_height_first():
    centres = grid_centres(CircleSettings(rows=2, columns=5), height=HEIGHT, width=WIDTH)
    assert centres.shape == (10, 2)
    assert centres[:3].tolist() == [[15, 10], [15, 30], [15, 50]]
    assert centres[5].tolist() == [45, 10]
    assert centres[9].tolist() == [45, 90]


@pytest.mark.parametrize("centre", [(30.0, 70.0), (15.0, 10.0)])
def test_a_circle_lies_at_its_radius_around_its_centre(centre):
    settings = CircleSettings(radius=0.2, line_width=0.05)  # 12 px and 3 px of the shorter side
    alphas = circle_alphas(torch.tensor([centre]), settings, height=HEIGHT, width=WIDTH)
    assert alphas.shape == (1, HEIGHT, WIDTH)
    for y in range(HEIGHT):
        for x in range(WIDTH):
            away = ((y + 0.5 - centre[0]) ** 2 + (x + 0.5 - centre[1]) ** 2) ** 0.5
            alpha = alphas[0, y, x].item()
            if abs(away - 12) < 0.9:
                assert alpha == 1, (y, x)
            elif abs(away - 12) > 2.1:
                assert alpha == 0, (y, x)


def test_the_line_covers_its_area():
    settings = CircleSettings(radius=0.25, line_width=0.05)
    alphas = circle_alphas(torch.tensor([[30.0, 50.0]]), settings, height=HEIGHT, width=WIDTH)
    assert alphas.sum().item() == pytest.approx(2 * torch.pi * 15 * 3, rel=0.02)


def test_the_line_is_red_and_pixels_away_from_it_are_untouched():
    pixels = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = pixels.clone()
    settings = CircleSettings(rows=1, columns=2, line_width=0.05)
    alphas = circle_alphas(grid_centres(settings, height=HEIGHT, width=WIDTH), settings, height=HEIGHT, width=WIDTH)
    drawn = draw_circles(pixels, alphas)
    assert drawn.dtype == torch.uint8
    assert torch.equal(pixels, before), "the given picture stays as it was"
    assert torch.equal(drawn[alphas == 0], pixels[alphas == 0])
    on_line = drawn[alphas == 1]
    assert len(on_line) > 50
    assert (on_line == torch.tensor([255, 0, 0], dtype=torch.uint8)).all()


def test_every_picture_gets_every_circle_when_broadcast():
    pixels = torch.full((2, HEIGHT, WIDTH, 3), 100, dtype=torch.uint8)
    pixels[1] = 200
    settings = CircleSettings(rows=2, columns=3)
    alphas = circle_alphas(grid_centres(settings, height=HEIGHT, width=WIDTH), settings, height=HEIGHT, width=WIDTH)
    drawn = draw_circles(pixels[:, None], alphas[None])
    assert drawn.shape == (2, 6, HEIGHT, WIDTH, 3)
    for picture in range(2):
        for cell in range(6):
            alone = draw_circles(pixels[picture : picture + 1], alphas[cell : cell + 1])[0]
            assert torch.equal(drawn[picture, cell], alone)
    assert not torch.equal(drawn[0, 0], drawn[0, 1])


def test_the_defaults_are_those_of_the_published_code():
    settings = CircleSettings()
    assert (settings.rows, settings.columns) == (7, 7)
    assert settings.radius * 224 == pytest.approx(32)


@pytest.mark.parametrize("values", [{"rows": 0}, {"radius": 0}, {"line_width": 0.6}, {"colour": "red"}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        CircleSettings(**values)
