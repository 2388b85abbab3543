"""The encoded endpoint behind the front: what is left of pictures (nothing), and what a killed decoder costs."""

import io
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from encoded_requests import Endpoint, Failure
from PIL import Image, PngImagePlugin
from prometheus_client import CollectorRegistry
from served import Served, is_gone, own_connections, serving, shared_memory_of, wait_until

from salf_client import Client
from salf_client.telemetry import PrometheusObserver
from salf_serving.control import workers

ROOT = Path(__file__).parents[2]
PICTURE = (ROOT / "demonstration/pictures/harbour.jpg").read_bytes()
#: Stands in every file that is sent, as text and among the pixels.
MARK = b"PRIVATE-7f3a91"
DECODERS = 3
TYPED = {"UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED"}


@pytest.fixture(scope="module")
def served(runtime, nginx, tmp_path_factory):
    folder, front = tmp_path_factory.mktemp("encoded"), "connection_age_s = 1\n"
    with serving(ROOT / "model_repository", folder, nginx=nginx, front=front) as running:
        yield running


def marked_files() -> dict[str, bytes]:
    """Good, broken and refused files that hold the mark."""
    image = Image.open(io.BytesIO(PICTURE))
    exif = Image.Exif()
    exif[0x010E] = MARK.decode()
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", MARK.decode())
    jpeg, png = io.BytesIO(), io.BytesIO()
    image.save(jpeg, "JPEG", exif=exif, comment=MARK)
    image.save(png, "PNG", pnginfo=text)
    good = jpeg.getvalue()
    return {
        "jpeg": good,
        "png": png.getvalue(),
        "cut off": good[: len(good) // 2],
        "wrong from the start": MARK * 1000,
        "of another kind": b"GIF89a" + MARK * 10,
        "with text inside": good[:400] + MARK + good[400:],
        "large": good + MARK * 400_000,
    }


def files_holding(mark: bytes, folders: list[Path]) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and mark in path.read_bytes()]


def test_no_picture_and_no_word_of_one_is_written_anywhere(served: Served):
    """Neither by good nor by refused requests; nor by those that wait for a Triton that hangs."""
    folders = [served.folder, *Path("/tmp").glob(f"salf-run-{served.process.pid}-*")]
    # Kept for sending again: the first of them may find its connection too old, and the others go with it.
    endpoint = Endpoint(served.address, options=[("grpc.per_rpc_retry_buffer_size", 64 * 2**20)])
    outcomes = {kind: endpoint.ask(data) for kind, data in marked_files().items()}
    refused = {kind for kind, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert refused >= {"cut off", "wrong from the start", "of another kind"}
    assert not refused & {"jpeg", "png"}
    assert not any(MARK.decode() in outcomes[kind].message for kind in refused)
    triton, large = served.triton(), marked_files()["large"]
    os.kill(triton, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(8) as pool:
            waiting = [pool.submit(endpoint.ask, large, timeout_s=20) for _ in range(8)]
            time.sleep(1)
            meanwhile = files_holding(MARK, folders)
            assert not any(one.done() for one in waiting)
            os.kill(triton, signal.SIGCONT)
            for one in waiting:
                one.result()
    finally:
        os.kill(triton, signal.SIGCONT)
    endpoint.channel.close()
    assert meanwhile == []
    time.sleep(1.2)  # nginx writes its log once a second
    assert files_holding(MARK, folders) == []
    assert files_holding(b"ModelInfer", folders), "the logs were looked at"
    wait_until(served.is_ready, what="readiness")


@pytest.mark.parametrize("kilobytes", [60, 600])
def test_no_call_of_a_busy_client_notices_that_old_connections_are_closed(served: Served, kilobytes):
    """Also of requests larger than what gRPC keeps for sending again by default."""
    wait_until(served.is_ready, what="readiness")
    picture = PICTURE + bytes(max(0, 1000 * kilobytes - len(PICTURE)))  # what follows a JPEG's end is not looked at
    registry, seen, enough = CollectorRegistry(), set(), threading.Event()

    def ask() -> None:
        while not enough.is_set():
            assert client.explain(picture).label == "harbour"

    with Client(served.address, observers=[PrometheusObserver(registry)]) as client, ThreadPoolExecutor(12) as pool:
        asking = [pool.submit(ask) for _ in range(12)]
        deadline_s = time.monotonic() + 30
        while len(seen) < 3 and time.monotonic() < deadline_s:
            seen |= own_connections(served.port)
            time.sleep(0.1)
        enough.set()
        for one in asking:
            one.result()

    assert len(seen) >= 3, "connections were closed"
    (failed,) = (metric for metric in registry.collect() if metric.name == "salf_client_failed_attempts")
    assert failed.samples == []


def living(served: Served) -> list[int]:
    return [pid for pid in served.tree() if not is_gone(pid)]


def test_a_decoder_killed_under_load_costs_typed_errors_for_a_moment(served: Served):
    wait_until(served.is_ready, what="readiness")
    pieces, processes = len(shared_memory_of(served.process.pid)), len(living(served))
    stop, outcomes = threading.Event(), []

    def ask() -> None:
        endpoint = Endpoint(served.address)
        while not stop.is_set():
            started_s = time.monotonic()
            answer = endpoint.ask(PICTURE, timeout_s=5)
            outcomes.append((started_s, time.monotonic() - started_s, answer))
        endpoint.channel.close()

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(outcomes) > 20)
        killed_s = time.monotonic()
        for pid in [pid for pid, model in workers(served.triton()).items() if model == "scenes_encoded"]:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: any(isinstance(answer, Failure) for _, _, answer in list(outcomes)), what="an error")
        wait_until(served.is_ready, 20, "readiness")
        ready_s = time.monotonic()
        wait_until(lambda: sum(started_s > ready_s for started_s, _, _ in list(outcomes)) > 20, what="answers")
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)
    failures = [(started_s, answer) for started_s, _, answer in outcomes if isinstance(answer, Failure)]
    assert {answer.status.name for _, answer in failures} <= TYPED
    assert max(took_s for _, took_s, _ in outcomes) < 5.5
    assert max(started_s for started_s, _ in failures) < killed_s + 15
    first = outcomes[0][2]
    right = [answer for _, _, answer in outcomes if not isinstance(answer, Failure)]
    assert all((answer["logits"] == first["logits"]).all() for answer in right)
    wait_until(lambda: len(living(served)) == processes, what="the end of old processes")
    # A decoder killed while it waits for the explain model leaves its shared memory to Triton, until Triton ends.
    assert len(shared_memory_of(served.process.pid)) <= pieces + DECODERS
