"""Explaining many pictures: a window of requests in flight, answers in order or as they finish."""

import asyncio
import contextvars
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from salf_client.errors import ClientError, InvalidPictureError
from salf_client.explanation import Explanation
from salf_client.pictures import FORMS, Picture

#: Requests that wait for an answer at the same time, unless told otherwise.
DEFAULT_IN_FLIGHT = 8
_NO_MORE: Any = object()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one picture of many.

    Attributes:
        index: its place among the pictures given, from 0.
        picture: as it was given.
        explanation: None if it failed.
        error: what kept it from being explained, or None.
    """

    index: int
    picture: Picture = field(repr=False, compare=False)
    explanation: Explanation | None
    error: ClientError | None = field(compare=False)

    def get(self) -> Explanation:
        """The explanation.

        Raises:
            ClientError: what kept the picture from being explained.
        """
        if self.explanation is None:
            raise self.error or ClientError(f"picture {self.index} has no explanation")
        return self.explanation


def check_stream(pictures: Any, in_flight: int) -> None:
    """Refuse windows that hold nothing, and one picture in place of many.

    Raises:
        InvalidPictureError: a path would be taken for pictures named as its letters are, an array for its rows.
    """
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, but it is {in_flight}")
    is_array = isinstance(pictures, np.ndarray) and (pictures.ndim in (0, 2) or pictures.shape[2:] == (3,))
    if is_array or (isinstance(pictures, FORMS) and not isinstance(pictures, np.ndarray)):
        raise InvalidPictureError("explain_many takes many pictures, and this is one: give a list, or call explain")


def stream(
    explain: Callable[[Picture], Explanation], pictures: Iterable[Picture], *, in_flight: int, ordered: bool
) -> Iterator[Outcome]:
    """Explain pictures in threads; `pictures` is read only as far as the window reaches.

    What was begun when reading them fails is given first, and then the failure raised.

    Args:
        explain: asks for one.
        pictures: any iterable, endless ones too.
        in_flight: at most so many at a time, finished ones that wait for their turn included.
        ordered: whether outcomes come in the order of the pictures, or as they finish.
    """

    def outcome(index: int, picture: Picture) -> Outcome:
        try:
            return Outcome(index, picture, explain(picture), None)
        except ClientError as error:
            return Outcome(index, picture, None, error)

    broken: list[Exception] = []

    def read() -> Iterator[Picture]:
        try:
            for picture in pictures:  # noqa: UP028 - it would close a generator that the caller may read on
                yield picture
        except Exception as error:  # noqa: BLE001 - raised again after what was begun
            broken.append(error)

    waiting: deque[Future[Outcome]] = deque()
    threads = ThreadPoolExecutor(in_flight, thread_name_prefix="salf-explain")
    try:
        for index, picture in enumerate(read()):
            # In the caller's context: its trace is the parent of these calls.
            waiting.append(threads.submit(contextvars.copy_context().run, outcome, index, picture))
            # What is done does not wait for a slow source to fill the window.
            while waiting and (len(waiting) >= in_flight or _is_next_done(waiting, ordered=ordered)):
                yield _next_done(waiting, ordered=ordered)
        while waiting:
            yield _next_done(waiting, ordered=ordered)
        if broken:
            raise broken.pop()
    finally:
        # Whoever stops reading wants no more answers.
        threads.shutdown(wait=False, cancel_futures=True)


def _is_next_done(waiting: deque[Future[Outcome]], *, ordered: bool) -> bool:
    return waiting[0].done() if ordered else any(one.done() for one in waiting)


def _next_done(waiting: deque[Future[Outcome]], *, ordered: bool) -> Outcome:
    if ordered:
        return waiting.popleft().result()
    done = next(iter(wait(waiting, return_when=FIRST_COMPLETED).done))
    waiting.remove(done)
    return done.result()


async def stream_async(
    explain: Callable[[Picture], Awaitable[Explanation]],
    pictures: Iterable[Picture] | AsyncIterable[Picture],
    *,
    in_flight: int,
    ordered: bool,
) -> AsyncIterator[Outcome]:
    """Explain pictures in tasks; see `stream`."""

    async def outcome(index: int, picture: Picture) -> Outcome:
        try:
            return Outcome(index, picture, await explain(picture), None)
        except ClientError as error:
            return Outcome(index, picture, None, error)

    source = _each(pictures)
    reading: asyncio.Future[Any] | None = None
    waiting: deque[asyncio.Task[Outcome]] = deque()
    index, is_exhausted = 0, False
    broken: BaseException | None = None
    try:
        while True:
            if reading is None and not is_exhausted and len(waiting) < in_flight:
                reading = asyncio.ensure_future(anext(source, _NO_MORE))
            answers = list(waiting)[:1] if ordered else list(waiting)
            if reading is None and not answers:
                if broken is not None:
                    raise broken
                return
            # Whichever comes first: the next picture, or an answer whose turn it is.
            steps = [*answers, *([] if reading is None else [reading])]
            done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_COMPLETED)
            if reading is not None and reading in done:
                read, reading = reading, None
                broken = read.exception()
                if broken is not None or read.result() is _NO_MORE:
                    is_exhausted = True
                else:
                    waiting.append(asyncio.create_task(outcome(index, read.result())))
                    index += 1
            else:
                first = next(one for one in answers if one in done)
                waiting.remove(first)
                yield first.result()
    finally:
        left = [*waiting, *([] if reading is None else [reading])]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)


async def _each(pictures: Iterable[Picture] | AsyncIterable[Picture]) -> AsyncIterator[Picture]:
    if isinstance(pictures, AsyncIterable):
        async for picture in pictures:
            yield picture
    else:
        for picture in pictures:
            yield picture
