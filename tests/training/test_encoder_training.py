"""Training a small encoder: what it is shown, and what open_clip makes of what is written."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from pydantic import ValidationError

from salf_training.encoder import EncoderSettings, OpenClipEncoder
from salf_training.encoder_training import (
    MERGES_FILE,
    WEIGHTS_FILE,
    EncoderTraining,
    PromptedPictures,
    prompted_batch,
    shared_text_loss,
    train_encoder,
)
from salf_training.errors import WeightsError
from salf_training.prompts import CircleSettings
from salf_training.vocabulary import learn_merges, write_merges

SIZE = 32
TINY = EncoderTraining(
    tower="test_resnet",
    image_size=SIZE,
    embedding=16,
    text_width=32,
    text_layers=1,
    context_length=12,
    merges=30,
    epochs=2,
    batch_size=16,
)
CIRCLES = CircleSettings(rows=2, columns=2, radius=0.2, line_width=0.1)
TEXTS = ("a dark place", "a bright place")
NONE = (float("nan"), float("nan"))
NOTHING_ELSE = torch.zeros(1, 0, dtype=torch.bool)
WHOLE = (0.0, 0.0, float(SIZE), float(SIZE))


def samples(count: int = 40) -> PromptedPictures:
    generator = np.random.default_rng(0)
    bright = np.arange(count) % 2
    pixels = generator.integers(0, 80, (count, SIZE, SIZE, 3)) + 150 * bright[:, None, None, None]
    return PromptedPictures(
        pixels=pixels.astype(np.uint8),
        picture=torch.arange(count),
        box=torch.tensor([WHOLE] * count),
        centre=torch.tensor([NONE] * count),
        text=torch.from_numpy(bright),
        texts=TEXTS,
        true=torch.zeros(count, 2, dtype=torch.bool),
    )


def train(folder: Path, *, seed: int = 0, settings: EncoderTraining = TINY, count: int = 40) -> Path:
    train_encoder(samples(count), folder, settings=settings, circles=CIRCLES, vocabulary=TEXTS, seed=seed)
    return folder


def settings_of(folder: Path) -> EncoderSettings:
    return EncoderSettings(model=f"local-dir:{folder}", merges=folder / MERGES_FILE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train(tmp_path_factory.mktemp("encoder") / "tiny")


def test_open_clip_itself_loads_what_was_trained(folder):
    model = open_clip.create_model(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}", bpe_path=str(folder / MERGES_FILE))(list(TEXTS))
    assert tokens.shape == (2, 12)
    assert tokens.max() < model.vocab_size
    assert model.eval().encode_text(tokens).shape == (2, 16)
    assert model.visual.preprocess_cfg["mean"] == (0.5, 0.5, 0.5) or model.visual.preprocess_cfg["mean"] == [0.5] * 3
    assert {file.name for file in folder.iterdir()} == {MERGES_FILE, WEIGHTS_FILE, "open_clip_config.json"}


@pytest.mark.parametrize("bfloat16", [True, False])
def test_embeddings_have_unit_length_and_are_the_same_each_time(folder, bfloat16):
    encoder = OpenClipEncoder(settings_of(folder), bfloat16=bfloat16)
    assert encoder.image_size == (SIZE, SIZE)
    pixels = torch.from_numpy(samples(5).pixels)
    images, texts = encoder.embed_images(pixels), encoder.embed_texts(TEXTS)
    assert images.shape == (5, 16)
    assert texts.shape == (2, 16)
    assert images.dtype == texts.dtype == torch.float32
    assert images.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    assert texts.norm(dim=1).numpy() == pytest.approx(1.0, abs=1e-5)
    again = OpenClipEncoder(settings_of(folder), bfloat16=bfloat16)
    assert torch.equal(again.embed_images(pixels), images)
    assert torch.equal(again.embed_texts(TEXTS), texts)


def test_the_encoder_is_open_clips_model_on_normalised_pictures(folder):
    encoder = OpenClipEncoder(settings_of(folder), bfloat16=False)
    pixels = torch.from_numpy(samples(3).pixels)
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    with torch.no_grad():
        direct = model.encode_image((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5, normalize=True)
    assert encoder.embed_images(pixels).numpy() == pytest.approx(direct.numpy(), abs=1e-5)


def test_templates_are_averaged(folder):
    single = [
        OpenClipEncoder(settings_of(folder).model_copy(update={"templates": (template,)})).embed_texts(TEXTS)
        for template in ("{}", "a {}")
    ]
    both = OpenClipEncoder(settings_of(folder).model_copy(update={"templates": ("{}", "a {}")})).embed_texts(TEXTS)
    expected = torch.nn.functional.normalize((single[0] + single[1]) / 2, dim=-1)
    assert both.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_the_encoder_learns_what_it_is_shown(tmp_path):
    longer = TINY.model_copy(update={"epochs": 12})
    encoder = OpenClipEncoder(settings_of(train(tmp_path / "e", settings=longer)))
    similarity = encoder.embed_images(torch.from_numpy(samples().pixels)) @ encoder.embed_texts(TEXTS).T
    assert (similarity.argmax(dim=1) == samples().text).float().mean() > 0.9


def test_a_text_that_is_true_besides_is_not_taught_to_be_wrong_and_one_that_fits_nothing_is(tmp_path):
    """Every bright picture is also "something", and some are named so; "an escalator" is nowhere."""
    given = samples(80)
    texts = (*TEXTS, "something", "an escalator")
    true = torch.zeros(80, 3, dtype=torch.bool)
    true[:, 2] = given.text == 1
    # Every fourth sample is named by the second truth.
    text = torch.where((torch.arange(80) % 4 == 3), 2, given.text)
    given = replace(given, texts=texts, text=text, true=true | (text == 2)[:, None] & torch.tensor([False, True, True]))
    settings = TINY.model_copy(update={"epochs": 12, "unfitting_texts": 1})
    train_encoder(given, tmp_path / "e", settings=settings, circles=CIRCLES, vocabulary=texts, seed=0)
    encoder = OpenClipEncoder(settings_of(tmp_path / "e"))
    similarity = encoder.embed_images(torch.from_numpy(given.pixels)) @ encoder.embed_texts(texts).T
    bright = similarity[1::2].mean(dim=0)
    assert bright[1:3].min() > similarity[::2, 1:3].mean(dim=0).max() + 0.3, "both names know bright from dark"
    assert bright[1:3].min() > similarity[:, 3].max() + 0.3, "the escalator is nowhere"


def test_the_loss_counts_only_what_is_wrong():
    similarity = torch.tensor([[2.0, 1.0, 0.5], [0.0, 3.0, -1.0]])
    own = torch.tensor([[True, False, False], [False, True, False]])
    also = own | torch.tensor([[False, True, False], [False, False, False]])
    strict, lenient = shared_text_loss(similarity, own, own), shared_text_loss(similarity, own, also)
    rows = (torch.tensor([2.0, 1.0, 0.5]), torch.tensor([0.0, 3.0, -1.0]))
    to_text = torch.stack([rows[0].logsumexp(0) - 2.0, rows[1].logsumexp(0) - 3.0])
    columns = (torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    to_image = torch.stack([columns[0].logsumexp(0) - 2.0, columns[1].logsumexp(0) - 3.0])
    assert strict.item() == pytest.approx((to_text.mean() + to_image.mean()).item() / 2, abs=1e-5), "CLIP's own loss"
    to_text[0] = torch.tensor([2.0, 0.5]).logsumexp(0) - 2.0
    to_image[1] = 0.0
    assert lenient.item() == pytest.approx((to_text.mean() + to_image.mean()).item() / 2, abs=1e-5)


def test_a_batch_in_which_nothing_is_wrong_has_no_loss_and_a_gradient():
    similarity = torch.ones(2, 1, requires_grad=True)
    everything = torch.ones(2, 1, dtype=torch.bool)
    loss = shared_text_loss(similarity, everything, everything)
    loss.backward()
    assert loss.item() == 0
    assert similarity.grad.tolist() == [[0.0], [0.0]]


def test_the_same_seed_writes_the_same_bytes(folder, tmp_path):
    again, other = train(tmp_path / "again"), train(tmp_path / "other", seed=1)
    assert (again / WEIGHTS_FILE).read_bytes() == (folder / WEIGHTS_FILE).read_bytes()
    assert (other / WEIGHTS_FILE).read_bytes() != (folder / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize(("count", "epochs", "steps"), [(40, 5, 10), (5, 1, 1), (40, 1, 2)])
def test_any_number_of_steps_can_be_scheduled(tmp_path, count, epochs, steps):
    told = []
    train_encoder(
        samples(count),
        tmp_path / "e",
        settings=TINY.model_copy(update={"epochs": epochs}),
        circles=CIRCLES,
        vocabulary=TEXTS,
        seed=0,
        on_progress=lambda *now: told.append(now),
    )
    assert told[-1] == ("encoder", steps, steps)
    assert len(told) == steps


@pytest.mark.parametrize("file", [WEIGHTS_FILE, MERGES_FILE, "open_clip_config.json"])
def test_the_fingerprint_changes_with_every_file(folder, tmp_path, file):
    for own in folder.iterdir():
        (tmp_path / own.name).write_bytes(own.read_bytes())
    before = OpenClipEncoder(settings_of(tmp_path)).fingerprint
    assert OpenClipEncoder(settings_of(tmp_path)).fingerprint == before
    if file == "open_clip_config.json":
        (tmp_path / file).write_text((folder / file).read_text().replace("0.5", "0.4"))
    elif file == MERGES_FILE:
        write_merges(tmp_path / file, learn_merges(TEXTS, count=30)[::-1])
    else:
        (tmp_path / file).write_bytes((train(tmp_path / "other", seed=1) / file).read_bytes())
    assert OpenClipEncoder(settings_of(tmp_path)).fingerprint != before


def test_the_fingerprint_changes_with_the_precision(folder):
    exact = OpenClipEncoder(settings_of(folder), bfloat16=False).fingerprint
    assert OpenClipEncoder(settings_of(folder)).fingerprint != exact


@pytest.mark.parametrize("damage", ["cut", "missing", "config"])
def test_a_broken_encoder_folder_is_a_weights_error(folder, tmp_path, damage):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    match damage:
        case "cut":
            whole = (tmp_path / WEIGHTS_FILE).read_bytes()
            (tmp_path / WEIGHTS_FILE).write_bytes(whole[: len(whole) // 2])
        case "missing":
            (tmp_path / WEIGHTS_FILE).unlink()
        case "config":
            (tmp_path / "open_clip_config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot load the encoder"):
        OpenClipEncoder(settings_of(tmp_path))


def test_an_unknown_model_is_a_weights_error():
    with pytest.raises(WeightsError, match="no-such-model"):
        OpenClipEncoder(EncoderSettings(model="no-such-model"))


def batch_of(box, centre, *, size: int = SIZE, height: int = SIZE, width: int = SIZE) -> torch.Tensor:
    """One prompted picture: a horizontal ramp in red, a vertical one in green."""
    pixels = np.zeros((1, height, width, 3), dtype=np.uint8)
    pixels[0, :, :, 0] = np.arange(width)[None] * 2
    pixels[0, :, :, 1] = np.arange(height)[:, None] * 3
    given = PromptedPictures(
        pixels, torch.tensor([0]), torch.tensor([box]), torch.tensor([centre]), torch.tensor([0]), ("x",), NOTHING_ELSE
    )
    return prompted_batch(given, torch.tensor([0]), CIRCLES, size=size)[0]


def test_a_whole_picture_without_circle_is_passed_through():
    picture = batch_of(WHOLE, NONE)
    assert picture[5, 9].tolist() == [18, 15, 0]
    assert picture.shape == (SIZE, SIZE, 3)


def test_a_crop_shows_its_box_row_before_column():
    picture = batch_of((8.0, 4.0, 24.0, 20.0), NONE, size=16)  # 16 x 16 pixels: cut, not resized
    assert picture[0, 0].tolist() == [8, 24, 0]
    assert picture[15, 15].tolist() == [38, 69, 0]
    assert picture[3, 10].tolist() == [28, 33, 0]


def test_a_crop_is_resized_to_the_size_of_the_tower():
    picture = batch_of((8.0, 0.0, 16.0, 32.0), NONE, size=32)
    assert picture.shape == (32, 32, 3)
    assert picture[:, 20, 0].unique().tolist() == [40]
    assert picture[16, 0, 1].item() == pytest.approx(3 * 11.6, abs=1.5)


def test_a_circle_is_drawn_at_its_place_and_nowhere_else():
    plain, picture = batch_of(WHOLE, NONE), batch_of(WHOLE, (10.0, 20.0))
    changed = (plain != picture).any(dim=2).nonzero().float() + 0.5
    away = (changed - torch.tensor([10.0, 20.0])).norm(dim=1)
    assert len(away) > 50
    assert away.min() > 0.2 * SIZE - 2.7
    assert away.max() < 0.2 * SIZE + 2.7
    assert picture[10, 20 + 6].tolist()[0] == 255


def test_a_mixed_batch_equals_its_samples_one_by_one():
    generator = np.random.default_rng(0)
    boxes = [WHOLE, (4.0, 4.0, 20.0, 20.0), WHOLE, (0.0, 0.0, 16.0, 16.0)]
    centres = [NONE, NONE, (9.0, 9.0), (8.0, 8.0)]
    mixed = PromptedPictures(
        generator.integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8),
        torch.tensor([2, 0, 1, 1]),
        torch.tensor(boxes),
        torch.tensor(centres),
        torch.zeros(4, dtype=torch.long),
        ("x",),
        NOTHING_ELSE,
    )
    before = mixed.pixels.copy()
    for size in (SIZE, 20):
        together = prompted_batch(mixed, torch.tensor([3, 1, 0, 2]), CIRCLES, size=size)
        for position, sample in enumerate([3, 1, 0, 2]):
            assert torch.equal(together[position], prompted_batch(mixed, torch.tensor([sample]), CIRCLES, size=size)[0])
    assert np.array_equal(mixed.pixels, before), "the shared pictures stay as they were"


def test_boxes_scaled_in_single_precision_still_mean_the_whole_picture():
    almost = (0.0, 0.0, SIZE + 4e-6, SIZE - 4e-6)
    assert torch.equal(batch_of(almost, NONE), batch_of(WHOLE, NONE))


@pytest.mark.parametrize("values", [{"text_width": 20}, {"epochs": 0}, {"batch_size": 1}, {"unknown": 1}])
def test_settings_that_make_no_sense_are_refused(values):
    with pytest.raises(ValidationError):
        EncoderTraining(**values)
