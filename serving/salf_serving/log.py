"""Reading the reason of a failed start out of Triton's log (version 2.51, default format)."""

import re
from dataclasses import dataclass
from pathlib import Path

from salf_serving.errors import ModelLoadError, StartError

_MODEL_FAILED = re.compile(r"\"failed to load '(?P<model>[^']+)' version (?P<version>\d+): (?P<reason>.*)\"$")
_POLL_FAILED = re.compile(
    r"\"(?:Poll failed for model directory|failed to load model) '(?P<model>[^']+)': (?P<reason>.*)\"$"
)
_SERVER_FAILED = re.compile(r"^(?:error: )?(?P<reason>(?:creating server|failed to (?:start|parse|initialize)).*)$")
#: Where and why a config.pbtxt cannot be parsed; Triton's own sentence about it leaves this out.
_CONFIG_SYNTAX = re.compile(r"Error parsing text-format inference\.ModelConfig: (?P<reason>.*)$", re.MULTILINE)
#: What Triton puts before the sentence of an exception in a Python model.
_KIND = re.compile(
    r"^(?:(?:Internal|Invalid argument|Unavailable|Not found|Unsupported): )?(?:TritonModelException: )?"
)
_PORT_IN_USE = re.compile(r"'(?P<address>[\d.]+:\d+)' already in use|Address already in use|bind.*failed")
_LONGEST_REASON = 600


@dataclass(frozen=True)
class ModelFailure:
    """One refused model; `version` is None when its configuration was refused."""

    model: str
    version: int | None
    reason: str


def read_log(log_file: Path) -> str:
    """The log's text; empty when there is none."""
    try:
        return log_file.read_text(errors="replace")
    except OSError:
        return ""


def model_failures(log: str) -> tuple[ModelFailure, ...]:
    """Models that Triton refused, each once, in the log's order."""
    found: dict[tuple[str, int | None], ModelFailure] = {}
    for line in log.splitlines():
        if match := _MODEL_FAILED.search(line):
            key: tuple[str, int | None] = (match["model"], int(match["version"]))
        elif match := _POLL_FAILED.search(line):
            key = (Path(match["model"]).name, None)
        else:
            continue
        reason = _sentence(match["reason"])
        if "failed to read text proto" in reason and (syntax := _CONFIG_SYNTAX.search(log)):
            reason = f"{reason}, line and column {syntax['reason']}"
        found.setdefault(key, ModelFailure(*key, reason))
    return tuple(found.values())


def port_in_use(log: str) -> bool:
    """Whether Triton stopped because a port was taken."""
    return any("error" in line.lower() or "failed" in line for line in log.splitlines() if _PORT_IN_USE.search(line))


def start_error(log_file: Path, *, status: int | None) -> StartError:
    """The error that says why Triton stopped before it was ready.

    Args:
        log_file: Triton's log.
        status: its exit status, if it has ended.
    """
    log = read_log(log_file)
    where = f"(log: {log_file})"
    failures = model_failures(log)
    if failures:
        first, others = failures[0], len(failures) - 1
        name = f"model {first.model}" + ("" if first.version is None else f" version {first.version}")
        more = f"; {others} more failed" if others else ""
        reason = first.reason.removeprefix(f"{first.model} version {first.version}: ")
        return ModelLoadError(f"{name} cannot be loaded: {reason}{more} {where}")
    reasons = [match["reason"] for line in log.splitlines() if (match := _SERVER_FAILED.search(line.strip()))]
    reason = _sentence(reasons[-1]) if reasons else f"it stopped with status {status}"
    return StartError(f"Triton did not start: {reason} {where}")


def _sentence(reason: str) -> str:
    """One line without the trace that Triton's Python stub appends."""
    text = reason.split("\\n\\nAt:")[0].replace("\\n", " ").replace('\\"', '"')
    text = _KIND.sub("", " ".join(text.split()))
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."
