import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import salf_client
from salf_cli.main import app
from salf_client.testing import mock_server

COMMANDS = (
    "explain",
    "models",
    "score",
    "report",
    "probe",
    "top",
    "serve",
    "export",
    "train",
    "import",
    "concepts propose",
    "concepts filter",
    "evaluate",
    "list",
    "verify",
    "publish",
    "rollback",
    "prune",
    "tune",
)
NOBODY = "127.0.0.1:9"


@pytest.fixture
def salf():
    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)).save(path)
    return path


def one_line(result):
    assert result.stderr.strip(), result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output
    return result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(salf, command):
    result = salf(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: salf {command}" in " ".join(result.stdout.split())


def test_help_lists_every_command_and_loads_nothing_heavy():
    code = (
        "import sys\nfrom salf_cli.main import main\nsys.argv = ['salf', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'matplotlib', 'numpy', 'PIL', 'grpc', 'onnx', 'pydantic', 'yaml'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("heavy: []")
    assert all(command.split()[0] in done.stdout for command in COMMANDS)


def test_the_version_is_printed(salf):
    from importlib.metadata import version

    assert salf("--version").stdout.strip() == f"salf {version('salf')}"


@pytest.mark.parametrize("command", [("explain", "PICTURE"), ("models",)])
def test_a_server_that_is_down_is_one_line_on_stderr(salf, picture, command):
    arguments = [picture if argument == "PICTURE" else argument for argument in command]
    result = salf(*arguments, "--url", NOBODY, "--json")
    assert result.exit_code == 1
    assert f"no server answers at {NOBODY}" in one_line(result)
    assert "salf serve" in result.stderr


def test_json_has_an_entry_for_each_picture_even_if_the_server_fails_in_between(salf, picture, monkeypatch):
    pictures = [picture.with_name(f"{name}.png") for name in ("one", "two", "three", "four")]
    for each in pictures[:1] + pictures[2:]:
        each.write_bytes(picture.read_bytes())
    honest = salf_client.Client.explain
    asked = []

    def explain(client, picture, **options):
        asked.append(picture)
        if len(asked) == 3:
            server.fail("INTERNAL", "the disk is gone", times=9)
        return honest(client, picture, **options)

    monkeypatch.setattr(salf_client.Client, "explain", explain)
    with mock_server() as server:
        result = salf("explain", *pictures, "--url", server.address, "--json")
        listed = salf("explain", *pictures[2:], "--url", server.address)
    assert result.exit_code == 1
    one, *failed = json.loads(result.stdout)
    assert one["picture"] == str(pictures[0])
    assert one["label"]
    assert [entry["picture"] for entry in failed] == [str(each) for each in pictures[1:]]
    unreadable, third, fourth = (entry["error"] for entry in failed)
    assert "two.png" in unreadable
    assert "the disk is gone" in third
    assert fourth == f"not asked after {pictures[2]} failed"
    assert "the disk is gone" in result.stderr
    assert listed.stdout == ""


def test_json_of_pictures_that_a_server_which_is_down_was_asked_about_says_so(salf, picture):
    (entry,) = json.loads(salf("explain", picture, "--url", NOBODY, "--json").stdout)
    assert f"no server answers at {NOBODY}" in entry["error"]
    assert salf("models", "--url", NOBODY, "--json").stdout == ""


def test_json_of_answers_that_cannot_be_drawn_says_which_file(salf, picture, tmp_path, monkeypatch):
    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with mock_server() as server:
        options = ("--out", tmp_path / "out", "--url", server.address, "--json")
        result = salf("explain", picture, picture, *options)
    assert result.exit_code == 1
    first, second = json.loads(result.stdout)
    assert first["error"] == f"{tmp_path}/out/picture.png: No space left on device"
    assert second["error"] == f"not asked after {picture} failed"


@pytest.mark.parametrize("command", ["explain x.jpg", "models", "probe x.json", "score x --out y", "top"])
def test_no_command_waits_for_ever(salf, command):
    result = salf(*command.split(), "--timeout", "inf")
    assert result.exit_code == 2
    assert "86400" in result.stderr


def test_wrong_use_ends_with_status_2(salf, picture):
    for arguments in (("serve",), ("explain", picture, "--top", "many"), ("export", "runs"), ("nonsense",)):
        assert salf(*arguments).exit_code == 2
    assert "salf serve model_repository" in one_line(salf("serve"))


@pytest.mark.parametrize(
    "options", [("--workers", 2), ("--worker-cpus", 2), ("--failing-shards", 1), ("--model-threads", 1)]
)
def test_options_that_would_do_nothing_are_refused(salf, tmp_path, options):
    result = salf("score", tmp_path, "--out", tmp_path / "scored", *options)
    assert result.exit_code == 2
    assert options[0] in one_line(result)
    assert not (tmp_path / "scored").exists()


@pytest.mark.parametrize("port", [0, 99999])
def test_a_port_for_metrics_that_is_none_is_wrong_use(salf, tmp_path, port):
    assert salf("score", tmp_path, "--out", tmp_path / "scored", "--metrics-port", port).exit_code == 2


@pytest.mark.parametrize(
    ("command", "extra", "missing"),
    [
        (("train", "--config", "x.yaml", "--out", "runs/x"), "train", "salf_training.pipeline"),
        (("export", "runs/x", "--repository", "r", "--name", "n"), "export", "salf_export"),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(salf, monkeypatch, command, extra, missing):
    class Blocked:
        """As if the room's library were not installed: importing the room fails on it."""

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == missing:
                raise ModuleNotFoundError("No module named 'torch'", name="torch")

    for name in [name for name in sys.modules if name == missing or name.startswith(f"{missing}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Blocked, *sys.meta_path])
    result = salf(*command)
    assert result.exit_code == 2
    line = one_line(result)
    assert f"salf {command[0]} needs the extra '{extra}'" in line
    assert f"pip install 'salf[{extra}]'" in line


def test_plots_without_matplotlib_are_refused_before_anything_is_asked(salf, picture, monkeypatch, tmp_path):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = salf("explain", picture, "--url", NOBODY, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "pip install 'salf[plot]'" in one_line(result)
    assert not (tmp_path / "out").exists()


def test_ctrl_c_ends_with_status_130(salf, monkeypatch):
    def interrupted(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(salf_client.Client, "models", interrupted)
    result = salf("models")
    assert result.exit_code == 130
    assert result.stderr == ""


def test_a_repository_that_is_none_is_one_line(salf, tmp_path):
    result = salf("serve", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in one_line(result)


@pytest.mark.parametrize("text", [None, "adress = '0.0.0.0'", "address = '0.0.0.0'"])
def test_wrong_settings_of_the_front_are_one_line(salf, tmp_path, text):
    if text is not None:
        (tmp_path / "front.toml").write_text(text)
    result = salf("serve", tmp_path, "--front-settings", tmp_path / "front.toml")
    assert result.exit_code == 1
    assert "front.toml" in one_line(result)


def test_a_checkpoint_that_is_none_is_one_line(salf, tmp_path):
    pytest.importorskip("torch")
    result = salf("export", tmp_path / "nowhere", "--repository", tmp_path / "repository", "--name", "x")
    assert result.exit_code == 1
    assert "nowhere" in one_line(result)


def test_settings_that_are_not_there_are_one_line(salf, tmp_path):
    result = salf("train", "--out", tmp_path / "run", "--config", tmp_path / "nowhere.yaml")
    assert result.exit_code == 1
    assert "nowhere.yaml" in one_line(result)


@pytest.mark.parametrize("command", ["explain", "probe"])
def test_what_cannot_be_written_is_named_without_a_number(salf, picture, tmp_path, command):
    (tmp_path / "file").write_text("no folder")
    with mock_server() as server:
        place = tmp_path / "file" / "out"
        arguments = (picture, "--out", place) if command == "explain" else ("--record", place)
        result = salf(command, *arguments, "--url", server.address)
    assert result.exit_code == 1
    assert str(place) in one_line(result)
    assert "Not a directory" in result.stderr
    assert "Errno" not in result.stderr


def test_what_a_drawing_library_says_in_words_alone_is_said_with_the_file(salf, picture, tmp_path, monkeypatch):
    def refused(*_args, **_options):
        raise OSError("encoder error -2 when writing image file")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", refused)
    with mock_server() as server:
        result = salf("explain", picture, "--out", tmp_path / "out", "--url", server.address)
    assert result.exit_code == 1
    said = f"{tmp_path}/out/picture.png: encoder error -2 when writing image file"
    assert one_line(result).split() == said.split()


def test_a_full_disk_is_said_with_the_file_and_leaves_nothing(salf, tmp_path, monkeypatch):
    def full(self, *_args, **_options):
        self.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with mock_server() as server:
        result = salf("probe", "--record", tmp_path / "known.json", "--url", server.address)
    assert result.exit_code == 1
    assert one_line(result).split() == f"{tmp_path}/known.json: No space left on device".split()
    assert list(tmp_path.iterdir()) == []


def test_pictures_are_explained_by_their_address_too(salf, picture, tmp_path):
    import fsspec

    with fsspec.open("memory://shelf/boat.png", "wb") as file:
        file.write(picture.read_bytes())
    odd = os.fsdecode(bytes(tmp_path) + b"/\xff.png")
    Path(odd).write_bytes(picture.read_bytes())
    with mock_server() as server:
        asked = ("memory://shelf/boat.png", odd, "memory://shelf/none.png", "--url", server.address, "--json")
        result = salf("explain", *asked, "--out", tmp_path / "out")
    assert result.exit_code == 1
    found, named, missing = json.loads(result.stdout)
    assert found["picture"] == "memory://shelf/boat.png"
    assert Path(found["png"]).name == "boat.png"
    assert named["picture"] == rf"{tmp_path}/\xff.png"
    assert named["label"] == found["label"]
    assert "none.png cannot be read" in missing["error"]


def test_what_takes_time_is_said_on_a_terminal_and_only_there(salf, picture, monkeypatch):
    with mock_server() as server:
        server.delay_s = 0.3
        assert salf("explain", picture, "--url", server.address, "--json").stderr == ""
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        asked = {
            ("explain", picture, picture, "--json"): "2 of 2",
            ("models",): "asking",
            ("probe", "--record", "/dev/null/x"): "asking",
            ("top", server.address, "--once"): "looking",
        }
        for command, said in asked.items():
            more = () if command[0] == "top" else ("--url", server.address)
            assert said in salf(*command, *more).stderr, command


class TestWithTheRealServer:
    def test_explain_prints_the_class_and_the_evidence(self, salf, triton_server, picture):
        result = salf("explain", picture, "--url", triton_server.grpc_address)
        assert result.exit_code == 0, result.output
        assert "other concepts" in result.stdout
        assert "= logit of" in result.stdout

    def test_json_is_pure_and_goes_on_after_a_bad_picture(self, salf, triton_server, picture, tmp_path):
        bad = tmp_path / "bad.jpg"
        bad.write_text("no picture")
        result = salf("explain", picture, bad, picture, "--url", triton_server.grpc_address, "--json")
        assert result.exit_code == 1
        answers = json.loads(result.stdout)
        assert ["error" in answer for answer in answers] == [False, True, False]
        assert [Path(answer["picture"]).name for answer in answers] == ["picture.png", "bad.jpg", "picture.png"]
        assert "bad.jpg" in result.stderr
        assert "1 of 3" in result.stderr

    def test_pngs_of_one_name_do_not_overwrite_each_other(self, salf, triton_server, picture, tmp_path):
        out = tmp_path / "drawn"
        result = salf("explain", picture, picture, "--url", triton_server.grpc_address, "--out", out)
        assert result.exit_code == 0, result.output
        assert sorted(path.name for path in out.iterdir()) == ["picture-2.png", "picture.png"]

    def test_models_are_listed(self, salf, triton_server):
        listed = json.loads(salf("models", "--url", triton_server.grpc_address, "--json").stdout)
        assert listed
        table = salf("models", "--url", triton_server.grpc_address).stdout
        assert all(model["name"] in table for model in listed)

    @pytest.mark.parametrize(
        ("option", "words"),
        [(("--top", "100000"), "1 to"), (("--target", "zebra"), "no class 'zebra'"), (("--model", "zebra"), "zebra")],
    )
    def test_what_the_model_does_not_have_is_one_line(self, salf, triton_server, picture, option, words):
        result = salf("explain", picture, "--url", triton_server.grpc_address, *option)
        assert result.exit_code == 1
        assert words in one_line(result)
