"""A real Prometheus on the committed configuration, with windows of seconds instead of hours."""

import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from salf_serving import free_port

FILES = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = sorted((FILES / "rules").glob("*.yaml"))
#: Windows as committed -> in tests, where Prometheus scrapes and evaluates once a second.
_WINDOWS = {"1m": "5s", "2m": "5s", "5m": "5s", "15m": "10s", "30m": "10s", "1h": "10s", "6h": "15s", "1d": "40s"}


def rules() -> list[dict[str, str]]:
    """All rules as committed."""
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def autoscaler_query() -> str:
    """What the autoscaler's metric is, as prometheus-adapter would ask for it, but by instance and not by pod."""
    values = yaml.safe_load((FILES.parent / "kubernetes" / "base" / "prometheus-adapter.yaml").read_text())
    (rule,) = values["rules"]["custom"]
    return rule["metricsQuery"].replace("<<.LabelMatchers>>", 'job="salf"').replace("<<.GroupBy>>", "instance")


def shortened(query: str) -> str:
    """A query over seconds, content with few pictures; its metrics, labels and thresholds of ratios stay."""
    query = re.sub(r"\[(\w+)\]", lambda found: f"[{_WINDOWS[found[1]]}]", query)
    query = re.sub(r"offset (\w+)", lambda found: f"offset {_WINDOWS[found[1]]}", query)
    return query.replace(">= 100", ">= 10")


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    port: int
    started_s: float

    def ask(self, path: str, **parameters: str | float) -> dict:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            said = json.load(answer)
        assert said["status"] == "success", said
        return said["data"]

    def now(self, query: str) -> list[dict]:
        """Series of a query, as it stands in the rules."""
        return self.ask("query", query=shortened(query))["result"]

    def ever(self, query: str, since_s: float | None = None) -> list[dict]:
        """Series that a query has given at any second since a moment, or since the start."""
        span = {"start": since_s or self.started_s, "end": time.time(), "step": 1}
        return self.ask("query_range", query=shortened(query), **span)["result"]

    def fired(self, since_s: float) -> set[str]:
        """Names of the alerts that have fired at any second since a moment."""
        return {one["metric"]["alertname"] for one in self.ever('ALERTS{alertstate="firing"}', since_s)}

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self.ask("alerts")["alerts"] if one["state"] == "firing"}


@contextmanager
def prometheus_running(program: Path, folder: Path, target: str) -> Iterator[Prometheus]:
    """Scrape a server while a block runs."""
    (folder / "rules").mkdir(parents=True)
    for path in RULES:
        content = yaml.safe_load(path.read_text())
        for group in content["groups"]:
            for rule in group["rules"]:
                rule["expr"] = shortened(rule["expr"])
                rule.pop("for", None)
        (folder / "rules" / path.name).write_text(yaml.safe_dump(content))
    config = (FILES / "prometheus.yaml").read_text()
    assert "server:8003" in config
    (folder / "prometheus.yaml").write_text(config.replace("server:8003", target).replace("15s", "1s"))
    port = free_port()
    command = [str(program), f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data",
               f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]  # fmt: skip
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    running = Prometheus(port, time.time())
    try:
        deadline_s = time.monotonic() + 30
        while not _answers(running):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < deadline_s, "Prometheus did not start"
            time.sleep(0.1)
        yield running
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(folder / "data", ignore_errors=True)


def _answers(prometheus: Prometheus) -> bool:
    try:
        return bool(prometheus.ask("targets"))
    except OSError:
        return False
