"""Checkpoints: saved and loaded alike, and every contradiction named."""

import json

import pytest
import torch

from salf_contract import Preparation
from salf_training.backbone import Backbone, BackboneSettings
from salf_training.checkpoint import (
    CARD_FILE,
    CLASSES_FILE,
    CONCEPTS_FILE,
    WEIGHTS_FILE,
    Checkpoint,
    Evaluation,
    ModelCard,
    NecPoint,
    check_replaceable,
    file_sha256,
    load_checkpoint,
    replace_folder,
    save_checkpoint,
)
from salf_training.errors import CheckpointError
from salf_training.model import SalfModel

CLASSES = ("café", "farm", "harbour")
CONCEPTS = ("sail", "red roof", "Straße", "tree", "cow")
FILES = (WEIGHTS_FILE, CLASSES_FILE, CONCEPTS_FILE, CARD_FILE)
PIXELS = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def random_checkpoint(seed: int = 0, **kind) -> Checkpoint:
    torch.manual_seed(seed)
    settings = BackboneSettings(name="test_resnet")
    backbone = Backbone(settings)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
    channels = backbone.network.num_features
    model = SalfModel(backbone, channels=channels, concepts=5, classes=3, **kind).eval()
    for buffer in ("pixel_mean", "concept_weight", "concept_bias", "head_weight", "head_bias", "classifier_weight"):
        getattr(model, buffer).normal_()
    model.score_std.uniform_(0.5, 2)
    card = ModelCard(
        backbone=settings,
        preparation=Preparation(height=64, width=96),
        pixel_mean=(0.5, 0.4, 0.3),
        pixel_std=(1.0, 1.0, 1.0),
        feature_shape=(channels, 2, 3),
        grid=(7, 7),
        concepts_per_class=5.0,
        **kind,
        evaluation=Evaluation(
            pictures=9,
            backbone_accuracy=0.9,
            accuracy=0.8,
            nec_curve=(NecPoint(concepts_per_class=1, accuracy=0.5),),
        ),
        seeds={"training": seed},
    )
    return Checkpoint(model, card, CLASSES, CONCEPTS)


def outputs(checkpoint: Checkpoint) -> list[torch.Tensor]:
    with torch.inference_mode():
        answer = checkpoint.model(PIXELS)
        return [*answer, checkpoint.model.classify(answer.features)]


@pytest.fixture
def saved(tmp_path):
    save_checkpoint(tmp_path / "model", random_checkpoint())
    return tmp_path / "model"


def test_what_is_loaded_answers_bit_for_bit_as_what_was_saved(tmp_path):
    source = random_checkpoint()
    card = save_checkpoint(tmp_path / "deeper" / "model", source)
    loaded = load_checkpoint(tmp_path / "deeper" / "model")
    assert all(torch.equal(a, b) for a, b in zip(outputs(source), outputs(loaded), strict=True))
    assert (loaded.classes, loaded.concepts) == (CLASSES, CONCEPTS)
    assert loaded.card == card
    assert card == source.card.model_copy(update={"weights_sha256": card.weights_sha256})
    assert not loaded.model.training
    assert card.weights_sha256 == file_sha256(tmp_path / "deeper" / "model" / WEIGHTS_FILE)


@pytest.mark.parametrize("kind", [{"pooling": "softmax"}, {"map_size": (5, 4)}])
def test_pooling_and_map_size_are_on_the_card_and_come_back(tmp_path, kind):
    source = random_checkpoint(**kind)
    card = save_checkpoint(tmp_path / "model", source)
    loaded = load_checkpoint(tmp_path / "model")
    assert (card.pooling, card.map_size) == (kind.get("pooling", "average"), kind.get("map_size"))
    assert all(torch.equal(a, b) for a, b in zip(outputs(source), outputs(loaded), strict=True))
    assert not torch.allclose(outputs(random_checkpoint())[2], outputs(loaded)[2]), "it makes a difference"


@pytest.mark.parametrize("update", [{"pooling": "softmax"}, {"map_size": (5, 4)}])
def test_a_card_that_does_not_say_what_the_model_does_is_not_saved(tmp_path, update):
    source = random_checkpoint()
    wrong = Checkpoint(source.model, source.card.model_copy(update=update), CLASSES, CONCEPTS)
    with pytest.raises(CheckpointError, match=next(iter(update))):
        save_checkpoint(tmp_path / "model", wrong)
    assert not (tmp_path / "model").exists()


def test_a_card_from_before_pooling_and_map_size_is_read(saved):
    expected = outputs(load_checkpoint(saved))
    card = json.loads((saved / CARD_FILE).read_text())
    del card["pooling"], card["map_size"]
    (saved / CARD_FILE).write_text(json.dumps(card))
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs(load_checkpoint(saved)), strict=True))


