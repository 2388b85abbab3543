"""Backbones of every kind: where their patches lie, what their files hold, and names that must not be followed."""

import copy
import sys
from textwrap import dedent

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from salf_training.backbone import Backbone, BackboneSettings, brings_own_weights, build_backbone, feature_shape
from salf_training.errors import SettingsError, WeightsError

SWIN = {"embed_dim": 16, "depths": (1, 1, 1), "num_heads": (1, 2, 4), "window_size": 4}
#: Networks of every order of axes; each halves its picture to cells of `cell` pixels.
KINDS = {
    "vit": (BackboneSettings(name="test_vit"), 16),
    "vit, pooled without class token": (BackboneSettings(name="test_vit3"), 16),
    "vit, class and distillation token": (
        BackboneSettings(name="deit_tiny_distilled_patch16_224", options={"depth": 2}),
        16,
    ),
    "vit, class and register tokens": (
        BackboneSettings(name="vit_tiny_patch16_224", options={"depth": 2, "reg_tokens": 4}),
        16,
    ),
    "vit, inner stage": (BackboneSettings(name="test_vit", stage=1), 16),
    "channels last": (BackboneSettings(name="swin_tiny_patch4_window7_224", options=SWIN), 16),
    "channels last, inner stage": (BackboneSettings(name="swin_tiny_patch4_window7_224", options=SWIN, stage=1), 8),
    "convolutions": (BackboneSettings(name="test_resnet"), 32),
    "norm behind pooling": (BackboneSettings(name="test_convnext"), 32),
    "torchvision": (BackboneSettings(name="torchvision:resnet18"), 32),
    "torchvision, named node": (BackboneSettings(name="torchvision:resnet18", node="layer2"), 8),
}


