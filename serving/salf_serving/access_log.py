"""The front's access log: counted for Prometheus, and kept from growing without end."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from salf_serving.nginx_config import REFUSAL_REASONS
from salf_serving.status import Status

LARGEST_BYTES = 50 * 2**20
#: nginx's status of requests that it ends without an answer. (Others get 200: their answer has a gRPC status.)
_CALLER_LEFT, _BODY_TOO_SLOW = 499, 408


class AccessLog:
    """Reads what nginx has written since the last look."""

    def __init__(
        self, path: Path, status: Status, *, on_line: Callable[[Mapping[str, Any]], None] = lambda _line: None
    ) -> None:
        self._path, self._status, self._on_line = path, status, on_line
        self._position = path.stat().st_size if path.exists() else 0
        self._rest = b""

    def count(self) -> None:
        """Count all new lines by call, gRPC status and who made the answer: the front or Triton."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                text = self._rest + file.read()
                self._position = file.tell()
        except OSError:
            return
        *lines, self._rest = text.split(b"\n")
        for line in lines:
            try:
                entry = json.loads(line)
                code, by, reason = entry["grpc_status"], entry["by"], entry["reason"]
                if entry["http_status"] == _CALLER_LEFT:
                    code = "cancelled"
                elif entry["http_status"] == _BODY_TOO_SLOW:
                    code, by, reason = "too_slow", "front", "malformed"
                self._status.front_requests.labels(entry["call"], code, by).inc()
                if reason in REFUSAL_REASONS:
                    self._status.front_refusals.labels(reason).inc()
                if entry["call"] == "ModelInfer" and code == "0":
                    self._status.front_seconds.observe(float(entry["seconds"]))
                self._on_line(entry)
            except (ValueError, KeyError, TypeError):
                self._status.front_requests.labels("other", "unreadable", "front").inc()

    def needs_rotation(self) -> bool:
        """Whether the log has become too large."""
        return self._position > LARGEST_BYTES

    def rotate(self) -> None:
        """Set the log aside, replacing the one set aside before; nginx must be told to open a new one."""
        self.count()
        self._path.replace(self._path.with_suffix(".1.log"))
        self._position, self._rest = 0, b""