def test_a_checkpoint_is_exactly_its_four_files_which_anybody_may_read(saved):
    assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)
    assert saved.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in saved.iterdir()} == {0o644}
    assert [path.name for path in saved.parent.iterdir()] == ["model"], "nothing may be left beside it"


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(saved, file):
    (saved / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(saved)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no checkpoint folder .*nowhere"):
        load_checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_one_flipped_bit_in_the_weights_is_found(saved, place):
    data = bytearray((saved / WEIGHTS_FILE).read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    (saved / WEIGHTS_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match=WEIGHTS_FILE):
        load_checkpoint(saved)


def change_card(folder, **values):
    card = json.loads((folder / CARD_FILE).read_text())
    (folder / CARD_FILE).write_text(json.dumps({**card, **values}))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"unknown": 1}, "unknown"),
        ({"format_version": 2}, "format_version"),
        ({"pooling": "max"}, "pooling"),
        ({"map_size": [0, 4]}, "map_size"),
        ({"grid": [7]}, "grid"),
        ({"preparation": {"height": 0, "width": 96}}, "preparation.height"),
    ],
)
def test_a_card_that_says_something_else_is_refused_by_key(saved, values, said):
    change_card(saved, **values)
    with pytest.raises(CheckpointError, match=rf"{CARD_FILE} cannot be read: {said}"):
        load_checkpoint(saved)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_card_that_is_no_document_is_refused(saved, content):
    (saved / CARD_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=CARD_FILE):
        load_checkpoint(saved)


@pytest.mark.parametrize("backbone", [{"name": "resnet18"}, {"name": "no_such_network"}])
def test_a_card_of_another_backbone_is_refused(saved, backbone):
    change_card(saved, backbone=backbone)
    with pytest.raises(CheckpointError, match=CARD_FILE):
        load_checkpoint(saved)


@pytest.mark.parametrize("file", [CLASSES_FILE, CONCEPTS_FILE])
@pytest.mark.parametrize("damage", ["twice", "fewer", "more", "blank", "empty", "latin"])
def test_names_that_do_not_fit_are_refused_with_their_file(saved, file, damage):
    names = (saved / file).read_text().splitlines()
    changed = {
        "twice": [*names[:-1], names[0]],
        "fewer": names[:-1],
        "more": [*names, "one more"],
        "blank": ["", *names[1:]],
        "empty": [],
        "latin": names,
    }[damage]
    (saved / file).write_text("".join(f"{name}\n" for name in changed), "latin-1" if damage == "latin" else "utf-8")
    with pytest.raises(CheckpointError, match=file):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("file", "names"),
    [
        (CLASSES_FILE, ("a", "b")),
        (CLASSES_FILE, ("a", "b", "b")),
        (CLASSES_FILE, ("a", "b", "c\nd")),
        (CONCEPTS_FILE, ("a", "b", "c", "d", "")),
        (CONCEPTS_FILE, ("a", "b", "c", "d", "e\u2028f")),
    ],
)
def test_a_checkpoint_that_would_not_load_is_not_saved(saved, file, names):
    source = random_checkpoint(1)
    classes, concepts = (names, CONCEPTS) if file == CLASSES_FILE else (CLASSES, names)
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(CheckpointError, match=file):
        save_checkpoint(saved, Checkpoint(source.model, source.card, classes, concepts))
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_an_existing_checkpoint_is_replaced_with_all_its_files(saved):
    (saved / "left over").write_text("from an older version")
    other = random_checkpoint(1)
    save_checkpoint(saved, other)
    assert all(torch.equal(a, b) for a, b in zip(outputs(other), outputs(load_checkpoint(saved)), strict=True))
    assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_an_interrupted_save_leaves_the_old_checkpoint(saved):
    expected = outputs(load_checkpoint(saved))
    source = random_checkpoint(1)
    unwritable = Checkpoint(source.model, source.card, CLASSES, (*CONCEPTS[:-1], "\ud800"))
    with pytest.raises(UnicodeEncodeError):
        save_checkpoint(saved, unwritable)
    assert all(torch.equal(a, b) for a, b in zip(expected, outputs(load_checkpoint(saved)), strict=True))
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_a_replacement_that_fails_puts_the_old_folder_back(saved, tmp_path, monkeypatch):
    aside = tmp_path / "aside"
    aside.mkdir()
    rename = type(aside).rename

    def refusing(self, target):
        if self == aside:
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(type(aside), "rename", refusing)
    with pytest.raises(OSError, match="no space"):
        replace_folder(saved, aside)
    load_checkpoint(saved)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "model"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_nothing_but_a_checkpoint_is_ever_replaced(tmp_path, kind):
    place = tmp_path / "pictures"
    if kind == "folder":
        (place / "harbour").mkdir(parents=True)
        (place / "harbour" / "1.png").write_bytes(b"precious")
    else:
        place.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        save_checkpoint(place, random_checkpoint())
    assert (place / "harbour" / "1.png" if kind == "folder" else place).read_bytes() == b"precious"


def test_an_empty_or_missing_folder_may_be_saved_to(tmp_path):
    check_replaceable(tmp_path)
    check_replaceable(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    source = random_checkpoint()
    save_checkpoint(tmp_path / "empty", source)
    loaded = load_checkpoint(tmp_path / "empty")
    assert all(torch.equal(a, b) for a, b in zip(outputs(source), outputs(loaded), strict=True))
