"""The model against the same formulas in numpy, float64."""

import numpy as np
import pytest
import torch

from salf_training.model import SalfModel

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
    model = SalfModel(Patches(), channels=C, concepts=M, classes=K).eval()
    generator = torch.Generator().manual_seed(0)
    for name, buffer in model.named_buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + (0.5 if name.endswith("std") else -0.5))
    return model


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (B, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def in_numpy(model, pixels):
    p = {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}
    images = (pixels.numpy() / 255 - p["pixel_mean"]) / p["pixel_std"]
    features = np.einsum("cr,bhwr->bchw", p["backbone.mix"], images)
    maps = np.einsum("mc,bchw->bmhw", p["concept_weight"], features) + p["concept_bias"][None, :, None, None]
    scores = (maps.mean(axis=(2, 3)) - p["score_mean"]) / p["score_std"]
    return features, maps, scores, scores @ p["head_weight"].T + p["head_bias"], p


def test_the_forward_pass_is_the_designs_formula(model, pixels):
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
