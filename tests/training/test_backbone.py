"""Backbones: local weights, stages, shapes, and files that must not be trusted."""

import os
import pickle
import random

import pytest
import timm
import torch
from safetensors.torch import save_file

from salf_training.backbone import Backbone, BackboneSettings, build_backbone, feature_shape
from salf_training.backbone_training import BackboneTraining, shift_and_mirror, train_backbone
from salf_training.errors import WeightsError
from salf_training.weights import read_weights

SMALL = BackboneSettings(name="test_resnet")
PICTURES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def whole_network(name: str = "test_resnet", seed: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return timm.create_model(name).eval()


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_local_weights_of_the_whole_network_load(tmp_path, suffix):
    network = whole_network()
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        save_file(network.state_dict(), path)
    else:
        torch.save({"state_dict": network.state_dict()} if suffix == "pth" else network.state_dict(), path)
    backbone = build_backbone(SMALL, weights=path).eval()
    with torch.no_grad():
        assert torch.equal(backbone(PICTURES), network.forward_features(PICTURES))
        assert not torch.equal(backbone(PICTURES), build_backbone(SMALL).eval()(PICTURES)), "they must matter"


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
@pytest.mark.parametrize("stage", [0, 2])
def test_a_stage_is_timms_feature_map_also_with_local_weights(tmp_path, name, stage):
    network = whole_network(name)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    backbone = build_backbone(BackboneSettings(name=name, stage=stage), weights=tmp_path / "w.safetensors").eval()
    with torch.no_grad():
        got = backbone(PICTURES)
        inner = network.forward_intermediates(PICTURES, intermediates_only=True)
    assert feature_shape(backbone, height=64, width=96) == tuple(got.shape[1:])
    # timm counts the stem in for some networks.
    same = [index for index, one in enumerate(inner) if one.shape == got.shape and torch.allclose(one, got, atol=1e-5)]
    assert same in ([stage], [stage + 1])


def test_the_last_stage_is_the_default_and_options_reach_timm():
    assert feature_shape(Backbone(SMALL), height=64, width=64)[1:] == (2, 2)
    finer = BackboneSettings(name="test_resnet", options={"output_stride": 16})
    assert feature_shape(Backbone(finer), height=64, width=64)[1:] == (4, 4)


def test_feature_shapes_have_height_before_width_and_leave_the_network_as_it_was():
    backbone = Backbone(SMALL).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    channels, rows, columns = feature_shape(backbone, height=64, width=128)
    assert (rows, columns) == (2, 4)
    assert channels == backbone.network.num_features
    assert backbone.training
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())


def test_weights_without_batch_counters_load_as_old_torch_files_are(tmp_path):
    network = whole_network()
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    backbone = build_backbone(SMALL, weights=tmp_path / "old.pth").eval()
    with torch.no_grad():
        assert torch.equal(backbone(PICTURES), network.forward_features(PICTURES))


@pytest.mark.parametrize("stage", [None, 2])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_weights_saved_from_several_gpus_load_as_those_of_places365_are(tmp_path, name, stage):
    network = whole_network(name)
    save_file(network.state_dict(), tmp_path / "plain.safetensors")
    parallel = torch.nn.DataParallel(network).state_dict()
    torch.save({"epoch": 90, "arch": name, "state_dict": parallel}, tmp_path / "parallel.pth.tar")
    settings = BackboneSettings(name=name, stage=stage)
    plain, loaded = (
        build_backbone(settings, weights=tmp_path / f).eval() for f in ("plain.safetensors", "parallel.pth.tar")
    )
    with torch.no_grad():
        assert torch.equal(loaded(PICTURES), plain(PICTURES))


@pytest.mark.parametrize("damage", ["missing", "shape", "other"])
def test_weights_that_do_not_fit_are_refused_with_what_is_wrong(tmp_path, damage):
    state = whole_network("test_efficientnet" if damage == "other" else "test_resnet").state_dict()
    if damage == "missing":
        del state["layer1.0.conv1.weight"]
    if damage == "shape":
        state["layer1.0.conv1.weight"] = state["layer1.0.conv1.weight"][:, :, :1].contiguous()
    save_file(state, tmp_path / "w.safetensors")
    expected = {"missing": r"1 of .* missing.*layer1\.0\.conv1", "shape": r"1 have another shape.*layer1\.0\.conv1"}
    with pytest.raises(WeightsError, match=expected.get(damage, "does not fit the network")):
        build_backbone(SMALL, weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "settings",
    [
        BackboneSettings(name="no_such_network"),
        BackboneSettings(name="test_resnet", options={"no_such_option": 1}),
        BackboneSettings(name="test_resnet", stage=17),
    ],
)
def test_what_timm_cannot_build_is_a_weights_error(settings):
    with pytest.raises(WeightsError, match=settings.name):
        Backbone(settings)


