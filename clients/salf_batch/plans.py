"""What a run does, so that any process can do its share: which model, which rows, where to."""

import os
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from salf_batch.answering import Asking
from salf_batch.progress import Tally
from salf_batch.rows import Row, as_parquet
from salf_batch.settings import Settings
from salf_batch.stores import Place, RetryCount
from salf_batch.targets import Manifest, write_part
from salf_client import AsyncClient, Connection
from salf_contract import Preparation

_READERS = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run; travels to the workers of a cluster.

    Attributes:
        target: where rows go.
        manifest: what it holds rows of.
        settings: how.
        preparation: the model's, of pictures that are decoded here.
        version: of the model that must answer; None: whichever answers must be the manifest's.
    """

    target: Place
    manifest: Manifest
    settings: Settings
    preparation: Preparation
    version: int | None


def for_workers(plan: Plan) -> Plan:
    """The plan as workers of a cluster take it: with the cores that are set aside for each, and whole paths.

    Workers run in folders of their own, several on a machine.
    """
    settings = plan.settings
    cores = max(1, int(settings.worker_cpus))
    return replace(
        plan,
        settings=replace(
            settings,
            decoders=settings.decoders or cores,
            model_threads=settings.model_threads or cores,
            repository=None if settings.repository is None else _whole(settings.repository),
            connection=None if settings.connection is None else _with_whole_paths(settings.connection),
        ),
    )


def _with_whole_paths(connection: Connection) -> Connection:
    tls = connection.tls
    if tls is None:
        return connection
    paths = {name: getattr(tls, name) for name in ("ca", "certificate", "key")}
    given = {name: _whole(path) for name, path in paths.items() if path is not None}
    return replace(connection, tls=replace(tls, **given))


def _whole(path: str | Path) -> str:
    return str(Path(path).absolute())


def write_rows(plan: Plan, shard: int, rows: Sequence[Row]) -> None:
    """Add a shard's part.

    Raises:
        TargetWriteError: it cannot be written.
    """
    write_part(plan.target, shard, as_parquet(rows, maps=plan.manifest.maps))


def client_of(settings: Settings, *, version: int | None) -> AsyncClient:
    """A client of the endpoints, or of a model in this process.

    Args:
        settings: say which.
        version: of the model that must answer.

    Raises:
        ClientError: an address, a certificate or a repository cannot be used.
    """
    transport = None
    if settings.repository is not None:
        from salf_batch.local_model import LocalModel

        transport = LocalModel(settings.repository, version=version, threads=settings.model_threads)
    return AsyncClient(
        settings.url,
        model=settings.model,
        model_version=version,
        timeout_s=settings.timeout_s,
        connection=settings.connection,
        sends_encoded=settings.sends_encoded,
        transport=transport,
    )


@asynccontextmanager
async def asking_of(plan: Plan, *, tally: Tally, retries: RetryCount) -> AsyncIterator[Asking]:
    """Open what a process needs to make rows, for as long as a block runs.

    Args:
        plan: of the run.
        tally: counts requests that are made again.
        retries: counts pictures that are read again.
    """
    settings, manifest = plan.settings, plan.manifest
    cores = len(os.sched_getaffinity(0))
    with (
        ThreadPoolExecutor(settings.decoders or cores, thread_name_prefix="salf-decode") as decoders,
        ThreadPoolExecutor(_READERS, thread_name_prefix="salf-read") as readers,
    ):
        async with client_of(settings, version=plan.version) as client:
            yield Asking(
                client=client,
                contract_id=manifest.contract_id,
                preparation=plan.preparation,
                sends_encoded=settings.sends_encoded,
                top=manifest.top,
                maps=manifest.maps,
                in_flight=settings.in_flight,
                read_ahead=settings.read_ahead,
                patience_s=settings.patience_s,
                readers=readers,
                decoders=decoders,
                retries=retries,
                tally=tally,
            )
