"""Settings files: relative paths, unknown keys, broken YAML."""

from pathlib import Path

import pytest
import yaml

from salf_training.errors import SettingsError
from salf_training.settings import read_settings, with_head

LEAST = {
    "train": "data/train",
    "held_out": "data/held_out",
    "concepts": "concepts.txt",
    "backbone": {"name": "resnet50"},
    "encoder": {"model": "ViT-B-32", "weights": "openai"},
}


def write(folder: Path, **values) -> Path:
    path = folder / "train.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **values}))
    return path


def test_relative_paths_start_at_the_file_and_absolute_ones_stay(tmp_path):
    settings = read_settings(write(tmp_path, concepts="/lists/c.txt", backbone_weights="../w.pt"))
    assert settings.train == tmp_path / "data/train"
    assert settings.held_out == tmp_path / "data/held_out"
    assert settings.cache == tmp_path / ".salf-cache"
    assert settings.backbone_weights == tmp_path / "../w.pt"
    assert settings.concepts == Path("/lists/c.txt")
    assert read_settings(write(tmp_path)).backbone_weights is None


def test_the_encoders_local_files_start_at_the_file_too(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"")
    encoder = {"model": "local-dir:encoder", "weights": "w.pt", "merges": "encoder/bpe.txt.gz"}
    read = read_settings(write(tmp_path, encoder=encoder)).encoder
    assert read.model == f"local-dir:{tmp_path / 'encoder'}"
    assert read.merges == tmp_path / "encoder/bpe.txt.gz"
    assert read.weights == str(tmp_path / "w.pt")
    absolute = {"model": "local-dir:/e", "merges": "/e/bpe.txt.gz"}
    kept = read_settings(write(tmp_path, encoder=absolute)).encoder
    assert (kept.model, kept.merges) == ("local-dir:/e", Path("/e/bpe.txt.gz"))


def test_names_of_open_clip_are_no_paths(tmp_path):
    encoder = read_settings(write(tmp_path)).encoder
    assert (encoder.model, encoder.weights, encoder.merges) == ("ViT-B-32", "openai", None)


def test_nested_values_reach_their_stage(tmp_path):
    settings = read_settings(
        write(tmp_path, head={"curve": [1, 4]}, circles={"rows": 3}, preparation={"height": 96, "width": 64})
    )
    assert settings.head.curve == (1, 4)
    assert settings.circles.rows == 3
    assert (settings.preparation.height, settings.preparation.width) == (96, 64)
    assert settings.pixel_mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"epochs": 3}, "epochs"),
        ({"head": {"alfa": 0.5}}, r"head\.alfa"),
        ({"backbone": {"name": "resnet50", "pretrained": True}}, r"backbone\.pretrained"),
        ({"seed": "many"}, "seed"),
        ({"pixel_std": [0.2, 0.2, 0]}, "pixel_std"),
        ({"similarity_pictures": 1}, "similarity_pictures"),
    ],
)
def test_an_unknown_key_or_a_senseless_value_is_named(tmp_path, values, said):
    with pytest.raises(SettingsError, match=rf"train\.yaml cannot be used: {said}"):
        read_settings(write(tmp_path, **values))


def test_all_problems_are_told_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"concept_list.*epochs|epochs.*concept_list"):
        read_settings(write(tmp_path, epochs=1, concept_list="c.txt"))


def test_a_missing_key_is_named(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in LEAST.items() if key != "held_out"}))
    with pytest.raises(SettingsError, match="held_out: Field required"):
        read_settings(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"train: [", "is no YAML"),
        (b"!!python/object/apply:os.system ['true']", "is no YAML"),
        (b"train: \xff", "is no YAML"),
        (b"- a\n- b\n", "must hold settings by name"),
        (b"", "must hold settings by name"),
    ],
)
def test_a_file_that_is_no_settings_is_refused(tmp_path, content, said):
    (tmp_path / "train.yaml").write_bytes(content)
    with pytest.raises(SettingsError, match=said):
        read_settings(tmp_path / "train.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"nothing\.yaml does not exist"):
        read_settings(tmp_path / "nothing.yaml")


def test_the_data_folder_stands_where_its_placeholder_is(tmp_path):
    path = write(
        tmp_path, train="{data}/train", class_names="{data}/n.txt", encoder={"model": "local-dir:{data}/encoder"}
    )
    settings = read_settings(path, data=Path("/d"))
    assert settings.train == Path("/d/train")
    assert settings.class_names == Path("/d/n.txt")
    assert settings.encoder.model == "local-dir:/d/encoder"
    assert settings.held_out == tmp_path / "data/held_out"
    with pytest.raises(SettingsError, match=r"\{data\} stands for a folder of this machine.*--data.*SALF_DATA"):
        read_settings(path)


def test_filters_are_off_until_they_are_asked_for(tmp_path):
    assert read_settings(write(tmp_path)).concept_filters is None
    asked = read_settings(write(tmp_path, concept_filters={"presence": None})).concept_filters
    assert (asked.length, asked.presence, asked.interpretability) == (30, None, 0.45)


def test_one_head_is_chosen_at_most(tmp_path):
    with pytest.raises(SettingsError, match="each choose the head"):
        read_settings(write(tmp_path, dense_head=True, head_lambda=0.1))
    settings = read_settings(write(tmp_path))
    with pytest.raises(SettingsError, match="give one of them"):
        with_head(settings, concepts_per_class=(5,), dense=True)
    with pytest.raises(SettingsError, match="concepts_per_class"):
        with_head(settings, concepts_per_class=(0,))
    assert with_head(settings) is settings
    chosen = with_head(settings, concepts_per_class=(10, 5))
    assert (chosen.head.concepts_per_class, chosen.head.curve) == (10, (10, 5))
    assert with_head(settings, lam=0.5).head_lambda == 0.5
    assert with_head(settings, dense=True).dense_head
