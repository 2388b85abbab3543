"""The model against the same formulas in numpy, float64."""

import numpy as np
import pytest
import torch

from salf_training.errors import WeightsError
from salf_training.model import FeaturesBackbone, SalfModel, pool_maps, resize_maps

B, H, W, C, M, K = 3, 5, 8, 4, 6, 3


class Patches(torch.nn.Module):
    """A backbone simple enough for numpy: one 1 x 1 mixing of colours."""

    def __init__(self):
        super().__init__()
        self.mix = torch.nn.Parameter(torch.randn(C, 3, generator=torch.Generator().manual_seed(7)))

    def forward(self, images):
        return torch.einsum("cr,brhw->bchw", self.mix, images)


@pytest.fixture
def model():
    return random_model()


def random_model(**options):
    model = SalfModel(Patches(), channels=C, concepts=M, classes=K, **options).eval()
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("std") else -0.5))
    return model


KINDS = [
    {"pooling": pooling, "map_size": map_size}
    for pooling in ("average", "softmax")
    for map_size in (None, (9, 4), (2, 3))
]


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (B, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def in_numpy(model, pixels):
    p = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    images = (pixels.numpy() / 255 - p["pixel_mean"]) / p["pixel_std"]
    features = np.einsum("cr,bhwr->bchw", p["backbone.mix"], images)
    resized = features if model.map_size is None else in_numpy_resized(features, model.map_size)
    maps = np.einsum("mc,bchw->bmhw", p["concept_weight"], resized) + p["concept_bias"][None, :, None, None]
    shares = np.exp(maps) if model.pooling == "softmax" else np.ones_like(maps)
    pooled = (maps * shares).sum(axis=(2, 3)) / shares.sum(axis=(2, 3))
    scores = (pooled - p["score_mean"]) / p["score_std"]
    return features, maps, scores, scores @ p["head_weight"].T + p["head_bias"], p


def in_numpy_resized(features, size):
    """Bilinear between the centres of cells, clamped at the edges, no antialiasing."""
    for axis, target in zip((2, 3), size, strict=True):
        source = features.shape[axis]
        place = ((np.arange(target) + 0.5) * source / target - 0.5).clip(0, source - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1 if i == axis else 1 for i in range(4)])
        high = features.take(np.minimum(low + 1, source - 1), axis)
        features = features.take(low, axis) * (1 - share) + high * share
    return features


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_the_designs_formula(kind, pixels):
    model = random_model(**kind)
    with torch.inference_mode():
        answer = model(pixels)
    for got, expected in zip(answer, in_numpy(model, pixels), strict=False):
        assert got.shape == expected.shape
        assert got.dtype == torch.float32
        assert got.numpy() == pytest.approx(expected, abs=1e-4)


def test_the_backbones_classifier_works_on_pooled_features(model, pixels):
    features, *_, p = in_numpy(model, pixels)
    expected = features.mean(axis=(2, 3)) @ p["classifier_weight"].T + p["classifier_bias"]
    with torch.inference_mode():
        assert model.classify(model.features(pixels)).numpy() == pytest.approx(expected, abs=1e-4)


def test_contributions_belong_to_each_pictures_own_target(model, pixels):
    *_, scores, logits, p = in_numpy(model, pixels)
    target = torch.tensor([2, 0, 2])
    with torch.inference_mode():
        parts = model.contributions(model(pixels).scores, target)
    assert parts.shape == (B, M)
    assert parts.numpy() == pytest.approx(p["head_weight"][target.numpy()] * scores, abs=1e-4)
    sums = parts.numpy().sum(axis=1) + p["head_bias"][target.numpy()]
    assert sums == pytest.approx(logits[np.arange(B), target.numpy()], abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_and_bias_sum_to_the_logit_whatever_the_pooling(kind, pixels):
    model = random_model(**kind)
    with torch.inference_mode():
        answer = model(pixels)
    for k in range(K):
        target = torch.full((B,), k)
        sums = model.contributions(answer.scores, target).sum(dim=1) + model.head_bias[k]
        assert sums.numpy() == pytest.approx(answer.logits[:, k].numpy(), abs=1e-5)


def test_softmax_pooling_lies_between_the_average_and_the_maximum_and_follows_a_shift():
    maps = 3 * torch.randn(2, M, 4, 5, generator=torch.Generator().manual_seed(5))
    pooled = pool_maps(maps, "softmax")
    assert (pooled > pool_maps(maps, "average")).all()
    assert (pooled < maps.amax(dim=(2, 3))).all()
    torch.testing.assert_close(pool_maps(maps + 2.5, "softmax"), pooled + 2.5)
    # Not so for a factor: dividing by the std before pooling gives other numbers.
    assert not torch.allclose(pool_maps(maps / 2, "softmax"), pooled / 2, atol=0.1)
    flat = torch.full((1, 1, 3, 3), 700.0)
    assert pool_maps(flat, "softmax").tolist() == [[pytest.approx(700.0, rel=1e-6)]], "large values do not overflow"


def test_resizing_features_or_maps_is_the_same_and_the_own_size_changes_nothing(pixels):
    small, resizing = random_model(), random_model(map_size=(9, 4))
    features = small.features(pixels)
    torch.testing.assert_close(resizing.concept_maps(features), resize_maps(small.concept_maps(features), (9, 4)))
    assert torch.equal(random_model(map_size=(H, W)).concept_maps(features), small.concept_maps(features))
    # The backbone's own classifier is asked about the features as they are.
    assert torch.equal(resizing.classify(features), small.classify(features))


def test_a_model_may_start_from_features(pixels):
    model = random_model()
    features = model.features(pixels)
    for one, other in zip(model.from_features(features), model(pixels), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(FeaturesBackbone(C)(features), features)
    for wrong in (features[:, :3], features[0]):
        with pytest.raises(WeightsError, match="from_features"):
            FeaturesBackbone(C)(wrong)


def test_normalised_maps_average_to_the_scores(model, pixels):
    with torch.inference_mode():
        answer = model(pixels)
        shown = (answer.maps - model.score_mean[:, None, None]) / model.score_std[:, None, None]
    assert shown.mean(dim=(2, 3)).numpy() == pytest.approx(answer.scores.numpy(), abs=1e-5)


def test_an_answer_does_not_depend_on_its_batch(model, pixels):
    with torch.inference_mode():
        together = model(pixels).logits
        alone = torch.cat([model(pixels[i : i + 1]).logits for i in range(B)])
    assert together.numpy() == pytest.approx(alone.numpy(), abs=1e-5)


def test_everything_is_in_the_state_dict_and_nothing_after_the_backbone_is_trained(model):
    names = set(model.state_dict())
    assert names >= {"pixel_mean", "pixel_std", "concept_weight", "score_mean", "score_std", "head_weight", "head_bias"}
    assert [name for name, _ in model.named_parameters()] == ["backbone.mix"]


def test_an_unfitted_model_gives_zeros_and_no_nan(pixels):
    model = SalfModel(Patches(), channels=C, concepts=M, classes=K)
    answer = model(pixels)
    assert not answer.scores.any()
    assert not answer.logits.any()
