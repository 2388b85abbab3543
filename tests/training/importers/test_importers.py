"""Importing published folders: what fits becomes a checkpoint, everything else is refused by name."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from salf_cli.main import app
from salf_contract import Preparation
from salf_training.backbone import Backbone, BackboneSettings
from salf_training.checkpoint import load_checkpoint, save_checkpoint
from salf_training.errors import CheckpointError, SettingsError, TrainingError, WeightsError
from salf_training.importers import LAYOUTS, import_checkpoint
from salf_training.weights import read_tensor

CONCEPTS, CLASSES, CHANNELS = 7, 3, 5
FEATURES = BackboneSettings(name="features", options={"channels": CHANNELS, "height": 4, "width": 6})
SMALL = Preparation(height=64, width=96)


def write_published(folder: Path, layout: str, *, channels: int = CHANNELS) -> dict[str, torch.Tensor]:
    """A random published folder; returns its tensors by file name."""
    generator = torch.Generator().manual_seed(3)
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.randn(CONCEPTS, channels, generator=generator)
    tensors = {
        "W_g.pt": torch.randn(CLASSES, CONCEPTS, generator=generator).relu(),
        "b_g.pt": torch.randn(CLASSES, generator=generator),
        "proj_mean.pt": torch.randn(1, CONCEPTS, generator=generator),
        "proj_std.pt": torch.rand(1, CONCEPTS, generator=generator) + 0.5,
    }
    if layout == "salf-spatial":
        bias = torch.randn(CONCEPTS, generator=generator)
        torch.save({"weight": weight[:, :, None, None], "bias": bias}, folder / "concept_layer.pt")
    else:
        tensors["W_c.pt"] = weight if layout == "label-free" else weight[:, :, None, None]
    for name, tensor in tensors.items():
        torch.save(tensor, folder / name)
    (folder / "concepts.txt").write_text("\n".join(f"concept {i}" for i in range(CONCEPTS)))  # as published: no last \n
    (folder / "classes.txt").write_text("\n".join(f"class {i}" for i in range(CLASSES)))
    return tensors


@pytest.fixture(params=LAYOUTS)
def layout(request) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path, layout) -> Path:
    write_published(tmp_path / "published", layout)
    return tmp_path / "published"


@pytest.fixture
def label_free(tmp_path) -> Path:
    write_published(tmp_path / "published", "label-free")
    return tmp_path / "published"


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


def test_each_missing_file_is_named(folder, layout):
    for path in sorted(folder.iterdir()):
        aside = path.rename(folder.parent / path.name)
        with pytest.raises(CheckpointError, match=rf"misses {path.name}"):
            import_checkpoint(folder, layout=layout, backbone=FEATURES)
        aside.rename(path)
    import_checkpoint(folder, layout=layout, backbone=FEATURES)


def test_class_names_may_lie_elsewhere(label_free, tmp_path):
    names = (label_free / "classes.txt").rename(tmp_path / "names.txt")
    with pytest.raises(CheckpointError, match=r"misses classes.txt; give the class names"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)
    imported = import_checkpoint(label_free, layout="label-free", backbone=FEATURES, classes=names)
    assert imported.classes == ("class 0", "class 1", "class 2")
    with pytest.raises(CheckpointError, match=r"elsewhere\.txt cannot be read"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES, classes=tmp_path / "elsewhere.txt")


class Malicious:
    """Unpickling it with `weights_only=False` would write a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.write_text, (self.proof, "ran")


@pytest.mark.parametrize("file", ["W_c.pt", "W_g.pt", "b_g.pt", "proj_mean.pt", "proj_std.pt", "concept_layer.pt"])
def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, file):
    layout = "salf-spatial" if file == "concept_layer.pt" else "label-free"
    folder, proof = tmp_path / "published", tmp_path / "proof"
    write_published(folder, layout)
    for write in (torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))):
        write(Malicious(proof), folder / file)
        with pytest.raises(WeightsError, match=rf"{file} cannot be read"):
            import_checkpoint(folder, layout=layout, backbone=FEATURES)
    assert not proof.exists()
    pickle.loads(pickle.dumps(Malicious(proof)))
    assert proof.exists(), "the pickle above would have done nothing anyway"


@pytest.mark.parametrize("damage", ["empty", "text", "cut", "flipped"])
def test_a_broken_file_is_refused_by_name(label_free, damage):
    path = label_free / "W_g.pt"
    whole = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"weights", "cut": whole[: len(whole) // 2], "flipped": b"\0" + whole}[damage]
    )
    with pytest.raises(WeightsError, match=r"W_g\.pt cannot be read"):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


