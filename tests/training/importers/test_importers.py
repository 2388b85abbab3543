"""Importing published folders: what fits becomes a checkpoint, with the backbone that is given or named."""

import sys

import numpy as np
import pytest
import torch
from published_folders import CHANNELS, CLASSES, CONCEPTS, FEATURES, SMALL, write_published

from salf_training.backbone import Backbone, BackboneSettings
from salf_training.checkpoint import load_checkpoint, save_checkpoint
from salf_training.errors import CheckpointError, SettingsError, TrainingError, WeightsError
from salf_training.importers import import_checkpoint


def test_an_imported_model_computes_the_layouts_formula(folder, layout):
    """In numpy, float64, with the layout's pooling written out."""
    imported = import_checkpoint(folder, layout=layout, backbone=FEATURES)
    tensors = {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
    layer = tensors.get("concept_layer.pt") or {"weight": tensors["W_c.pt"], "bias": torch.zeros(CONCEPTS)}
    features = np.random.default_rng(0).normal(size=(3, CHANNELS, 4, 6))
    weight, bias = layer["weight"].double().numpy().reshape(CONCEPTS, CHANNELS), layer["bias"].double().numpy()
    maps = np.einsum("mc,bchw->bmhw", weight, features) + bias[:, None, None]
    shares = np.exp(maps) if layout == "show-and-tell" else np.ones_like(maps)
    pooled = (maps * shares).sum(axis=(2, 3)) / shares.sum(axis=(2, 3))
    scores = (pooled - tensors["proj_mean.pt"].numpy()) / tensors["proj_std.pt"].numpy()
    logits = scores @ tensors["W_g.pt"].numpy().T + tensors["b_g.pt"].numpy()
    answer = imported.model.from_features(torch.from_numpy(features).float())
    np.testing.assert_allclose(answer.maps, maps, atol=1e-5)
    np.testing.assert_allclose(answer.scores, scores, atol=1e-5)
    np.testing.assert_allclose(answer.logits, logits, atol=1e-5)


def test_the_card_says_where_the_model_came_from_and_survives_saving(folder, layout, tmp_path):
    imported = import_checkpoint(folder, layout=layout, backbone=FEATURES, map_size=(8, 9))
    card = save_checkpoint(tmp_path / "ours", imported)
    loaded = load_checkpoint(tmp_path / "ours")
    assert loaded.card == card
    assert card.data == {"imported_folder": "published", "imported_layout": layout}
    assert card.pooling == ("softmax" if layout == "show-and-tell" else "average")
    assert (card.feature_shape, card.map_size) == ((CHANNELS, 4, 6), (8, 9))
    assert card.backbone == FEATURES
    nonzero = int(torch.load(folder / "W_g.pt", weights_only=True).count_nonzero())
    assert card.concepts_per_class == pytest.approx(nonzero / CLASSES)
    features = torch.randn(2, CHANNELS, 4, 6)
    for one, other in zip(imported.model.from_features(features), loaded.model.from_features(features), strict=True):
        assert torch.equal(one, other)
    assert loaded.model.from_features(features).maps.shape == (2, CONCEPTS, 8, 9)


def test_a_model_without_a_backbone_refuses_pictures_and_says_why(label_free):
    imported = import_checkpoint(label_free, layout="label-free", backbone=FEATURES)
    with pytest.raises(WeightsError, match=r"no backbone.*\[batch, 5, rows, columns\].*\(1, 3, 8, 8\)"):
        imported.model(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))


def test_a_real_backbone_is_built_with_its_weights(tmp_path):
    torch.manual_seed(0)
    network = Backbone(BackboneSettings(name="test_resnet")).network
    torch.save(network.state_dict(), tmp_path / "backbone.pt")
    write_published(tmp_path / "published", "label-free", channels=network.num_features)
    (tmp_path / "published" / "args.txt").write_text('{"backbone": "test_resnet"}')
    for backbone in (None, BackboneSettings(name="test_resnet")):
        imported = import_checkpoint(
            tmp_path / "published",
            layout="label-free",
            backbone=backbone,
            backbone_weights=tmp_path / "backbone.pt",
            preparation=SMALL,
        )
        assert imported.card.backbone.name == "test_resnet"
        assert imported.card.feature_shape == (network.num_features, 2, 3)
        pixels = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8)
        with torch.inference_mode():
            expected = network.eval()(imported.model.normalise(pixels))
            assert torch.equal(imported.model(pixels).features, expected)


