"""`salf serve` under load: killed processes, new, corrupt and unfaithful versions, rollback."""

import logging
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from served import (
    code_of,
    infer_request,
    is_gone,
    is_right,
    load,
    serving,
    shared_memory_of,
    stub_on,
    takes_connections,
    wait_until,
)

from salf_contract import with_served_version
from salf_serving import LaunchSettings, free_port, kept_triton
from salf_serving.mending import mend_models
from salf_serving.probing import Probing
from salf_serving.status import Status

TYPED = {"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"}
RECOVERED_WITHIN_S = 15.0
_logger = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def repository(tiny, config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.write(folder, config=with_served_version(config, 1))
    return folder


@pytest.fixture(scope="module")
def served(repository, runtime, nginx, tmp_path_factory):
    with serving(repository, tmp_path_factory.mktemp("serve"), nginx=nginx) as running:
        yield running


def publish(repository: Path, version: int) -> None:
    """Let config.pbtxt name another version, in one step."""
    path = repository / "tiny" / "config.pbtxt"
    new = path.with_name("new")
    new.write_text(with_served_version(path.read_text(), version))
    new.replace(path)


@pytest.mark.parametrize(
    ("victim", "counter"),
    [
        ("worker", "salf_worker_restarts_total"),
        ("triton", 'salf_restarts_total{process="triton"'),
        ("nginx", 'salf_restarts_total{process="front"'),
    ],
)
def test_after_a_kill_under_load_errors_are_typed_and_answers_come_back(served, tiny, victim, counter):
    wait_until(served.is_ready, what="readiness")
    pid, restarts = getattr(served, victim)(), served.metric(counter)
    with load(served, tiny) as seen:
        wait_until(lambda: len(seen.outcomes) > 20)
        assert not seen.bad()
        killed_s = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: served.metric(counter) > restarts, what="a restart")
        wait_until(served.is_ready, RECOVERED_WITHIN_S + 5, "readiness")
        ready_s = time.monotonic()
        wait_until(lambda: seen.right_after(ready_s + 1.5), what="right answers")
    assert seen.bad(), "nobody noticed the kill"
    last_bad_s = max(at_s - took_s for at_s, _, took_s in seen.bad())
    right_s = min(at_s for at_s, code, took_s in seen.outcomes if code == "right" and at_s - took_s > last_bad_s)
    _logger.info("%s: right again %.1f s after the kill, %d errors", victim, right_s - killed_s, len(seen.bad()))
    assert right_s - killed_s < RECOVERED_WITHIN_S
    assert last_bad_s < ready_s + 1, "ready means that answers are right, once clients have connected again"
    assert {code.partition(":")[0] for _, code, _ in seen.bad()} <= TYPED
    assert max(took_s for _, _, took_s in seen.outcomes) < 5.5
    assert is_gone(pid)


def test_versions_change_under_load_without_a_failed_request(served, tiny, repository):
    wait_until(served.is_ready, what="readiness")
    model = repository / "tiny"
    restarts = served.metric("salf_worker_restarts_total")
    with load(served, tiny) as seen:
        wait_until(lambda: len(seen.outcomes) > 20)

        shutil.rmtree(tiny.write(repository.parent / "aside", version=3), ignore_errors=True)
        (tiny.write(repository.parent / "corrupt", version=3) / "model.onnx").write_bytes(b"\x08\x0ano model")
        shutil.copytree(repository.parent / "corrupt" / "tiny" / "3", model / "3")
        publish(repository, 3)
        wait_until(lambda: served.metric('salf_refused_versions_total{model="tiny",reason="load"') == 1, 40, "refusal")

        unfaithful = tiny.write(repository.parent / "unfaithful", version=4, probe="wrong")
        shutil.copytree(unfaithful, model / "4")
        publish(repository, 4)
        wait_until(lambda: served.metric('salf_refused_versions_total{model="tiny",reason="probe"') == 1, 40, "refusal")
        assert seen.versions == {"1"}
        assert served.is_ready()

        shutil.copytree(tiny.write(repository.parent / "good", version=2), model / "2")
        publish(repository, 2)
        wait_until(lambda: "2" in seen.versions, 40, "version 2")
        wait_until(lambda: served.metric("salf_model_version") == 2)
        moment_s = time.monotonic()
        wait_until(lambda: seen.right_after(moment_s + 0.5))

        seen.versions.clear()
        publish(repository, 1)
        wait_until(lambda: "1" in seen.versions, 40, "version 1")
        moment_s = time.monotonic()
        wait_until(lambda: seen.right_after(moment_s + 0.5))
        refusals = served.metric("salf_refused_versions_total")
        time.sleep(2)
    assert not seen.bad()
    assert served.metric("salf_worker_restarts_total") == restarts, "a replaced worker that ends is no death"
    assert served.metric("salf_refused_versions_total") == refusals == 2, "a refused version is not tried again"
    assert served.metric('salf_repository_changes_total{model="tiny"') == 2
    assert "tiny is refused, what was served before stays" in served.log
    assert served.is_ready()


