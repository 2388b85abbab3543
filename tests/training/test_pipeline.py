"""From settings to a checkpoint, on a dozen pictures and an encoder that knows three colours."""

import logging

import numpy as np
import pytest
import timm
import torch
from picture_files import COLOURS, ColourEncoder, write_coloured_squares, write_noise
from safetensors.torch import save_file

from salf_contract import Preparation
from salf_training.backbone import BackboneSettings
from salf_training.bottleneck import BottleneckTraining
from salf_training.checkpoint import load_checkpoint, save_checkpoint
from salf_training.encoder import EncoderSettings
from salf_training.errors import CheckpointError, DataError, SettingsError, WeightsError
from salf_training.head import HeadTraining
from salf_training.image_folder import load_prepared, read_image_folder
from salf_training.pipeline import similarity_subset, train_from_config, train_model
from salf_training.prompts import CircleSettings
from salf_training.settings import TrainSettings

CONCEPTS = (*COLOURS, "dog", "sail")
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("squares")
    write_coloured_squares(root / "train", per_class=8)
    write_coloured_squares(root / "held_out", per_class=4, seed=1)
    (root / "concepts.txt").write_text("".join(f"{name}\n" for name in CONCEPTS))
    return root


def settings_of(world, **values) -> TrainSettings:
    given = {
        "train": world / "train",
        "held_out": world / "held_out",
        "concepts": world / "concepts.txt",
        "cache": world / "cache",
        "backbone": BackboneSettings(name="test_resnet", options={"output_stride": 16}),
        "preparation": Preparation(height=48, width=48),
        "pixel_mean": HALF,
        "pixel_std": HALF,
        "encoder": EncoderSettings(model="colours"),
        "circles": CircleSettings(rows=3, columns=3),
        "bottleneck": BottleneckTraining(steps=60, batch_size=16, learning_rate=0.03, check_every=20),
        "head": HeadTraining(concepts_per_class=2, curve=(1, 3), path_length=10),
    }
    return TrainSettings(**{**given, **values})


def train(world, **values):
    torch.manual_seed(0)  # of the backbone's fresh weights
    return train_model(settings_of(world, **values), encoder=ColourEncoder())


@pytest.fixture(scope="module")
def trained(world):
    return train(world)


def test_the_card_says_what_was_trained(trained):
    card = trained.card
    assert trained.classes == ("blue", "green", "yellow")
    assert trained.concepts == CONCEPTS
    assert card.feature_shape == (trained.model.classifier_weight.shape[1], 3, 3)
    assert card.grid == (3, 3)
    assert 0 < card.concepts_per_class <= 2
    assert card.concepts_per_class == float((trained.model.head_weight != 0).sum()) / 3
    assert [point.concepts_per_class <= asked for point, asked in zip(card.evaluation.nec_curve, (1, 3), strict=True)]
    assert card.evaluation.pictures == 12
    assert card.data == {"train": "24 pictures", "held_out": "12 pictures"}
    assert set(card.versions) == {"salf", "torch", "timm", "open_clip_torch"}


def test_reported_accuracies_are_those_of_the_checkpoint_on_held_out_pictures(world, trained, tmp_path):
    save_checkpoint(tmp_path / "model", trained)
    loaded = load_checkpoint(tmp_path / "model")
    pictures = read_image_folder(world / "held_out")
    pixels = np.stack([load_prepared(path, loaded.card.preparation) for path in pictures.paths])
    with torch.inference_mode():
        answer = loaded.model(torch.from_numpy(pixels))
        own = loaded.model.classify(answer.features)
    evaluation = loaded.card.evaluation
    assert evaluation.accuracy == pytest.approx((answer.logits.argmax(dim=1).numpy() == pictures.labels).mean())
    assert evaluation.backbone_accuracy == pytest.approx((own.argmax(dim=1).numpy() == pictures.labels).mean())
    assert evaluation.accuracy > 0.6, "three colours are told apart well above chance (1/3)"
    assert evaluation.backbone_accuracy > 0.6


def test_scores_are_standardised_over_the_training_pictures(world, trained):
    pictures = read_image_folder(world / "train")
    pixels = np.stack([load_prepared(path, trained.card.preparation) for path in pictures.paths])
    with torch.inference_mode():
        scores = trained.model(torch.from_numpy(pixels)).scores
    assert scores.mean(dim=0).numpy() == pytest.approx(0, abs=1e-3)
    assert scores.std(dim=0).numpy() == pytest.approx(1, abs=1e-2)


