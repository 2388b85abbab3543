"""Scoring a store: from a source to a target, from wherever the last run stopped."""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from salf_batch.answering import Asking
from salf_batch.errors import MissingExtraError, ServerGoneError, SourceChangedError
from salf_batch.metrics import RunMetrics, exposed
from salf_batch.progress import Progress, Summary, Tally
from salf_batch.rows import Row, as_parquet
from salf_batch.sources import Input, Source, open_source
from salf_batch.stores import Place, place_of
from salf_batch.targets import Manifest, claim, locked, parts, write_part
from salf_client import AsyncClient, ModelInfo, ServerNotReadyError, ServerUnavailableError

_READERS = 16
_DEFAULT_TOP = 5


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a store is scored.

    Attributes:
        url: `host:port` of an endpoint, or several that serve the same model.
        model: to ask; None asks the only one.
        column: of a table's pictures, or of a manifest's paths.
        top: concepts in a row at most; None takes 5, or what the model has if that is less.
        maps: whether rows hold the concepts' maps.
        shard_size: rows of one Parquet file: what is lost at most when a run is killed.
        in_flight: requests at a time, at most.
        read_ahead: inputs read ahead, at most; bounds the memory together with the pictures' size.
        decoders: threads that decode pictures; None takes as many as there are cores.
        sends_encoded: whether JPEG, PNG and WebP files go to the server as they are, where it takes them: less to send,
            and the server's cores decode. Otherwise this machine's do.
        timeout_s: for each answer, decoding included.
        patience_s: how long to wait for a server that is away.
        metrics_file: Prometheus metrics of the run, for the node exporter's textfile collector; ends in .prom.
        metrics_port: shows the same over HTTP while the run goes.
    """

    url: str | Sequence[str] = "localhost:8001"
    model: str | None = None
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
    metrics_file: Path | None = None
    metrics_port: int | None = None

    def __post_init__(self) -> None:
        for name in ("shard_size", "in_flight", "read_ahead", "timeout_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, but it is {getattr(self, name)}")


def score(
    source: str,
    target: str,
    settings: Settings | None = None,
    *,
    report: Callable[[Progress], None] = lambda _progress: None,
) -> Summary:
    """Score a source into a Parquet dataset: one row for each input, in their order.

    May be killed at any time: called again with the same source and target, it goes on. A picture that cannot be read
    becomes a row with an error.

    Args:
        source: a folder, a picture, a glob, or files ending in .tar, .parquet, .csv, .jsonl or .txt; paths or URLs.
        target: a folder, here or in an object store.
        settings: how.
        report: hears of the progress, often.

    Raises:
        BatchError: see `salf_batch.errors`; what is done stays done.
        ClientError: what waiting for the server does not change, such as a wrong token.
    """
    try:
        import pyarrow.parquet  # noqa: F401 - a run must not find out when it writes its first part
    except ImportError as error:
        raise MissingExtraError("scoring needs pyarrow; install it with: pip install 'salf[batch]'") from error
    settings = settings or Settings()
    started_s = time.monotonic()
    place = place_of(target.rstrip("/") or target)
    listed = open_source(source, column=settings.column, report=lambda count: report(Progress("listing", count)))
    with locked(place):
        return asyncio.run(_score(listed, place, settings, report, started_s))


async def _score(
    source: Source, target: Place, settings: Settings, report: Callable[[Progress], None], started_s: float
) -> Summary:
    cores = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(settings.decoders or cores, thread_name_prefix="salf-decode") as decoders,
        ThreadPoolExecutor(_READERS, thread_name_prefix="salf-read") as readers,
    ):
        async with AsyncClient(
            settings.url, model=settings.model, timeout_s=settings.timeout_s, sends_encoded=settings.sends_encoded
        ) as client:
            report(Progress("waiting for the server", source.count))
            model = await _model(client, patience_s=settings.patience_s)
            manifest = _manifest(source, model, settings)
            claim(target, manifest)
            done = set(parts(target, manifest))
            tally = Tally(done=sum(map(manifest.rows_of, done)))
            asking = Asking(
                client=client,
                contract_id=manifest.contract_id,
                preparation=model.preparation,
                sends_encoded=settings.sends_encoded,
                top=manifest.top,
                maps=manifest.maps,
                in_flight=settings.in_flight,
                read_ahead=settings.read_ahead,
                patience_s=settings.patience_s,
                readers=readers,
                decoders=decoders,
                retries=source.retries,
            )
            metrics = RunMetrics(target.uri, source.count, tally, asking, source.retries, target.retries)
            scoring_s = time.monotonic()
            already_done, shard_rows = tally.done, list[Row]()
            report(Progress("scoring", source.count, tally.done))
            with exposed(metrics, file=settings.metrics_file, port=settings.metrics_port):
                async for row in asking.rows(_left(source, manifest, done)):
                    shard_rows.append(row)
                    tally.add(row)
                    report(Progress("scoring", source.count, tally.done, tally.errors))
                    shard = row["index"] // manifest.shard_size
                    if len(shard_rows) == manifest.rows_of(shard):
                        await asyncio.to_thread(_write, target, shard, shard_rows, maps=manifest.maps)
                        shard_rows = []
                metrics.finished_s = time.time()
    now_s = time.monotonic()
    return Summary(
        target=target.uri,
        inputs=source.count,
        scored=tally.scored,
        already_done=already_done,
        errors=tally.errors,
        labels=dict(tally.labels.most_common()),
        model=model.name,
        version=model.version,
        contract_id=model.contract_id,
        seconds=now_s - started_s,
        pictures_per_second=tally.scored / max(1e-9, now_s - scoring_s),
        requests_repeated=asking.repeated,
        reads_repeated=source.retries.value,
        writes_repeated=target.retries.value,
    )


def _write(target: Place, shard: int, rows: Sequence[Row], *, maps: bool) -> None:
    write_part(target, shard, as_parquet(rows, maps=maps))


def _left(source: Source, manifest: Manifest, done: set[int]) -> Iterator[tuple[int, Input]]:
    """Inputs without a row, with their index; the source must list as many as it was counted to have."""
    index = -1
    for index, one in enumerate(source.again()):
        if index < manifest.inputs and index // manifest.shard_size not in done:
            yield index, one
    if index + 1 != manifest.inputs:
        raise SourceChangedError(
            f"{source.name} had {manifest.inputs} inputs when it was counted, and {index + 1} now; what is done stays: "
            f"score into a new folder when it does not change any more"
        )


def _manifest(source: Source, model: ModelInfo, settings: Settings) -> Manifest:
    return Manifest(
        source=source.name,
        source_fingerprint=source.fingerprint,
        inputs=source.count,
        column=settings.column,
        model=model.name,
        version=model.version,
        contract_id=model.contract_id,
        shard_size=settings.shard_size,
        top=settings.top or min(_DEFAULT_TOP, model.top),
        maps=settings.maps,
    )


async def _model(client: AsyncClient, *, patience_s: float) -> ModelInfo:
    """The model that answers; waits for a server that is away."""
    give_up_s = time.monotonic() + patience_s
    while True:
        try:
            return await client.model()
        except (ServerUnavailableError, ServerNotReadyError) as error:
            if time.monotonic() > give_up_s:
                raise ServerGoneError(f"no server after {patience_s:.0f} s: {error}") from error
            await asyncio.sleep(0.5)
