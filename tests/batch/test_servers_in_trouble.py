"""Servers that change their model, fail, or are away while a store is scored."""

import time

import pytest
from scored_stores import manifest_of, rows_of

from salf_batch import ModelChangedError, ServerGoneError, Settings, TargetMismatchError, score
from salf_client import AsyncClient, DeadlineExceededError, ServerFailedError, ServerOverloadedError
from salf_client.testing import MockModel, mock_server


@pytest.mark.parametrize("input_size", [(32, 32), (24, 40)])
def test_a_model_that_changes_stops_the_run_and_keeps_what_is_done(folder, tmp_path, input_size):
    source, target = manifest_of(folder, 400), tmp_path / "scored"
    names = {"classes": ["a", "b"], "concepts": ["c", "d", "e"]}
    with mock_server(MockModel(**names, version=1)) as server:

        def publish_another(progress):
            if progress.stage == "scoring" and progress.done >= 30:
                server.model = MockModel(**names, version=2, input_size=input_size)

        settings = Settings(url=server.address, shard_size=10)
        with pytest.raises(ModelChangedError, match=r"another model than.*what is done stays"):
            score(str(source), str(target), settings, report=publish_another)
        rows = rows_of(target)
        assert 30 <= len(rows) < 400
        assert {row["version"] for row in rows} == {1, None}
        with pytest.raises(TargetMismatchError, match="version 1"):
            score(str(source), str(target), settings)
        server.model = MockModel(**names, version=1)
        assert score(str(source), str(target), settings).already_done == len(rows)
    assert len(rows_of(target)) == 400


def test_a_pinned_run_without_a_finished_part_begins_anew_with_what_is_served(folder, tmp_path):
    names = {"classes": ["a", "b"], "concepts": ["c", "d"]}

    def stopping(rows):
        def report(progress):
            if progress.stage == "scoring" and progress.done >= rows:
                raise KeyboardInterrupt

        return report

    with mock_server(MockModel(**names, version=1)) as server:
        settings = Settings(url=server.address, shard_size=3, if_model_changes="pin")
        for name, rows in (("nothing", 0), ("something", 4)):
            with pytest.raises(KeyboardInterrupt):
                score(str(folder), str(tmp_path / name), settings, report=stopping(rows))
        server.model = MockModel(**names, version=2)
        assert score(str(folder), str(tmp_path / "nothing"), settings).version == 2
        with pytest.raises(ModelChangedError, match="not version 1"):
            score(str(folder), str(tmp_path / "something"), settings)
        # A broken part still tells what it is a part of.
        for part in (tmp_path / "something").glob("part-*"):
            part.write_bytes(b"torn")
        with pytest.raises(ModelChangedError, match="not version 1"):
            score(str(folder), str(tmp_path / "something"), settings)


def test_a_picture_at_which_the_server_fails_becomes_a_row(folder, tmp_path):
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        server.fail("INTERNAL", "the graph failed", times=20)
        settings = Settings(url=server.address, in_flight=1, read_ahead=1)
        summary = score(str(folder / "farm.jpg"), str(tmp_path / "scored"), settings)
    assert summary.errors == 1
    (row,) = rows_of(tmp_path / "scored")
    assert "the graph failed" in row["error"]


def test_a_server_that_is_busy_is_asked_again_until_it_answers(folder, tmp_path):
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        server.fail("UNAVAILABLE", "Exceeds maximum queue size", times=40)
        summary = score(str(folder), str(tmp_path / "scored"), Settings(url=server.address))
    assert (summary.scored, summary.errors) == (7, 1)
    assert summary.requests_repeated > 0


def test_time_in_which_nothing_was_asked_is_no_time_without_an_answer(folder, tmp_path):
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:

        def slow_store(progress):
            if progress.stage == "scoring" and progress.done == 1:
                time.sleep(0.6)
                server.fail("UNAVAILABLE", "Exceeds maximum queue size", times=4)

        settings = Settings(url=server.address, in_flight=1, read_ahead=1, patience_s=0.4)
        summary = score(str(folder), str(tmp_path / "scored"), settings, report=slow_store)
    assert summary.scored == 7
    assert summary.requests_repeated > 0


@pytest.mark.parametrize("kind", [ServerOverloadedError, DeadlineExceededError, ServerFailedError])
def test_a_server_that_is_busy_or_hangs_at_the_start_is_waited_for(folder, tmp_path, monkeypatch, kind):
    model, asked = AsyncClient.model, []

    async def busy_at_first(client):
        asked.append(client)
        if len(asked) == 1:
            raise kind("not now")
        return await model(client)

    monkeypatch.setattr(AsyncClient, "model", busy_at_first)
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        assert score(str(folder), str(tmp_path / "scored"), Settings(url=server.address)).scored == 7
    assert len(asked) == 2


def test_what_fails_again_and_again_at_the_start_is_no_server_that_is_away(folder, tmp_path, monkeypatch):
    asked = []

    async def failing(client):
        asked.append(client)
        raise ServerFailedError("what listens there is no Triton server")

    monkeypatch.setattr(AsyncClient, "model", failing)
    with pytest.raises(ServerFailedError, match="no Triton server"):
        score(str(folder), str(tmp_path / "scored"), Settings(url="127.0.0.1:9"))
    assert len(asked) == 5


def test_patience_ends(folder, tmp_path):
    with pytest.raises(ServerGoneError, match="no server after 0 s"):
        score(str(folder), str(tmp_path / "scored"), Settings(url="127.0.0.1:9", patience_s=0))
