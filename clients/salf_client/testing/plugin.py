"""The pytest fixture `salf_server`; bring it in with `pytest_plugins = ["salf_client.testing.plugin"]`.

It is not loaded by itself: a plugin that is would cost every test run in the environment gRPC's import.
"""

from collections.abc import Iterator

import pytest

from salf_client.testing.kserve import MockServer, mock_server


@pytest.fixture
def salf_server() -> Iterator[MockServer]:
    """A server with the classes cat, dog and bird, fresh for each test."""
    with mock_server() as server:
        yield server