@pytest.mark.parametrize(
    ("file", "value", "said"),
    [
        ("W_c.pt", torch.ones(CONCEPTS, CHANNELS, 1, 1), r"W_c\.pt has shape .*belongs to the layout show-and-tell"),
        ("W_c.pt", torch.ones(CONCEPTS + 1, CHANNELS), r"concepts\.txt holds 7 names, but the bottleneck has 8"),
        ("W_c.pt", torch.ones(0, CHANNELS), r"W_c\.pt has shape \[0, 5\]"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS - 1), r"W_g\.pt has shape \[3, 6\], expected \[3, 7\]"),
        ("W_g.pt", torch.ones(CONCEPTS, CLASSES), r"W_g\.pt has shape \[7, 3\], expected \[3, 7\]"),
        ("W_g.pt", torch.full((CLASSES, CONCEPTS), torch.nan), r"W_g\.pt holds 21 values that are not finite"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS, dtype=torch.int64), r"W_g\.pt is torch\.int64"),
        ("W_g.pt", torch.ones(CLASSES, CONCEPTS).to_sparse(), r"W_g\.pt is .*sparse"),
        ("W_g.pt", {"weight": torch.ones(CLASSES, CONCEPTS)}, r"W_g\.pt holds a dict, expected one tensor"),
        ("b_g.pt", torch.ones(CLASSES, 1), r"b_g\.pt has shape \[3, 1\], expected \[3\]"),
        ("proj_mean.pt", torch.ones(CONCEPTS, 1), r"proj_mean\.pt has shape \[7, 1\], expected \[1, 7\]"),
        ("proj_std.pt", torch.tensor([[1.0, 1, 0, 1, 1, 1, 1]]), r"proj_std\.pt is 0 for concept 2 \('concept 2'\)"),
        ("proj_std.pt", -torch.ones(1, CONCEPTS), r"proj_std\.pt is -1 for concept 0"),
    ],
)
def test_numbers_that_contradict_names_or_sense_are_refused(label_free, file, value, said):
    torch.save(value, label_free / file)
    with pytest.raises(TrainingError, match=said):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 1, 1)}, "holds weight, expected weight and bias"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS), "bias": torch.ones(CONCEPTS)}, "expected a 1x1 convolution"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 3, 3), "bias": torch.ones(CONCEPTS)}, "expected a 1x1 convolution"),
        ({"weight": torch.ones(CONCEPTS, CHANNELS, 1, 1), "bias": torch.ones(4)}, r"bias in .* has shape \[4\]"),
    ],
)
def test_a_spatial_layer_of_another_kind_is_refused(tmp_path, state, said):
    write_published(tmp_path / "published", "salf-spatial")
    torch.save(state, tmp_path / "published" / "concept_layer.pt")
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(tmp_path / "published", layout="salf-spatial", backbone=FEATURES)


@pytest.mark.parametrize("file", ["concepts.txt", "classes.txt"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda names: names[:-1], r"(holds 6 names|W_g\.pt has shape \[3, 7\], expected \[2, 7\])"),
        (lambda names: [*names[:-1], names[0]], "these occur twice: 'c"),
        (lambda names: [names[0], "", *names[2:]], "a line is empty"),
        (lambda _: [], "a line is empty"),
    ],
)
def test_names_that_do_not_fit_are_refused(label_free, file, change, said):
    names = (label_free / file).read_text().splitlines()
    (label_free / file).write_text("\n".join(change(names)))
    with pytest.raises(CheckpointError, match=said):
        import_checkpoint(label_free, layout="label-free", backbone=FEATURES)


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


def test_a_tensor_that_was_trained_is_read_without_its_gradient(tmp_path):
    torch.save(torch.nn.Parameter(torch.ones(3)), tmp_path / "t.pt")
    tensor = read_tensor(tmp_path / "t.pt")
    assert not tensor.requires_grad
    assert tensor.tolist() == [1, 1, 1]


def salf(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


OPTIONS = ("--backbone", "features", "--backbone-options", json.dumps(FEATURES.options))


def test_the_command_writes_a_checkpoint_that_loads(folder, layout, tmp_path):
    done = salf("import", folder, "--layout", layout, *OPTIONS, "--map-size", 8, 9, "--out", tmp_path / "o", "--json")
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert card["map_size"] == [8, 9]
    loaded = load_checkpoint(tmp_path / "o")
    assert loaded.card.model_dump(mode="json") == card
    assert loaded.concepts[0] == "concept 0"


def test_the_command_prints_what_to_do_next(label_free, tmp_path):
    done = salf("import", label_free, "--layout", "label-free", *OPTIONS, "--out", tmp_path / "ours")
    assert done.exit_code == 0, done.output
    assert "7 concepts and 3 classes (average pooling)" in done.stdout
    assert "salf export" in done.stdout
    assert "Example: salf import" in " ".join(salf("import", "--help").stdout.split())


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("--layout", "savlg", *OPTIONS), 2, "expected one of show-and-tell"),
        (("--layout", "label-free", "--backbone-options", "{}"), 2, "--backbone"),
        (("--layout", "label-free", "--backbone", "features", "--backbone-options", "{"), 2, "no JSON"),
        (("--layout", "label-free", "--backbone", "features", "--backbone-options", "[]"), 2, "JSON object"),
        (("--layout", "label-free", *OPTIONS, "--preparation", '{"height": 0}'), 2, "height"),
        (("--layout", "show-and-tell", *OPTIONS), 1, "layout label-free"),
        (("--layout", "label-free", "--backbone", "no_such_network"), 1, "no_such_network"),
    ],
)
def test_the_command_fails_in_one_line_and_writes_nothing(label_free, tmp_path, arguments, status, said):
    done = salf("import", label_free, *arguments, "--out", tmp_path / "ours")
    assert done.exit_code == status, done.output
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
    assert not (tmp_path / "ours").exists()


def test_the_command_replaces_nothing_but_a_checkpoint(label_free, tmp_path):
    kept = shutil.copytree(label_free, tmp_path / "pictures")
    done = salf("import", label_free, "--layout", "label-free", *OPTIONS, "--out", kept)
    assert done.exit_code == 1
    assert "is no checkpoint" in done.stderr
    assert (kept / "W_g.pt").is_file()
