"""Probes: each outcome from a server that causes it, and the real server against the answers that its exporter kept."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from salf_cli.main import app
from salf_client import Client, KnownAnswerError, probe
from salf_client.known_answers import KnownAnswer, difference, read_known_answer, synthetic_picture
from salf_client.probing import EXIT_STATUS, exit_status, metrics_text, record
from salf_client.testing import MockModel, mock_server
from salf_serving import RunningServer, free_port

ROOT = Path(__file__).resolve().parents[2]
CLASSES, CONCEPTS = ("cat", "dog", "bird"), ("tail", "fur", "leash", "wing", "beak", "whiskers")


@pytest.fixture
def server():
    with mock_server(MockModel(CLASSES, CONCEPTS)) as running:
        yield running


@pytest.fixture
def known(server, tmp_path) -> Path:
    path = tmp_path / "known.json"
    with Client(server.address) as client:
        path.write_text(record(client))
    return path


def test_the_recorded_answer_is_right_again(server, known):
    result = probe(server.address, known)
    assert (result.outcome, result.model, result.version) == ("good", "mock", 1)
    assert 0 < result.latency_ms < 1e3 * result.seconds < 5e3


def test_a_recorded_answer_may_have_any_name(server, known, tmp_path):
    known.rename(tmp_path / "known.npz")
    assert probe(server.address, tmp_path / "known.npz").outcome == "good"


def test_another_answer_of_the_same_version_is_wrong(server, known):
    server.model.weights = server.model.weights * 1.1
    result = probe(server.address, known)
    assert result.outcome == "wrong"
    assert "is right" in result.message or "differ" in result.message


@pytest.mark.parametrize(
    "spoilt", ["logits", "bias", "rest_contribution", "coverage", "contributions", "scores", "maps", "concepts"]
)
def test_every_value_of_an_answer_is_compared(server, known, spoilt):
    with Client(server.address) as client:
        model = client.model()
        right = read_known_answer(known, model)
        answer = client.explain(right.picture, top=model.top)
    assert difference(right, answer) is None
    if spoilt == "concepts":
        object.__setattr__(right, "concepts", right.concepts[::-1])
    else:
        right.values[spoilt].setflags(write=True)
        right.values[spoilt].flat[-1] += 0.02
    assert spoilt.replace("_", " ") in difference(right, answer)


def test_another_version_is_no_wrong_answer_but_one_nobody_knows(server, known):
    server.model = MockModel(CLASSES, CONCEPTS, version=2)
    result = probe(server.address, known)
    assert (result.outcome, result.version) == ("changed", 2)


def repository_of(server, folder, *, version):
    """A model repository that keeps one version's answer."""
    place = folder / "mock" / str(version)
    place.mkdir(parents=True)
    with Client(server.address) as client:
        model = client.model()
        answer = client.explain(synthetic_picture(model.input_size), top=model.top)
    given = {
        "input_bytes:encoded": np.frombuffer(synthetic_picture(model.input_size), np.uint8)[None],
        "output:target_class": np.array([[answer.target_index]]),
        "output:logits": answer.logits[None],
        "output:bias": np.array([[answer.bias]]),
        "output:rest_contribution": np.array([[answer.rest_contribution]]),
        "output:coverage": np.array([[answer.coverage]]),
        "output:top_concepts": np.array([[concept.index for concept in answer.concepts]]),
        "output:top_contributions": np.array([[concept.contribution for concept in answer.concepts]]),
        "output:top_scores": np.array([[concept.score for concept in answer.concepts]]),
        "output:top_maps": np.stack([concept.map for concept in answer.concepts])[None],
        "output:contract_id": server.model.metadata.contract_id_words()[None],
    }
    np.savez(place / "probe.npz", **given)
    return folder


def test_a_version_that_the_repository_does_not_keep_is_a_change_and_others_are_probed(server, tmp_path):
    repository, page = repository_of(server, tmp_path / "models", version=1), tmp_path / "salf.prom"
    with mock_server(MockModel(CLASSES, CONCEPTS, version=2)) as newer:
        result = probe(newer.address, repository)
        assert (result.outcome, result.version) == ("changed", 2)
        assert "version 2" in result.message
        urls = ("--url", newer.address, "--url", server.address)
        command = salf(repository, *urls, "--metrics-file", page)
        assert command.exit_code == EXIT_STATUS["changed"], command.output
        assert f"{server.address} good" in command.stdout
        assert f'salf_blackbox_success{{server="{newer.address}"}} 0.0' in page.read_text()
        newer.older = (server.model,)
        assert probe(newer.address, repository, model_version=1).outcome == "good"
        assert salf(repository, "--url", newer.address, "--model-version", 1).exit_code == 0


def test_an_answer_without_any_concept_is_right_if_none_is_known(linear_model, memory):
    server = memory.FakeServer().serve(linear_model(density=0.0))
    with Client(transport=server) as client:
        answer = client.explain(np.zeros((40, 60, 3), np.uint8))
    assert not answer.concepts
    right = KnownAnswer(
        picture=b"", contract_id=answer.contract_id, target_class=answer.target_index, concepts=(),
        values={"logits": answer.logits, "maps": np.zeros((0, 3, 5), np.float32)},
    )  # fmt: skip
    assert difference(right, answer) is None
    shown = replace(right, concepts=(1,), values={"maps": np.zeros((1, 3, 5), np.float32)})
    assert "maps" in difference(shown, answer)


