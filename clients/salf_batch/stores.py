"""Where files lie: this machine or an object store, through fsspec, with failures as sentences."""

import io
import os
import random
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeVar, cast

from salf_batch.errors import (
    BatchError,
    InputNotThereError,
    MissingExtraError,
    StoreUnavailableError,
    UnreadableInputError,
)
from salf_batch.filesystems import file_system
from salf_batch.ranges import ranges
from salf_client.credentials import looked_for

T = TypeVar("T")
#: Schemes whose addresses may end in a query, and where nothing can be listed.
WEB = frozenset({"http", "https"})
_ATTEMPTS, _FIRST_PAUSE_S = 8, 0.2
#: HTTP statuses that a repetition does not change: this address has no picture. The others of these say "later".
_GONE = frozenset(range(400, 500)) - {408, 409, 421, 423, 425, 429}
_NOT_THERE = frozenset({404, 410})
_REFUSED = frozenset({401, 403})


class RetryCount:
    """How often something was asked of stores again, and why; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, store: str, reason: str, times: int = 1) -> None:
        """Count repetitions.

        Args:
            store: its scheme, such as "s3".
            reason: an HTTP status, or the name of the error's class.
            times: how many.
        """
        with self._lock:
            self._counts[store, reason] += times

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """(Store, reason) -> repetitions."""
        with self._lock:
            return dict(self._counts)

    @property
    def value(self) -> int:
        """All of them."""
        return sum(self.counts.values())

    def __reduce__(self) -> "tuple[type[RetryCount], tuple[()]]":
        """Another process counts its own."""
        return RetryCount, ()


class _CutError(Exception):
    """A store gave less than it was asked for, and said nothing."""


@dataclass(frozen=True)
class Place:
    """A file, folder or object.

    Attributes:
        scheme: "" on this machine, else such as "s3".
        path: as the file system knows it; absolute on this machine.
        files: fsspec's file system.
        retries: counts repetitions, shared by all places of one run.
    """

    scheme: str
    path: str
    files: Any = field(repr=False, compare=False)
    retries: RetryCount = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[..., "Place"], tuple[str, str, RetryCount]]:
        """Another process opens the store itself."""
        return _opened_again, (self.scheme, self.path, self.retries)

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine."""
        return not self.scheme

    @property
    def uri(self) -> str:
        """Name for people and rows: a path, or a URL with its scheme."""
        return self.path if self.is_local or "://" in self.path else f"{self.scheme}://{self.path}"

    def at(self, path: str) -> "Place":
        """Another place of the same store."""
        return Place(self.scheme, path, self.files, self.retries)

    def beside(self, name: str) -> "Place":
        """A place named relative to the folder that holds this one."""
        path = self.path.partition("?")[0] if self.scheme in WEB else self.path
        return self.at(f"{path.rpartition('/')[0]}/{name}")

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Its bytes, or those of [start, stop).

        Raises:
            UnreadableInputError: there is no such file, or it is a folder.
            StoreUnavailableError: the store does not answer after several attempts, or refuses us.
        """

        def read() -> bytes:
            if self.is_local and _waits_for_a_writer(self.path):
                raise UnreadableInputError(f"{self.uri} is a pipe or a device, and no file; check the path")
            if stop is not None and stop == (start or 0):  # S3 would give all of it
                return b""
            data = bytes(self.files.cat_file(self.path, start=start, end=stop))
            if stop is not None and len(data) != stop - (start or 0):
                raise _CutError(f"{len(data)} bytes instead of {start} to {stop}")
            return data

        return self.asked(read)

    def open(self) -> BinaryIO:
        """The file for reading here and there; a store in trouble is asked again for the piece that it failed to give.

        Raises:
            UnreadableInputError: there is no such file, or it is a folder; reading raises it as well.
            StoreUnavailableError: the store does not answer after several attempts, or refuses us; reading too.
        """
        if self.is_local:
            return cast("BinaryIO", self.asked(lambda: self.files.open(self.path, "rb")))
        about = self.asked(lambda: self.files.info(self.path))
        if about.get("size") is None or (self.scheme in WEB and not about.get("partial")):
            return io.BytesIO(self.read())  # a web server that gives whole files only
        return ranges(self.read, about["size"])

    def asked(self, question: Callable[[], T]) -> T:
        """Ask the store, and again while it is in trouble.

        Raises:
            UnreadableInputError: there is no such file, or it is a folder.
            StoreUnavailableError: no answer after several attempts, or we may not ask.
        """
        pause_s = _FIRST_PAUSE_S
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return question()
            except BatchError:  # from a question that asked in its turn
                raise
            # Every store has its own classes for a lost connection, a wrong key and a busy server.
            except Exception as error:
                if (unreadable := self._unreadable(error)) is not None:
                    raise unreadable from error
                if _is_refusal(error):
                    raise StoreUnavailableError(
                        f"{self.uri} is refused ({_reason(error)}); {looked_for(self.scheme)}"
                    ) from error
                if attempt == _ATTEMPTS:
                    raise StoreUnavailableError(
                        f"{self.uri} does not answer after {_ATTEMPTS} attempts ({_reason(error)}); run again when it "
                        f"does; {looked_for(self.scheme)}"
                    ) from error
                self.retries.add(self.scheme, str(_status(error) or type(error).__name__))
            time.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - only so that readers do not ask in step
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")

    def _unreadable(self, error: Exception) -> UnreadableInputError | None:
        """What is wrong with the name, if it is that; None if it is the store."""
        status = _status(error) if self.scheme in WEB else None
        if status in _GONE - _NOT_THERE:
            return UnreadableInputError(f"{self.uri} answers {status}; check the address")
        if isinstance(error, IsADirectoryError):
            return UnreadableInputError(f"{self.uri} is a folder, and no file; check the path")
        if _is_missing(error):
            return InputNotThereError(f"there is no file {self.uri}; check the path")
        if status in _NOT_THERE:
            return InputNotThereError(f"{self.uri} answers {status}; check the address")
        if self.scheme in WEB and (said := _of_the_address(error)) is not None:
            return UnreadableInputError(f"{self.uri} leads nowhere ({said}); check the address")
        return UnreadableInputError(f"{self.uri} cannot be read ({_reason(error)})") if self.is_local else None


def place_of(url: str, retries: RetryCount | None = None) -> Place:
    """Find the store of a path or URL.

    Args:
        url: a path, or such as s3://bucket/folder.
        retries: counts repetitions; None counts them for this place alone.

    Raises:
        MissingExtraError: the store's package is not installed.
        StoreUnavailableError: no such kind of store, or it cannot be opened.
    """
    scheme, rest = scheme_of(url), url.rpartition("://")[2]
    try:
        files = file_system(scheme)
        path = files._strip_protocol(url if scheme else rest)  # noqa: SLF001 - what fsspec.core.url_to_fs calls, too
    except ImportError as error:
        extra = scheme if scheme in ("s3", "gs", "az") else "batch"
        raise MissingExtraError(
            f"{url} needs a package that is missing ({error}); install it with: pip install 'salf[{extra}]'"
        ) from error
    except Exception as error:  # an unknown scheme, or credentials that a store checks when it is opened
        raise StoreUnavailableError(f"{url} cannot be opened ({_reason(error)}); {looked_for(scheme)}") from error
    return Place(scheme, str(path), files, retries or RetryCount())


def is_known(url: str) -> bool:
    """Whether there is a kind of store of an address's scheme, its package installed or not."""
    import fsspec

    return scheme_of(url) in ("", *fsspec.available_protocols(), *fsspec.registry)


