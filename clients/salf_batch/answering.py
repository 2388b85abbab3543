"""From inputs to rows: read ahead, ask with a bounded number of requests, wait for a server that went away."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice

from salf_batch.errors import ModelChangedError, ServerGoneError, UnreadableInputError
from salf_batch.rows import Row, answered_row, failed_row
from salf_batch.sources import Input
from salf_client import (
    AsyncClient,
    ClientError,
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

#: What passes when the server comes back, or has less to do.
_PASSING = (
    ServerUnavailableError,
    ServerNotReadyError,
    ServerOverloadedError,
    DeadlineExceededError,
    ServerFailedError,
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 5.0
#: A picture at which a server that is up fails so often is the reason itself.
_FAILURES_OF_ONE_PICTURE = 5
_LISTED_AT_ONCE = 64


@dataclass(kw_only=True)
class Asking:
    """One run's way of asking; state is how long the server has been away.

    Attributes:
        client: asks.
        contract_id: of the model that must answer.
        top: concepts in a row at most.
        maps: whether rows hold maps.
        in_flight: requests at a time, at most; pictures being decoded count.
        read_ahead: inputs at a time that are read, wait, or wait for their row's turn.
        patience_s: how long no answer may come before the run stops.
        readers: threads that read inputs.
        repeated: how many requests were made again because the server was away.
    """

    client: AsyncClient
    contract_id: str
    top: int
    maps: bool
    in_flight: int
    read_ahead: int
    patience_s: float
    readers: Executor
    repeated: int = 0
    last_answer_s: float = 0.0

    async def rows(self, inputs: Iterable[tuple[int, Input]]) -> AsyncIterator[Row]:
        """One row for each input, in their order.

        Raises:
            ModelChangedError: another model answered.
            ServerGoneError: no answer within the patience.
            StoreUnavailableError: the source's store does not answer.
            ClientError: what waiting does not change, such as a wrong token.
        """
        self.last_answer_s = time.monotonic()
        places = asyncio.Semaphore(self.in_flight)
        waiting: deque[asyncio.Task[Row]] = deque()
        try:
            async for index, one in _listed(inputs):
                waiting.append(asyncio.create_task(self._row(index, one, places)))
                if len(waiting) >= self.read_ahead:
                    yield await _first(waiting)
            while waiting:
                yield await _first(waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def _row(self, index: int, one: Input, places: asyncio.Semaphore) -> Row:
        try:
            data = await asyncio.get_running_loop().run_in_executor(self.readers, one.load)
            async with places:
                explanation = await self._explained(data)
        except (UnreadableInputError, InvalidPictureError, MessageTooLargeError, ServerFailedError) as error:
            return failed_row(index, one.uri, error)
        if explanation.contract_id != self.contract_id:
            raise ModelChangedError(
                f"the server now answers with '{explanation.model}' version {explanation.version}, another model than "
                f"this run began with; what is done stays: serve the first one again, or beside it and run again with "
                f"--if-model-changes pin, or score into a new folder"
            )
        return answered_row(index, one.uri, explanation, maps=self.maps)

    async def _explained(self, data: bytes) -> Explanation:
        pause_s, failures = _FIRST_PAUSE_S, 0
        while True:
            try:
                explanation = await self.client.explain(data, top=self.top)
            except VersionNotServedError as error:
                raise ModelChangedError(
                    f"{error}; what is done stays: let the server load that version again and run again, or score into "
                    f"a new folder"
                ) from error
            except _PASSING as error:
                failures += isinstance(error, ServerFailedError)
                if failures >= _FAILURES_OF_ONE_PICTURE and await self._is_up():
                    raise
                away_s = time.monotonic() - self.last_answer_s
                if away_s > self.patience_s:
                    raise ServerGoneError(
                        f"no answer for {away_s:.0f} s ({error}); what is done stays: run again when the server is back"
                    ) from error
                self.repeated += 1
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self.last_answer_s = time.monotonic()
                return explanation

    async def _is_up(self) -> bool:
        try:
            return await self.client.is_ready()
        except ClientError:
            return False


async def _listed(inputs: Iterable[tuple[int, Input]]) -> AsyncIterator[tuple[int, Input]]:
    """Inputs, listed in a thread: a folder or a store may take its time."""
    iterator = iter(inputs)
    while some := await asyncio.to_thread(lambda: list(islice(iterator, _LISTED_AT_ONCE))):
        for one in some:
            yield one


async def _first(waiting: "deque[asyncio.Task[Row]]") -> Row:
    # Taken out only when it is done: whoever is cancelled here must find it among those to cancel.
    row = await waiting[0]
    waiting.popleft()
    return row
