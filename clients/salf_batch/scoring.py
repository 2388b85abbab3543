"""Scoring a store: from a source to a target, from wherever the last run stopped."""

import asyncio
import time
from collections.abc import Callable

from salf_batch.answering import AWAY, MOST_FAILURES
from salf_batch.errors import InvalidTargetError, MissingExtraError, ModelChangedError, ServerGoneError
from salf_batch.metrics import RunMetrics, exposed
from salf_batch.plans import Plan, asking_of, client_of, write_rows
from salf_batch.progress import Progress, Summary, Tally
from salf_batch.rows import Row, as_text
from salf_batch.settings import Settings
from salf_batch.shards import inputs_left
from salf_batch.sources import Source, open_source
from salf_batch.stores import WEB, Place
from salf_batch.targets import Manifest, begun, claim, locked, parts, target_of
from salf_client import ModelInfo, ServerFailedError, VersionNotServedError
from salf_client.choosing import checked_top


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
    place = target_of(target)
    if place.scheme in WEB:
        raise InvalidTargetError(
            f"{place.uri} is a web address, which cannot be written; give a folder or s3://, gs://, az://"
        )
    listed = open_source(source, column=settings.column, report=lambda count: report(Progress("listing", count)))
    with locked(place):
        report(Progress("waiting for the model", listed.count))
        model = asyncio.run(_model(settings, _wanted_version(place, settings)))
        manifest = _manifest(listed, model, settings)
        claim(place, manifest)
        done = set(parts(place, manifest))
        is_pinned = settings.if_model_changes == "pin" or settings.model_version is not None
        plan = Plan(
            target=place,
            manifest=manifest,
            settings=settings,
            preparation=model.preparation,
            version=model.version if is_pinned else None,
        )
        tally = Tally(done=sum(map(manifest.rows_of, done)))
        already_done, scoring_s = tally.done, time.monotonic()
        report(Progress("scoring", listed.count, tally.done))
        metrics = RunMetrics(place.uri, listed.count, tally, listed.retries, place.retries)
        with exposed(metrics, file=settings.metrics_file, port=settings.metrics_port):
            if settings.engine == "ray":
                from salf_batch.ray_engine import score_on_ray

                score_on_ray(plan, listed, done, tally, report)
            else:
                asyncio.run(_score_here(plan, listed, done, tally, report))
            metrics.finished_s = time.time()
    now_s = time.monotonic()
    return Summary(
        target=place.uri,
        inputs=listed.count,
        scored=tally.scored,
        already_done=already_done,
        errors=tally.errors,
        labels=dict(tally.labels.most_common()),
        model=model.name,
        version=model.version,
        contract_id=model.contract_id,
        seconds=now_s - started_s,
        pictures_per_second=tally.scored / max(1e-9, now_s - scoring_s),
        requests_repeated=tally.requests_repeated,
        reads_repeated=listed.retries.value,
        writes_repeated=place.retries.value,
    )


async def _score_here(
    plan: Plan, source: Source, done: set[int], tally: Tally, report: Callable[[Progress], None]
) -> None:
    """Make all rows that are left, in this process."""
    manifest, shard_rows = plan.manifest, list[Row]()
    async with asking_of(plan, tally=tally, retries=source.retries) as asking:
        async for row in asking.rows(inputs_left(source, manifest, done)):
            shard_rows.append(row)
            tally.add(row)
            report(Progress("scoring", source.count, tally.done, tally.errors))
            shard = row["index"] // manifest.shard_size
            if len(shard_rows) == manifest.rows_of(shard):
                await asyncio.to_thread(write_rows, plan, shard, shard_rows)
                shard_rows = []


def _wanted_version(target: Place, settings: Settings) -> int | None:
    """The version to ask; None takes what is served."""
    if settings.model_version is not None or settings.if_model_changes == "stop":
        return settings.model_version
    manifest = begun(target)
    return None if manifest is None else manifest.version


def _manifest(source: Source, model: ModelInfo, settings: Settings) -> Manifest:
    return Manifest(
        source=as_text(source.name),
        source_fingerprint=source.fingerprint,
        inputs=source.count,
        column=settings.column,
        model=model.name,
        version=model.version,
        contract_id=model.contract_id,
        shard_size=settings.shard_size,
        top=checked_top(settings.top, model),
        maps=settings.maps,
    )


async def _model(settings: Settings, version: int | None) -> ModelInfo:
    """The model that answers; waits for a server that is away."""
    give_up_s, failures = time.monotonic() + settings.patience_s, 0
    async with client_of(settings, version=version) as client:
        while True:
            try:
                return await client.model()
            except VersionNotServedError as error:
                raise ModelChangedError(
                    f"{error}; what is done stays: let the server load that version again, or score into a new folder"
                ) from error
            except (*AWAY, ServerFailedError) as error:
                failures += isinstance(error, ServerFailedError)
                if failures >= MOST_FAILURES:  # it is there, and will not get better
                    raise
                if time.monotonic() > give_up_s:
                    raise ServerGoneError(f"no server after {settings.patience_s:.0f} s: {error}") from error
                await asyncio.sleep(0.5)
