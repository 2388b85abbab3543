"""From inputs to rows: read ahead, ask with a bounded number of requests, wait for a server that went away."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice

from salf_batch.errors import ModelChangedError, ServerGoneError, UnreadableInputError
from salf_batch.progress import Tally
from salf_batch.rows import Row, answered_row, failed_row
from salf_batch.sources import Input
from salf_batch.stores import RetryCount, scheme_of
from salf_client import (
    AsyncClient,
    ClientError,
    ContractMismatchError,
    DeadlineExceededError,
    Explanation,
    InvalidPictureError,
    MessageTooLargeError,
    ServerFailedError,
    ServerNotReadyError,
    ServerOverloadedError,
    ServerUnavailableError,
    VersionNotServedError,
)
from salf_contract import PictureError, Preparation, Prepared, decode_picture, prepare

#: What passes when the server comes back, or has less to do.
AWAY = (ServerUnavailableError, ServerNotReadyError, ServerOverloadedError, DeadlineExceededError)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: A question at which a server that is up fails so often is the reason itself.
MOST_FAILURES = 5
_LISTED_AT_ONCE = 64
#: So many pictures in a row are asked for at the same moment. Asked for as each is read, every one would find the
#: processor's caches full of its own pixels, and none of the code that asks.
_TOGETHER = 4
#: A picture that comes different each time it is read is read so often at most.
_READINGS = 5


@dataclass(kw_only=True)
class Asking:
    """One run's way of asking; state is since when the server has been away.

    Attributes:
        client: asks.
        contract_id: of the model that must answer.
        preparation: the model's, of pictures that are decoded here.
        sends_encoded: whether pictures go to the server as they are, where it takes them.
        top: concepts in a row at most.
        maps: whether rows hold maps.
        in_flight: requests at a time, at most.
        read_ahead: inputs at a time that are read, wait, or wait for their row's turn.
        patience_s: how long no answer may come before the run stops.
        readers: threads that read inputs, and wait until they are decoded.
        decoders: threads that decode: few, since each keeps the memory of a large picture for the next.
        retries: counts pictures that were read again.
        tally: counts requests that were made again because the server was away.
        away_since_s: of the first failure since the last answer, on the monotonic clock; None while the server answers.
            Time in which nothing was asked, since a store is slow, is not the server's.
    """

    client: AsyncClient
    contract_id: str
    preparation: Preparation
    sends_encoded: bool
    top: int
    maps: bool
    in_flight: int
    read_ahead: int
    patience_s: float
    readers: Executor
    decoders: Executor
    retries: RetryCount
    tally: Tally
    away_since_s: float | None = None

    async def rows(self, inputs: Iterable[tuple[int, Input]]) -> AsyncIterator[Row]:
        """One row for each input, in their order.

        Raises:
            ModelChangedError: another model answered.
            ServerGoneError: no answer within the patience.
            StoreUnavailableError: the source's store does not answer.
            ClientError: what waiting does not change, such as a wrong token.
        """
        places = asyncio.Semaphore(self.in_flight)
        # A few groups must be under way, or reading waits for answers and answers for reading.
        together = max(1, min(_TOGETHER, self.read_ahead // _TOGETHER))
        waiting: deque[asyncio.Task[Row]] = deque()
        try:
            async for group in _listed(inputs, together=together):
                while len(waiting) + len(group) > self.read_ahead:
                    yield await _first(waiting)
                read = _Arrivals(len(group))
                waiting += [asyncio.create_task(self._row(index, one, read, places)) for index, one in group]
            while waiting:
                yield await _first(waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _row(self, index: int, one: Input, read: "_Arrivals", places: asyncio.Semaphore) -> Row:
        try:
            try:
                picture = await self._in_reader(_as_it_is if self.sends_encoded else self._prepared, one)
            finally:
                read.arrived()
            await read.all_arrived.wait()
            async with places:
                try:
                    explanation = await self._explained(picture)
                except InvalidPictureError:
                    # The server cannot read it; by reading it again, and here, we find out whose fault that is.
                    explanation = await self._explained(await self._in_reader(self._prepared, one))
        except (
            UnreadableInputError,
            PictureError,
            InvalidPictureError,
            MessageTooLargeError,
            ServerFailedError,
        ) as error:
            return failed_row(index, one.uri, error)
        except ContractMismatchError as error:  # pictures are prepared for the model that the run began with
            raise ModelChangedError(
                f"the server answers with another model than this run began with ({error}); what is done stays: serve "
                f"the first one again, or score into a new folder"
            ) from error
        if explanation.contract_id != self.contract_id:
            raise ModelChangedError(
                f"the server now answers with '{explanation.model}' version {explanation.version}, another model than "
                f"this run began with; what is done stays: serve the first one again, or beside it and run again with "
                f"--if-model-changes pin, or score into a new folder"
            )
        return answered_row(index, one.uri, explanation, maps=self.maps)

    def _in_reader(self, work: Callable[[Input], Prepared | bytes], one: Input) -> Awaitable[Prepared | bytes]:
        return asyncio.get_running_loop().run_in_executor(self.readers, work, one)

    def _prepared(self, one: Input) -> Prepared:
        """Read and decode a picture; read it again if it is broken, until it is broken in the same way.

        A store that gives half a picture and calls that the whole is not noticed otherwise.
        """
        data = one.load()
        for _ in range(_READINGS - 1):
            try:
                return self.decoders.submit(self._decoded, data).result()
            except PictureError:
                before, data = data, one.load()
                if data == before:
                    raise
                self.retries.add(scheme_of(one.uri), "changed")
        return self.decoders.submit(self._decoded, data).result()

    def _decoded(self, data: bytes) -> Prepared:
        return prepare(decode_picture(data), self.preparation)

    async def _explained(self, picture: Prepared | bytes) -> Explanation:
        pause_s, failures = _FIRST_PAUSE_S, 0
        while True:
            try:
                explanation = await self.client.explain(picture, top=self.top)
            except VersionNotServedError as error:
                raise ModelChangedError(
                    f"{error}; what is done stays: let the server load that version again and run again, or score into "
                    f"a new folder"
                ) from error
            except (*AWAY, ServerFailedError) as error:
                failures += isinstance(error, ServerFailedError)
                if failures >= MOST_FAILURES and await self._is_up():
                    self.away_since_s = None
                    raise
                now_s = time.monotonic()
                if self.away_since_s is None:
                    self.away_since_s = now_s
                away_s = now_s - self.away_since_s
                if away_s > self.patience_s:
                    raise ServerGoneError(
                        f"no answer for {away_s:.0f} s ({error}); what is done stays: run again when the server is back"
                    ) from error
                self.tally.requests_repeated += 1
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            except ClientError:  # a refusal is an answer, too
                self.away_since_s = None
                raise
            else:
                self.away_since_s = None
                return explanation

    async def _is_up(self) -> bool:
        try:
            return await self.client.is_ready()
        except ClientError:
            return False


def _as_it_is(one: Input) -> bytes:
    return one.load()


class _Arrivals:
    """Lets pictures go on together when the last of them is read, or has failed.

    Args:
        expected: how many there are.
    """

    def __init__(self, expected: int) -> None:
        self.all_arrived = asyncio.Event()
        self._missing = expected

    def arrived(self) -> None:
        """One is read, or will not be."""
        self._missing -= 1
        if self._missing == 0:
            self.all_arrived.set()


async def _listed(inputs: Iterable[tuple[int, Input]], *, together: int) -> AsyncIterator[list[tuple[int, Input]]]:
    """Inputs in groups, listed in a thread: a folder or a store may take its time."""
    iterator = iter(inputs)
    while some := await asyncio.to_thread(lambda: list(islice(iterator, _LISTED_AT_ONCE))):
        for start in range(0, len(some), together):
            yield some[start : start + together]


async def _first(waiting: "deque[asyncio.Task[Row]]") -> Row:
    # Taken out only when it is done: whoever is cancelled here must find it among those to cancel.
    row = await waiting[0]
    waiting.popleft()
    return row