def test_a_server_that_refuses_hangs_or_is_gone_is_told_apart_and_asked_once(server, known):
    server.fail("UNAVAILABLE", "Exceeds maximum queue size")
    before = server.calls["ModelInfer"]
    assert probe(server.address, known).outcome == "refused"
    assert server.calls["ModelInfer"] == before + 1
    server.delay_s = 1.5
    started_s = time.monotonic()
    assert probe(server.address, known, timeout_s=0.3).outcome == "late"
    assert time.monotonic() - started_s < 1.4
    assert probe(f"127.0.0.1:{free_port()}", known).outcome == "unreachable"


def test_a_file_without_a_known_answer_is_named(server, known, tmp_path):
    cut = tmp_path / "cut.json"
    cut.write_text(known.read_text()[:400])
    archive = tmp_path / "broken.npz"
    archive.write_bytes(b"PK no archive")
    later = tmp_path / "later.json"
    later.write_text(json.dumps({**json.loads(known.read_text()), "known_answer": 9}))
    for path in (cut, archive, later, tmp_path / "none.json", tmp_path):
        with pytest.raises(KnownAnswerError, match="record"):
            probe(server.address, path)


def test_metrics_say_what_came_of_each_server(server, known):
    down = f"127.0.0.1:{free_port()}"
    results = [probe(address, known) for address in (server.address, down)]
    assert exit_status(results) == EXIT_STATUS["unreachable"]
    found = {
        (sample.name.removeprefix("salf_blackbox_"), *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(metrics_text(results))
        for sample in family.samples
    }
    assert found["success", server.address] == 1
    assert found["success", down] == 0
    assert found["outcome", down, "unreachable"] == 1
    assert found["outcome", down, "good"] == 0
    assert found["model_version", server.address, "mock"] == 1
    assert ("explanation_seconds", down) not in found
    assert abs(found["timestamp_seconds", down] - time.time()) < 60


def test_the_synthetic_picture_is_always_the_same():
    assert synthetic_picture((32, 40)) == synthetic_picture((32, 40))
    assert np.unique(np.frombuffer(synthetic_picture((32, 40)), np.uint8)).size > 100


@pytest.mark.parametrize("where", ["", "scenes/1/probe.npz", "scenes_encoded/1/probe.npz"])
def test_the_real_server_answers_what_its_exporter_kept(triton_server: RunningServer, where: str) -> None:
    result = probe(triton_server.grpc_address, ROOT / "model_repository" / where, timeout_s=30)
    assert result.outcome == "good", result.message
    assert result.model == "scenes"


def test_the_real_server_is_found_wrong_if_a_weight_differs(triton_server: RunningServer, tmp_path: Path) -> None:
    with np.load(ROOT / "model_repository" / "scenes" / "1" / "probe.npz") as arrays:
        given = dict(arrays)
    given["output:top_maps"][0, 0, 3, 3] += 0.1
    np.savez(tmp_path / "probe.npz", **given)
    result = probe(triton_server.grpc_address, tmp_path / "probe.npz", timeout_s=30)
    assert result.outcome == "wrong"
    assert "maps" in result.message


def salf(*arguments):
    return CliRunner().invoke(app, ["probe", *map(str, arguments)])


def test_the_command_ends_with_the_outcomes_status(server, tmp_path):
    known, page = tmp_path / "known.json", tmp_path / "salf.prom"
    assert salf("--record", known, "--url", server.address).exit_code == 0
    good = salf(known, "--url", server.address, "--metrics-file", page)
    assert good.exit_code == 0, good.output
    assert "answers right" in good.stdout
    assert f'salf_blackbox_success{{server="{server.address}"}} 1.0' in page.read_text()
    assert sorted(tmp_path.iterdir()) == [known, page]
    server.model.weights = server.model.weights * 1.1
    wrong = salf(known, "--url", server.address, "--json")
    assert wrong.exit_code == EXIT_STATUS["wrong"]
    assert json.loads(wrong.stdout)[0]["outcome"] == "wrong"
    assert len(wrong.stderr.strip().splitlines()) == 1
    gone = salf(known, "--url", f"127.0.0.1:{free_port()}", "--metrics")
    assert gone.exit_code == EXIT_STATUS["unreachable"]
    assert 'outcome="unreachable"' in gone.stdout
    record = ("--record", known)
    for wrong_use in ((), (known, *record), (known, "--json", "--metrics"), (*record, "--json"), (*record, "--metrics"),
                      (*record, "--metrics-file", page), (known, "--picture", page)):  # fmt: skip
        assert salf(*wrong_use).exit_code == 2
    assert salf(tmp_path / "none.json", "--url", server.address).exit_code == 1


def test_the_commands_help_names_every_status():
    text = " ".join(salf("--help").stdout.split())
    assert all(f"{status}:" in text for outcome, status in EXIT_STATUS.items() if outcome != "good")
