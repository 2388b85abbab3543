"""fsspec's file system for each kind of store, so that it fails soon and leaves repeating to us.

Repetitions are counted, and a store's own ones would multiply with ours: they are switched off, by each library's own
switch where it has one. What cannot be switched off: Azure's library asks up to twice more for a body that was cut.
"""

import inspect
from collections.abc import Callable
from types import MethodType
from typing import Any

#: To connect, and between two bytes of an answer, in seconds. A large picture over a slow line may take longer.
CONNECT_S, SILENCE_S = 10, 30


def file_system(scheme: str) -> Any:
    """The file system of a scheme; "" is this machine. fsspec keeps one for each thread that asks, and gives it again.

    Raises:
        ImportError: a package is missing.
        Exception: no such scheme, or credentials that a store checks when it is opened.
    """
    opened = _OPENED.get(scheme)
    return opened() if opened else _of_fsspec(scheme or "file")


def _of_fsspec(scheme: str) -> Any:
    import fsspec

    kind = fsspec.get_filesystem_class(scheme)
    arguments = list(inspect.signature(kind.__init__).parameters.values())[1:]
    missing = [one.name for one in arguments if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    if missing:  # asked here: fsspec's FTP prints a trace where it is made without
        raise ValueError(f"it needs more than an address: {', '.join(missing)}")
    return fsspec.filesystem(scheme)


def _s3() -> Any:
    import s3fs

    settings = {"retries": {"total_max_attempts": 1}, "connect_timeout": CONNECT_S, "read_timeout": SILENCE_S}
    files = s3fs.S3FileSystem(config_kwargs=settings)
    files.retries = 1
    return files


def _gs() -> Any:
    # Not what fsspec's registry gives: that asks another API before each read, which no emulator has.
    from gcsfs.core import GCSFileSystem

    files = GCSFileSystem(requests_timeout=_timeout())
    files._request = MethodType(GCSFileSystem._request.__wrapped__, files)  # noqa: SLF001 - one attempt, not six
    return files


def _az() -> Any:
    import adlfs

    files = adlfs.AzureBlobFileSystem(connection_timeout=CONNECT_S, read_timeout=SILENCE_S)
    files.service_client._config.retry_policy.total_retries = 0  # noqa: SLF001 - adlfs hands on no such option
    return files


def _http() -> Any:
    import fsspec

    return fsspec.filesystem("http", client_kwargs={"timeout": _timeout()})


def _timeout() -> Any:
    import aiohttp

    return aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S)


_OPENED: dict[str, Callable[[], Any]] = {"s3": _s3, "gs": _gs, "az": _az, "http": _http, "https": _http}
