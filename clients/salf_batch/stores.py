"""Where files lie: this machine or an object store, through fsspec, with failures as sentences."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from salf_batch.errors import BatchError, MissingExtraError, StoreUnavailableError, UnreadableInputError

T = TypeVar("T")
#: Scheme -> (extra that brings its package, where its credentials are looked for).
_STORES = {
    "s3": ("s3", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE (FSSPEC_S3_ANON=true for public buckets)"),
    "gs": ("gs", "GOOGLE_APPLICATION_CREDENTIALS (FSSPEC_GS_TOKEN=anon for public buckets)"),
    "az": ("az", "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY"),
    "http": ("batch", "no variable: addresses must be open"),
    "https": ("batch", "no variable: addresses must be open"),
}
_ATTEMPTS, _FIRST_PAUSE_S = 5, 0.2
#: Stores that would repeat on their own do not: repetitions are counted here, and not multiplied.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}}}
#: HTTP statuses that a repetition does not change: this address has no picture.
_GONE = frozenset({400, 401, 403, 404, 405, 406, 410, 451})


class RetryCount:
    """How often something was asked of a store again; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0

    def add(self) -> None:
        """Count one repetition."""
        with self._lock:
            self.value += 1

    def __reduce__(self) -> "tuple[type[RetryCount], tuple[()]]":
        """Another process counts its own."""
        return RetryCount, ()


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
        return self.at(f"{self.path.rpartition('/')[0]}/{name}")

    def read(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Its bytes, or those of [start, stop).

        Raises:
            UnreadableInputError: there is no such file, or it is a folder.
            StoreUnavailableError: the store does not answer after several attempts, or refuses us.
        """
        return bytes(self.asked(lambda: self.files.cat_file(self.path, start=start, end=stop)))

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
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                raise UnreadableInputError(f"there is no file {self.uri}; check the path") from error
            # Every store has its own classes for a lost connection, a wrong key and a busy server.
            except Exception as error:
                if _status(error) in _GONE and self.scheme in ("http", "https"):
                    raise UnreadableInputError(f"{self.uri} answers {_status(error)}; check the address") from error
                if self.is_local:
                    raise UnreadableInputError(f"{self.uri} cannot be read ({_reason(error)})") from error
                if isinstance(error, PermissionError) or "credential" in type(error).__name__.lower():
                    raise StoreUnavailableError(
                        f"{self.uri} is refused ({_reason(error)}); credentials are looked for in "
                        f"{_STORES.get(self.scheme, ('', 'what fsspec says'))[1]}"
                    ) from error
                if attempt == _ATTEMPTS:
                    raise StoreUnavailableError(
                        f"{self.uri} does not answer after {_ATTEMPTS} attempts ({_reason(error)}); run again when it "
                        f"does; credentials are looked for in {_STORES.get(self.scheme, ('', 'what fsspec says'))[1]}"
                    ) from error
            self.retries.add()
            time.sleep(pause_s)
            pause_s *= 2
        raise AssertionError("the last attempt returns or raises")


def place_of(url: str, retries: RetryCount | None = None) -> Place:
    """Find the store of a path or URL.

    Args:
        url: a path, or such as s3://bucket/folder.
        retries: counts repetitions; None counts them for this place alone.

    Raises:
        MissingExtraError: the store's package is not installed.
        StoreUnavailableError: no such kind of store, or it cannot be opened.
    """
    try:
        import fsspec
    except ImportError as error:
        raise MissingExtraError("scoring needs fsspec; install it with: pip install 'salf[batch]'") from error
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    scheme = "" if scheme in ("file", "local") else scheme
    extra, variables = _STORES.get(scheme, ("batch", "what fsspec says"))
    try:
        files = fsspec.filesystem(scheme or "file", **_OPTIONS.get(scheme, {}))
        if hasattr(files, "retries"):
            files.retries = 1
        path = files._strip_protocol(url if scheme else rest)  # noqa: SLF001 - what fsspec.core.url_to_fs calls, too
    except ImportError as error:
        raise MissingExtraError(
            f"{url} needs a package that is missing ({error}); install it with: pip install 'salf[{extra}]'"
        ) from error
    except Exception as error:  # an unknown scheme, or credentials that a store checks when it is opened
        raise StoreUnavailableError(
            f"{url} cannot be opened ({_reason(error)}); credentials are looked for in {variables}"
        ) from error
    return Place(scheme, str(path), files, retries or RetryCount())


def _opened_again(scheme: str, path: str, retries: RetryCount) -> Place:
    return place_of(f"{scheme}://" if scheme else "/", retries).at(path)


def _status(error: BaseException) -> int | None:
    status = getattr(error, "status", None) or getattr(error, "code", None)
    return status if isinstance(status, int) else None


def _reason(error: BaseException) -> str:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join((reason or type(error).__name__).split())
