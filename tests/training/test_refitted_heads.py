"""Heads of 5 to 30 concepts per class, fitted anew for a report."""

import numpy as np
import pytest
import torch

from salf_training.evaluation.heads import NECS, refit_heads
from salf_training.head import HeadTraining
from salf_training.head_choice import LabelledScores

CLASSES, CONCEPTS = 3, 40


def scores_of(count: int, *, seed: int) -> LabelledScores:
    """Classes of which each concept tells a little."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(CLASSES, CONCEPTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.randn(count, CONCEPTS, generator=generator, dtype=torch.float64)
    return LabelledScores(scores, (scores @ truth.T).argmax(dim=1).numpy())


@pytest.fixture(scope="module")
def refitted():
    return refit_heads(scores_of(400, seed=1), scores_of(300, seed=2), classes=CLASSES)


def test_every_number_of_concepts_is_reached_up_to_thirty(refitted):
    """An elastic-net path ends before the head is dense; what it lacks comes from the dense head."""
    assert [point.concepts_per_class for point in refitted.curve] == list(NECS) == [5, 10, 15, 20, 25, 30]


def test_more_concepts_are_more_right_up_to_the_dense_head(refitted):
    assert refitted.training_pictures == 400
    accuracies = [point.accuracy for point in refitted.curve]
    assert accuracies[0] < accuracies[2] < accuracies[-1]
    assert refitted.dense >= accuracies[-1] - 0.03
    assert refitted.dense > 0.85


def test_scores_on_disk_are_judged_as_scores_in_memory(refitted, tmp_path):
    train, held_out = scores_of(400, seed=1), scores_of(300, seed=2)
    np.save(tmp_path / "train.npy", train.scores.numpy())
    on_disk = LabelledScores(np.load(tmp_path / "train.npy", mmap_mode="r"), train.labels)
    again = refit_heads(on_disk, held_out, classes=CLASSES, settings=HeadTraining())
    assert [point.accuracy for point in again.curve] == pytest.approx([p.accuracy for p in refitted.curve], abs=0.03)
    assert again.dense == pytest.approx(refitted.dense, abs=0.03)
