"""Probes against a server that speaks Triton's protocol and answers as each test wants."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from served import wait_until
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

from salf_serving.probing import Probing
from salf_serving.status import Status

LATE_S = 0.2


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One model, `tiny`.

    Attributes:
        answers: what it answers to its probe.
        busy: keeps the probe waiting.
        failing: answers the probe with an error.
        answered: pictures of others that it has answered.
    """

    def __init__(self, answers: dict[str, np.ndarray]) -> None:
        self.answers, self.answered = answers, 0
        self.busy, self.failing = threading.Event(), threading.Event()

    def ModelConfig(self, request, context):  # noqa: N802 - Triton's name
        return service_pb2.ModelConfigResponse(config=model_config_pb2.ModelConfig(name="tiny", backend="onnxruntime"))

    def ModelInfer(self, request, context):  # noqa: N802 - Triton's name
        while self.busy.is_set() and context.is_active():
            time.sleep(0.01)
        if self.failing.is_set():
            context.abort(grpc.StatusCode.INTERNAL, "the worker died")
        answer = service_pb2.ModelInferResponse(model_name="tiny")
        for name, array in self.answers.items():
            kind = {"float32": "FP32", "int32": "INT32"}[str(array.dtype)]
            answer.outputs.add(name=name, datatype=kind, shape=array.shape)
            answer.raw_output_contents.append(array.tobytes())
        return answer

    def ModelStatistics(self, request, context):  # noqa: N802 - Triton's name
        statistics = service_pb2.ModelStatisticsResponse()
        statistics.model_stats.add(name="tiny", version="1", inference_count=self.answered)
        return statistics


@pytest.fixture
def server(tiny):
    images, targets = tiny.images(1, seed=3), np.full((1, 1), -1, np.int32)
    return Server(tiny.answers(images, targets))


@pytest.fixture
def probing(tiny, server, tmp_path):
    """Probes that take turns with the test: `probing.turn()` is one round."""
    tiny.write(tmp_path / "models")
    with ThreadPoolExecutor(4) as pool:
        listening = grpc.server(pool)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, listening)
        address = f"127.0.0.1:{listening.add_insecure_port('127.0.0.1:0')}"
        listening.start()
        triton = SimpleNamespace(server=SimpleNamespace(grpc_address=address), died=lambda: False)
        one = Probing(triton, tmp_path / "models", Status(), interval_s=0.01, timeout_s=LATE_S, steady=threading.Lock())
        one._status.set_problem("start", None)
        yield one
        server.busy.clear()
        listening.stop(None).wait()


def test_a_late_model_that_answers_others_is_busy_and_not_mended(probing, server):
    probing._probe_all()
    assert (probing.wrong, probing._status.problems) == ({}, {})
    server.busy.set()
    for _ in range(4):
        server.answered += 1
        probing._probe_all()
    assert probing.wrong == {}
    assert list(probing._status.problems) == ["model tiny"]
    late = probing._status.registry.get_sample_value("salf_probe_failures_total", {"model": "tiny", "reason": "late"})
    assert late == 4


def test_a_late_model_that_answers_nobody_hangs(probing, server):
    server.busy.set()
    for _ in range(3):
        probing._probe_all()
    assert probing.wrong["tiny"][0] == 2, "from the second late answer on it is known"


def test_a_wrong_answer_is_untrue_until_the_next_right_one(probing, server):
    right = server.answers
    server.answers = right | {"logits": right["logits"] + np.float32(1)}
    probing._probe_all()
    assert (probing.untrue, probing.wrong["tiny"][0]) == ({"tiny"}, 1)
    server.answers = right
    probing.kept_in["tiny"] = 1
    probing._probe_all()
    assert probing.kept_in == {}, "should it answer wrong again, Triton is asked again to take it out"
    assert (probing.untrue, probing.wrong, probing._status.problems) == (set(), {}, {})


def test_an_error_is_wrong_but_not_untrue(probing, server):
    server.failing.set()
    probing._probe_all()
    assert (probing.untrue, probing.wrong["tiny"][0]) == (set(), 1)


@pytest.fixture
def going_on(probing) -> Callable[[], None]:
    stopping = threading.Event()
    thread = threading.Thread(target=probing.go_on, args=(stopping,), daemon=True)
    yield thread.start
    stopping.set()
    thread.join(5)
    assert not thread.is_alive()


def test_what_nobody_thought_of_is_a_problem_and_not_the_end(probing, going_on, monkeypatch):
    def fail(*_arguments, **_options):
        raise ValueError("could not convert string to float")

    with monkeypatch.context() as broken:
        broken.setattr("salf_serving.probing.probe_model", fail)
        going_on()
        wait_until(lambda: "ValueError: could not convert" in probing._status.problems.get("probing", ""))
    wait_until(lambda: probing._status.problems == {})


def test_probes_that_ended_are_not_ready_and_those_that_wait_are(probing, going_on, monkeypatch):
    status = probing._status
    monkeypatch.setattr(status, "_stuck_after_s", 0.5)
    with probing._steady:
        going_on()
        wait_until(lambda: status._probing_s is not None)
        time.sleep(0.8)
        assert status.problems == {}, "a change that takes its time keeps the probes waiting"
    monkeypatch.setattr(probing, "_probe_all", lambda: time.sleep(1.2))
    wait_until(lambda: "no model was probed for" in status.problems.get("probing", ""), 3)
    assert status.registry.get_sample_value("salf_ready") == 0
