"""Reading servers from their metrics: made-up pages whose answer is known, and `salf serve` under a little load."""

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
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from salf_cli.main import app
from salf_client import Client, InvalidPictureError, MetricsUnavailableError
from salf_client.scraping import Scrape, Window, metrics_url, read_page, scrape
from salf_client.watching import Watcher, activity, quantile
from salf_serving import RunningServer, free_port

ROOT = Path(__file__).resolve().parents[2]
SALF = Path(sys.executable).with_name("salf")
#: A suite that runs in the background hands on that it is deaf to Ctrl-C.
HEARS_CTRL_C = ("env", "--default-signal=INT")
HARBOUR = ROOT / "demonstration" / "pictures" / "harbour.jpg"


def page(**values: float) -> str:
    """Keys are sample names with labels after two underscores: `a__model_x` is a{model="x"}."""
    lines = []
    for key, value in values.items():
        name, _, labels = key.partition("__")
        pairs = [pair.split("_", 1) for pair in labels.split("__") if pair]
        inner = ",".join(f'{label}="{said}"' for label, said in pairs)
        lines.append(f"{name}{{{inner}}} {value}\n")
    return "".join(lines)


def scraped(at_s: float, text: str) -> Scrape:
    return Scrape(at_s, read_page(text, address="here"))


def histogram(name: str, labels: str, counts: dict[str, float]) -> str:
    return "".join(f'{name}_bucket{{{labels},le="{end}"}} {count}\n' for end, count in counts.items())


@given(
    st.lists(st.floats(0.0011, 9.9), min_size=1, max_size=60),
    st.sampled_from([0.5, 0.95, 0.99]),
)
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], q: float) -> None:
    ends = [0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, float("inf")]
    buckets = {end: float(sum(value <= end for value in values)) for end in ends}
    found, true = quantile(buckets, q), float(np.quantile(values, q, method="inverted_cdf"))
    upper = next(end for end in ends if true <= end)
    rounding = 1 + 1e-12
    assert ends[ends.index(upper) - 1] / rounding <= found <= upper * rounding


def test_quantiles_are_interpolated_as_prometheus_does() -> None:
    assert quantile({0.1: 0, 0.2: 10, 0.4: 20, float("inf"): 20}, 0.5) == pytest.approx(0.2)
    assert quantile({0.1: 0, 0.2: 10, 0.4: 20, float("inf"): 20}, 0.75) == pytest.approx(0.3)
    assert quantile({0.1: 0, 0.2: 10, float("inf"): 20}, 0.99) == 0.2
    assert quantile({0.1: 0, float("inf"): 0}, 0.5) is None
    assert quantile({}, 0.5) is None


def test_rates_and_latencies_are_of_the_time_between_two_looks_alone() -> None:
    stage = 'model="scenes",stage="infer",version="1"'
    old = page(salf_failures_total__reason_late=5, nv_inference_count_total__model_a__version_1=1000)
    new = page(salf_failures_total__reason_late=9, nv_inference_count_total__model_a__version_1=1040)
    old += histogram("salf_explanation_seconds", stage, {"0.1": 900, "0.2": 900, "+Inf": 1000})
    new += histogram("salf_explanation_seconds", stage, {"0.1": 900, "0.2": 920, "+Inf": 1020})
    found = activity([Window(scraped(10.0, old), scraped(14.0, new))])
    assert found.failures_per_second == {"encoded: late": 1.0}
    assert found.models["a"].pictures_per_second == 10.0
    assert found.stages["infer"].p50_ms == pytest.approx(150)
    assert found.stages["infer"].per_second == 5.0
    assert "decode" not in found.stages
    assert found.requests_per_second is None


def test_a_counter_that_fell_was_started_again_and_counts_from_zero() -> None:
    old, new = page(salf_failures_total__reason_late=500), page(salf_failures_total__reason_late=3)
    found = activity([Window(scraped(0.0, old), scraped(1.0, new))])
    assert found.failures_per_second == {"encoded: late": 3.0}


