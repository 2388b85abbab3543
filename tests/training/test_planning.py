"""The plan's arithmetic against numbers computed by hand, and the committed configurations."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from picture_files import write_coloured_squares

from salf_training.bottleneck import BottleneckTraining, fit_bottleneck
from salf_training.dry_run import DryRun, Speed, dry_run
from salf_training.embeddings import LocalSimilarities
from salf_training.encoder import EncoderSettings
from salf_training.errors import DataError, SettingsError
from salf_training.plan_inspection import inspect
from salf_training.planning import PlannedSizes, bottleneck_held_out, plan_resources, readable_bytes
from salf_training.settings import read_settings

CONFIGS = sorted((Path(__file__).parents[2] / "training/configs").glob("*.yaml"))
NOWHERE = Path("/nowhere")

IMAGENET = PlannedSizes(
    pictures=1_281_167,
    held_out=50_000,
    classes=1000,
    concepts=4741,
    similarity_pictures=1_281_167,
    cells=49,
    embedding_size=512,
    channels=2048,
    positions=49,
    backbone_parameters=23_508_032,
    encoder_parameters=149_620_737,
    bottleneck_batch=64,
    bottleneck_held_out=1000,
    held_table_bytes=2 * 1024**3,
)


def test_imagenet_with_every_picture_is_64_gb_of_embeddings():
    plan = plan_resources(IMAGENET)
    assert plan.disk["embeddings [S,G,D] FP16"] == 1_281_167 * 49 * 512 * 2 == 64_283_835_392
    assert readable_bytes(64_283_835_392) == "64.3 GB"
    assert plan.encoder_passes == 62_777_183
    assert plan.backbone_passes == 1_331_167
    # Features on the grid are held, the reason for a subset; P [S,M,G], 1.2 TB in FP32, is not.
    assert 1_281_167 * 2048 * 49 * 4 * 2 < plan.memory["bottleneck"] < 1_281_167 * 4741 * 49 * 4 == 1_190_506_498_412


def test_a_small_run_by_hand():
    sizes = PlannedSizes(
        pictures=10,
        held_out=5,
        classes=3,
        concepts=7,
        similarity_pictures=4,
        cells=9,
        embedding_size=8,
        channels=6,
        positions=16,
        backbone_parameters=100,
        encoder_parameters=1000,
        bottleneck_batch=2,
        bottleneck_held_out=1,
        held_table_bytes=10**6,
    )
    plan = plan_resources(sizes)
    kept = 400 + 15 * 6 * 4 + 4 * 6 * 9 * 4  # backbone, pooled, features on the grid
    assert plan.disk == {"embeddings [S,G,D] FP16": 576, "checkpoint": 400 + (7 + 3) * (6 + 7) * 4}
    assert plan.memory["features"] == kept + 2 * 10 * 6 * 16 * 4
    assert plan.memory["similarities"] == kept + 4000
    # The features once more, 18 arrays [M,B,G], 8 arrays [B,C,G].
    step = 2 * 7 * 9 * 4 * 18 + 2 * 6 * 9 * 4 * 8
    assert plan.memory["bottleneck"] == kept + 4000 + 4 * 6 * 9 * 4 + step
    # z in FP32 and FP64 for both splits, gathered columns, six arrays [N,K].
    assert plan.memory["head"] == kept + 4000 + 15 * 7 * 12 + 10 * 7 * 8 + 10 * 3 * 8 * 6
    assert plan.peak_memory_bytes == max(plan.memory.values())
    assert (plan.encoder_passes, plan.backbone_passes) == (36, 15)
    assert plan.encoder_hours(0.01) == pytest.approx(1.0)


def test_tables_that_are_too_large_to_be_held_are_disk_not_memory():
    held = plan_resources(dataclasses.replace(IMAGENET, held_table_bytes=10**15))
    written = plan_resources(IMAGENET)
    assert "score tables FP32" not in held.disk
    # z of 1.28 million pictures, and their standardised features for the probe; z of 50,000 is held.
    assert written.disk["score tables FP32"] == 1_281_167 * 4741 * 4 + 1_281_167 * 2048 * 4
    assert held.memory["head"] - written.memory["head"] > 1_281_167 * 4741 * 8


def test_softmax_pooling_passes_the_pictures_twice():
    assert plan_resources(dataclasses.replace(IMAGENET, pooling="softmax")).backbone_passes == 2 * 1_331_167


@pytest.mark.parametrize(("count", "share", "held"), [(600, 0.1, 60), (3, 0.1, 1), (2, 0.99, 1)])
def test_the_number_of_judging_pictures_is_the_bottlenecks_own(count, share, held):
    assert bottleneck_held_out(count, share) == held


def test_bytes_are_readable():
    assert [readable_bytes(n) for n in (0, 999, 1000, 64_225_280_000, 10**15)] == [
        "0 B",
        "999 B",
        "1 kB",
        "64.2 GB",
        "1 PB",
    ]


def test_gpu_hours_follow_from_the_encoders_operations():
    plan = plan_resources(IMAGENET)
    run = DryRun(
        inspection=None,
        plan=plan,
        encoder_speed=Speed(1000.0, "given"),
        backbone_speed=Speed(100.0, "given"),
        encoder_flop=35_000_000_000,
        backbone_flop=8_000_000_000,
        gpu_tflops=50.0,
    )
    assert run.petaflop["encoder"] == pytest.approx(62_777_183 * 35e9 / 1e15)
    assert run.gpu_hours == pytest.approx(62_777_183 * 35e9 / 50e12 / 3600)
    assert run.hours == pytest.approx({"encoder": 62_777_183 / 3.6e6, "backbone": 1_331_167 / 3.6e5})


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_committed_configuration_is_valid_and_names_nothing_of_a_machine(config):
    settings = read_settings(config, data=NOWHERE)
    for path in (settings.train, settings.held_out, settings.concepts, settings.class_names, settings.cache):
        assert path.is_relative_to(NOWHERE), path
    assert settings.backbone_weights is None or settings.backbone_weights.is_relative_to(NOWHERE)
    assert settings.expected is not None
    assert settings.concept_filters is not None
    assert (settings.circles.rows, settings.circles.columns) in {(7, 7), (14, 14)}
    assert 224 * settings.circles.radius == pytest.approx(32, abs=0.01)
    assert config.name in config.read_text(), "its own dry run is named in it"
    with pytest.raises(SettingsError, match="SALF_DATA"):
        read_settings(config)


def test_the_configurations_of_the_issue_are_there():
    assert {"cub200", "places365", "imagenet"} <= {path.stem.split("_")[0] for path in CONFIGS}
    assert {"imagenet_resnet50", "imagenet_vit_b16", "imagenet_clip_vit_b16"} <= {path.stem for path in CONFIGS}


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_a_committed_configuration_can_be_planned_without_its_data(config):
    settings = read_settings(config, data=NOWHERE)
    plan = dry_run(settings, encodes_per_s=1000, pictures_per_s=1000).to_dict()
    sizes = plan["sizes"]
    assert not plan["ready"]
    assert sizes["pictures"] == settings.expected.pictures
    assert sizes["embedding_size"] == 512
    channels = 512 if "resnet18" in config.stem else 2048 if "resnet50" in config.stem else 768
    assert sizes["channels"] == channels
    assert sizes["positions"] == (196 if "vit" in config.stem else 49)
    assert plan["disk_bytes"]["embeddings [S,G,D] FP16"] == sizes["similarity_pictures"] * sizes["cells"] * 1024
    # CLIP ViT-B/16 needs 17 to 18 billion multiply-adds for a picture.
    assert 33e9 < plan["petaflop"]["encoder"] * 1e15 / plan["passes"]["encoder"] < 37e9
    assert any("planned with" in finding["told"] for finding in plan["findings"])
    assert plan["memory_bytes"]["peak"] < 128e9, "a configuration runs on one machine"


LEAST = """
train: train
held_out: held_out
concepts: concepts.txt
backbone: {name: test_resnet}
preparation: {height: 48, width: 48}
encoder: {model: ViT-B-32, weights: openai}
similarity_pictures: 10
"""


def planned(folder, text=LEAST):
    (folder / "s.yaml").write_text(text)
    return inspect(read_settings(folder / "s.yaml"))


@pytest.mark.slow
def test_data_is_counted_and_compared_with_what_is_expected(tmp_path):
    write_coloured_squares(tmp_path / "train", per_class=4)
    write_coloured_squares(tmp_path / "held_out", per_class=2)
    (tmp_path / "concepts.txt").write_text("a\nb\n")
    found = planned(tmp_path)
    sizes = found.sizes
    assert (sizes.pictures, sizes.held_out, sizes.classes, sizes.concepts) == (12, 6, 3, 2)
    assert (sizes.similarity_pictures, sizes.cells) == (10, 49)
    ready = {finding.what: finding.ready for finding in found.findings}
    assert ready["pictures"]
    assert ready["encoder"] is None, "its weights would be fetched"
    assert ready["backbone"] is False
    assert not found.ready
    expected = "expected: {pictures: 13, held_out: 6, classes: 3, concepts: 2}\n"
    told = {finding.what: finding for finding in planned(tmp_path, LEAST + expected).findings}
    assert not told["pictures"].ready
    assert told["pictures"].told == "12 found, but the settings expect 13"
    assert told["held_out"].ready


def test_a_factory_that_brings_its_weights_is_ready_and_cannot_be_asked_for_others(tmp_path, monkeypatch):
    (tmp_path / "planned_by_a_user.py").write_text(
        "import torch\nfrom torch import nn\nfrom salf_training.encoder import Encoder\n\n\n"
        "class Same:\n    image_size, fingerprint = (8, 8), 'same'\n\n"
        "    def embed_images(self, pixels):\n        return torch.ones(len(pixels), 4) / 2\n\n"
        "    def embed_texts(self, phrases):\n        return torch.ones(len(phrases), 4) / 2\n\n\n"
        "def network() -> nn.Module:\n    return nn.Conv2d(3, 5, 16, 16)\n\n\n"
        "def same() -> Encoder:\n    return Same()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = LEAST.replace("test_resnet", '"planned_by_a_user:network"')
    own = own.replace("{model: ViT-B-32, weights: openai}", '{model: "planned_by_a_user:same"}')
    own += "expected: {pictures: 12, held_out: 6, classes: 3, concepts: 2}\n"
    for more, ready in (("", True), ("pretrained: true\n", False)):
        told = {finding.what: finding for finding in planned(tmp_path, own + more).findings}
        assert (told["backbone"].ready, told["encoder"].ready) == (ready, True)
        assert "brings its own weights" in told["backbone"].told


def test_absent_data_that_is_not_described_cannot_be_planned_with(tmp_path):
    with pytest.raises(DataError, match=r"nothing to plan with.*expected"):
        planned(tmp_path)


def test_the_plan_of_the_bottleneck_covers_what_it_holds():
    """RssAnon at its highest, against the plan: the plan may be generous, not mean."""
    import threading

    concepts, cells, channels, pictures, batch = 400, 49, 64, 300, 64

    def anonymous_bytes() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

    features = torch.randn(pictures, channels, cells)
    similarities = LocalSimilarities(
        np.random.default_rng(0).normal(size=(pictures, cells, 32)).astype(np.float16), torch.randn(concepts, 32)
    )
    before, highest, ended = anonymous_bytes(), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.001):
            highest[0] = max(highest[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    schedule = BottleneckTraining(steps=2, batch_size=batch, check_every=1)
    fit_bottleneck(features, similarities, settings=schedule, seed=0)
    ended.set()
    watcher.join()
    sizes = dataclasses.replace(
        IMAGENET,
        concepts=concepts,
        cells=cells,
        channels=channels,
        similarity_pictures=pictures,
        bottleneck_batch=batch,
        bottleneck_held_out=bottleneck_held_out(pictures, schedule.held_out_share),
    )
    plan = plan_resources(sizes)
    # Beside what is there before: the features, and the weights of the networks.
    added = plan.memory["bottleneck"] - plan.memory["similarities"]
    # 30 MB for threads and libraries, which depend on no size.
    assert highest[0] - before < added + 30e6


def test_an_encoder_that_is_not_here_and_unknown_is_an_error(tmp_path):
    write_coloured_squares(tmp_path / "train", per_class=1)
    write_coloured_squares(tmp_path / "held_out", per_class=1)
    (tmp_path / "concepts.txt").write_text("a\n")
    settings = read_settings_with(tmp_path, EncoderSettings(model="local-dir:nowhere"))
    with pytest.raises(Exception, match="cannot be planned with"):
        inspect(settings)


def read_settings_with(folder, encoder):
    (folder / "s.yaml").write_text(LEAST)
    return read_settings(folder / "s.yaml").model_copy(update={"encoder": encoder})
