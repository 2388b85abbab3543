"""`salf concepts` and `salf train --dry-run` as people call them."""

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from salf_cli.main import app

pytest.importorskip("torch")

CONFIGS = Path(__file__).parents[2] / "training/configs"


def _chat_server():
    # Beside the training room's tests; test files are imported one by one.
    path = Path(__file__).parents[1] / "training" / "chat_server.py"
    spec = importlib.util.spec_from_file_location("chat_server_of_training", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def salf(monkeypatch):
    monkeypatch.delenv("SALF_DATA", raising=False)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def classes(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("goldfish\n")
    return path


def propose(salf, classes, url, out, *more):
    return salf("concepts", "propose", "--classes", classes, "--endpoint", url, "--model", "m", "--out", out, *more)


@pytest.mark.parametrize("command", ["propose", "filter"])
def test_each_subcommand_shows_an_example(salf, command):
    result = salf("concepts", command, "--help")
    assert result.exit_code == 0
    assert f"Example: salf concepts {command}" in " ".join(result.stdout.split())


def test_a_proposed_list_is_written_with_its_raw_answers_beside_it(salf, classes, tmp_path):
    chat = _chat_server()
    out = tmp_path / "lists" / "proposed.txt"
    with chat.chat_server(lambda question, before: chat.completion("- a tail\n- fins")) as server:
        result = propose(salf, classes, server.url, out, "--no-key", "--json")
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout) == {
            "concepts": 2,
            "asked": 3,
            "taken_over": 0,
            "unusable": [],
            "answers": str(tmp_path / "lists" / "proposed.answers.jsonl"),
        }
        assert out.read_text() == "a tail\nfins\n"
        assert len((tmp_path / "lists" / "proposed.answers.jsonl").read_text().splitlines()) == 3
        again = propose(salf, classes, server.url, out, "--no-key")
        assert "2 concepts in" in again.stdout
        assert len(server.received) == 3


def test_a_missing_key_is_one_line_that_names_its_variable(salf, classes, tmp_path, monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    result = propose(salf, classes, "https://e.example/v1", tmp_path / "o.txt", "--key-env", "MY_KEY")
    assert result.exit_code == 1
    assert "MY_KEY is not set" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_plan_is_printed_for_data_that_is_not_here_and_ends_with_status_1(salf):
    config = CONFIGS / "cub200_resnet18.yaml"
    arguments = ("train", "--config", config, "--dry-run", "--encodes-per-s", "1000", "--pictures-per-s", "100")
    result = salf(*arguments, "--json")
    assert result.exit_code == 1, result.output
    plan = json.loads(result.stdout)
    assert plan["passes"] == {"encoder": 5994 * 49, "backbone": 11788}
    assert plan["hours"]["encoder"] == pytest.approx(5994 * 49 / 1000 / 3600)
    assert plan["disk_bytes"]["embeddings [S,G,D] FP16"] == 5994 * 49 * 1024
    assert plan["per_s"]["encoder"] == {"per_s": 1000.0, "origin": "given"}
    table = salf(*arguments).stdout
    assert "301 MB" in table
    assert "GPU hours" in table


def test_wrong_ways_to_train_are_one_line(salf, tmp_path):
    config = CONFIGS / "cub200_resnet18.yaml"
    for arguments, words, status in (
        (("--config", config), "--out FOLDER", 2),
        (("--config", config, "--out", tmp_path / "o"), "SALF_DATA", 1),
        (("--config", config, "--out", tmp_path / "o", "--concepts-per-class", "5,x"), "5,10,30", 2),
        (("--config", config, "--dry-run", "--dense", "--lambda", "0.1"), "give one of them", 1),
    ):
        result = salf("train", *arguments)
        assert result.exit_code == status, result.output
        assert words in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
