"""From settings to a checkpoint, on a dozen pictures and an encoder that knows three colours."""

import logging

import numpy as np
import pytest
import timm
import torch
from picture_files import COLOURS, ColourEncoder, write_coloured_squares, write_noise
from safetensors.torch import save_file

from salf_contract import Preparation
from salf_training import feature_pass
from salf_training.backbone import BackboneSettings
from salf_training.bottleneck import BottleneckTraining
from salf_training.checkpoint import load_checkpoint, save_checkpoint
from salf_training.concept_sets import ConceptFilters, ConceptReport
from salf_training.encoder import EncoderSettings
from salf_training.errors import CheckpointError, DataError, WeightsError
from salf_training.head import HeadTraining
from salf_training.image_folder import load_prepared, read_image_folder
from salf_training.pipeline import REPORT_FILE, similarity_subset, train_model, train_to_folder
from salf_training.pipeline import train as train_with_report
from salf_training.prompts import CircleSettings
from salf_training.settings import TrainSettings, with_head

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


def test_a_backbone_with_random_weights_is_warned_about_and_one_with_weights_is_not(world, tmp_path, caplog):
    network = timm.create_model("test_resnet", output_stride=16, num_classes=0)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    with caplog.at_level(logging.WARNING):
        train(world, backbone_weights=tmp_path / "w.safetensors")
        assert "fresh weights" not in caplog.text
        train(world)
    assert "set backbone_weights or pretrained" in caplog.text


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
        train_to_folder(settings_of(tmp_path), tmp_path / "out")
    with pytest.raises(DataError, match="does not exist"):
        train_to_folder(settings_of(tmp_path), tmp_path / "free")


def test_the_similarity_subset_is_a_seeded_choice_without_repetition(world):
    pictures = read_image_folder(world / "train")
    chosen = similarity_subset(pictures, 10, seed=0)
    assert len(set(chosen)) == 10
    assert chosen == sorted(chosen)
    assert chosen == similarity_subset(pictures, 10, seed=0)
    assert chosen != similarity_subset(pictures, 10, seed=1)
    assert similarity_subset(pictures, 1000, seed=0) == list(range(24))


def state_of(checkpoint):
    return checkpoint.model.state_dict()


def test_maps_are_held_a_chunk_at_a_time_and_change_nothing(world, trained, monkeypatch):
    held = []
    compute = feature_pass.compute_features

    def counted(*arguments, **options):
        features = compute(*arguments, **options)
        held.append(len(features))
        return features

    monkeypatch.setattr(feature_pass, "compute_features", counted)
    monkeypatch.setattr(feature_pass, "CHUNK", 5)
    told = []
    torch.manual_seed(0)
    again = train_model(settings_of(world), encoder=ColourEncoder(), on_progress=lambda *now: told.append(now))
    assert held == [5, 5, 5, 5, 4, 5, 5, 2], "24 training and 12 held-out pictures"
    assert [now for now in told if now[0] == "features"][-1] == ("features", 24, 24)
    for name, tensor in state_of(trained).items():
        assert torch.allclose(tensor, state_of(again)[name], atol=1e-5), name


def test_tables_too_large_to_be_held_give_the_same_model_and_leave_nothing_behind(world, trained):
    again = train(world, held_table_bytes=0)
    shifts = {"head_bias", "classifier_bias"}  # the same number on all classes changes nothing, and nothing fixes it
    for name, tensor in state_of(trained).items():
        here, there = (t - t.mean() if name in shifts else t for t in (tensor, state_of(again)[name]))
        assert torch.allclose(here, there, atol=2e-3 * float(here.abs().max())), name  # FP32 tables, not FP64
    assert again.card.evaluation.accuracy == trained.card.evaluation.accuracy
    assert not list((world / "cache").glob("tables-*"))


def test_without_filters_the_list_is_kept_whole(world):
    result = train_with_report(settings_of(world), encoder=ColourEncoder())
    assert result.concepts == ConceptReport(given=5, kept=CONCEPTS, dropped=())


