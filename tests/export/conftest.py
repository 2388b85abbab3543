"""A tiny random checkpoint, non-square, with BatchNorm statistics that matter."""

from pathlib import Path
from typing import Any

import pytest
import torch

from salf_contract import Preparation
from salf_export import exporting
from salf_export.backbone_graph import backbone_graph
from salf_training.backbone import BackboneSettings, build_backbone, feature_shape
from salf_training.checkpoint import Checkpoint, ModelCard, save_checkpoint
from salf_training.model import SalfModel

CONCEPTS, CLASSES, HEIGHT, WIDTH = 40, 6, 64, 96
CNN = BackboneSettings(name="test_resnet")


def random_checkpoint(
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
    seed: int = 0,
    settings: BackboneSettings = CNN,
    **kind: Any,
) -> Checkpoint:
    """`kind` may give the pooling and the map size."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone = build_backbone(settings)
    for module in backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(std=0.3, generator=generator)
    channels, rows, columns = feature_shape(backbone, height=height, width=width)
    model = SalfModel(backbone, channels=channels, concepts=CONCEPTS, classes=CLASSES, **kind).eval()
    model.pixel_mean.copy_(torch.tensor([0.4, 0.5, 0.6]))
    model.pixel_std.copy_(torch.tensor([0.2, 0.25, 0.3]))
    model.concept_weight.normal_(std=channels**-0.5, generator=generator)
    model.concept_bias.normal_(generator=generator)
    model.score_mean.normal_(generator=generator)
    model.score_std.uniform_(0.5, 2, generator=generator)
    sparse = torch.rand(CLASSES, CONCEPTS, generator=generator) < 5 / CONCEPTS
    model.head_weight.copy_(torch.randn(CLASSES, CONCEPTS, generator=generator) * sparse)
    model.head_bias.normal_(generator=generator)
    card = ModelCard(
        backbone=settings,
        preparation=Preparation(height=height, width=width),
        pixel_mean=(0.4, 0.5, 0.6),
        pixel_std=(0.2, 0.25, 0.3),
        feature_shape=(channels, rows, columns),
        grid=(rows, columns),
        concepts_per_class=float(sparse.sum() / CLASSES),
        **kind,
    )
    names = tuple(f'concept "{i}" \\ é' for i in range(CONCEPTS))
    return Checkpoint(model, card, tuple(f"class {i}" for i in range(CLASSES)), names)


@pytest.fixture(autouse=True, scope="session")
def _backbones_are_exported_once():
    """torch's export takes seconds; tests that are not about it share its result."""
    known = {}

    def remembered(model: SalfModel, preparation: Preparation):
        key = (preparation.height, preparation.width, float(model.concept_weight.sum()))
        if key not in known:
            known[key] = backbone_graph(model, preparation)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporting, "backbone_graph", remembered)
        yield


@pytest.fixture(scope="session")
def source() -> Checkpoint:
    return random_checkpoint()


@pytest.fixture(scope="session")
def resizing_softmax() -> Checkpoint:
    """The same backbone and weights, with softmax pooling of maps larger than the features."""
    return random_checkpoint(pooling="softmax", map_size=(5, 4))


@pytest.fixture(scope="session")
def checkpoint(source: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "checkpoint"
    save_checkpoint(folder, source)
    return folder


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another input size."""
    folder = tmp_path_factory.mktemp("export-other") / "checkpoint"
    save_checkpoint(folder, random_checkpoint(height=96, width=96))
    return folder
