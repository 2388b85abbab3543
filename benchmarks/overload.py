"""Goodput at ten times the sustainable rate, through the front, over the best rate; a small model and ResNet-50.

The server (Triton and nginx) has one core, the load generator another. In each round the best rate is measured first
(as many requests in flight as the front lets through), then the same server is offered ten times that rate for
some seconds, whatever it answers. Good is an answer that is right and came within the deadline.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import numpy as np
from tritonclient.grpc import service_pb2

from benchmarks.networks import Network
from benchmarks.report import CannotMeasureError, Result
from benchmarks.served_models import LARGE, SMALL, picture, write_repository
from benchmarks.supervised import anonymous_mb, supervised
from salf_contract import PREDICTED_CLASS
from salf_export.runtime import Arrays
from salf_serving.load import infer_request

MODELS = {"small": SMALL, "resnet50": LARGE}
OVERLOAD = 10
DEADLINE_S = 2.0
IN_FLIGHT = 16
_PICTURES = 16
_CHANNELS = 4
#: The generator may fall behind ten times the rate by so much.
_LEAST_OFFERED = 0.9 * OVERLOAD
_FRONT = f"concurrent_requests = {IN_FLIGHT}\nconcurrent_requests_per_client = {IN_FLIGHT}\n"
_METHOD = "/inference.GRPCInferenceService/ModelInfer"


@dataclass
class Tally:
    """What became of the requests of one phase."""

    started: int = 0
    good_s: list[float] = field(default_factory=list)
    #: Of all that the front let through, late ones and those given up at the deadline too.
    accepted_s: list[float] = field(default_factory=list)
    late: int = 0
    wrong: int = 0
    errors: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Question:
    """A serialised request and the logits of its right answer."""

    request: bytes
    logits: np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def measure(*, quick: bool = False) -> Result:
    """Overload both models.

    Raises:
        CannotMeasureError: less than two cores, no nginx or runtime, wrong answers, or the generator is too slow.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotMeasureError("server and load generator need a core each, but there is one")
    rounds, best_s, overload_s = (1, 2.0, 3.0) if quick else (3, 5.0, 7.0)
    figures: dict[str, float] = {}
    spread: dict[str, tuple[float, float]] = {}
    notes: dict[str, float] = {}
    for name, network in MODELS.items():
        with tempfile.TemporaryDirectory(prefix="salf-bench-") as folder:
            questions = _questions(Path(folder), name, network)
            with supervised(Path(folder) / "models", Path(folder), front=_FRONT, cores=str(cores[0])) as (address, pid):
                os.sched_setaffinity(0, {cores[1]})
                try:
                    seen = [_round(address, pid, questions, best_s, overload_s) for _ in range(rounds)]
                finally:
                    os.sched_setaffinity(0, set(cores))
        ratios = [one["goodput"] / one["best"] for one in seen]
        figures[f"goodput_ratio_{name}"] = statistics.median(ratios)
        spread[f"goodput_ratio_{name}"] = (min(ratios), max(ratios))
        for key in seen[0]:
            notes[f"{name}_{key}"] = statistics.median(one[key] for one in seen)
    return Result(
        name="overload",
        runs={
            "rounds": rounds,
            "interleaved": "each round measures the best rate, then the overload, on the same server",
            "seconds": {"best": best_s, "overload": overload_s},
            "offered": f"{OVERLOAD} times the best rate",
            "deadline_s": DEADLINE_S,
            "concurrent_requests": IN_FLIGHT,
            "backbones": {name: network.name for name, network in MODELS.items()},
        },
        figures=figures,
        spread=spread,
        notes=notes,
    )


def _round(address: str, pid: int, questions: list[Question], best_s: float, overload_s: float) -> dict[str, float]:
    with _channels(address) as calls:
        _ask_steadily(calls, questions, seconds=1.0)
        best = _ask_steadily(calls, questions, seconds=best_s)
        rate = len(best.good_s) / best_s
        if best.wrong or not rate:
            raise CannotMeasureError(f"{best.wrong} wrong answers, {len(best.good_s)} right ones, errors {best.errors}")
        memory_mb = anonymous_mb(pid)
        tally, took_s = _offer(calls, questions, rate=OVERLOAD * rate, seconds=overload_s)
    offered = tally.started / took_s
    if tally.wrong:
        raise CannotMeasureError(f"{tally.wrong} answers were wrong under overload")
    if offered < _LEAST_OFFERED * rate:
        raise CannotMeasureError(f"the generator offered {offered:.0f} requests/s, {OVERLOAD * rate:.0f} were wanted")
    return {
        "best": rate,
        "best_p99_s": float(np.quantile(best.good_s, 0.99)),
        "offered": offered,
        "goodput": len(tally.good_s) / took_s,
        "accepted_p99_s": float(np.quantile(tally.accepted_s, 0.99)),
        "accepted_but_late": float(tally.late + tally.errors.get("DEADLINE_EXCEEDED", 0)),
        "rejected": float(tally.errors.get("RESOURCE_EXHAUSTED", 0)),
        "other_errors": float(sum(tally.errors.values()) - tally.errors.get("RESOURCE_EXHAUSTED", 0)),
        "memory_growth": anonymous_mb(pid) / memory_mb,
    }


