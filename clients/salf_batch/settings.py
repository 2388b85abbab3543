"""How a store is scored: every choice and its default."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from salf_client import Connection


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a store is scored.

    Attributes:
        url: `host:port` of an endpoint, or several that serve the same model.
        connection: encryption, token and sizes; certificates are read on the machine that connects.
        repository: a model repository, to compute in the scoring processes themselves: no server is asked then.
        model: to ask; None asks the only one.
        model_version: of it; None takes the newest that is served.
        if_model_changes: "stop" the run, or "pin" the version that the target was begun with, for a server that keeps
            it loaded beside a newer one.
        column: of a table's pictures, or of a manifest's paths.
        top: concepts in a row at most; None takes 5, or what the model has if that is less.
        maps: whether rows hold the concepts' maps.
        shard_size: rows of one Parquet file: what is lost at most when a run is killed.
        in_flight: requests at a time, at most; of each worker.
        read_ahead: inputs read ahead, at most; bounds the memory together with the pictures' size; of each worker.
        decoders: threads that decode pictures; None takes as many as there are cores, on Ray as a worker has.
        sends_encoded: whether JPEG, PNG and WebP files go to the server as they are, where it takes them: less to send,
            and the server's cores decode. Otherwise this machine's do.
        timeout_s: for each answer, decoding included.
        patience_s: how long to wait for a server that is away.
        model_threads: that compute with a repository's model, in each process; None takes all cores, on Ray those of a
            worker.
        engine: "local" scores in this process, "ray" on the machines of a Ray cluster.
        ray_address: of the cluster's head; None takes $RAY_ADDRESS, or starts a cluster of this machine's cores.
        workers: processes that Ray starts; None takes as many as the cluster has room for.
        worker_cpus: cores that Ray sets aside for each; it has so many threads that compute, and one at least.
        failing_shards: so many may fail (a store does not answer, say) before a run on Ray stops; the others are done,
            and the next run does those.
        metrics_file: Prometheus metrics of the run, for the node exporter's textfile collector; ends in .prom.
        metrics_port: shows the same over HTTP while the run goes.
    """

    url: str | Sequence[str] = "localhost:8001"
    connection: Connection | None = None
    repository: str | None = None
    model: str | None = None
    model_version: int | None = None
    if_model_changes: Literal["stop", "pin"] = "stop"
    column: str | None = None
    top: int | None = None
    maps: bool = False
    shard_size: int = 1000
    in_flight: int = 16
    read_ahead: int = 64
    decoders: int | None = None
    sends_encoded: bool = False
    timeout_s: float = 30.0
    patience_s: float = 60.0
    model_threads: int | None = None
    engine: Literal["local", "ray"] = "local"
    ray_address: str | None = None
    workers: int | None = None
    worker_cpus: float = 1.0
    failing_shards: int = 0
    metrics_file: Path | None = None
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        for name in ("shard_size", "in_flight", "read_ahead", "timeout_s", "worker_cpus"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, but it is {getattr(self, name)}")
        for name in ("model_threads", "workers", "model_version", "decoders"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, but it is {getattr(self, name)}")
        for name, allowed in (("if_model_changes", ("stop", "pin")), ("engine", ("local", "ray"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, but it is {getattr(self, name)!r}")
