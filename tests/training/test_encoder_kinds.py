"""Encoders of every kind: open_clip by name and from a folder, one's own, on several devices, in any precision."""

import copy
import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from picture_files import write_noise
from pydantic import ValidationError
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from salf_contract import Preparation
from salf_training.embeddings import cached_prompt_embeddings
from salf_training.encoder import EncoderSettings, OpenClipEncoder, normalise_pixels, pixel_statistics, quiet_open_clip
from salf_training.encoder_loading import load_encoder, load_encoders, resolve_devices
from salf_training.errors import SettingsError, WeightsError
from salf_training.image_folder import load_prepared
from salf_training.prompts import CircleSettings, prompted

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXELS = torch.randint(0, 256, (5, 64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TEXTS = ["a sail", "a red roof", "water"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small open_clip model with fresh weights, as open_clip itself reads it."""
    folder = tmp_path_factory.mktemp("encoder")
    config = {
        "model_cfg": {
            "embed_dim": 16,
            "vision_cfg": {"image_size": 64, "layers": 1, "width": 64, "patch_size": 16},
            "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 1, "layers": 1},
        },
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2]},
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    with quiet_open_clip():
        model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def settings_of(folder: Path, **values) -> EncoderSettings:
    return EncoderSettings(model=f"local-dir:{folder}", devices=("cpu",), **values)


def test_embeddings_are_those_of_open_clip_with_the_folders_normalisation(folder):
    encoder = load_encoder(settings_of(folder, precision="float32"))
    with quiet_open_clip(), torch.inference_mode():
        model = open_clip.create_model(f"local-dir:{folder}").eval()
        images = (PIXELS.permute(0, 3, 1, 2) / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
        expected = model.encode_image(images, normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS), normalize=True)
    assert encoder.embed_images(PIXELS).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    assert encoder.embed_texts(TEXTS).numpy() == pytest.approx(texts.numpy(), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_pictures_and_phrases_go_through_in_batches_that_do_not_matter(folder, batch_size):
    whole = load_encoder(settings_of(folder, precision="float32"))
    encoder = OpenClipEncoder(settings_of(folder, precision="float32", batch_size=batch_size))
    seen = []
    encode = encoder.model.encode_image
    encoder.model.encode_image = lambda images: seen.append(len(images)) or encode(images)
    assert encoder.embed_images(PIXELS).numpy() == pytest.approx(whole.embed_images(PIXELS).numpy(), abs=1e-6)
    assert max(seen) == min(batch_size, 5)
    assert sum(seen) == 5
    assert encoder.embed_texts(TEXTS).numpy() == pytest.approx(whole.embed_texts(TEXTS).numpy(), abs=1e-6)
    assert encoder.fingerprint == whole.fingerprint


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_close_different_and_part_of_the_fingerprint(folder, precision):
    exact = load_encoder(settings_of(folder, precision="float32"))
    half = load_encoder(settings_of(folder, precision=precision))
    a, b = exact.embed_images(PIXELS), half.embed_images(PIXELS)
    assert b.dtype == torch.float32
    assert not torch.equal(a, b), "it must compute in half precision"
    assert (a * b).sum(dim=1).min() > 0.999
    assert half.fingerprint != exact.fingerprint


def test_normalisation_can_be_given_and_is_part_of_the_fingerprint(folder):
    given = {"pixel_mean": (0.1, 0.2, 0.3), "pixel_std": (0.5, 0.6, 0.7)}
    encoder = load_encoder(settings_of(folder, precision="float32", **given))
    same = normalise_pixels(PIXELS, torch.tensor(given["pixel_mean"]), torch.tensor(given["pixel_std"]))
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(encoder.model.encode_image(same), dim=-1)
    assert torch.equal(encoder.embed_images(PIXELS), expected)
    assert encoder.fingerprint != load_encoder(settings_of(folder, precision="float32")).fingerprint
    with pytest.raises(WeightsError, match="give both"):
        load_encoder(settings_of(folder, pixel_mean=(0.1, 0.2, 0.3)))


@pytest.mark.parametrize(
    ("model", "mean"),
    [
        ("ViT-B-16-SigLIP", (0.5, 0.5, 0.5)),
        ("MobileCLIP-S1", (0.0, 0.0, 0.0)),
        ("EVA02-B-16", OPENAI_MEAN),
        ("RN50", OPENAI_MEAN),
    ],
)
def test_a_local_file_of_a_published_model_gets_the_normalisation_it_was_published_with(model, mean):
    settings = EncoderSettings(model=model, weights="/models/file.safetensors")
    found, std = pixel_statistics(settings, {"mean": OPENAI_MEAN, "std": (0.2, 0.2, 0.2)})
    assert found == pytest.approx(mean)
    assert std != (0.2, 0.2, 0.2)


def test_a_model_published_with_several_normalisations_is_not_guessed_about():
    settings = EncoderSettings(model="ViT-L-14", weights="/models/file.safetensors")
    with pytest.raises(WeightsError, match=r"several pixel_mean.*openai.*laion2b.*give those of /models/file"):
        pixel_statistics(settings, {"mean": OPENAI_MEAN, "std": OPENAI_MEAN})
    tag = EncoderSettings(model="ViT-L-14", weights="laion2b_s32b_b82k")
    assert pixel_statistics(tag, {"mean": (0.5,) * 3, "std": (0.5,) * 3}) == ((0.5,) * 3, (0.5,) * 3)


@pytest.mark.slow
def test_a_builtin_model_loads_by_name_with_a_weight_file(tmp_path):
    torch.manual_seed(0)
    with quiet_open_clip():
        model = open_clip.create_model("ViT-S-32-alt").eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    settings = EncoderSettings(model="ViT-S-32-alt", weights=str(tmp_path / "w.safetensors"), precision="float32")
    encoder = load_encoder(settings)
    assert encoder.image_size == (224, 224)
    pixels = torch.randint(0, 256, (1, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        expected = model.encode_image(normalise_pixels(pixels, encoder._mean, encoder._std), normalize=True)
    assert encoder.embed_images(pixels).numpy() == pytest.approx(expected.numpy(), abs=1e-5)
    with pytest.raises(WeightsError, match=r"ViT-S-32-alt.*nothing\.pt"):
        load_encoder(settings.model_copy(update={"weights": "nothing.pt"}))


#: Published architecture -> what of its two towers is made small; their kinds, poolings and projections stay.
FAMILIES = {
    "ViT-B-32": {"layers": 1, "width": 64},
    "ViT-B-16-SigLIP": {"timm_model_name": "test_vit"},
    "EVA02-B-16": {"timm_model_name": "eva02_tiny_patch14_224"},
    "MobileCLIP-S1": {"timm_model_name": "fastvit_t8"},
}


@pytest.fixture
def small_family(request, tmp_path, monkeypatch) -> str:
    """A small model of a published family, under a name that open_clip knows."""
    published = open_clip.get_model_config(request.param)
    text = {**published["text_cfg"], "width": 64, "heads": 2, "layers": 1}
    if "hf_tokenizer_name" in text:  # a hub's in the published model, here a folder
        text["hf_tokenizer_name"] = str(tmp_path / "tokenizer")
        write_tokenizer(tmp_path / "tokenizer")
    small = {**published, "embed_dim": 64, "vision_cfg": {**published["vision_cfg"], **FAMILIES[request.param]}}
    for name in ("_MODEL_CONFIGS", "_MODEL_CONFIG_PATHS"):
        monkeypatch.setattr(open_clip.factory, name, copy.copy(getattr(open_clip.factory, name)))
    (tmp_path / "small-family.json").write_text(json.dumps({**small, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "small-family.json")
    return "small-family"


def write_tokenizer(folder: Path) -> None:
    """A tokeniser of whole words in transformers' format."""
    words = {word: number for number, word in enumerate(["<pad>", "<unk>", "a", "sail", "red", "roof", "water"])}
    made = Tokenizer(WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)


@pytest.mark.parametrize("small_family", FAMILIES, indirect=True)
def test_every_family_goes_through_the_similarity_stage_by_name(small_family, tmp_path):
    torch.manual_seed(0)
    with quiet_open_clip():
        model = open_clip.create_model(small_family).eval()
        tokenise = open_clip.get_tokenizer(small_family)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    settings = EncoderSettings(
        model=small_family, weights=str(tmp_path / "w.safetensors"), precision="float32", devices=("cpu",)
    )
    encoder = load_encoder(settings)
    side = encoder.image_size[0]
    paths = write_noise(tmp_path / "in", count=2, size=(side, side))
    table = cached_prompt_embeddings(
        tmp_path / "cache",
        paths,
        encoder,
        CircleSettings(rows=1, columns=2),
        preparation=Preparation(height=side, width=side),
    )
    pixels = np.stack([load_prepared(path, Preparation(height=side, width=side)) for path in paths])
    circled = prompted(torch.from_numpy(pixels), CircleSettings(rows=1, columns=2), height=side, width=side)
    with torch.inference_mode():
        images = normalise_pixels(circled.flatten(0, 1), encoder._mean, encoder._std)
        expected = model.encode_image(images, normalize=True).unflatten(0, (2, 2))
        texts = model.encode_text(tokenise(TEXTS), normalize=True)
    assert table.astype(np.float32) == pytest.approx(expected.numpy(), abs=2e-3)
    assert encoder.embed_texts(TEXTS).numpy() == pytest.approx(texts.numpy(), abs=1e-5)
    assert (texts[0] - texts[1]).abs().max() > 1e-3, "phrases must matter"


def test_a_missing_tokeniser_package_is_named_before_weights_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(WeightsError, match=r"'ViT-B-16-SigLIP' needs transformers.*salf\[tokenizers\]"):
        load_encoder(EncoderSettings(model="ViT-B-16-SigLIP", weights="/models/siglip.safetensors"))


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "a {colour} {}", ""])
def test_templates_without_one_place_for_the_concept_are_refused(template):
    with pytest.raises(ValidationError, match="where the concept goes"):
        EncoderSettings(model="RN50", templates=("{}", template))


def test_braces_in_a_concept_are_text(folder):
    encoder = load_encoder(settings_of(folder, templates=("a {}",), precision="float32"))
    assert encoder.embed_texts(["{0}"]).shape == (1, 16)


def test_devices_are_found_and_never_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert resolve_devices(("auto",)) == ["cpu"]
    assert resolve_devices(("cpu", "cpu")) == ["cpu", "cpu"]
    for wanted in ("cuda", "cuda:0", "tpu"):
        with pytest.raises(SettingsError, match=f"no device '{wanted}' here, only cpu"):
            resolve_devices((wanted,))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_devices(("auto",)) == resolve_devices(("cuda",)) == ["cuda:0", "cuda:1"]
    assert resolve_devices(("cuda:1",)) == ["cuda:1"]
    with pytest.raises(SettingsError, match="only cpu, cuda:0, cuda:1"):
        resolve_devices(("cuda:2",))


def test_a_run_on_two_devices_gives_the_bytes_of_a_run_on_one(tmp_path, folder):
    paths = write_noise(tmp_path / "in", count=7, size=(64, 64))
    tables = []
    for devices in (("cpu",), ("cpu", "cpu")):
        encoders = load_encoders(settings_of(folder).model_copy(update={"devices": devices}))
        assert len(encoders) == len(devices)
        table = cached_prompt_embeddings(
            tmp_path / str(len(devices)),
            paths,
            encoders,
            CircleSettings(rows=2, columns=2),
            preparation=Preparation(height=64, width=64),
            batch_size=2,
        )
        tables.append(table.tobytes())
    assert tables[0] == tables[1]


@pytest.fixture
def own_encoders(tmp_path, monkeypatch):
    source = """
from picture_files import ColourEncoder
from salf_training.encoder import Encoder

def colours(side: int = 24) -> Encoder:
    return ColourEncoder((side, side))

def placed(device: str) -> Encoder:
    return ColourEncoder(fingerprint=device)

def half() -> Encoder:
    class Half:
        image_size = (2, 2)
        def embed_images(self, pixels): ...
    return Half()

def unsaid():
    raise AssertionError("was called")
"""
    (tmp_path / "own_encoders.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_encoders", None)


@pytest.mark.usefixtures("own_encoders")
def test_a_factorys_encoder_is_used_with_its_options_and_device():
    assert load_encoder(EncoderSettings(model="own_encoders:colours", options={"side": 12})).image_size == (12, 12)
    two = load_encoders(EncoderSettings(model="own_encoders:placed", devices=("cpu", "cpu")))
    assert [encoder.fingerprint for encoder in two] == ["cpu", "cpu"]


@pytest.mark.usefixtures("own_encoders")
@pytest.mark.parametrize(
    ("settings", "device", "said"),
    [
        ({"model": "own_encoders:half"}, "cpu", "no Encoder: it has no fingerprint, embed_texts"),
        ({"model": "own_encoders:unsaid"}, "cpu", r"must be annotated .*-> Encoder"),
        ({"model": "own_encoders:colours", "options": {"size": 1}}, "cpu", "failed with the options.*size"),
        ({"model": "own_encoders:colours"}, "cuda:0", "no parameter `device`"),
    ],
)
def test_a_factory_that_gives_no_encoder_is_refused(settings, device, said):
    with pytest.raises(SettingsError, match=said):
        load_encoder(EncoderSettings(**settings), device=device)
