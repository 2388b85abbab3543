"""What users write, for the type checker alone: `mypy --strict` must find nothing here."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_type

import numpy as np
from PIL import Image

from salf_client import (
    AsyncClient,
    Client,
    ConceptMaps,
    Connection,
    Edit,
    Explanation,
    Health,
    ModelInfo,
    Outcome,
    RegionFinding,
    Removal,
    Retry,
    Rule,
    Tls,
    WhatIf,
)


def blocking() -> None:
    connection = Connection(tls=Tls(ca="ca.pem"), token=lambda: "token")
    with Client(["a:1", "b:2"], model="scenes", connection=connection, retry=Retry(attempts=2)) as client:
        for picture in (
            "boat.jpg",
            Path("boat.jpg"),
            b"bytes",
            Image.new("RGB", (8, 8)),
            np.zeros((8, 8, 3), np.uint8),
        ):
            assert_type(client.explain(picture, top=3, target="farm", timeout_s=1.0), Explanation)
        assert_type(client.concept_maps("boat.jpg"), ConceptMaps)
        assert_type(client.region("boat.jpg", point=(1, 2)), RegionFinding)
        assert_type(client.what_if("boat.jpg", [Edit("sail", 1.0), Removal("sea")]), WhatIf)
        assert_type(client.rules(), tuple[Rule, ...])
        assert_type(client.models(), tuple[ModelInfo, ...])
        assert_type(client.model(), ModelInfo)
        assert_type(client.health(), Health)
        assert_type(client.is_ready(), bool)
        assert_type(client.explain_many(["boat.jpg"]), Iterator[Outcome])


async def awaited() -> None:
    async with AsyncClient() as client:
        assert_type(await client.explain("boat.jpg"), Explanation)
        task = asyncio.create_task(client.explain("boat.jpg"))
        assert_type(await task, Explanation)
        async with asyncio.TaskGroup() as group:
            group.create_task(client.region("boat.jpg", box=(0, 0, 4, 4)))
        assert_type(await client.model(), ModelInfo)
        assert_type(await client.health(), Health)
        assert_type(client.explain_many(["boat.jpg"], ordered=False), AsyncIterator[Outcome])


asyncio.run(AsyncClient().explain("boat.jpg"))
