"""The demonstration's whole training, tiny: from nothing to a measured checkpoint."""

import pytest

from salf_training.backbone_training import BackboneTraining
from salf_training.bottleneck import BottleneckTraining
from salf_training.checkpoint import load_checkpoint, save_checkpoint
from salf_training.encoder import OpenClipEncoder
from salf_training.encoder_training import WEIGHTS_FILE, EncoderTraining
from salf_training.errors import DataError
from salf_training.head import HeadTraining
from salf_training.prompts import CircleSettings
from salf_training.scene_samples import scene_samples
from salf_training.scene_world import SETTINGS_FILE, SceneWorldSettings, draw_splits, train_scene_world
from salf_training.scenes import (
    ABSENT_CONCEPTS,
    BACKGROUND_CONCEPTS,
    CLASSES,
    CONCEPTS,
    DRAWN_ATTRIBUTES,
    DRAWN_OBJECTS,
    PART_CONCEPTS,
    read_masks,
    read_scenes,
    write_scenes,
)
from salf_training.settings import read_settings

KINDS = {
    "object": DRAWN_OBJECTS,
    "attribute": DRAWN_ATTRIBUTES,
    "part": PART_CONCEPTS,
    "background": BACKGROUND_CONCEPTS,
}

TINY = SceneWorldSettings(
    scenes=480,
    concept_filters=None,
    held_out_scenes=96,
    encoder_scenes=48,
    circles_per_scene=3,
    crops_per_scene=1,
    encoder=EncoderTraining(
        image_size=48, embedding=32, text_width=32, text_layers=1, merges=200, epochs=2, batch_size=64
    ),
    circles=CircleSettings(rows=4, columns=4),
    image_size=64,
    backbone_training=BackboneTraining(epochs=16, batch_size=32, learning_rate=1e-2),
    similarity_pictures=40,
    localisation_encoder_pictures=12,
    bottleneck=BottleneckTraining(steps=100, batch_size=32, learning_rate=0.01, check_every=20),
    head=HeadTraining(concepts_per_class=5, curve=(1, 5), path_length=10, max_iterations=100),
)


@pytest.mark.slow
def test_a_tiny_world_gives_a_measured_checkpoint_and_is_used_again(tmp_path):
    told = []
    first = train_scene_world(TINY, tmp_path / "world", on_progress=lambda stage, *_: told.append(stage))
    save_checkpoint(tmp_path / "model", first)
    loaded = load_checkpoint(tmp_path / "model")
    assert loaded.classes == tuple(sorted(CLASSES))
    assert loaded.concepts == CONCEPTS
    card = loaded.card
    evaluation = card.evaluation
    chance = 1 / len(CLASSES)
    assert evaluation.pictures == 96
    assert evaluation.backbone_accuracy > 1.5 * chance
    assert evaluation.accuracy > 1.5 * chance
    assert evaluation.dense_accuracy is not None
    assert 0 < card.concepts_per_class <= 5
    assert len(evaluation.nec_curve) == 2
    localisation = evaluation.localisation
    assert localisation.tolerance_px == 15
    assert 0 < localisation.random_point < 0.5
    assert 0 < localisation.all_objects < 1
    naming = evaluation.naming
    assert 0 < naming.well_placed < naming.true < 1
    assert 0 < naming.drawn <= 1
    assert card.data["drawn"] == "480 + 96 scenes"
    assert {"scenes", "encoder data", "encoder", "backbone", "similarities", "bottleneck", "head"} <= set(told)

    asked = read_settings(tmp_path / "world" / SETTINGS_FILE)
    assert asked.held_out == tmp_path / "world" / "held_out"
    assert OpenClipEncoder(asked.encoder).fingerprint, "what salf evaluate --encoder needs"

    kept = [tmp_path / "world" / "encoder" / WEIGHTS_FILE, tmp_path / "world" / "backbone.safetensors"]
    before = [file.stat().st_mtime_ns for file in kept]
    told.clear()
    second = train_scene_world(TINY, tmp_path / "world", on_progress=lambda stage, *_: told.append(stage))
    assert not {"encoder data", "encoder", "backbone", "similarities"} & set(told)
    assert [file.stat().st_mtime_ns for file in kept] == before
    assert second.card.evaluation == first.card.evaluation

    # A backbone of another schedule is another backbone, and the encoder starts from it.
    shorter = TINY.model_copy(update={"backbone_training": BackboneTraining(epochs=1, batch_size=32)})
    told.clear()
    train_scene_world(shorter, tmp_path / "world", on_progress=lambda stage, *_: told.append(stage))
    assert {"backbone", "encoder", "similarities"} <= set(told)
    with pytest.raises(DataError, match="drawn with other settings"):
        train_scene_world(TINY.model_copy(update={"scenes": 470}), tmp_path / "world")


def test_scenes_of_another_seed_in_the_same_folder_are_refused(tmp_path):
    small = TINY.model_copy(update={"scenes": 12, "held_out_scenes": 12})
    draw_splits(small, tmp_path / "train", tmp_path / "held_out")
    draw_splits(small, tmp_path / "train", tmp_path / "held_out")
    with pytest.raises(DataError, match="12 pictures besides these 12 scenes"):
        draw_splits(small.model_copy(update={"seed": 1}), tmp_path / "train", tmp_path / "held_out")


def test_words_for_what_no_scene_shows_are_among_the_encoders_texts_and_fit_nothing(tmp_path):
    write_scenes(tmp_path, count=3, first_seed=0, workers=1)
    records = read_scenes(tmp_path)
    samples = scene_samples(records, image_size=57, circles_per_scene=6, crops_per_scene=2, seed=0)
    assert tuple(samples.texts[: len(CONCEPTS)]) == CONCEPTS
    absent = [samples.texts.index(name) for name in ABSENT_CONCEPTS]
    assert not samples.true[:, absent].any()
    assert not set(samples.text.tolist()) & set(absent)
    # Of a whole picture, everything in it may be true, and so it is never called wrong.
    first = {samples.texts[position] for position in samples.true[0].nonzero().flatten()}
    assert first == set(records[0].concepts)


def test_encoder_samples_name_what_lies_under_the_circle(tmp_path):
    write_scenes(tmp_path, count=12, first_seed=0, workers=1)
    records = read_scenes(tmp_path)
    samples = scene_samples(records, image_size=57, circles_per_scene=6, crops_per_scene=2, seed=0)
    again = scene_samples(records, image_size=57, circles_per_scene=6, crops_per_scene=2, seed=0)
    assert samples.pixels.shape == (12, 57, 57, 3)
    assert samples.text.tolist() == again.text.tolist()
    circled = ~samples.centre[:, 0].isnan()
    assert circled.sum() == 12 * 6
    assert {record.caption for record in records} <= set(samples.texts)
    kinds = set()
    for index in circled.nonzero().flatten().tolist():
        masks = read_masks(records[int(samples.picture[index])].mask_path)
        y, x = (samples.centre[index] * 224 / 57).tolist()
        under = {name for name, mask in masks.items() if mask[min(int(y + 1e-3), 223), min(int(x + 1e-3), 223)]}
        text = samples.texts[samples.text[index]]
        assert text in under
        assert {samples.texts[position] for position in samples.true[index].nonzero().flatten()} == under
        kinds |= {name for name, kind in KINDS.items() if text in kind}
    assert kinds == set(KINDS), "objects, attributes, parts and backgrounds are all taught"
    boxes = samples.box[~circled]
    assert boxes.min() >= 0
    assert boxes.max() <= 57 + 1e-3
