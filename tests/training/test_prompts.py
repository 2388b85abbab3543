"""Visual prompts: circles of the right size, in the right place, on pictures that are not square."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from salf_training.prompts import (
    BlurSettings,
    CircleSettings,
    CropSettings,
    PromptSettings,
    circle_alphas,
    draw_circles,
    grid_centres,
    prompted,
    source_size,
)

HEIGHT, WIDTH = 60, 100
PROMPT = TypeAdapter(PromptSettings)


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


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ({"rows": 3}, CircleSettings),
        ({"kind": "circle", "radius": 0.2}, CircleSettings),
        ({"kind": "crop", "side": 0.3}, CropSettings),
        ({"kind": "blur", "sigma": 0.1}, BlurSettings),
    ],
)
def test_prompts_are_told_apart_by_their_kind_and_are_circles_without_one(values, kind):
    settings = PROMPT.validate_python(values)
    assert type(settings) is kind
    assert PROMPT.validate_json(settings.model_dump_json()) == settings
    assert PROMPT.validate_python(settings) is settings


@pytest.mark.parametrize("values", [{"kind": "square"}, {"kind": "crop", "radius": 0.2}, {"kind": "blur", "sigma": 0}])
def test_prompts_of_no_kind_or_with_anothers_settings_are_refused(values):
    with pytest.raises(ValidationError):
        PROMPT.validate_python(values)


def noise(count: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def test_prompted_circles_are_the_drawn_ones():
    settings, pixels = CircleSettings(rows=2, columns=3), noise(2, HEIGHT, WIDTH)
    size = {"height": HEIGHT, "width": WIDTH}
    alphas = circle_alphas(grid_centres(settings, **size), settings, **size)
    assert source_size(settings, **size) == (HEIGHT, WIDTH)
    assert torch.equal(prompted(pixels, settings, **size), draw_circles(pixels[:, None], alphas[None]))


def test_a_crop_shows_its_cells_neighbourhood_pixel_for_pixel():
    settings = CropSettings(rows=2, columns=3, side=0.5)
    height, width = source_size(settings, height=40, width=40)
    assert (height, width) == (80, 80)
    pixels = noise(2, height, width)
    shown = prompted(pixels, settings, height=40, width=40)
    assert shown.shape == (2, 6, 40, 40, 3)
    # Centres are at y 20, 60 and x 13.3, 40, 66.7; windows of 40 pixels are moved inside the picture.
    assert torch.equal(shown[1, 1], pixels[1, 0:40, 20:60]), "first row, middle column"
    assert torch.equal(shown[0, 0], pixels[0, 0:40, 0:40])
    assert torch.equal(shown[0, 5], pixels[0, 40:80, 40:80])
    assert not torch.equal(shown[0, 0], shown[0, 1])


def test_a_crop_of_a_picture_that_is_not_square_keeps_height_and_width_apart():
    pixels = torch.zeros(1, 60, 120, 3, dtype=torch.uint8)
    pixels[:, :20, 100:] = 200  # top right
    shown = prompted(pixels, CropSettings(rows=3, columns=6, side=1 / 3), height=20, width=20)
    bright = shown.float().mean(dim=(2, 3, 4))[0].reshape(3, 6)
    assert bright[0, 5] == 200
    assert bright.sum() == 200, "no other cell's window holds any of it"


def test_a_blurred_prompt_is_sharp_inside_and_smooth_outside():
    settings = BlurSettings(rows=1, columns=2, radius=0.2, sigma=0.1)
    checks = (((torch.arange(60)[:, None] + torch.arange(100)) % 2) * 200).to(torch.uint8)
    pixels = checks[None, ..., None].expand(2, -1, -1, 3).contiguous()
    shown = prompted(pixels, settings, height=60, width=100)
    assert shown.shape == (2, 2, 60, 100, 3)
    assert torch.equal(shown[0, 0, 25:35, 20:30], pixels[0, 25:35, 20:30]), "the left disc, at (30, 25)"
    outside = shown[0, 0, 10:50, 60:90].float()
    assert outside.numpy() == pytest.approx(100, abs=2)
    assert torch.equal(shown[0, 1, 25:35, 70:80], pixels[0, 25:35, 70:80]), "the right one"


def test_blurring_leaves_a_plain_picture_and_keeps_the_mean_of_colours_apart():
    pixels = torch.tensor([250, 100, 3], dtype=torch.uint8).expand(1, 50, 70, 3).contiguous()
    shown = prompted(pixels, BlurSettings(rows=2, columns=2), height=50, width=70)
    assert (shown == pixels[:, None]).all(), "border pixels are repeated, not mixed with black"