def test_a_factory_that_was_not_asked_for_its_weights_is_refused(tmp_path, monkeypatch):
    """One that has none to ask for brings its own."""
    source = "from torch import nn\n\n\n"
    for name, parameters in (("asked", "pretrained: bool = False"), ("own", "")):
        source += f"def {name}({parameters}) -> nn.Module:\n    return nn.Conv2d(3, 5, 16, 16)\n"
    (tmp_path / "factories_of_a_user.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    write_published(tmp_path / "published", "label-free", channels=5)

    def imported(name, **more):
        backbone = BackboneSettings(name=f"factories_of_a_user:{name}")
        return import_checkpoint(
            tmp_path / "published", layout="label-free", backbone=backbone, preparation=SMALL, **more
        )

    with pytest.raises(WeightsError, match=r"no weights.*noise"):
        imported("asked")
    assert imported("asked", pretrained=True).card.feature_shape == imported("own").card.feature_shape


def test_a_backbone_without_weights_is_refused(tmp_path):
    channels = Backbone(BackboneSettings(name="test_resnet")).network.num_features
    write_published(tmp_path / "published", "label-free", channels=channels)
    with pytest.raises(WeightsError, match=r"no weights.*noise"):
        import_checkpoint(
            tmp_path / "published",
            layout="label-free",
            backbone=BackboneSettings(name="test_resnet"),
            preparation=SMALL,
        )


def test_channels_that_do_not_fit_the_backbone_are_refused(folder, layout):
    wide = BackboneSettings(name="features", options={"channels": 6, "height": 4, "width": 6})
    with pytest.raises(CheckpointError, match=r"takes features of 5 channels, but the backbone 'features' gives 6"):
        import_checkpoint(folder, layout=layout, backbone=wide)
    with pytest.raises(CheckpointError, match=r"5 channels, but the backbone 'test_resnet' gives"):
        import_checkpoint(folder, layout=layout, backbone=BackboneSettings(name="test_resnet"), preparation=SMALL)


def test_an_explicit_backbone_overrides_what_the_folder_says(label_free):
    for text in ('{"backbone": "clip_RN50"}', "no JSON at all", "[]"):
        (label_free / "args.txt").write_text(text)
        assert import_checkpoint(label_free, layout="label-free", backbone=FEATURES).card.backbone == FEATURES


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "misses args.txt"),
        ("{", "args.txt is no JSON"),
        ("[]", "args.txt names no backbone"),
        ('{"backbone": 3}', "args.txt names no backbone"),
        ('{"backbone": "reference"}', "args.txt names the backbone 'reference', which cannot be used"),
    ],
)
def test_a_folder_that_names_no_usable_backbone_says_so(label_free, text, said):
    if text is not None:
        (label_free / "args.txt").write_text(text)
    with pytest.raises(TrainingError, match=said):
        import_checkpoint(label_free, layout="label-free", preparation=SMALL)


def test_a_folder_cannot_name_code_to_run(label_free, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    (label_free / "args.txt").write_text('{"backbone": "evil_module:build"}')
    with pytest.raises(CheckpointError, match=r"evil_module:build.*code"):
        import_checkpoint(label_free, layout="label-free", preparation=SMALL)
    assert "evil_module" not in sys.modules


def test_class_names_may_lie_elsewhere(label_free, tmp_path):
    names = (label_free / "classes.txt").rename(tmp_path / "names.txt")
    with pytest.raises(CheckpointError, match=r"misses classes.txt; give the class names"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)
    imported = import_checkpoint(label_free, layout="label-free", backbone=FEATURES, classes=names)
    assert imported.classes == ("class 0", "class 1", "class 2")
    with pytest.raises(CheckpointError, match=r"elsewhere\.txt cannot be read"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES, classes=tmp_path / "elsewhere.txt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "channels.*height.*width"),
        ({"channels": 5, "height": 0, "width": 6}, "height"),
        ({"channels": 5, "height": 4, "width": 6, "depth": 1}, "depth"),
    ],
)
def test_a_features_backbone_needs_the_shape_of_its_features(label_free, options, said):
    with pytest.raises(WeightsError, match=said):
        import_checkpoint(label_free, layout="label-free", backbone=BackboneSettings(name="features", options=options))


def test_other_wrong_use_is_refused(label_free, tmp_path):
    with pytest.raises(WeightsError, match="has no weights; give none"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES, backbone_weights=label_free / "W_g.pt")
    with pytest.raises(CheckpointError, match="layout 'savlg' is unknown, expected one of show-and-tell"):
        import_checkpoint(label_free, layout="savlg", backbone=FEATURES)
    with pytest.raises(CheckpointError, match=r"no folder .*nowhere"):
        import_checkpoint(tmp_path / "nowhere", layout="label-free", backbone=FEATURES)
    with pytest.raises(CheckpointError, match="map_size"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES, map_size=(0, 4))
    with pytest.raises(SettingsError, match="pixel_std"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES, pixel_std=(1.0, 0.0, 1.0))
