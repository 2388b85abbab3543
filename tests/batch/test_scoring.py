"""Scoring with the real server: rows, resuming after kills, refusals."""

import json
import os
import random
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from scored_stores import assert_same_rows, command_of, environment, jpeg, manifest_of, rows_of
from typer.testing import CliRunner

from salf_batch import (
    InvalidSourceError,
    InvalidTargetError,
    Settings,
    TargetInUseError,
    TargetMismatchError,
    score,
    write_report,
)
from salf_batch.stores import place_of
from salf_batch.targets import locked
from salf_client import Client, TopOutOfRangeError
from salf_client.testing import mock_server
from salf_serving import free_port, launch

ROOT = Path(__file__).parents[2]
#: The issue's size is SALF_KILL_TEST=5000,20,3: pictures, kills of the run, kills of the server.
PICTURES, KILLS, SERVER_KILLS = map(int, os.environ.get("SALF_KILL_TEST", "600,6,1").split(","))


def test_every_input_gives_one_row_and_agrees_with_the_client(folder, tmp_path, settings, triton_server):
    summary = score(str(folder), str(tmp_path / "scored"), settings)
    rows = rows_of(tmp_path / "scored")
    assert [row["index"] for row in rows] == list(range(7))
    assert (summary.inputs, summary.scored, summary.already_done, summary.errors) == (7, 7, 0, 1)
    assert "broken" in rows[1]["uri"]
    assert "truncated" in rows[1]["error"]
    assert rows[1]["label"] is None
    with Client(triton_server.grpc_address) as client:
        for row in rows[:1] + rows[2:]:
            explanation = client.explain(row["uri"])
            assert row["label"] == explanation.label
            assert row["concepts"] == [concept.name for concept in explanation.concepts]
            contributions = [concept.contribution for concept in explanation.concepts]
            assert row["contributions"] == pytest.approx(contributions, abs=1e-3)
            assert sum(row["contributions"]) + row["rest_contribution"] + row["bias"] == pytest.approx(
                explanation.logit, abs=1e-3
            )
            assert row["contract_id"] == explanation.contract_id
            assert row["error"] is None


def test_the_server_decodes_where_it_is_asked_to(folder, tmp_path, settings):
    score(str(folder), str(tmp_path / "here"), settings)
    score(str(folder), str(tmp_path / "there"), replace(settings, sends_encoded=True))
    here, there = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert [row["label"] for row in here] == [row["label"] for row in there]
    assert [row["error"] is None for row in here] == [row["error"] is None for row in there]
    assert [(row["width"], row["height"]) for row in here] == [(row["width"], row["height"]) for row in there]


def test_names_that_are_no_text_give_rows_all_the_same(folder, tmp_path, settings):
    """Linux takes any bytes for a name; a Parquet string does not."""
    odd = os.fsdecode(bytes(folder) + b"/odd \xff")
    Path(odd).mkdir()
    (folder / "farm.jpg").rename(f"{odd}/\udcfe.jpg")
    Path(f"{odd}/broken \udcfe.jpg").write_bytes(b"no picture")
    target = tmp_path / "scored"
    assert score(odd, str(target), settings).scored == 2
    broken, good = rows_of(target)
    assert good["uri"] == rf"{folder}/odd \xff/\xfe.jpg"
    assert good["label"] == "farm"
    assert broken["uri"] == rf"{folder}/odd \xff/broken \xfe.jpg"
    assert score(odd, str(target), settings).already_done == 2
    assert write_report(str(target), tmp_path / "report.html").errors == 1


def test_maps_are_kept_as_half_floats(folder, tmp_path, settings, triton_server):
    score(str(folder / "farm.jpg"), str(tmp_path / "scored"), replace(settings, maps=True, top=2))
    (row,) = rows_of(tmp_path / "scored")
    with Client(triton_server.grpc_address) as client:
        concepts = client.explain(folder / "farm.jpg", top=2).concepts
    assert row["map_size"] == list(concepts[0].map.shape)
    for kept, concept in zip(row["maps"], concepts, strict=True):
        assert kept == pytest.approx(concept.map.ravel().tolist(), abs=2e-2)


