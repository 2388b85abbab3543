"""A server whose model changes in the middle of a run: stopped or pinned, against the real Triton."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from scored_stores import manifest_of, rows_of
from typer.testing import CliRunner

from salf_batch import ModelChangedError, Settings, score
from salf_client import Client, Connection, VersionNotServedError
from salf_client.testing import MockModel, mock_server
from salf_contract import metadata_parameter, parse_metadata, with_field, with_parameter
from salf_serving import free_port
from salf_serving.control import load_model
from salf_serving.readiness import control_headers
from salf_serving.server import launched
from salf_serving.settings import LaunchSettings

ROOT = Path(__file__).parents[2]
KEY = "for-this-test"
#: Who may load models may see which there are.
OPENED = Connection(headers=control_headers(KEY))
FAMILY = ("scenes", "scenes_encoded")


class Publisher:
    """A server with versions 1 and 2 of the demonstration model in its repository, which serves what it is told."""

    def __init__(self, repository, address):
        self.repository, self.address = repository, address

    def client(self, **settings):
        return Client(self.address, connection=OPENED, **settings)

    def settings(self, **settings):
        return Settings(
            url=self.address, connection=OPENED, shard_size=20, in_flight=4, read_ahead=8, patience_s=10, **settings
        )

    def serve(self, *versions):
        for name in FAMILY:
            config(self.repository / name, versions)
            load_model(self.address, name, control_key=KEY, timeout_s=30)


def config(model, versions):
    path = model / "config.pbtxt"
    policy = f"version_policy {{ specific {{ versions: [ {', '.join(map(str, versions))} ] }} }}"
    path.write_text(with_field(path.read_text(), "version_policy", policy))


def add_version_2(model):
    """Another version with the same weights, and answers that carry another contract."""
    shutil.copytree(model / "1", model / "2", ignore=shutil.ignore_patterns("manifest.json", "probe.npz"))
    document = parse_metadata((model / "1/metadata.json").read_bytes()).model_copy(update={"version": 2})
    (model / "2/metadata.json").write_text(document.to_json())
    text = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(with_parameter(text, metadata_parameter(2), document.to_json()))
    if (model / "1/model.onnx").is_file():
        graph = onnx.load(model / "1/model.onnx")
        (words,) = (one for one in graph.graph.initializer if one.name == "contract_id_words")
        words.CopyFrom(onnx.numpy_helper.from_array(document.contract_id_words().reshape(1, 4), words.name))
        onnx.save(graph, model / "2/model.onnx")
    return document


@pytest.fixture(scope="module")
def server(runtime, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two_versions")
    for name in FAMILY:
        shutil.copytree(ROOT / "model_repository" / name, folder / "models" / name)
        add_version_2(folder / "models" / name)
        config(folder / "models" / name, [1])
    settings = LaunchSettings(
        repository=folder / "models", grpc_port=free_port(), log_file=folder / "triton.log", control_key=KEY, threads=1
    )
    with launched(settings) as (running, _):
        yield Publisher(folder / "models", running.grpc_address)


@pytest.fixture
def publisher(server):
    server.serve(1)
    return server


def when_done(rows, act):
    waiting = [act]

    def report(progress):
        if progress.stage == "scoring" and progress.done >= rows and waiting:
            waiting.pop()()

    return report


@pytest.mark.parametrize("sends_encoded", [False, True], ids=["pixels", "encoded"])
def test_a_client_asks_the_version_that_it_is_pinned_to(publisher, sends_encoded):
    picture = ROOT / "demonstration/pictures/harbour.jpg"
    publisher.serve(1, 2)
    newest = publisher.client(sends_encoded=sends_encoded)
    pinned = publisher.client(model_version=1, sends_encoded=sends_encoded)
    with newest, pinned:
        assert newest.explain(picture).version == 2
        explanation = pinned.explain(picture)
        assert (explanation.version, pinned.model().versions) == (1, (1, 2))
        assert explanation.contract_id != newest.explain(picture).contract_id
        assert np.array_equal(explanation.logits, newest.explain(picture).logits)
        publisher.serve(2)
        with pytest.raises(VersionNotServedError, match=r"version 2, but not version 1"):
            pinned.explain(picture)
        assert newest.explain(picture).version == 2


@pytest.mark.parametrize("sends_encoded", [False, True], ids=["pixels", "encoded"])
def test_a_new_version_stops_a_run_or_a_pinned_run_goes_on(publisher, folder, tmp_path, sends_encoded):
    source, target = manifest_of(folder, 240), tmp_path / "scored"
    settings = publisher.settings(sends_encoded=sends_encoded)
    with pytest.raises(ModelChangedError, match=r"version 2.*--if-model-changes pin"):
        score(str(source), str(target), settings, report=when_done(40, lambda: publisher.serve(2)))
    stopped = rows_of(target)
    assert 40 <= len(stopped) < 240
    pinned = replace(settings, if_model_changes="pin")
    with pytest.raises(ModelChangedError, match=r"not version 1.*what is done stays"):
        score(str(source), str(target), pinned)
    # Both are loaded: the run goes on with the one that it was begun with.
    publisher.serve(1, 2)
    assert score(str(source), str(target), pinned).already_done == len(stopped)
    rows = rows_of(target)
    assert [row["index"] for row in rows] == list(range(240))
    assert {row["version"] for row in rows if row["error"] is None} == {1}


def test_a_pinned_run_does_not_notice_a_version_beside_its_own_and_stops_without_its_own(publisher, folder, tmp_path):
    source = manifest_of(folder, 240)
    settings = publisher.settings(if_model_changes="pin")
    summary = score(str(source), str(tmp_path / "kept"), settings, report=when_done(40, lambda: publisher.serve(1, 2)))
    assert (summary.scored, summary.version) == (240, 1)
    with publisher.client() as client:
        assert client.model().version == 2
    fresh = replace(settings, model_version=1)
    with pytest.raises(ModelChangedError, match="not version 1"):
        score(str(source), str(tmp_path / "gone"), fresh, report=when_done(40, lambda: publisher.serve(2)))
    assert {row["version"] for row in rows_of(tmp_path / "gone") if row["error"] is None} == {1}


def test_the_command_pins_and_says_what_is_not_served(tmp_path):
    from salf_cli.main import app

    pictures = ROOT / "demonstration/pictures"
    names = {"classes": ["a", "b"], "concepts": ["c", "d"]}
    with mock_server(MockModel(**names, version=2)) as server:
        server.older = [MockModel(**names, version=1)]
        arguments = ["score", str(pictures), "--out", str(tmp_path / "scored"), "--url", server.address, "--json"]
        result = CliRunner().invoke(app, [*arguments, "--model-version", "1", "--if-model-changes", "pin"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["version"] == 1
        ask = ["explain", str(pictures / "harbour.jpg"), "--url", server.address, "--model-version", "7"]
        result = CliRunner().invoke(app, ask)
    assert result.exit_code == 1
    assert "version 1, 2, but not version 7" in result.stderr
