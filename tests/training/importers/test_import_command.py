"""`salf import` writes a checkpoint and says what to do next, or fails in one line."""

import json
import shutil

import pytest
from published_folders import FEATURES
from typer.testing import CliRunner

from salf_cli.main import app
from salf_training.checkpoint import load_checkpoint


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
