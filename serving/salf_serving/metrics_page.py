"""One page for Prometheus: what the supervisor counts, and Triton's own page, whose port is on the loopback only."""

import re
import urllib.request

from prometheus_client import generate_latest

from salf_serving.ports import LOOPBACK
from salf_serving.status import Status

_FAMILY = re.compile(r"# (?:HELP|TYPE) (\S+)")
#: Triton's page is larger than a few megabytes only if something in it has grown without bound.
_LARGEST_BYTES = 16 * 2**20


def metrics_page(status: Status, triton_port: int | None, *, timeout_s: float) -> bytes:
    """Prometheus' text format; `salf_triton_up` says whether Triton's part is in it.

    Args:
        status: the supervisor's metrics.
        triton_port: of Triton's metrics on the loopback; None if it has none.
        timeout_s: how long Triton may take, so that a hanging one costs its own part and not the page.
    """
    page = None if triton_port is None else _triton_page(triton_port, timeout_s)
    status.triton_up.set(page is not None)
    own = generate_latest(status.registry)
    if page is None:
        return own
    return own + without_families(page, set(_FAMILY.findall(own.decode()))).encode()


def without_families(page: str, names: set[str]) -> str:
    """A page without some metric families: Prometheus refuses a page that has one of them twice."""
    kept: list[str] = []
    dropping = False
    for line in page.splitlines():
        if (found := _FAMILY.match(line)) is not None:
            dropping = found[1] in names
        if line and not dropping:
            kept.append(line + "\n")
    return "".join(kept)


def _triton_page(port: int, timeout_s: float) -> str | None:
    """Triton's metrics, or None if it does not give them in time."""
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=timeout_s) as answer:
            data: bytes = answer.read(_LARGEST_BYTES + 1)
    except (OSError, ValueError):
        return None
    return data.decode(errors="replace") if len(data) <= _LARGEST_BYTES else None
