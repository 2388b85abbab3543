"""How a model is run, as `salf tune` measured it: settings, the record of what was tried, and config.pbtxt with them.

The record lies as `tuning_v<version>.json` in the model's folder, beside config.pbtxt. Triton ignores it.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from salf_contract.errors import ConfigError, TuningError
from salf_contract.guarded import GuardedDocument, parse_guarded
from salf_contract.model_config import parse_config, scalar, with_field, with_parameter

#: Backend -> the parameter that sets the threads of one inference, as the native backend reads it.
THREAD_PARAMETERS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS"}


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tuning(_Document):
    """Settings that change how fast a model answers, and nothing about its answers."""

    max_batch_size: int = Field(ge=1, le=1024, description="pictures in one execution")
    instances: int = Field(ge=1, le=256, description="copies of the model")
    threads: int = Field(ge=1, le=1024, description="of one inference of one copy")
    max_queue_delay_microseconds: int = Field(ge=0, le=10_000_000, description="how long a request waits for company")


class Trial(_Document):
    """Settings that were tried on the real server, and what was measured."""

    settings: Tuning
    pictures_per_s: float = Field(ge=0)
    p50_ms: float = Field(ge=0)
    p95_ms: float = Field(ge=0)
    requests: int = Field(ge=0, description="that were answered")
    fits: bool = Field(description="whether p95 is within the bound and every request was answered")


class TuningRecord(GuardedDocument):
    """What `salf tune` tried for one version of one model, and what it chose."""

    format_version: Literal[1] = 1
    model: str
    version: int = Field(ge=1)
    p95_bound_ms: float = Field(gt=0)
    concurrency: int = Field(ge=1, description="requests under way at a time")
    machine: dict[str, str] = Field(default_factory=dict, description="where it was measured")
    best: Tuning
    trials: tuple[Trial, ...] = Field(min_length=1)


def tuning_file(version: int) -> str:
    """Name of a version's record in the model's folder."""
    return f"tuning_v{version}.json"


def parse_tuning(content: bytes) -> TuningRecord:
    """Read a record.

    Raises:
        TuningError: not JSON, fields missing or unknown, another format version, or a byte was changed since it was
            written.
    """
    try:
        return parse_guarded(content, TuningRecord)
    except ValueError as error:
        raise TuningError(f"the record of a tuning {error}; tune again") from error


def with_tuning(config: str, tuning: Tuning) -> str:
    """The same config.pbtxt, run with these settings.

    Raises:
        ConfigError: the text is no protobuf text format, or names a backend whose threads salf cannot set.
    """
    fields = parse_config(config)
    backend = scalar(fields, "backend")
    if backend not in THREAD_PARAMETERS:
        raise ConfigError(
            f"the model's backend is {backend!r}; salf knows how to set the threads of {', '.join(THREAD_PARAMETERS)}"
        )
    groups = [message for field in fields if field.name == "instance_group" for message in field.messages]
    kind = next((found for group in groups if (found := scalar(group, "kind"))), "KIND_CPU")
    size = tuning.max_batch_size
    preferred = ", ".join(str(number) for number in sorted({max(1, size // 2), size}))
    config = with_field(config, "max_batch_size", f"max_batch_size: {size}")
    config = with_field(config, "instance_group", f"instance_group [ {{ kind: {kind} count: {tuning.instances} }} ]")
    config = with_field(
        config,
        "dynamic_batching",
        f"dynamic_batching {{\n  preferred_batch_size: [ {preferred} ]\n"
        f"  max_queue_delay_microseconds: {tuning.max_queue_delay_microseconds}\n}}",
    )
    return with_parameter(config, THREAD_PARAMETERS[backend], str(tuning.threads))
