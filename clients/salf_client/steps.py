"""Calls written without I/O: generators that say what to do next, and what drives them, blocking or awaited.

A call yields steps and is sent their results; errors of a step are thrown into it. So the same text of a call runs in
`Client` and in `AsyncClient`, and in a test with a clock that the test turns.
"""

import asyncio
import contextvars
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
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
    """Read or compute something that would hold up an event loop; gives what the function returns.

    Attributes:
        function: does it.
        within_s: after so many seconds it is given up with TimeoutError, and goes on unheard; None waits for it.
    """

    function: Callable[[], Any]
    within_s: float | None = None


Step: TypeAlias = Send | Pause | Work
#: What a call is: steps out, their results in, and at last its own result.
Steps: TypeAlias = Generator[Step, Any, T]


def sent(call: Callable[[], T | Awaitable[T]]) -> Steps[T]:
    """Do one `Send`."""
    return cast("T", (yield Send(call)))


def worked(function: Callable[[], T], *, within_s: float | None = None) -> Steps[T]:
    """Do one `Work`."""
    return cast("T", (yield Work(function, within_s)))


def paused(seconds: float) -> Steps[None]:
    """Do one `Pause`."""
    yield Pause(seconds)


def run(steps: Steps[T]) -> T:
    """Drive a call in this thread."""
    result: Any = None
    # Emptied as it is thrown: a frame that still held an error would, with the picture, wait for the garbage collector.
    errors: list[BaseException] = []
    while True:
        try:
            step = steps.throw(errors.pop()) if errors else steps.send(result)
        except StopIteration as stop:
            return cast("T", stop.value)
        result = None
        try:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                result = step.call() if isinstance(step, Send) else _done(step)
        # Whatever happens, the call hears of it: it may hold a place that it must give back.
        except BaseException as raised:  # noqa: BLE001
            errors.append(raised)


async def run_async(steps: Steps[T]) -> T:
    """Drive a call in the running event loop."""
    result: Any = None
    errors: list[BaseException] = []  # as above
    while True:
        try:
            step = steps.throw(errors.pop()) if errors else steps.send(result)
        except StopIteration as stop:
            return cast("T", stop.value)
        result = None
        try:
            if isinstance(step, Send):
                result = await step.call()
            elif isinstance(step, Work):
                result = await _done_async(step)
            else:
                await asyncio.sleep(step.seconds)
        except BaseException as raised:  # noqa: BLE001 - as above, and cancellation too
            errors.append(raised)


def _done(work: Work) -> Any:
    return work.function() if work.within_s is None else _begun(work.function).result(work.within_s)


async def _done_async(work: Work) -> Any:
    if work.within_s is None:
        return await asyncio.to_thread(work.function)
    return await asyncio.wait_for(asyncio.wrap_future(_begun(work.function)), work.within_s)


def _begun(function: Callable[[], T]) -> Future[T]:
    """Run a function in a thread that nobody has to wait for, not even a loop or a process that ends."""
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - whoever waits hears of it
            future.set_exception(error)
        else:
            future.set_result(result)

    threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True, name="salf-read").start()
    return future


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

    _show_as_method(method, call)
    return cast("Callable[Concatenate[Any, P], T]", method)


def awaiting(call: Callable[Concatenate[S, P], Steps[T]]) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Make an asynchronous client's method of a call."""

    @functools.wraps(call)
    async def method(client: Drives, *args: P.args, **kwargs: P.kwargs) -> T:
        return await run_async(call(client._session, *args, **kwargs))  # noqa: SLF001 - the two belong together

    _show_as_method(method, call)
    return cast("Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]", method)


def _show_as_method(method: Any, call: Callable[..., Any]) -> None:
    """Let help() and notebooks show what a user gives and gets, instead of the call's session and steps."""
    signature = inspect.signature(call)
    _session, *arguments = signature.parameters.values()
    result = str(signature.return_annotation).removeprefix("Steps[").removesuffix("]")
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = signature.replace(parameters=[client, *arguments], return_annotation=result)
    method.__annotations__ = {**{one.name: one.annotation for one in arguments}, "return": result}
