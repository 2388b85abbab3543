"""The concept bottleneck: the cubed cosine to the number, planted maps found again."""

import numpy as np
import pytest
import torch

from salf_training.bottleneck import BottleneckTraining, cubed_cosine, fit_bottleneck
from salf_training.errors import DataError

QUICK = BottleneckTraining(steps=300, batch_size=32, learning_rate=0.03, check_every=20)


def reference(maps: np.ndarray, similarities: np.ndarray) -> np.ndarray:
    """The formula of Label-free CBM in float64."""
    a = maps.astype(np.float64)
    b = similarities.astype(np.float64)
    a, b = ((v - v.mean(axis=1, keepdims=True)) ** 3 for v in (a, b))
    return (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def pair(seed: int = 0, *, concepts: int = 6, places: int = 343) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(concepts, places, generator=generator)
    return maps, 0.5 * maps + torch.randn(concepts, places, generator=generator)


def test_the_cubed_cosine_is_the_published_formula():
    maps, similarities = pair()
    got = cubed_cosine(maps, similarities).numpy()
    assert got == pytest.approx(reference(maps.numpy(), similarities.numpy()), abs=1e-5)
    plain = torch.nn.functional.cosine_similarity(maps, similarities).numpy()
    assert np.abs(got - plain).max() > 0.01, "the cubes must matter"


@pytest.mark.parametrize("scale", [1e-16, 1e-10, 1e-3, 1e3, 1e14])
def test_the_cubed_cosine_does_not_depend_on_scale(scale):
    maps, similarities = pair(1)
    expected = cubed_cosine(maps, similarities).numpy()
    assert cubed_cosine(maps * scale, similarities).numpy() == pytest.approx(expected, abs=1e-5)
    assert cubed_cosine(maps, similarities * scale).numpy() == pytest.approx(expected, abs=1e-5)


def test_the_cubed_cosine_does_not_depend_on_a_shift_and_turns_with_the_sign():
    maps, similarities = pair(2)
    expected = cubed_cosine(maps, similarities).numpy()
    assert cubed_cosine(maps + 7, similarities - 3).numpy() == pytest.approx(expected, abs=1e-4)
    assert cubed_cosine(-maps, similarities).numpy() == pytest.approx(-expected, abs=1e-6)
    assert cubed_cosine(maps, maps).numpy() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1.7, -123.456, 1e-20])
def test_a_constant_concept_gives_zero_with_a_finite_gradient(value):
    # 12,544 places: the mean of equal FP32 values is not exactly that value.
    similarities = torch.randn(1, 12_544, generator=torch.Generator().manual_seed(0))
    maps = torch.full_like(similarities, value).requires_grad_()
    cosine = cubed_cosine(maps, similarities)
    cosine.sum().backward()
    assert cosine.item() == 0.0
    assert cubed_cosine(similarities, maps.detach()).item() == 0.0
    assert maps.grad is not None
    assert maps.grad.isfinite().all()


def planted(*, pictures: int = 80, concepts: int = 5, channels: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Features FP32 [N,C,G] of very different scales, and similarities FP32 [N,M,G] that are linear in them."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(pictures, channels, 9, generator=generator)
    features *= torch.logspace(-2, 2, channels)[None, :, None]
    weight = torch.randn(concepts, channels, generator=generator) / torch.logspace(-2, 2, channels)
    return features, 0.25 + 0.01 * torch.einsum("mc,ncg->nmg", weight, features)


def test_planted_concept_maps_are_found_again():
    features, similarities = planted()
    weight, held_out = fit_bottleneck(features[:60], similarities[:60], settings=QUICK, seed=0)
    assert held_out.min() > 0.97
    maps = torch.einsum("mc,ncg->mng", weight, features[60:]).flatten(1)
    assert cubed_cosine(maps, similarities[60:].transpose(0, 1).flatten(1)).min() > 0.95
    assert maps.std(dim=1).numpy() == pytest.approx(1.0, abs=0.25), "each concept's map has unit spread"


def test_the_fit_depends_on_its_seed_alone():
    features, similarities = planted()
    first, again, other = (fit_bottleneck(features, similarities, settings=QUICK, seed=seed)[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_concept_keeps_its_own_best_step():
    features, similarities = planted()
    similarities = torch.randn(similarities.shape, generator=torch.Generator().manual_seed(1))  # nothing to be learnt
    wild = BottleneckTraining(
        steps=60, batch_size=4, learning_rate=0.5, check_every=1, patience=None, held_out_share=0.2
    )
    weight, best = fit_bottleneck(features, similarities, settings=wild, seed=0)
    last, now = fit_bottleneck(
        features, similarities, settings=wild.model_copy(update={"check_every": 60}), seed=0
    )  # the same steps, but only the last one is looked at
    assert (best >= now).all()
    assert (best > now + 1e-4).any(), "the last step must not be the best for all"
    # What is reported belongs to what is returned.
    held_out = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:16]
    for fitted, reported in ((weight, best), (last, now)):
        maps = torch.einsum("mc,ncg->mng", fitted, features[held_out]).flatten(1)
        there = cubed_cosine(maps, similarities[held_out].transpose(0, 1).flatten(1))
        assert there.numpy() == pytest.approx(reported.numpy(), abs=1e-4)


def test_the_fit_stops_when_the_held_out_similarity_no_longer_gains():
    features, similarities = planted()
    similarities = torch.randn(similarities.shape, generator=torch.Generator().manual_seed(1))  # nothing to be learnt
    wild = BottleneckTraining(steps=400, batch_size=4, learning_rate=0.5, check_every=5, patience=3, held_out_share=0.2)
    looks: dict[int | None, list[int]] = {}
    best: dict[int | None, float] = {}
    for patience in (3, None):
        steps: list[int] = []
        schedule = wild.model_copy(update={"patience": patience})
        _, held_out = fit_bottleneck(
            features, similarities, settings=schedule, seed=0, on_progress=lambda _, step, __, to=steps: to.append(step)
        )
        looks[patience], best[patience] = steps, float(held_out.mean())
    assert looks[None] == list(range(1, 401))
    assert looks[3][-1] == 400, "who watches is told that the stage is over"
    stopped_at = len(looks[3])
    assert 15 < stopped_at < 300
    assert stopped_at % 5 == 0, "it stops at a look"
    assert best[3] <= best[None], "the longer run saw every look of the shorter one"


def test_a_concept_without_variation_and_a_dead_channel_give_finite_weights():
    features, similarities = planted()
    features[:, 3] = 0.0
    similarities[:, 2] = 0.2
    weight, best = fit_bottleneck(features, similarities, settings=QUICK, seed=0)
    assert weight.isfinite().all()
    assert best[2] == 0.0


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_two_pictures_are_enough_and_one_is_refused(share):
    features, similarities = planted(pictures=2)
    few = BottleneckTraining(steps=3, held_out_share=share)
    assert fit_bottleneck(features, similarities, settings=few, seed=0)[0].isfinite().all()
    with pytest.raises(DataError, match="two pictures or more"):
        fit_bottleneck(features[:1], similarities[:1], settings=few, seed=0)