def _ask_steadily(
    calls: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]], questions: list[Question], *, seconds: float
) -> Tally:
    """Keep as many requests in flight as the front lets through."""
    tally, lock = Tally(), threading.Lock()
    end_s = time.monotonic() + seconds

    def ask(number: int) -> None:
        while time.monotonic() < end_s:
            question = questions[number % len(questions)]
            started_s = time.monotonic()
            try:
                answer = calls[number % len(calls)](question.request, timeout=DEADLINE_S)
            except grpc.RpcError as error:
                with lock:
                    _count_error(tally, error, time.monotonic() - started_s)
                continue
            with lock:
                _count_answer(tally, question, answer, time.monotonic() - started_s)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(IN_FLIGHT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return tally


def _offer(
    calls: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]], questions: list[Question], *, rate: float, seconds: float
) -> tuple[Tally, float]:
    """Start requests at a rate, whatever becomes of the earlier ones; returns what became of them, and the seconds."""
    tally, lock = Tally(), threading.Lock()
    waiting = threading.Semaphore(0)

    def done(call: grpc.Future[bytes], *, question: Question, started_s: float) -> None:
        took_s = time.monotonic() - started_s
        error = cast("grpc.RpcError | None", call.exception())
        with lock:
            if error is None:
                _count_answer(tally, question, call.result(), took_s)
            else:
                _count_error(tally, error, took_s)
        waiting.release()

    begun_s = time.monotonic()
    while (now_s := time.monotonic()) < begun_s + seconds:
        due = int((now_s - begun_s) * rate) - tally.started
        for _ in range(due):
            question = questions[tally.started % len(questions)]
            started_s = time.monotonic()
            call = calls[tally.started % len(calls)].future(question.request, timeout=DEADLINE_S)
            call.add_done_callback(partial(done, question=question, started_s=started_s))
            tally.started += 1
        time.sleep(0.002)
    took_s = time.monotonic() - begun_s
    for _ in range(tally.started):
        waiting.acquire()
    return tally, took_s


def _count_answer(tally: Tally, question: Question, answer: bytes, took_s: float) -> None:
    message = service_pb2.ModelInferResponse.FromString(answer)
    names = [output.name for output in message.outputs]
    logits = np.frombuffer(message.raw_output_contents[names.index("logits")], np.float32)
    tally.accepted_s.append(took_s)
    if not np.allclose(logits, question.logits, rtol=1e-3, atol=1e-3):
        tally.wrong += 1
    elif took_s > DEADLINE_S:
        tally.late += 1
    else:
        tally.good_s.append(took_s)


def _count_error(tally: Tally, error: grpc.RpcError, took_s: float) -> None:
    code = error.code().name
    if code == "DEADLINE_EXCEEDED":
        tally.accepted_s.append(took_s)
    tally.errors[code] = tally.errors.get(code, 0) + 1


def _questions(folder: Path, name: str, network: Network) -> list[Question]:
    session = write_repository(folder / "models", name=name, network=network)
    questions = []
    for seed in range(_PICTURES):
        image, target = picture(seed), np.full((1, 1), PREDICTED_CLASS, np.int32)
        inputs: Arrays = {"image": image, "target": target}
        logits = session.run(inputs)["logits"][0].astype(np.float32)
        questions.append(Question(infer_request(name, inputs).SerializeToString(), logits))
    return questions


@contextmanager
def _channels(address: str) -> Iterator[list[grpc.UnaryUnaryMultiCallable[bytes, bytes]]]:
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options=options) for _ in range(_CHANNELS)]
    try:
        yield [
            channel.unary_unary(_METHOD, request_serializer=bytes, response_deserializer=bytes) for channel in channels
        ]
    finally:
        for channel in channels:
            channel.close()