def _opened_again(scheme: str, path: str, retries: RetryCount) -> Place:
    return place_of(f"{scheme}://" if scheme else "/", retries).at(path)


def _waits_for_a_writer(path: str) -> bool:
    """Whether reading it may take for ever: neither a file nor a folder, which cannot be read and says so."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - once for each picture
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def scheme_of(url: str) -> str:
    """Of a path or URL, such as "s3"; "" for what lies on this machine."""
    scheme, mark, _ = url.partition("://")
    return "" if not mark or scheme in ("file", "local") else scheme


def _is_missing(error: Exception) -> bool:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        return False
    # fsspec says of an address that it is not there when it cannot ask for it, too.
    return error.__cause__ is None or _status(error) in _GONE


def _is_refusal(error: Exception) -> bool:
    # Google's library has no class and no status for a 403, only this word.
    return (
        isinstance(error, PermissionError)
        or _status(error) in _REFUSED
        or "credential" in type(error).__name__.lower()
        or str(error).startswith("Forbidden")
    )


def _of_the_address(error: Exception) -> str | None:
    """What is wrong with a web address that no server can answer; None if it is the server or the line."""
    import aiohttp

    if isinstance(error, aiohttp.TooManyRedirects):
        return "it is redirected again and again"
    if isinstance(error, ValueError):  # aiohttp's for malformed ones is of this kind
        return f"no web address: {_reason(error)}"
    return None


def _status(error: Exception) -> int | None:
    """The HTTP status that a store answered with, wherever its library put it."""
    # Not the code of causes: aiohttp calls a cut body a 400 there.
    found: list[object] = [getattr(error, "status", None) or getattr(error, "code", None)]
    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore's
            found.append(response.get("ResponseMetadata", {}).get("HTTPStatusCode"))
        found += [getattr(cause, "status", None), getattr(cause, "status_code", None)]
        cause = cause.__cause__
    return next((status for status in found if isinstance(status, int)), None)


def _reason(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((reason or type(error).__name__).split())