def built(settings: BackboneSettings, **options) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(settings, **options).eval()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("corner", [(0, 0), (0, -1), (-1, 0), (-1, -1)])
def test_a_picture_changed_in_one_corner_changes_most_in_that_corner_of_the_map(kind, corner):
    settings, cell = KINDS[kind]
    backbone = built(settings)
    height, width = 4 * cell, 6 * cell
    while height < 128:
        height, width = 2 * height, 2 * width
    grey = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(1)) * 0.1
    bright = grey.clone()
    rows = slice(0, cell) if corner[0] == 0 else slice(height - cell, height)
    columns = slice(0, cell) if corner[1] == 0 else slice(width - cell, width)
    bright[:, :, rows, columns] += 3
    with torch.inference_mode():
        change = (backbone(bright) - backbone(grey)).norm(dim=1)[0]
    assert change.shape == (height // cell, width // cell), "height comes first"
    there = (corner[0] % change.shape[0], corner[1] % change.shape[1])
    strongest = divmod(int(change.argmax()), change.shape[1])
    # A convolution at the border sees less of its own cell than its neighbours do.
    tolerance = 0 if "vit" in kind else change.shape[0] // 4
    assert max(abs(there[0] - strongest[0]), abs(there[1] - strongest[1])) <= tolerance


def test_a_vgg_ends_in_front_of_its_classifier_though_that_starts_with_a_convolution():
    assert feature_shape(built(BackboneSettings(name="vgg11")), height=224, width=256) == (512, 7, 8)


def test_patch_tokens_become_cells_row_by_row_and_other_tokens_are_left_out():
    settings, _ = KINDS["vit, class and register tokens"]
    backbone, images = built(settings), torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        got, tokens = backbone(images), backbone.network.forward_features(images)
    assert backbone.network.num_prefix_tokens == 5
    assert tokens.shape[1] == 5 + 4 * 6
    for row in range(4):
        for column in range(6):
            assert torch.equal(got[:, :, row, column], tokens[:, 5 + row * 6 + column])


def test_channels_last_networks_are_turned():
    settings, _ = KINDS["channels last"]
    backbone, images = built(settings), torch.rand(1, 3, 128, 192)
    with torch.inference_mode():
        got, last = backbone(images), backbone.network.forward_features(images)
    assert last.shape == (1, 8, 12, 64)
    assert got[0, :, 3, 5].numpy() == pytest.approx(last[0, 3, 5].numpy(), abs=1e-6)


@pytest.mark.parametrize("stage", [None, 0])
def test_a_transformers_local_weights_load_and_matter(tmp_path, stage):
    torch.manual_seed(7)
    network = timm.create_model("test_vit").eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    settings = BackboneSettings(name="test_vit", stage=stage)
    images = torch.rand(1, 3, 160, 160)
    with torch.inference_mode():
        got = built(settings, weights=tmp_path / "w.safetensors")(images)
        expected = network.forward_intermediates(
            images, indices=None if stage is None else [stage], norm=stage is None, intermediates_only=True
        )[-1]
        assert torch.equal(got, expected)
        assert not torch.equal(got, built(settings)(images))


def test_weights_whose_norm_lies_behind_the_pooling_load(tmp_path):
    network = timm.create_model("vit_tiny_patch16_224", depth=1, global_pool="avg")
    assert "fc_norm.weight" in network.state_dict()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    settings = BackboneSettings(name="vit_tiny_patch16_224", options={"depth": 1, "global_pool": "avg"})
    shape = feature_shape(built(settings, weights=tmp_path / "w.safetensors"), height=32, width=64)
    assert shape == (192, 2, 4)


def test_position_embeddings_are_resampled_to_the_size_that_the_options_fix(tmp_path):
    network = timm.create_model("test_vit")
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    wide = BackboneSettings(name="test_vit", options={"img_size": (64, 96)})
    backbone = built(wide, weights=tmp_path / "w.safetensors")
    assert backbone.network.pos_embed.shape[1] == 1 + 4 * 6
    # Resampling at every call gives the same map.
    any_size = built(BackboneSettings(name="test_vit"), weights=tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        assert backbone(images).numpy() == pytest.approx(any_size(images).numpy(), abs=1e-5)
    with pytest.raises(WeightsError, match=r"'test_vit' takes no pictures of 80 x 96 pixels"):
        feature_shape(backbone, height=80, width=96)


def test_a_size_that_is_no_multiple_of_the_patch_is_refused():
    with pytest.raises(WeightsError, match="takes no pictures of 70 x 64"):
        feature_shape(built(BackboneSettings(name="test_vit")), height=70, width=64)


def test_a_map_in_the_wrong_order_is_refused_not_misread():
    backbone = built(KINDS["channels last"][0])
    backbone._read = lambda network, images: network.forward_features(images)
    backbone._channels = 64
    with pytest.raises(WeightsError, match="expected 64 channels, and those before height and width"):
        feature_shape(backbone, height=128, width=192)


@pytest.mark.parametrize(
    ("name", "of_the_whole"),
    [
        ("resnet18", lambda n, x: nn.Sequential(*list(n.children())[:-2])(x)),
        ("mobilenet_v3_small", lambda n, x: n.features(x)),  # pools inside its blocks too
        ("shufflenet_v2_x0_5", lambda n, x: n.conv5(n.stage4(n.stage3(n.stage2(n.maxpool(n.conv1(x))))))),  # x.mean
    ],
)
def test_torchvision_networks_end_in_front_of_their_pooling_also_with_local_weights(tmp_path, name, of_the_whole):
    torch.manual_seed(3)
    network = torchvision.models.get_model(name, weights=None).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = built(BackboneSettings(name=f"torchvision:{name}"), weights=tmp_path / "w.safetensors")
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        assert backbone(images).numpy() == pytest.approx(of_the_whole(network, images).numpy(), abs=1e-5)
        assert copy.deepcopy(backbone).double()(images.double()).dtype == torch.float64
    assert feature_shape(backbone, height=64, width=96)[1:] == (2, 3)


def test_torchvisions_vision_transformer_gives_its_patches():
    backbone = built(BackboneSettings(name="torchvision:vit_b_32", options={"image_size": 96, "num_classes": 2}))
    bright = torch.zeros(1, 3, 96, 96)
    bright[:, :, :32, 64:] = 3
    with torch.inference_mode():
        change = (backbone(bright) - backbone(torch.zeros_like(bright))).norm(dim=1)[0]
    assert change.shape == (3, 3)
    assert int(change.argmax()) == 2, "first row, last column"
    with pytest.raises(WeightsError, match="takes no pictures of 64 x 64"):
        feature_shape(backbone, height=64, width=64)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"name": "torchvision:no_such"}, WeightsError, "torchvision cannot build.*no_such"),
        ({"name": "torchvision:resnet18", "node": "layer9"}, WeightsError, "layer9"),
        ({"name": "torchvision:resnet18", "stage": 1}, SettingsError, "no numbered stages"),
        ({"name": "resnet18", "node": "layer1"}, SettingsError, "no named nodes"),
        ({"name": "own_networks:small", "stage": 1}, SettingsError, "no numbered stages"),
    ],
)
def test_what_does_not_belong_together_is_refused(settings, error, said):
    with pytest.raises(error, match=said):
        Backbone(BackboneSettings(**settings))


