"""Filters of a concept list, with an encoder whose similarities are known."""

import json

import pytest
import torch

from salf_training.concept_sets import (
    ConceptFilters,
    ConceptReport,
    filter_absent,
    filter_texts,
    filter_unlearnt,
    presence,
)
from salf_training.errors import DataError

OFF = dict.fromkeys(("length", "class_similarity", "concept_similarity", "presence", "interpretability"))
DEGREES = {
    "dog": 0,
    "a puppy": 20,
    "tail": 90,
    "the tail": 95,
    "long tail": 110,
    "sky": 180,
    "A dog": 60,
    "wolf": 40,
    "hound": -25,
}


class AngleEncoder:
    """Texts are directions in a plane: the cosine of two texts is that of the angle between them."""

    image_size = (8, 8)
    fingerprint = "angles"

    def embed_images(self, pixels):
        raise AssertionError("texts only")

    def embed_texts(self, phrases):
        angles = torch.deg2rad(torch.tensor([float(DEGREES[phrase]) for phrase in phrases]))
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def filters(**values):
    return ConceptFilters(**{**OFF, **values})


def report(*concepts):
    return ConceptReport(given=len(concepts), kept=concepts, dropped=())


def test_the_published_thresholds_are_the_defaults():
    assert ConceptFilters().model_dump() == {
        "length": 30,
        "class_similarity": 0.85,
        "concept_similarity": 0.9,
        "presence": 0.25,
        "interpretability": 0.45,
        "failing": "drop",
    }


def test_more_characters_than_allowed_are_dropped_and_as_many_are_kept():
    found = filter_texts(("a" * 30, "b" * 31), (), AngleEncoder(), filters(length=30))
    assert found.kept == ("a" * 30,)
    (dropped,) = found.dropped
    assert (dropped.concept, dropped.reason, dropped.value, dropped.threshold) == ("b" * 31, "length", 31, 30)
    assert dropped.sentence == "31 characters, more than 30"


def test_what_is_close_to_a_class_is_dropped_with_the_class_and_the_cosine():
    found = filter_texts(("a puppy", "tail", "A dog"), ("sky", "dog"), AngleEncoder(), filters(class_similarity=0.85))
    assert found.kept == ("tail",)
    close, same = found.dropped
    assert (close.concept, close.other) == ("a puppy", "dog")
    assert close.value == pytest.approx(0.9396926, abs=1e-6), "the cosine of 20 degrees"
    assert (same.concept, same.other, same.value) == ("A dog", "dog", 1.0), "the name itself, article and case apart"


def test_of_two_close_concepts_the_more_general_one_stays():
    # 95 degrees is nearest to both others.
    found = filter_texts(("tail", "the tail", "long tail"), (), AngleEncoder(), filters(concept_similarity=0.96))
    assert found.kept == ("the tail",)
    assert [(item.concept, item.other) for item in found.dropped] == [("tail", "the tail"), ("long tail", "the tail")]
    assert found.dropped[0].value == pytest.approx(0.9961947, abs=1e-6)


def test_a_dropped_concept_drops_no_other():
    # 20 degrees is close to 0 and to 40, but goes to 0, which the one at -25 makes more general: 40 is left alone.
    given = ("a puppy", "dog", "wolf", "hound")
    found = filter_texts(given, (), AngleEncoder(), filters(concept_similarity=0.93))
    assert [(item.concept, item.other) for item in found.dropped] == [("a puppy", "dog")]
    assert found.kept == ("dog", "wolf", "hound")


def test_filters_run_in_the_published_order_and_each_concept_is_dropped_once():
    concepts = ("dog", "a puppy", "tail", "the tail", "sky")
    given = filters(length=7, class_similarity=0.85, concept_similarity=0.9)
    found = filter_texts(concepts, ("dog",), AngleEncoder(), given)
    assert found.given == 5
    assert [(item.concept, item.reason) for item in found.dropped] == [
        ("the tail", "length"),
        ("dog", "class_similarity"),
        ("a puppy", "class_similarity"),
    ]
    assert sorted([*found.kept, *(item.concept for item in found.dropped)]) == sorted(concepts)


def test_presence_is_the_mean_of_the_five_strongest_pictures_over_all_batches():
    activations = torch.zeros(12, 2, 3)
    activations[:, 0, 1] = torch.arange(12) / 100  # 7..11: mean 0.09
    activations[:, 1, :] = -1.0
    strengths = presence([activations[:7], activations[7:8], activations[8:]])
    assert strengths.tolist() == pytest.approx([0.09, -1.0])
    assert presence([activations[:2]]).tolist() == pytest.approx([0.005, -1.0]), "fewer than five pictures"
    with pytest.raises(DataError, match="no pictures"):
        presence([])


def test_weak_and_unlearnt_concepts_are_dropped_below_the_threshold_only():
    found = filter_absent(report("a", "b", "c"), torch.tensor([0.25, 0.2499, 0.3]), 0.25)
    assert found.kept == ("a", "c")
    found = filter_unlearnt(found, torch.tensor([0.1, 0.45]), 0.45)
    assert found.kept == ("c",)
    assert [item.reason for item in found.dropped] == ["presence", "interpretability"]
    assert "held-out similarity 0.100, below 0.45" in found.dropped[1].sentence
    with pytest.raises(DataError, match="one each"):
        filter_unlearnt(found, torch.tensor([0.1, 0.45]), 0.45)


def test_muted_concepts_stay_in_the_list_without_a_say_and_are_named_once():
    found = filter_absent(report("a", "b", "c", "d"), torch.tensor([0.3, 0.1, 0.3, 0.3]), 0.25, "mute")
    found = filter_unlearnt(found, torch.tensor([0.9, 0.1, 0.1, 0.9]), 0.45, "mute")
    assert found.kept == ("a", "b", "c", "d")
    assert found.dropped == ()
    assert found.deciding == ("a", "d")
    assert [(item.concept, item.reason) for item in found.muted] == [("b", "presence"), ("c", "interpretability")]
    with pytest.raises(DataError, match="'interpretability' leaves none"):
        filter_unlearnt(found, torch.tensor([0.1, 0.1, 0.1, 0.1]), 0.45, "mute")


def test_a_filter_that_leaves_nothing_is_an_error_that_names_it():
    with pytest.raises(DataError, match=r"'presence' leaves none of 2 concepts, e.g. 'a'"):
        filter_absent(report("a", "b"), torch.tensor([0.1, 0.1]), 0.25)


def test_the_report_is_json_that_reads_back(tmp_path):
    found = filter_absent(report("a", "b", "c"), torch.tensor([0.5, 0.125, 0.5]), 0.25)
    found = filter_unlearnt(found, torch.tensor([0.5, 0.25]), 0.45, "mute")
    found.write(tmp_path / "r.json")
    assert ConceptReport.model_validate_json((tmp_path / "r.json").read_text()) == found
    written = json.loads((tmp_path / "r.json").read_text())
    assert written["dropped"] == [
        {"concept": "b", "reason": "presence", "value": 0.125, "threshold": 0.25, "other": None}
    ]
    assert [item["concept"] for item in written["muted"]] == ["c"]
