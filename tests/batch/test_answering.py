"""How inputs become rows: in their order, asked for in groups, never more of them under way than allowed."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored_stores import jpeg

from salf_batch.answering import Asking
from salf_batch.errors import UnreadableInputError
from salf_batch.progress import Tally
from salf_batch.sources import Input
from salf_batch.stores import RetryCount
from salf_client import AsyncClient
from salf_client.testing import mock_server

GOOD, BROKEN, ABSENT = "good", "broken", "absent"


@pytest.fixture(scope="module")
def server():
    with mock_server(classes=["a", "b"], concepts=["c", "d"]) as server:
        yield server


class Store:
    """Inputs of each kind; sees how far ahead of the rows they are read."""

    def __init__(self, kinds):
        self.kinds, self.picture = kinds, jpeg(1)
        self.rows_out = self.most_ahead = 0
        self.inputs = [(index, Input(str(index), partial(self.load, index))) for index in range(len(kinds))]

    def load(self, index):
        self.most_ahead = max(self.most_ahead, index + 1 - self.rows_out)
        if self.kinds[index] == ABSENT:
            raise UnreadableInputError("it is not there")
        return self.picture if self.kinds[index] == GOOD else self.picture[:100]


@asynccontextmanager
async def asking(server, *, in_flight, read_ahead):
    with ThreadPoolExecutor(4) as readers, ThreadPoolExecutor(2) as decoders:
        async with AsyncClient(server.address) as client:
            model = await client.model()
            yield Asking(
                client=client,
                contract_id=model.contract_id,
                preparation=model.preparation,
                sends_encoded=False,
                top=1,
                maps=False,
                in_flight=in_flight,
                read_ahead=read_ahead,
                patience_s=5,
                readers=readers,
                decoders=decoders,
                retries=RetryCount(),
                tally=Tally(),
            )


async def rows_of(store, server, *, in_flight=8, read_ahead=8):
    rows = []
    async with asking(server, in_flight=in_flight, read_ahead=read_ahead) as one:
        async for row in one.rows(store.inputs):
            rows.append(row)
            store.rows_out += 1
    return rows


@given(
    kinds=st.lists(st.sampled_from([GOOD, GOOD, BROKEN, ABSENT]), max_size=20),
    in_flight=st.integers(1, 6),
    read_ahead=st.integers(1, 9),
)
def test_each_input_becomes_one_row_in_its_place(server, kinds, in_flight, read_ahead):
    store = Store(kinds)
    rows = asyncio.run(rows_of(store, server, in_flight=in_flight, read_ahead=read_ahead))
    assert [row["index"] for row in rows] == list(range(len(kinds)))
    assert ["error" not in row for row in rows] == [kind == GOOD for kind in kinds]
    assert store.most_ahead <= read_ahead


@pytest.mark.parametrize(("read_ahead", "is_together"), [(16, True), (4, False)])
def test_pictures_are_asked_for_when_their_neighbours_are_read_unless_few_are_read_ahead(
    server, monkeypatch, read_ahead, is_together
):
    asked, explain = threading.Event(), AsyncClient.explain

    def explained(*args, **settings):
        asked.set()
        return explain(*args, **settings)

    class SlowStore(Store):
        was_asked = None

        def load(self, index):
            if index == 3:
                self.was_asked = asked.wait(0.3 if is_together else 20)
            return super().load(index)

    monkeypatch.setattr(AsyncClient, "explain", explained)
    store = SlowStore([GOOD] * 4)
    assert len(asyncio.run(rows_of(store, server, read_ahead=read_ahead))) == 4
    assert store.was_asked is not is_together
    assert asked.is_set()