def test_the_same_seed_gives_the_same_model(world, trained):
    again = train(world)
    for name, tensor in trained.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_the_backbone_stays_as_its_weights_say(world, tmp_path):
    torch.manual_seed(3)
    network = timm.create_model("test_resnet", output_stride=16, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    checkpoint = train(world, backbone_weights=tmp_path / "w.safetensors")
    for name, tensor in network.state_dict().items():
        assert torch.equal(checkpoint.model.backbone.network.state_dict()[name], tensor), name


def test_a_fitting_classifier_in_the_weights_is_used(world, tmp_path):
    network = timm.create_model("test_resnet", output_stride=16, num_classes=0)
    weight, bias = torch.randn(3, network.num_features), torch.randn(3)
    state = {**network.state_dict(), "classifier.weight": weight, "classifier.bias": bias}
    save_file(state, tmp_path / "w.safetensors")
    model = train(world, backbone_weights=tmp_path / "w.safetensors").model
    assert torch.equal(model.classifier_weight, weight)
    assert torch.equal(model.classifier_bias, bias)


def test_a_classifier_for_other_classes_is_replaced_by_a_probe_and_said_so(world, tmp_path, caplog):
    """Timm's EfficientNets call theirs `classifier`, and it has a thousand classes."""
    network = timm.create_model("test_efficientnet", num_classes=1000)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING):
        checkpoint = train(
            world, backbone=BackboneSettings(name="test_efficientnet"), backbone_weights=tmp_path / "w.safetensors"
        )
    assert "for other classes" in caplog.text
    assert checkpoint.card.evaluation.backbone_accuracy > 0.6


def test_a_rectangular_input_and_a_crop_go_through_every_stage(world):
    checkpoint = train(
        world,
        preparation=Preparation(height=32, width=64, crop_fraction=0.9),
        circles=CircleSettings(rows=2, columns=4),
        similarity_pictures=5,
    )
    assert checkpoint.card.feature_shape[1:] == (2, 4)
    assert checkpoint.card.encoder["pictures"] == "5"


def test_different_classes_in_the_two_folders_are_refused_before_any_work(world, tmp_path):
    write_coloured_squares(tmp_path / "other", per_class=1)
    write_noise(tmp_path / "other" / "purple", count=1)
    with pytest.raises(DataError, match="different classes: purple in only one"):
        train_model(settings_of(world, held_out=tmp_path / "other"), encoder=ColourEncoder())


def test_an_encoder_that_does_not_exist_is_refused_before_features_are_computed(world):
    told = []
    with pytest.raises(WeightsError, match="no-such-encoder"):
        train_model(
            settings_of(world, encoder=EncoderSettings(model="no-such-encoder")),
            on_progress=lambda *now: told.append(now),
        )
    assert told == []


def test_a_place_that_holds_something_else_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        train_from_config(tmp_path / "no-settings.yaml", tmp_path / "out")
    with pytest.raises(SettingsError, match="does not exist"):
        train_from_config(tmp_path / "no-settings.yaml", tmp_path / "free")


def test_the_similarity_subset_is_a_seeded_choice_without_repetition(world):
    pictures = read_image_folder(world / "train")
    chosen = similarity_subset(pictures, 10, seed=0)
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen)
    assert chosen == similarity_subset(pictures, 10, seed=0)
    assert chosen != similarity_subset(pictures, 10, seed=1)
    assert similarity_subset(pictures, 1000, seed=0) == list(range(24))


def test_no_class_is_decided_by_concepts_that_the_pictures_do_not_show(world):
    checkpoint = train(world, presence_cutoff=0.5)
    shown = (checkpoint.model.head_weight != 0).any(dim=0).tolist()
    assert dict(zip(checkpoint.concepts, shown, strict=True)) == {
        **dict.fromkeys(COLOURS, True),
        "dog": False,
        "sail": False,
    }
    # They keep their maps, and the figures are those of the whole model.
    assert checkpoint.model.concept_weight.abs().sum(dim=1).min() > 0
    assert checkpoint.card.evaluation.accuracy == 1.0
