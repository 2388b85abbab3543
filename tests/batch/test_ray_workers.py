"""What travels to the workers of a cluster and what comes back from them, without Ray."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scored_stores import jpeg

from salf_batch import EngineError, Settings, StoreUnavailableError, ray_workers
from salf_batch.plans import Plan, for_workers
from salf_batch.ray_engine import _Failed
from salf_batch.ray_workers import ShardScorer
from salf_batch.sources import open_source
from salf_batch.spool import packed
from salf_batch.stores import place_of
from salf_batch.targets import Manifest
from salf_client import Client, Connection, Tls
from salf_client.testing import mock_server


@pytest.fixture
def server():
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as running:
        yield running


@pytest.fixture
def plan(server, tmp_path):
    with Client(server.address) as client:
        model = client.model()
    manifest = Manifest(
        source="photos", source_fingerprint="0" * 64, inputs=2, model=model.name, version=model.version,
        contract_id=model.contract_id, shard_size=2, top=2, maps=False,
    )  # fmt: skip
    return Plan(
        target=place_of(str(tmp_path / "scored")),
        manifest=manifest,
        settings=Settings(url=server.address, in_flight=1),
        preparation=model.preparation,
        version=None,
    )


@pytest.fixture
def block(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    return {"shard": 0, "inputs": packed(list(enumerate(open_source(str(tmp_path)).again())))}


def outcome_of(plan, block):
    return json.loads(ShardScorer(plan)(block)["outcome"])


def with_settings(plan, **settings):
    return replace(plan, settings=replace(plan.settings, **settings))


def test_a_worker_computes_with_its_own_cores_unless_it_is_told_otherwise(plan):
    for given, cores in ((1.0, 1), (0.25, 1), (2.0, 2)):
        settings = for_workers(with_settings(plan, worker_cpus=given)).settings
        assert (settings.decoders, settings.model_threads) == (cores, cores)
    settings = for_workers(with_settings(plan, decoders=3, model_threads=4)).settings
    assert (settings.decoders, settings.model_threads) == (3, 4)


def test_so_many_shards_may_fail_in_the_whole_run_and_for_whatever_reason():
    failed = _Failed(3)
    failed.add(StoreUnavailableError("first"))
    failed.add_lost(1)
    failed.add(StoreUnavailableError("third"))
    assert (failed.left, str(failed.first)) == (0, "first")
    with pytest.raises(EngineError, match="--failing-shards"):
        failed.add_lost(1)
    with pytest.raises(StoreUnavailableError, match="fifth"):
        failed.add(StoreUnavailableError("fifth"))


def test_relative_paths_are_whole_before_they_travel(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tls = Tls(ca="ca.pem", certificate=Path("keys/mine.pem"), key=Path("keys/mine.key"), server_name="salf")
    own = with_settings(plan, repository="models", connection=Connection(tls=tls, token="secret"))
    settings = for_workers(own).settings
    assert settings.repository == str(tmp_path / "models")
    assert settings.connection.token == "secret"
    assert settings.connection.tls == Tls(
        ca=str(tmp_path / "ca.pem"), certificate=str(tmp_path / "keys" / "mine.pem"),
        key=str(tmp_path / "keys" / "mine.key"), server_name="salf",
    )  # fmt: skip


def test_a_part_is_made_once(plan, block, server):
    assert outcome_of(plan, block)["rows"] == 2
    before = server.calls["ModelInfer"]
    assert outcome_of(plan, block)["rows"] == 2
    assert server.calls["ModelInfer"] == before == 2


@pytest.mark.parametrize("is_there", [False, True])
def test_what_was_asked_again_is_told_of_parts_that_are_there_and_that_fail(plan, block, monkeypatch, is_there):
    part_of = ray_workers.part_of

    def troubled(target, manifest, shard):
        target.retries.add("s3", "503", 4)
        if not is_there:
            raise StoreUnavailableError("it does not answer")
        return part_of(target, manifest, shard)

    if is_there:
        outcome_of(plan, block)
    monkeypatch.setattr(ray_workers, "part_of", troubled)
    outcome = outcome_of(plan, block)
    assert ("failed" in outcome) is not is_there
    assert outcome["writes_repeated"] == [["s3", "503", 4]]
    assert outcome["requests_repeated"] == 0


def test_requests_of_a_shard_that_fails_are_told_too(plan, block, server):
    server.fail("UNAVAILABLE", "Exceeds maximum queue size", times=4)
    server.fail("UNAUTHENTICATED", "the token has run out", times=10)
    outcome = outcome_of(plan, block)
    assert outcome["failed"] == ["UnauthenticatedError", outcome["failed"][1]]
    assert outcome["requests_repeated"] >= 1
