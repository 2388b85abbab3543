"""Calls written without I/O: generators that say what to do next, and what drives them, blocking or awaited.

A call yields steps and is sent their results; errors of a step are thrown into it. So the same text of a call runs in
`Client` and in `AsyncClient`, and in a test with a clock that the test turns.
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Concatenate, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar, cast

P = ParamSpec("P")
T = TypeVar("T")


class Send(NamedTuple):
    """Ask a transport; gives its answer, of which an asynchronous one is awaited."""

    call: Callable[[], Any]


class Pause(NamedTuple):
    """Wait."""

    seconds: float


class Work(NamedTuple):
    """Read or compute something that would hold up an event loop; gives what the function returns."""

    function: Callable[[], Any]


Step: TypeAlias = Send | Pause | Work
#: What a call is: steps out, their results in, and at last its own result.
Steps: TypeAlias = Generator[Step, Any, T]


def sent(call: Callable[[], T | Awaitable[T]]) -> Steps[T]:
    """Do one `Send`."""
    return cast("T", (yield Send(call)))


def worked(function: Callable[[], T]) -> Steps[T]:
    """Do one `Work`."""
    return cast("T", (yield Work(function)))


def paused(seconds: float) -> Steps[None]:
    """Do one `Pause`."""
    yield Pause(seconds)


def run(steps: Steps[T]) -> T:
    """Drive a call in this thread."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as stop:
            return cast("T", stop.value)
        result = error = None
        try:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                result = step.call() if isinstance(step, Send) else step.function()
        # Whatever happens, the call hears of it: it may hold a place that it must give back.
        except BaseException as raised:  # noqa: BLE001
            error = raised


async def run_async(steps: Steps[T]) -> T:
    """Drive a call in the running event loop."""
    result: Any = None
    error: BaseException | None = None
    while True:
        try:
            step = steps.send(result) if error is None else steps.throw(error)
        except StopIteration as stop:
            return cast("T", stop.value)
        result = error = None
        try:
            if isinstance(step, Send):
                result = await step.call()
            elif isinstance(step, Work):
                result = await asyncio.to_thread(step.function)
            else:
                await asyncio.sleep(step.seconds)
        except BaseException as raised:  # noqa: BLE001 - as above, and cancellation too
            error = raised


class Drives(Protocol):
    """Whoever makes calls of a session: a client."""

    @property
    def _session(self) -> Any: ...


S = TypeVar("S")


def blocking(call: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[Any, P], T]:
    """Make a blocking client's method of a call."""

    @functools.wraps(call)
    def method(client: Drives, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(call(client._session, *args, **kwargs))  # noqa: SLF001 - the two belong together

    return cast("Callable[Concatenate[Any, P], T]", method)


def awaiting(call: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[Any, P], Awaitable[T]]:
    """Make an asynchronous client's method of a call."""

    @functools.wraps(call)
    async def method(client: Drives, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_async(call(client._session, *args, **kwargs))  # noqa: SLF001 - the two belong together

    return cast("Callable[Concatenate[Any, P], Awaitable[T]]", method)
