"""Servers are read from their metrics: made-up pages whose answer is known."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salf_client import MetricsUnavailableError
from salf_client.scraping import Scrape, Window, metrics_url, read_page, scrape
from salf_client.watching import Watcher, activity, quantile
from salf_serving import free_port


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
    pages.text, pages.letter_every_s = page(salf_ready=1.0) * 20, 0.05
    started_s = time.monotonic()
    with pytest.raises(MetricsUnavailableError, match=r"not complete within 0\.3 s"):
        scrape(pages.address, timeout_s=0.3)
    assert time.monotonic() - started_s < 0.05 * len(pages.text) / 2


def test_what_gives_no_metrics_is_said_with_the_remedy(pages: Pages) -> None:
    for text, said in ((None, "503"), ("<html>", "something else"), ("up 1\n", "none of a salf server")):
        pages.text = text
        with pytest.raises(MetricsUnavailableError, match=said):
            scrape(pages.address, timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="status-port"):
        scrape(f"127.0.0.1:{free_port()}", timeout_s=5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=lambda: listening.accept()[0].sendall(b"\x00\x00\xff\xfe\n"), daemon=True).start()
        with pytest.raises(MetricsUnavailableError, match=r"\(it speaks no HTTP: .*gRPC port\?\)"):
            scrape(f"127.0.0.1:{listening.getsockname()[1]}", timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="no address"):
        scrape("file:///etc/passwd", timeout_s=5)
    with pytest.raises(MetricsUnavailableError, match="no metrics"):
        scrape("127.0.0.1:port", timeout_s=5)
    assert metrics_url("127.0.0.1:1/salf/metrics") == "http://127.0.0.1:1/salf/metrics"
