"""Writes dashboards/salf.json: `python -m deploy.grafana.generate`. A test keeps the file equal to what this gives."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DASHBOARD_FILE = Path(__file__).parent / "dashboards" / "salf.json"
#: As provisioning/datasources/prometheus.yaml names it.
_SOURCE = {"type": "prometheus", "uid": "prometheus"}
#: Grafana's grid has 24 columns; three panels stand in a row.
_WIDTH, _HEIGHT = 8, 8


@dataclass(frozen=True)
class Panel:
    """One graph.

    Attributes:
        title: above it.
        unit: Grafana's name of a unit: "s", "reqps", "percentunit", "short".
        queries: PromQL and legend, in pairs.
        says: what to see in it.
        kind: "timeseries" or "stat".
    """

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    says: str = ""
    kind: str = "timeseries"


def _quantiles(series: str, selector: str = "", legend: str = "") -> tuple[tuple[str, str], ...]:
    return tuple((f"{series}:{name}_5m{selector}", f"{name} {legend}".strip()) for name in ("p50", "p95", "p99"))


#: Of the last hour. Its series begin with the first refusal, so increase() would miss that one.
_REFUSED = (
    "sum by (model, reason) (clamp_min(salf_refused_versions_total"
    " - (salf_refused_versions_total offset 1h or 0 * salf_refused_versions_total), 0))"
)

ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "What clients get",
        (
            Panel(
                "Inferences by gRPC status",
                "reqps",
                (('sum by (grpc_status) (rate(salf_front_requests_total{call="ModelInfer"}[5m]))', "{{grpc_status}}"),),
                "0 is answered, 8 refused (too many, too large); docs/alerts.md lists the others.",
            ),
            Panel(
                "Latency at the front",
                "s",
                _quantiles("job:salf_front_request_seconds", legend="{{namespace}}"),
                "Of answered inferences. The objective: 99 % within one second.",
            ),
            Panel(
                "Errors, slow answers",
                "percentunit",
                (
                    ("job:salf_front_errors:ratio_5m", "failed {{namespace}}"),
                    ("job:salf_front_slow:ratio_5m", "slower than 1 s {{namespace}}"),
                    ("job:salf_front_slow:ratio_1h", "slower than 1 s, 1 h {{namespace}}"),
                ),
            ),
            Panel(
                "Refused by the front",
                "reqps",
                (("sum by (reason) (rate(salf_front_refusals_total[5m]))", "{{reason}}"),),
                "too_many: more load than is let through.",
            ),
            Panel(
                "Refused and failed by the encoded endpoint",
                "reqps",
                (("sum by (model, reason) (rate(salf_failures_total[5m]))", "{{model}}: {{reason}}"),),
                "picture_...: the sender's; model_unavailable and server_fault: ours.",
            ),
            Panel(
                "Pictures explained",
                "reqps",
                (("sum by (model, version) (rate(salf_explanations_total[5m]))", "{{model}} {{version}}"),),
                "By the encoded endpoint.",
            ),
        ),
    ),
    (
        "Where time goes",
        (
            Panel(
                "Stages of the encoded endpoint, p95",
                "s",
                (("stage:salf_explanation_seconds:p95_5m", "{{model}} {{version}} {{stage}}"),),
                "decode: file to pixels; infer: the explain model and its queue; total: all of it.",
            ),
            Panel(
                "The whole of it",
                "s",
                _quantiles("stage:salf_explanation_seconds", '{stage="total"}', "{{model}} {{version}}"),
            ),
            Panel(
                "Mean wait in Triton's queue",
                "s",
                (("model:nv_inference_queue:mean_seconds_5m", "{{model}} {{version}}"),),
                "Grows first when load grows.",
            ),
        ),
    ),
    (
        "What the models say",
        (
            Panel(
                "Distance of the strongest concepts, hour to day",
                "percentunit",
                (("class:salf_top_concepts:distance_1h_1d", "{{model}} {{version}} {{class}}"),),
                "0: the same concepts lead as usual; 1: others do.",
            ),
            Panel(
                "Strongest concepts of this hour",
                "percentunit",
                (("topk(20, concept:salf_top_concepts:share_1h)", "{{class}}: {{concept}}"),),
                "Share among the pictures of the class.",
            ),
            Panel(
                "Mean coverage",
                "percentunit",
                (
                    ("model:salf_coverage:mean_1h", "{{model}} {{version}}, hour"),
                    ("model:salf_coverage:mean_1d", "{{model}} {{version}}, day"),
                ),
                "Share of the evidence that the shown concepts hold.",
            ),
        ),
    ),
    (
        "Servers",
        (
            Panel(
                "Ready",
                "short",
                (
                    ('salf_ready or on (job, instance) 0 * up{job="salf"}', "{{instance}}"),
                    ("salf_triton_up", "{{instance}} Triton"),
                ),
                "1 while everything answers right; 0 too for a server that is gone.",
                kind="stat",
            ),
            Panel(
                "Served version",
                "short",
                (("salf_model_version", "{{instance}} {{model}}"),),
                kind="stat",
            ),
            Panel(
                "Served since",
                "s",
                (("time() - salf_model_loaded_timestamp_seconds", "{{instance}} {{model}}"),),
                kind="stat",
            ),
            Panel(
                "Started again, refused, changed: last hour",
                "short",
                (
                    ("sum by (process) (increase(salf_restarts_total[1h]))", "{{process}}"),
                    ("sum by (model) (increase(salf_worker_restarts_total[1h]))", "workers of {{model}}"),
                    (_REFUSED, "{{model}} refused: {{reason}}"),
                    ("sum by (model) (increase(salf_repository_changes_total[1h]))", "changes of {{model}}"),
                    ("sum by (result) (increase(salf_front_reloads_total[1h]))", "tokens, certificates: {{result}}"),
                ),
            ),
            Panel(
                "Probes, p95",
                "s",
                (("histogram_quantile(0.95, sum by (model, le) (rate(salf_probe_seconds_bucket[5m])))", "{{model}}"),),
                "Each model's own question with a known answer.",
            ),
            Panel(
                "Failed probes",
                "reqps",
                (("sum by (model, reason) (rate(salf_probe_failures_total[5m]))", "{{model}}: {{reason}}"),),
            ),
            Panel(
                "Certificate expires in",
                "s",
                (("salf_front_certificate_expiry_timestamp_seconds - time()", "{{instance}}"),),
                "Nothing without TLS.",
                kind="stat",
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana reads it from a file."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": _place(0, y, 3 * _WIDTH, 1)}
        )
        y += 1
        for number, panel in enumerate(row):
            panels.append(_panel(panel, _place(number % 3 * _WIDTH, y + number // 3 * _HEIGHT, _WIDTH, _HEIGHT)))
        y += -(-len(row) // 3) * _HEIGHT
    for number, entry in enumerate(panels, start=1):
        entry["id"] = number
    return {
        "uid": "salf",
        "title": "salf",
        "description": "Explanations in production: docs/metrics.md explains the metrics, docs/alerts.md the alerts.",
        "tags": ["salf"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": [_versions()]},
        # Filters that the viewer adds hold for all queries: one namespace, one instance, one model.
        "templating": {"list": [{"type": "adhoc", "name": "filters", "datasource": _SOURCE, "filters": []}]},
        "panels": panels,
    }


def queries() -> list[str]:
    """All PromQL of the dashboard."""
    return [query for _, row in ROWS for panel in row for query, _ in panel.queries] + [_versions()["expr"]]


def _versions() -> dict[str, Any]:
    """Marks on all graphs where what is served has changed."""
    return {
        "name": "new versions",
        "datasource": _SOURCE,
        "enable": True,
        "iconColor": "blue",
        "expr": "changes(salf_model_loaded_timestamp_seconds[2m]) > 0",
        "titleFormat": "{{model}}",
    }


def _panel(panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}} if panel.kind == "timeseries" else {},
        "targets": [
            {"refId": chr(ord("A") + number), "datasource": _SOURCE, "expr": query, "legendFormat": legend}
            for number, (query, legend) in enumerate(panel.queries)
        ],
    }


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def text() -> str:
    """The dashboard's file."""
    return json.dumps(dashboard(), indent=2) + "\n"


if __name__ == "__main__":
    DASHBOARD_FILE.write_text(text())
