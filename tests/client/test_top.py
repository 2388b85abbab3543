"""`salf top` on `salf serve` under a little load, in a terminal and without one; and on Triton's own page."""

import json
import os
import pty
import select
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from salf_cli.main import app
from salf_client import Client, InvalidPictureError
from salf_client.scraping import read_page
from salf_client.watching import Watcher
from salf_serving import RunningServer, free_port

ROOT = Path(__file__).resolve().parents[2]
SALF = Path(sys.executable).with_name("salf")
HARBOUR = ROOT / "demonstration" / "pictures" / "harbour.jpg"


def test_the_command_refuses_what_it_cannot_show() -> None:
    gone = CliRunner().invoke(app, ["top", f"127.0.0.1:{free_port()}", "--once"])
    assert gone.exit_code == 1
    assert len(gone.stderr.strip().splitlines()) == 1
    assert CliRunner().invoke(app, ["top", "--json"]).exit_code == 2


@pytest.fixture(scope="module")
def load(whole_server: tuple[str, str]) -> Iterator[None]:
    """Two callers who ask all the time; every fourth picture is none."""
    stopped = threading.Event()

    def ask() -> None:
        with Client(whole_server[0], timeout_s=30) as client:
            for number in range(100_000):
                if stopped.wait(0.02):
                    return
                with suppress(InvalidPictureError):
                    client.explain(b"\xff\xd8\xff no picture" if number % 4 == 0 else HARBOUR)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    yield
    stopped.set()
    for thread in threads:
        thread.join()


@pytest.mark.slow
def test_a_real_server_under_load_is_read(whole_server: tuple[str, str], load: None) -> None:
    done = subprocess.run(
        [SALF, "top", whole_server[1], "--once", "--json", "--interval", "2"],
        capture_output=True,
        text=True,
        check=True,
    )
    reading = json.loads(done.stdout)
    assert reading["servers"][0]["ready"] is True
    together = reading["together"]
    assert together["requests_per_second"] > 1
    assert together["pictures_per_second"] > 1
    assert together["failures_per_second"]["encoded: picture_unsupported"] > 0.2
    assert set(together["stages"]) == {"front", "total", "decode", "infer", "answer", "probe"}
    for stage in ("front", "total", "infer"):
        found = together["stages"][stage]
        assert 0 < found["p50_ms"] <= found["p95_ms"] <= found["p99_ms"] <= 10_000, stage
    assert together["models"]["scenes"]["version"] == 1
    assert 0.5 < together["models"]["scenes"]["coverage"] <= 1
    assert together["models"]["scenes_encoded"]["queue_ms"] > 0


@pytest.mark.slow
def test_without_a_terminal_each_interval_is_printed_and_ctrl_c_ends_it_well(
    whole_server: tuple[str, str], load: None, hears_ctrl_c: tuple[str, ...]
) -> None:
    def enough(said: str) -> bool:
        return said.count("salf top") >= 2

    process = subprocess.Popen(
        [*hears_ctrl_c, SALF, "top", whole_server[1], "--interval", "0.3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = interrupted_when(process, process.stdout.fileno(), enough)
    assert process.returncode == 0, process.stderr and process.stderr.read()
    assert "\x1b[" not in said
    assert "encoded: picture_unsupported" in said


@pytest.mark.slow
def test_on_a_terminal_the_view_is_drawn_over_itself_and_the_screen_given_back(
    whole_server: tuple[str, str], load: None, hears_ctrl_c: tuple[str, ...]
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    process = subprocess.Popen(
        [*hears_ctrl_c, SALF, "top", whole_server[1], "--interval", "0.3"],
        stdout=theirs,
        stderr=theirs,
        env=environment,
    )
    os.close(theirs)
    try:
        said = interrupted_when(process, ours, lambda said: "requests/s" in said and "refused or failed" in said)
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert "\x1b[?1049h" in said
    assert said.rstrip().endswith(("\x1b[?1049l\x1b[?25h", "\x1b[?1049l"))
    assert "coverage" in said, "a line of the view is wider than a terminal of 80 columns"


def interrupted_when(process: subprocess.Popen[bytes], output: int, enough: Callable[[str], bool]) -> str:
    """Read until it is enough, interrupt as Ctrl-C does, and read the rest."""
    said, ends_at_s, is_interrupted = b"", time.monotonic() + 60, False
    while time.monotonic() < ends_at_s:
        if not is_interrupted and enough(said.decode(errors="replace")):
            process.send_signal(signal.SIGINT)
            is_interrupted = True
        if select.select([output], [], [], 0.1)[0]:
            try:
                read = os.read(output, 65536)
            except OSError:  # a terminal whose other end is closed
                read = b""
            if not read:
                break
            said += read
    process.wait(10)
    assert is_interrupted, said
    return said.decode(errors="replace")


def test_tritons_own_page_is_enough(triton_server: RunningServer) -> None:
    watcher = Watcher([triton_server.metrics_address or ""])
    watcher.look()
    with Client(triton_server.grpc_address) as client:
        for _ in range(3):
            client.explain(HARBOUR)
    reading = watcher.look()
    assert reading.servers[0].ready is None
    assert reading.together is not None
    assert reading.together.requests_per_second is None
    assert reading.together.models["scenes"].pictures_per_second * reading.seconds == pytest.approx(3)


def test_the_status_page_that_is_documented_is_the_one_that_is_read(whole_server: tuple[str, str]) -> None:
    with urllib.request.urlopen(f"http://{whole_server[1]}/metrics", timeout=10) as answer:
        samples = read_page(answer.read().decode(), address=whole_server[1])
    triton = ("count_total", "request_success_total", "request_failure_total", "queue_duration_us_total")
    ours = ("ready", "triton_up", "model_version", "restarts_total", "front_refusals_total", "probe_failures_total")
    wanted = {f"nv_inference_{name}" for name in triton} | {f"salf_{name}" for name in ours}
    for name in (*wanted, "nv_inference_pending_request_count"):
        assert name in samples, name