def test_a_triton_that_gave_many_new_workers_is_started_again(tiny, runtime, tmp_path, monkeypatch):
    """It may keep shared memory of those that were killed."""
    monkeypatch.setattr(kept_triton, "_MOST_RELOADS", 1)
    tiny.write(tmp_path / "models")
    settings = LaunchSettings(
        repository=tmp_path / "models", grpc_port=free_port(), log_file=tmp_path / "triton.log", control_key="0" * 64
    )
    triton = kept_triton.KeptTriton(settings, Status())
    triton.start()
    try:
        first = triton.server.pid
        triton.reload("tiny", "a worker of it died")
        assert triton.server.pid == first
        triton.reload("tiny", "a worker of it died")
        assert triton.server.pid != first
        triton.reload("tiny", "a worker of it died")
        triton.probe(["tiny"])
    finally:
        assert triton.stop() == 0


def test_a_model_that_answers_wrong_is_taken_out_while_others_are_answered(tiny, config, runtime, tmp_path):
    models = tmp_path / "models"
    folder = tiny.write(models)
    shutil.copytree(models / "tiny", models / "other")
    (models / "other/config.pbtxt").write_text(config.replace('"tiny"', '"other"'))
    settings = LaunchSettings(
        repository=models, grpc_port=free_port(), log_file=tmp_path / "triton.log", control_key="0" * 64
    )
    status, steady = Status(), threading.Lock()
    triton = kept_triton.KeptTriton(settings, status)
    probing = Probing(triton, models, status, interval_s=1, timeout_s=10, steady=steady)
    triton.start()
    images, targets = tiny.images(1), np.full((1, 1), -1, np.int32)
    meanwhile: dict[str, tuple[str, str]] = {}

    def look(model: str, _reason: str) -> None:
        if not probing.untrue and not meanwhile:
            channel, stub = stub_on(triton.server.grpc_address)
            for name in ("tiny", "other"):
                meanwhile[name] = code_of(stub.ModelInfer, infer_request(images, targets, name))
            channel.close()
            (folder / "probe.npz").write_bytes(right)

    try:
        right = (folder / "probe.npz").read_bytes()
        wrong = tiny.write(tmp_path / "wrong", probe="wrong") / "probe.npz"
        shutil.copyfile(wrong, folder / "probe.npz")  # as if its answers had changed
        probing._probe_all()
        assert probing.untrue == {"tiny"}
        mend_models(triton, probing, steady=steady, say_unready=look)
        assert meanwhile["other"] == ("OK", "")
        assert meanwhile["tiny"][0] == "NOT_FOUND", "which the front changes"
        assert probing.out == set()
        probing._probe_all()
        assert probing.wrong == {}
        assert status.registry.get_sample_value("salf_worker_restarts_total", {"model": "tiny"}) == 1
        assert triton.dead_workers() == ()
    finally:
        assert triton.stop() == 0


@pytest.fixture
def own(tiny, config, runtime, nginx, tmp_path):
    """A server that may be broken."""
    tiny.write(tmp_path / "models")
    with serving(tmp_path / "models", tmp_path / "serve", nginx=nginx) as running:
        yield running


def test_a_killed_supervisor_leaves_nothing_but_what_the_next_start_removes(own, tmp_path, monkeypatch):
    from salf_serving.stale import remove_stale

    tree = own.tree()
    os.kill(own.process.pid, signal.SIGKILL)
    own.process.wait(5)
    wait_until(lambda: all(is_gone(pid) for pid in tree), what="the end of all processes")
    wait_until(lambda: not shared_memory_of(own.process.pid))
    left = Path("/dev/shm") / f"salf_{own.process.pid}_left"
    left.touch()
    removed = remove_stale(tmp_path / "serve" / "state" / "salf")
    assert not left.exists()  # another start on this host may have been faster
    assert any(path.name.startswith(f"run-{own.process.pid}-") for path in removed)


def test_what_is_under_way_when_the_server_is_stopped_is_answered(own, tiny):
    channel, stub = stub_on(own.address)
    images, targets = tiny.images(1), np.full((1, 1), -1, np.int32)
    triton = own.triton()
    grpc.channel_ready_future(channel).result(20)
    os.kill(triton, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(stub.ModelInfer, infer_request(images, targets), timeout=20)
        time.sleep(1)
        own.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not takes_connections(own.port), what="a closed door")
        assert not waiting.done()
        os.kill(triton, signal.SIGCONT)
        assert is_right(waiting.result(), tiny.answers(images, targets))
    assert own.process.wait(20) == 0
    channel.close()


def test_a_guard_killed_with_triton_is_replaced(own, tiny):
    with load(own, tiny) as seen:
        wait_until(lambda: seen.outcomes)
        triton = own.triton()
        guard = int(Path(f"/proc/{triton}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(guard, signal.SIGKILL)
        wait_until(lambda: seen.bad(), what="an error")
        moment_s = time.monotonic()
        wait_until(lambda: seen.right_after(moment_s), RECOVERED_WITHIN_S, "a right answer")
    assert own.stop() == 0