@pytest.fixture
def own_networks(tmp_path, monkeypatch):
    """An importable module of a user's."""
    source = """
        from torch import nn

        def small(channels: int = 5, pretrained: bool = False) -> nn.Conv2d:
            network = nn.Conv2d(3, channels, 8, 8)
            if pretrained:
                nn.init.ones_(network.weight)
            return network

        def untrained() -> nn.Module:
            return nn.Conv2d(3, 2, 8, 8)

        def flat() -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 2, 8, 8), nn.Flatten())

        def liar() -> nn.Module:
            return "a network"

        def unsaid():
            raise AssertionError("was called")
    """
    (tmp_path / "own_networks.py").write_text(dedent(source))
    (tmp_path / "broken_networks.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_networks", None)


@pytest.mark.usefixtures("own_networks")
def test_a_factorys_network_is_used_with_its_options_and_weights(tmp_path):
    settings = BackboneSettings(name="own_networks:small", options={"channels": 4})
    assert feature_shape(built(settings), height=16, width=24) == (4, 2, 3)
    assert (built(settings, pretrained=True).network.weight == 1).all()
    assert not (built(settings).network.weight == 1).any(), "a checkpoint's backbone is built without fetching weights"
    save_file({"weight": torch.full((4, 3, 8, 8), 2.0), "bias": torch.zeros(4)}, tmp_path / "w.safetensors")
    assert (built(settings, weights=tmp_path / "w.safetensors").network.weight == 2).all()


@pytest.mark.usefixtures("own_networks")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module_here:small", "install its package or put its folder on PYTHONPATH"),
        ("broken_networks:small", "importing broken_networks failed: ZeroDivisionError"),
        ("own_networks:large", "has no function 'large'"),
        ("own_networks:liar", "returned a str"),
        ("own_networks:unsaid", r"must be annotated .*-> Module"),
        ("os:system", "has no function|must be annotated"),
        ("shutil:rmtree", "must be annotated"),
    ],
)
def test_factories_that_are_none_are_refused_and_not_called(name, said):
    with pytest.raises(SettingsError, match=said):
        Backbone(BackboneSettings(name=name))


@pytest.mark.usefixtures("own_networks")
def test_only_a_factory_that_cannot_be_asked_for_weights_brings_its_own():
    assert brings_own_weights(BackboneSettings(name="own_networks:untrained"))
    for name in ("own_networks:small", "test_resnet", "torchvision:resnet18"):
        assert not brings_own_weights(BackboneSettings(name=name)), name


@pytest.mark.usefixtures("own_networks")
def test_a_factory_is_not_asked_for_what_it_cannot_do():
    with pytest.raises(SettingsError, match="no parameter `pretrained`"):
        build_backbone(BackboneSettings(name="own_networks:untrained"), pretrained=True)
    with pytest.raises(SettingsError, match=r"failed with the options.*channel"):
        build_backbone(BackboneSettings(name="own_networks:small", options={"channel": 1}))
    with pytest.raises(WeightsError, match=r"shape \(1, 12\), expected a map"):
        feature_shape(build_backbone(BackboneSettings(name="own_networks:flat")), height=16, width=24)
