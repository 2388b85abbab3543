"""The same rows from other engines: a model in the process, and a Ray cluster of which a worker is killed."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from scored_stores import assert_same_rows, command_of, environment, manifest_of, rows_of
from typer.testing import CliRunner

from salf_batch import EngineError, Settings, score
from salf_cli.main import app
from salf_client import ClientError, ModelNotFoundError, UnauthenticatedError
from salf_client.testing import mock_server
from salf_serving import free_port

ROOT = Path(__file__).parents[2]
REPOSITORY = str(ROOT / "model_repository")


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster of three nodes on the loopback: each has its own raylet, object store and workers."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, for its sockets
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        import ray
        from ray.cluster_utils import Cluster

        # Not 127.0.0.1, which Ray takes for a mistake and replaces.
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "node_ip_address": "127.0.0.2"}
        cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
        cluster.add_node(**node)
        cluster.add_node(**node)
        yield cluster
        ray.shutdown()
        cluster.shutdown()
    assert not left_of(folder, within="cmdline"), "processes of the cluster outlived it"
    shutil.rmtree(folder)


def processes_with(words, *, within="cmdline"):
    """Processes whose command line, or the environment that they began with, holds some words."""
    found = []
    for path in Path("/proc").glob(f"[0-9]*/{within}"):
        try:
            if words in path.read_text(errors="replace").replace("\0", " "):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def left_of(words, *, within, patience_s=10):
    """Processes that are there still when they have had time to end."""
    give_up_s = time.monotonic() + patience_s
    while (left := processes_with(words, within=within)) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    return left


def a_worker_of(cluster):
    """Process id of one of the cluster's own workers: another test's Ray may run on this machine, too."""
    own = set(processes_with(cluster.head_node.get_session_dir_path()))
    for pid in processes_with("ray::MapWorker"):
        with suppress(OSError):  # it has ended
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            if parent in own:
                return pid
    return None


def test_a_model_in_this_process_gives_the_server_s_rows(folder, tmp_path, triton_server):
    score(str(folder), str(tmp_path / "served"), Settings(url=triton_server.grpc_address, shard_size=3))
    score(str(folder), str(tmp_path / "here"), Settings(repository=REPOSITORY, shard_size=3, model_threads=1))
    assert_same_rows(rows_of(tmp_path / "here"), rows_of(tmp_path / "served"))


def test_a_repository_that_is_none_is_said(folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match="no model repository"):
        score(str(folder), str(tmp_path / "scored"), Settings(repository=str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ClientError, match="no model that salf exported"):
        score(str(folder), str(tmp_path / "scored"), Settings(repository=str(tmp_path / "empty")))


def test_folders_that_are_no_models_do_not_keep_a_repository_from_being_used(folder, tmp_path, monkeypatch):
    """One volume may hold the models, the file system's own folder and another's, which nobody else may open."""
    repository = Path(shutil.copytree(REPOSITORY, tmp_path / "volume"))
    for name in ("lost+found", ".snapshot", "secret"):
        (repository / name).mkdir()
    shutil.copy(repository / "scenes" / "config.pbtxt", repository / ".snapshot")
    honest = Path.is_file

    def is_file(path):
        if path.parent.name in ("lost+found", "secret"):
            raise PermissionError(13, "Permission denied", str(path))
        return honest(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    settings = Settings(repository=str(repository), model_threads=1)
    assert score(str(folder), str(tmp_path / "scored"), settings).errors == 1  # the file that is no picture
    with pytest.raises(ModelNotFoundError, match="secret"):
        score(str(folder), str(tmp_path / "other"), replace(settings, model="secret"))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("where", ["endpoints", "workers"])
def test_a_killed_worker_of_a_cluster_loses_and_doubles_no_row(folder, tmp_path, triton_server, cluster, where):
    source, target = manifest_of(folder, 240), tmp_path / "scored"
    settings = Settings(
        url=[triton_server.grpc_address, triton_server.grpc_address], shard_size=12, in_flight=2, model_threads=1,
        repository=REPOSITORY if where == "workers" else None,
    )  # fmt: skip
    score(str(source), str(tmp_path / "undisturbed"), settings)
    killed = []

    def kill_one(progress):
        if progress.stage == "scoring" and progress.done >= 24 and not killed:
            pid = a_worker_of(cluster)
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    on_ray = replace(settings, engine="ray", ray_address=cluster.address)
    summary = score(str(source), str(target), on_ray, report=kill_one)
    assert len(killed) == 1
    rows = rows_of(target)
    assert [row["index"] for row in rows] == list(range(240))
    assert (summary.inputs, summary.scored) == (240, 240)
    assert summary.errors == sum(row["error"] is not None for row in rows)
    assert sum(summary.labels.values()) + summary.errors == 240
    assert_same_rows(rows, rows_of(tmp_path / "undisturbed"))
    assert score(str(source), str(target), on_ray).already_done == 240


@pytest.mark.slow
def test_what_fails_on_a_cluster_is_said_as_here(folder, tmp_path, cluster):
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        server.fail("UNAUTHENTICATED", "the token has run out", times=1000)
        settings = Settings(url=server.address, shard_size=3, engine="ray", ray_address=cluster.address, workers=1)
        with pytest.raises(UnauthenticatedError, match="the token has run out"):
            score(str(folder), str(tmp_path / "scored"), settings)
        assert rows_of(tmp_path / "scored") == []
        import ray

        time.sleep(0.5)
        assert not ray.is_initialized(), "what still ran has connected again"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_command_runs_ray_on_this_machine_and_lets_a_file_fail(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("SALF_TESTED_IN", str(tmp_path))  # marks what this run starts: other suites may run beside it
    target = tmp_path / "scored"
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        command = ["score", str(folder), "--out", str(target), "--url", server.address, "--shard-size", "3", "--json"]
        on_ray = ["--engine", "ray", "--workers", "1", "--worker-cpus", "0.5", "--failing-shards", "1"]
        server.fail("UNAUTHENTICATED", "the token has run out", times=1)
        failed = CliRunner().invoke(app, [*command, *on_ray])
        assert failed.exit_code == 1, failed.output
        assert "1 of 3 shards failed and have no rows yet (" in failed.stderr
        assert "the token has run out" in failed.stderr
        missing = 7 - len(rows_of(target))
        assert missing in (1, 3)
        rest = CliRunner().invoke(app, command)
        assert rest.exit_code == 0, rest.output
        assert json.loads(rest.stdout)["scored"] == missing
    assert [row["index"] for row in rows_of(target)] == list(range(7))
    assert not left_of(f"SALF_TESTED_IN={tmp_path}", within="environ"), "processes of the run's own cluster outlived it"


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_run_on_ray_that_is_told_to_end_leaves_no_folder_and_prints_no_trace(folder, tmp_path):
    mark, target = f"SALF_TESTED_IN={tmp_path}", tmp_path / "scored"
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        command = command_of(manifest_of(folder, 20_000), target, server.address, shard_size=20)
        on_ray = {name: value for name, value in environment().items() if name != "RAY_ADDRESS"}
        on_ray["SALF_TESTED_IN"] = str(tmp_path)
        run = subprocess.Popen(
            [*command, "--engine", "ray", "--workers", "1"], env=on_ray, stderr=subprocess.PIPE, text=True
        )
        try:
            give_up_s = time.monotonic() + 90
            while not list(target.glob("part-*")) and time.monotonic() < give_up_s:
                time.sleep(0.2)
            lines = [Path(f"/proc/{one}/cmdline").read_text() for one in processes_with(mark, within="environ")]
            folders = set(re.findall(r"/tmp/salf-ray-\w+", "\n".join(lines)))
            run.terminate()
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    assert run.returncode == 128 + signal.SIGTERM
    assert "SIGTERM" not in said
    assert folders
    assert not [one for one in folders if Path(one).exists()]
    assert not left_of(mark, within="environ"), "processes of the run's own cluster outlived it"


def test_a_cluster_that_is_not_there_is_said_soon(folder, tmp_path):
    settings = Settings(repository=REPOSITORY, engine="ray", ray_address=f"127.0.0.1:{free_port()}")
    with pytest.raises(EngineError, match="check --ray-address"):
        score(str(folder), str(tmp_path / "scored"), settings)