def test_filters_drop_before_and_after_training_and_the_model_follows(world, monkeypatch, tmp_path):
    off = {"class_similarity": None, "concept_similarity": None, "presence": None}
    given = settings_of(world, concept_filters=ConceptFilters(length=4, **off))  # and the published interpretability
    monkeypatch.setattr("salf_training.pipeline.load_encoders", lambda settings: [ColourEncoder()])
    torch.manual_seed(0)
    train_to_folder(given, tmp_path / "model")
    report = ConceptReport.model_validate_json((tmp_path / "model" / REPORT_FILE).read_text())
    loaded = load_checkpoint(tmp_path / "model")
    assert [(item.concept, item.reason) for item in report.dropped] == [
        ("green", "length"),
        ("yellow", "length"),
        ("sail", "interpretability"),
    ]
    assert report.dropped[2].value < report.dropped[2].threshold == 0.45
    assert loaded.concepts == report.kept == ("blue", "dog")
    assert len(loaded.model.concept_weight) == loaded.model.head_weight.shape[1] == 2


def test_classes_too_close_to_a_concept_are_told_by_the_names_in_the_list(world, tmp_path):
    (tmp_path / "names.txt").write_text("sky\ndog\nsun\n")
    filters = ConceptFilters(concept_similarity=None, presence=None, interpretability=None)
    result = train_with_report(
        settings_of(world, class_names=tmp_path / "names.txt", concept_filters=filters), encoder=ColourEncoder()
    )
    assert result.checkpoint.classes == ("sky", "dog", "sun")
    assert [(item.concept, item.other) for item in result.concepts.dropped] == [("dog", "dog")]
    (tmp_path / "names.txt").write_text("sky\nsun\n")
    with pytest.raises(DataError, match=r"2 names, but .* 3 class folders"):
        train(world, class_names=tmp_path / "names.txt")


def test_softmax_pooling_goes_through_and_its_scores_are_standardised(world):
    checkpoint = train(world, pooling="softmax")
    assert checkpoint.card.pooling == checkpoint.model.pooling == "softmax"
    pictures = read_image_folder(world / "train")
    pixels = np.stack([load_prepared(path, checkpoint.card.preparation) for path in pictures.paths])
    with torch.inference_mode():
        scores = checkpoint.model(torch.from_numpy(pixels)).scores
    assert scores.mean(dim=0).numpy() == pytest.approx(0, abs=1e-3)
    assert scores.std(dim=0).numpy() == pytest.approx(1, abs=1e-2)


def test_the_first_count_is_saved_and_all_are_reported(world):
    checkpoint = train_model(with_head(settings_of(world), concepts_per_class=(1, 2, 3)), encoder=ColourEncoder())
    assert int((checkpoint.model.head_weight != 0).sum(dim=1).max()) == 1
    reached = [point.concepts_per_class for point in checkpoint.card.evaluation.nec_curve]
    assert len(reached) == 3
    assert reached[0] == checkpoint.card.concepts_per_class == 1
    assert all(count <= asked for count, asked in zip(reached, (1, 2, 3), strict=True)), "colours need few concepts"
    assert reached[1] > 1


def test_a_dense_head_and_a_lambda_can_be_chosen(world, trained):
    dense = train(world, dense_head=True)
    assert dense.card.concepts_per_class == len(CONCEPTS)
    assert dense.card.evaluation.accuracy == dense.card.evaluation.dense_accuracy
    sparse, sparser = (train(world, head_lambda=lam, head=HeadTraining(curve=())) for lam in (0.01, 0.1))
    assert 0 < sparser.card.concepts_per_class < sparse.card.concepts_per_class < len(CONCEPTS) + 1
    assert sparse.card.evaluation.nec_curve == ()


def test_no_class_is_decided_by_concepts_that_the_pictures_do_not_show(world):
    filters = ConceptFilters(
        length=None, class_similarity=None, concept_similarity=None, presence=0.5, interpretability=None, failing="mute"
    )
    checkpoint = train(world, concept_filters=filters)
    shown = (checkpoint.model.head_weight != 0).any(dim=0).tolist()
    assert dict(zip(checkpoint.concepts, shown, strict=True)) == {
        **dict.fromkeys(COLOURS, True),
        "dog": False,
        "sail": False,
    }
    # They keep their maps, and the figures are those of the whole model.
    assert checkpoint.model.concept_weight.abs().sum(dim=1).min() > 0
    assert checkpoint.card.evaluation.accuracy == 1.0