def test_servers_are_added_up_each_over_its_own_time() -> None:
    def window(seconds: float, count: float, pending: float, version: int) -> Window:
        samples = {"nv_inference_count_total__model_a__version_1": 0.0, "salf_model_version__model_a": version}
        after = {**samples, "nv_inference_count_total__model_a__version_1": count}
        after["nv_inference_pending_request_count__model_a"] = pending
        return Window(scraped(0.0, page(**samples)), scraped(seconds, page(**after)))

    found = activity([window(2.0, 20.0, 3, 1), window(4.0, 20.0, 4, 2)])
    assert found.pictures_per_second == 15.0
    assert (found.models["a"].pending, found.models["a"].version) == (7, 2)


class Pages:
    """A page of metrics over HTTP that the test writes."""

    def __init__(self) -> None:
        self.text: str | None = None
        self.letter_every_s = 0.0
        pages = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                text = pages.text
                self.send_response(503 if text is None else 200)
                self.end_headers()
                if not pages.letter_every_s:
                    self.wfile.write((text or "").encode())
                    return
                with suppress(OSError):  # nobody waits for the end
                    for letter in text or "":
                        self.wfile.write(letter.encode())
                        time.sleep(pages.letter_every_s)

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"


@pytest.fixture
def pages() -> Iterator[Pages]:
    made = Pages()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def test_a_page_without_tritons_part_does_not_let_its_counters_begin_anew(pages: Pages) -> None:
    watcher = Watcher([pages.address])
    whole = {"salf_ready": 1.0, "salf_triton_up": 1.0, "nv_inference_count_total__model_a__version_1": 5000.0}
    pages.text = page(**whole)
    assert watcher.look().together is None
    pages.text = page(salf_ready=0.0, salf_triton_up=0.0)
    without = watcher.look()
    assert without.servers[0].ready is False
    assert without.together.pictures_per_second == 0
    pages.text = page(**{**whole, "nv_inference_count_total__model_a__version_1": 5001.0})
    again = watcher.look()
    assert 0 < again.together.pictures_per_second * again.seconds < 1.5


def test_a_server_that_stops_to_answer_is_named_and_the_others_go_on(pages: Pages) -> None:
    gone = f"127.0.0.1:{free_port()}"
    watcher = Watcher([gone, pages.address])
    pages.text = page(salf_ready=1.0)
    watcher.look()
    reading = watcher.look()
    assert "gives no metrics" in reading.servers[0].error
    assert reading.servers[1].activity is not None
    assert reading.together is not None


def test_a_page_that_comes_letter_by_letter_ends_with_the_time(pages: Pages) -> None:
    pages.text, pages.letter_every_s = page(salf_ready=1.0), 0.05
    assert len(pages.text) > 15
    started_s = time.monotonic()
    with pytest.raises(MetricsUnavailableError, match=r"not complete within 0\.3 s"):
        scrape(pages.address, timeout_s=0.3)
    assert time.monotonic() - started_s < 0.7


def test_what_gives_no_metrics_is_said_with_the_remedy(pages: Pages) -> None:
    for text, said in ((None, "503"), ("<html>", "something else"), ("up 1\n", "none of a salf server")):
        pages.text = text
        with pytest.raises(MetricsUnavailableError, match=said):
            scrape(pages.address, timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="status-port"):
        scrape(f"127.0.0.1:{free_port()}", timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="no address"):
        scrape("file:///etc/passwd", timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="no metrics"):
        scrape("127.0.0.1:port", timeout_s=5)
    assert metrics_url("127.0.0.1:1/salf/metrics") == "http://127.0.0.1:1/salf/metrics"


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
    whole_server: tuple[str, str], load: None
) -> None:
    def enough(said: str) -> bool:
        return said.count("salf top") >= 2

    process = subprocess.Popen(
        [*HEARS_CTRL_C, SALF, "top", whole_server[1], "--interval", "0.3"],
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
    whole_server: tuple[str, str], load: None
) -> None:
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    process = subprocess.Popen(
        [*HEARS_CTRL_C, SALF, "top", whole_server[1], "--interval", "0.3"],
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