def test_a_second_run_scores_nothing_again(folder, tmp_path, settings):
    target = tmp_path / "scored"
    score(str(folder), str(target), settings)
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")}
    summary = score(str(folder), str(target), settings)
    assert (summary.scored, summary.already_done) == (0, 7)
    assert {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")} == before
    torn = target / "part-000001.parquet"
    whole = torn.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for broken in (whole[:-20], whole[: -8 - footer] + b"\xff" * footer + whole[-8:]):
        torn.write_bytes(broken)
        assert score(str(folder), str(target), settings).scored == 3
        assert len(rows_of(target)) == 7


def test_targets_of_something_else_are_refused(folder, tmp_path, settings):
    target = tmp_path / "scored"
    score(str(folder), str(target), settings)
    with pytest.raises(TargetMismatchError, match="shard_size 3, not 4"):
        score(str(folder), str(target), replace(settings, shard_size=4))
    (folder / "new.jpg").write_bytes(jpeg(2))
    with pytest.raises(TargetMismatchError, match="lists 8"):
        score(str(folder), str(target), settings)
    (folder / "new.jpg").unlink()
    manifest = json.loads((target / "_salf.json").read_text())
    (target / "_salf.json").write_text(json.dumps({**manifest, "contract_id": "0" * 32}))
    with pytest.raises(TargetMismatchError, match="holds rows of model 'scenes' version 1"):
        score(str(folder), str(target), settings)
    (target / "_salf.json").unlink()
    with pytest.raises(InvalidTargetError, match="no scored store"):
        score(str(folder), str(target), settings)
    with pytest.raises(InvalidSourceError):
        score(str(tmp_path / "nowhere"), str(tmp_path / "other"), settings)


def test_a_run_that_cannot_begin_leaves_the_target_to_the_next(folder, tmp_path):
    target = tmp_path / "scored"
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        settings = Settings(url=server.address, shard_size=3)
        with pytest.raises(TopOutOfRangeError, match="top=99, but answers of model 'mock' hold 1 to 2"):
            score(str(folder), str(target), replace(settings, top=99))
        assert not (target / "_salf.json").exists()

        def stop(progress):
            if progress.stage == "scoring":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            score(str(folder), str(target), settings, report=stop)
        assert (target / "_salf.json").exists()
        assert score(str(folder), str(target), replace(settings, top=1, shard_size=2)).scored == 7
        with pytest.raises(TargetMismatchError, match="shard_size"):
            score(str(folder), str(target), settings)


def test_a_name_that_is_empty_is_no_folder(folder, tmp_path, monkeypatch):
    """Of a shell's variable that is not set; the working folder is meant by '.'."""
    monkeypatch.chdir(folder)
    with pytest.raises(InvalidSourceError, match="no name"):
        score("", str(tmp_path / "scored"))
    for ask in (lambda: score(".", " "), lambda: write_report("", tmp_path / "report.html")):
        with pytest.raises(InvalidTargetError, match="no name"):
            ask()


def test_a_web_address_is_refused_as_a_target_before_anything_is_listed(tmp_path):
    with pytest.raises(InvalidTargetError, match="cannot be written"):
        score(str(tmp_path / "nowhere"), "https://127.0.0.1:1/scored")


def test_the_pictures_of_another_column_are_another_source(tmp_path):
    source, target = tmp_path / "photos.parquet", str(tmp_path / "scored")
    parquet.write_table(pa.table({"image": [jpeg(1), jpeg(2)], "cropped": [jpeg(3), jpeg(4)]}), source)
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        settings = Settings(url=server.address)
        score(str(source), target, settings)
        with pytest.raises(TargetMismatchError, match="column 'image', not in 'cropped'"):
            score(str(source), target, replace(settings, column="cropped"))
        assert score(str(source), target, replace(settings, column="image")).already_done == 2


def test_a_run_killed_while_it_wrote_goes_on(folder, tmp_path, settings):
    target = tmp_path / "scored"
    target.mkdir()
    for name in ("_salf.json.incomplete", "_part-000001.parquet.incomplete"):
        (target / name).write_bytes(b"half of")
    assert score(str(folder), str(target), settings).scored == 7
    assert len(rows_of(target)) == 7
    assert not list(target.glob("*.incomplete"))


def test_two_runs_do_not_write_to_one_target(folder, tmp_path, settings):
    with locked(place_of(str(tmp_path / "scored"))), pytest.raises(TargetInUseError, match="another run"):
        score(str(folder), str(tmp_path / "scored"), settings)


def test_a_full_disk_is_one_sentence_and_spoils_nothing(folder, tmp_path, settings):
    """A limit on the size of files fails like a full disk, in the write itself."""
    target = tmp_path / "scored"
    command = [*command_of(folder, target, settings.url, shard_size=3), "--maps"]
    limited = ["prlimit", "--fsize=1500", *command]  # the manifest fits, a part does not
    done = subprocess.run(limited, capture_output=True, text=True, env=environment(), timeout=100)
    assert done.returncode == 1, done.stderr
    assert "no space is left" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(path.name for path in target.iterdir()) == ["_lock", "_salf.json"]
    subprocess.run(command, check=True, capture_output=True, env=environment(), timeout=100)
    assert len(rows_of(target)) == 7


def test_the_command_prints_a_summary_for_programs_and_for_people(folder, tmp_path, settings):
    from salf_cli.main import app

    arguments = ["score", str(folder), "--out", str(tmp_path / "scored"), "--url", settings.url]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert {"inputs": 7, "scored": 7, "errors": 1}.items() <= json.loads(result.stdout).items()
    result = CliRunner().invoke(app, arguments)
    assert "7 rows" in result.stdout
    assert "salf report" not in result.stdout
    assert "0 scored now, 7 before" in result.stdout
    result = CliRunner().invoke(app, ["score", str(folder), "--out", str(tmp_path / "other"), "--url", settings.url])
    assert f"errors now: 1 (why: column error, or salf report {tmp_path / 'other'})" in result.stdout
    page = tmp_path / "report.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path / "scored"), "--out", str(page), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["errors"] == 1
    command = ["score", str(folder), "--out", str(tmp_path / "new"), "--url", settings.url, "--top", "99"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2  # as for --top 0: the model's answers hold no more
    assert "top=99, but answers of model 'scenes' hold 1 to" in result.stderr
    result = CliRunner().invoke(app, ["report", str(tmp_path / "nowhere"), "--out", str(page)])
    assert result.exit_code == 3
    assert "no scored store" in result.stderr
    result = CliRunner().invoke(app, [*arguments, "--top", "2"])
    assert result.exit_code == 3
    assert "was begun with top" in result.stderr


def test_ctrl_c_ends_in_one_sentence_that_says_how_to_go_on(folder, tmp_path, hears_ctrl_c):
    source, target = manifest_of(folder, 400), tmp_path / "scored"
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        server.delay_s = 0.05
        run = subprocess.Popen(
            [*hears_ctrl_c, *command_of(source, target, server.address, shard_size=20)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        wait_for_parts(target, 1, run)
        run.send_signal(signal.SIGINT)
        printed, complaints = run.communicate(timeout=60)
    assert (run.returncode, printed) == (130, "")
    assert complaints.splitlines()[-1].startswith("interrupted; what is done stays")
    assert "Traceback" not in complaints
    assert 20 <= len(rows_of(target)) < 400


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_runs_and_servers_lose_and_double_no_row(folder, tmp_path, runtime):
    """SIGKILL at random points; the server is killed as well, and comes back on the same port."""
    source, target, port, chance = manifest_of(folder, PICTURES), tmp_path / "killed", free_port(), random.Random(6)

    def started():
        return launch(ROOT / "model_repository", grpc_port=port, log_file=tmp_path / "triton.log")

    with started() as server:
        score(str(source), str(tmp_path / "undisturbed"), Settings(url=server.grpc_address, shard_size=50))
    kills, server_kills, context = 0, 0, started()
    server = context.__enter__()
    try:
        for _ in range(10 * KILLS):
            shard_size = max(10, PICTURES // 40)
            run = subprocess.Popen(
                command_of(source, target, server.grpc_address, shard_size=shard_size),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
            )  # fmt: skip
            before = len(list(target.glob("part-*")))
            is_last = kills >= KILLS
            if server_kills < SERVER_KILLS and kills * SERVER_KILLS >= KILLS * server_kills:
                wait_for_parts(target, before + 1, run)
                os.kill(server.pid, signal.SIGKILL)
                server_kills += 1
                context.__exit__(None, None, None)
                context = started()
                server = context.__enter__()
            if is_last:
                printed, complaints = run.communicate(timeout=1200)
                assert run.returncode == 0, complaints
                break
            # At any point: while it starts, lists, asks or writes.
            deadline_s = time.monotonic() + chance.uniform(0, 2.5)
            while time.monotonic() < deadline_s and run.poll() is None:
                time.sleep(0.01)
            kills += run.poll() is None
            run.kill()
            run.communicate()
    finally:
        context.__exit__(None, None, None)
    assert (kills, server_kills) == (KILLS, SERVER_KILLS)
    assert json.loads(printed)["inputs"] == PICTURES
    rows = rows_of(target)
    assert [row["index"] for row in rows] == list(range(PICTURES))
    assert [row["uri"] for row in rows] == source.read_text().split()
    assert_same_rows(rows, rows_of(tmp_path / "undisturbed"))


def wait_for_parts(target, count, run):
    while len(list(target.glob("part-*"))) < count and run.poll() is None:
        time.sleep(0.02)