class Malicious:
    """Runs a command when unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_code_in_a_weight_file_is_not_run(tmp_path, protocol):
    path, marker = tmp_path / "w.pt", tmp_path / "was_run"
    if protocol == "torch":
        torch.save({"conv1.weight": Malicious(marker)}, path)
    else:
        path.write_bytes(pickle.dumps({"conv1.weight": Malicious(marker)}))
    with pytest.raises(WeightsError, match=r"w\.pt"):
        read_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [[torch.ones(2)], {"a": 1}, {1: torch.ones(2)}, {"state_dict": 3}, torch.ones(2)])
def test_a_torch_file_of_anything_but_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="no state dict"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_torch_files_are_weights_errors_or_read_whatever_was_damaged(tmp_path, zipped):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=zipped)
    whole, generator, refused = path.read_bytes(), random.Random(0), 0
    for _ in range(150):
        damaged = bytearray(whole[: generator.choice([len(whole), generator.randrange(len(whole))])])
        for _ in range(3):
            if damaged:
                damaged[generator.randrange(min(len(damaged), 300))] = generator.randrange(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except WeightsError:
            refused += 1
    assert refused > 75


@pytest.mark.parametrize("content", [b"", b"\x08\0\0\0\0\0\0\0{broken}", b"x" * 100])
def test_a_broken_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(tmp_path / "w.safetensors")


def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"nothing\.pt does not exist"):
        read_weights(tmp_path / "nothing.pt")


def coloured(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """UINT8 [N,32,32,3] of noise around one of two colours, and labels."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 100, (count, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    colours = torch.tensor([[120, 0, 0], [0, 0, 120]])
    return (noise + colours[labels][:, None, None]).to(torch.uint8), labels


def train(count: int, **settings) -> tuple[Backbone, torch.nn.Linear, list[tuple[str, int, int]]]:
    pixels, labels = coloured(count)
    torch.manual_seed(5)
    backbone, told = Backbone(SMALL), []
    classifier = train_backbone(
        backbone,
        pixels.numpy(),
        labels.numpy(),
        classes=2,
        pixel_mean=(0.5, 0.5, 0.5),
        pixel_std=(0.5, 0.5, 0.5),
        settings=BackboneTraining(**{"epochs": 6, "batch_size": 16, **settings}),
        seed=0,
        on_progress=lambda *now: told.append(now),
    )
    return backbone, classifier, told


def test_a_backbone_learns_two_colours_the_same_way_each_time():
    backbone, classifier, told = train(40)
    again, _, _ = train(40)
    assert told[-1] == ("backbone", 12, 12)
    assert not backbone.training
    assert all(torch.equal(a, b) for a, b in zip(backbone.parameters(), again.parameters(), strict=True))
    pixels, labels = coloured(40)
    with torch.no_grad():
        pooled = backbone((pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.5).mean(dim=(2, 3))
    assert (classifier(pooled).argmax(dim=1) == labels).float().mean() > 0.9


def test_fewer_pictures_than_a_batch_are_trained_on_all_the_same():
    _, _, told = train(6, epochs=2, batch_size=64)
    assert told == [("backbone", 1, 2), ("backbone", 2, 2)]


def test_pictures_are_shifted_by_a_twelfth_at_most_and_half_of_them_mirrored():
    ramp = torch.arange(48, dtype=torch.uint8) * 4
    pixels = torch.zeros(400, 24, 48, 3, dtype=torch.uint8)
    pixels[..., 0], pixels[..., 1] = ramp, ramp[:24, None]
    moved = shift_and_mirror(pixels, torch.Generator().manual_seed(0))
    assert moved.shape == pixels.shape
    mirrored = moved[:, 0, 10, 0] > moved[:, 0, 40, 0]
    assert 0.4 < mirrored.float().mean() < 0.6
    down = moved[:, 12, 20, 1].int() // 4 - 12
    right = moved[~mirrored][:, 0, 20, 0].int() // 4 - 20
    assert sorted(down.unique().tolist()) == [-2, -1, 0, 1, 2], "24 / 12 = 2 pixels, of the shorter side"
    assert sorted(right.unique().tolist()) == [-2, -1, 0, 1, 2]
