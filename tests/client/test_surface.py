"""Both clients: the same surface, the same answers; streams, stored explanations, telemetry, encryption, stores."""

import asyncio
import inspect
import io
import json
import subprocess
import threading
import time

import grpc
import numpy as np
import pytest
from PIL import Image

from salf_client import (
    AsyncClient,
    Client,
    CompanionNotFoundError,
    Connection,
    DeadlineExceededError,
    Edit,
    Explanation,
    InvalidAddressError,
    InvalidConnectionError,
    InvalidEditError,
    InvalidPictureError,
    InvalidRegionError,
    NotComparableError,
    Place,
    Removal,
    Retry,
    ServerUnavailableError,
    StoredExplanationError,
    Tls,
    TopOutOfRangeError,
    UnknownClassError,
    UnknownConceptError,
    from_arrow,
    to_arrow,
)
from salf_client.testing import MockModel, mock_server

pytest_plugins = ["salf_client.testing.plugin"]
PICTURE = np.random.default_rng(7).integers(0, 256, (50, 80, 3), dtype=np.uint8)


def jpeg(array=PICTURE):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def server():
    with mock_server() as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.address) as one:
        yield one


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_surface():
    assert public(Client) == public(AsyncClient)
    for name in public(Client):
        blocking, awaited = (inspect.signature(getattr(kind, name)).parameters for kind in (Client, AsyncClient))
        assert list(blocking) == list(awaited), name
        assert [one.default for one in blocking.values()] == [one.default for one in awaited.values()], name
        assert getattr(AsyncClient, name).__doc__, name
    arguments = [inspect.signature(kind).parameters for kind in (Client, AsyncClient)]
    assert list(arguments[0]) == list(arguments[1])


def test_both_clients_give_the_same_answers(server):
    async def asked():
        async with AsyncClient(server.address) as client:
            return [
                await client.explain(PICTURE, target="dog"),
                await client.region(PICTURE, box=(20, 10, 60, 30)),
                await client.what_if(PICTURE, [Edit("fur", -2.0), Removal("wing")], target="bird"),
                await client.rules(),
                await client.models(),
                await client.model(),
                await client.is_ready(),
                (await client.concept_maps(PICTURE)).maps.tolist(),
            ]

    with Client(server.address) as client:
        expected = [
            client.explain(PICTURE, target="dog"),
            client.region(PICTURE, box=(20, 10, 60, 30)),
            client.what_if(PICTURE, [Edit("fur", -2.0), Removal("wing")], target="bird"),
            client.rules(),
            client.models(),
            client.model(),
            client.is_ready(),
            client.concept_maps(PICTURE).maps.tolist(),
        ]
    assert asyncio.run(asked()) == expected


def test_regions_are_the_means_of_the_maps_over_the_place(client):
    maps = client.concept_maps(PICTURE)
    mask = np.zeros((50, 80), bool)
    mask[12:40, 30:55] = True
    by_mask, by_box = client.region(PICTURE, mask=mask), client.region(PICTURE, box=(30, 12, 55, 40), top=6)
    assert np.allclose(by_mask.scores, by_box.scores, atol=1e-4)
    assert len(by_box.concepts) == 6
    assert by_box.unit == "deviations"
    assert [one.score for one in by_box.concepts] == sorted((one.score for one in by_box.concepts), reverse=True)
    # Raw maps and z differ by each concept's mean and std: recover them from the picture as a whole.
    heat = np.array([maps.heatmap(name)[mask].mean() for name in maps.names])
    whole, part = client.region(PICTURE, mask=np.isfinite(maps.heatmap("fur"))), by_mask.scores
    raw = maps.maps.mean(axis=(1, 2))
    slope = (heat - raw) / (part - whole.scores)
    model = client.explain(PICTURE, top=6)
    for name, value in zip(maps.names, slope, strict=True):
        concept = next((one for one in model.concepts if one.name == name), None)
        if concept is not None:
            std = np.std(maps[name]) / np.std(concept.map)
            assert value == pytest.approx(std, rel=0.1)


def test_edits_move_the_logits_as_the_head_says(server, client):
    weights, concepts = server.model.weights, server.model.metadata.concepts
    answer = client.what_if(PICTURE, Edit("beak", 2.0), target="bird")
    assert answer.edited_logit - answer.logit == pytest.approx(2.0 * weights[2, concepts.index("beak")], abs=1e-3)
    assert [one.name for one in answer.changes] == ["beak"]
    half = client.what_if(PICTURE, Edit("beak", 2.0, Place(box=(0, 0, 40, 50))), target="bird")
    assert half.edited_logit - half.logit == pytest.approx((answer.edited_logit - answer.logit) / 2, abs=1e-3)
    nothing = client.what_if(PICTURE, [])
    assert nothing.changes == ()
    assert not nothing.is_another_class
    present = [one for one in client.explain(PICTURE, top=6, target="bird").concepts if one.present]
    removed = client.what_if(PICTURE, [Removal(one.name) for one in present], target="bird")
    left = removed.edited_contributions[[concepts.index(one.name) for one in present]]
    assert np.allclose(left, 0, atol=1e-5)


def test_rules_are_the_head_and_are_asked_for_once(server, client):
    rules = client.rules()
    for k, rule in enumerate(rules):
        expected = {
            name: weight
            for name, weight in zip(server.model.metadata.concepts, server.model.weights[k], strict=True)
            if weight
        }
        assert rule.weights == pytest.approx(expected, rel=1e-5)
        assert list(rule.weights.values()) == sorted(rule.weights.values(), key=lambda weight: -abs(weight))
        assert rule.bias == pytest.approx(server.model.bias[k], rel=1e-5)
    before = server.calls["ModelInfer"]
    assert client.rules("dog") == (rules[1],)
    assert server.calls["ModelInfer"] == before


def test_wrong_questions_are_refused_by_name(client):
    for wrong in ({}, {"point": (1, 1), "box": (0, 0, 2, 2)}):
        with pytest.raises(InvalidRegionError):
            client.region(PICTURE, **wrong)
    with pytest.raises(InvalidRegionError, match="outside"):
        client.region(PICTURE, point=(1, 25))
    with pytest.raises(TopOutOfRangeError, match="top"):
        client.region(PICTURE, point=(40, 25), top=0)
    with pytest.raises(UnknownConceptError, match="did you mean beak"):
        client.what_if(PICTURE, Edit("beek", 1.0))
    with pytest.raises(InvalidEditError, match="8 edits"):
        client.what_if(PICTURE, [Edit("fur", 1.0)] * 9)
    with pytest.raises(InvalidEditError, match="finite"):
        Edit("fur", float("nan"))
    with pytest.raises(UnknownClassError):
        client.rules("cow")


def test_encoded_bytes_travel_untouched_where_the_server_takes_them(server, monkeypatch):
    sent = []
    encoded = MockModel.encoded
    monkeypatch.setattr(
        MockModel, "encoded", lambda self, data, target: sent.append(data) or encoded(self, data, target)
    )
    with Client(server.address) as client:
        answer = client.explain(jpeg())
        assert sent == [jpeg()]
        assert answer.source_size == (80, 50)
        assert answer.picture.size == (80, 50)
        with pytest.raises(InvalidPictureError, match="PICTURE_BROKEN"):
            client.explain(jpeg()[:200])
    with Client(server.address, sends_encoded=False) as client:
        assert client.explain(jpeg()) == answer
    assert len(sent) == 2
    with mock_server(roles=["explain"]) as bare, Client(bare.address) as client:
        assert client.explain(jpeg()).source_size == (80, 50)
        for ask in (client.concept_maps, lambda picture: client.region(picture, point=(40, 25))):
            with pytest.raises(CompanionNotFoundError, match="mock_"):
                ask(PICTURE)


def test_streams_keep_order_stay_within_the_window_and_go_on_after_a_bad_picture(server):
    reached = 0

    def pictures():
        nonlocal reached
        for number in range(30):
            reached = number
            yield b"no picture" if number == 3 else np.full((32, 32, 3), number * 8, np.uint8)

    with Client(server.address) as client:
        stream = client.explain_many(pictures(), in_flight=4)
        first = next(stream)
        assert reached <= 4
        outcomes = [first, *stream]
        finished = list(client.explain_many(pictures(), in_flight=4, ordered=False))
    assert [outcome.index for outcome in outcomes] == list(range(30))
    assert sorted(outcome.index for outcome in finished) == list(range(30))
    assert [outcome.index for outcome in outcomes if outcome.error] == [3]
    with pytest.raises(InvalidPictureError):
        outcomes[3].get()

    async def streamed(*, ordered):
        async with AsyncClient(server.address) as client:
            return [outcome async for outcome in client.explain_many(pictures(), in_flight=4, ordered=ordered)]

    assert asyncio.run(streamed(ordered=True)) == outcomes
    assert sorted(one.index for one in asyncio.run(streamed(ordered=False))) == list(range(30))


def test_a_stream_that_is_left_cancels_what_is_in_flight():
    async def leave(address):
        async with AsyncClient(address) as client:
            async for _ in client.explain_many([PICTURE] * 100, in_flight=8):
                break
            await asyncio.sleep(0)
            return client._session.balancer.endpoints[0].in_flight

    with mock_server() as server:
        server.delay_s = 0.05
        asyncio.run(leave(server.address))
        assert server.calls["ModelInfer"] < 30
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("salf-explain")]


def test_a_deadline_holds_for_one_call_alone(client, server):
    client.explain(PICTURE)
    server.delay_s = 0.5
    started_s = time.monotonic()
    try:
        with pytest.raises(DeadlineExceededError):
            client.explain(PICTURE, timeout_s=0.1)
        assert time.monotonic() - started_s < 0.45
    finally:
        server.delay_s = 0.0
    assert client.explain(PICTURE).label


def test_explanations_come_back_from_json_and_arrow(client):
    explanation = client.explain(PICTURE, top=6)
    read = Explanation.from_json(explanation.to_json(picture=True))
    assert read == explanation
    assert np.array_equal(read.logits, explanation.logits)
    assert all(np.array_equal(a.map, b.map) for a, b in zip(read.concepts, explanation.concepts, strict=True))
    assert read.picture.size == (80, 50)
    assert read.probability == explanation.probability
    table = to_arrow([explanation, client.explain(PICTURE, target="dog")], picture=True)
    assert table.num_rows == 2
    back = from_arrow(table)
    assert back[0] == explanation
    assert np.array_equal(back[0].concepts[0].map, explanation.concepts[0].map)
    without = Explanation.from_json(explanation.to_json(maps=False))
    assert without == explanation
    with pytest.raises(InvalidPictureError, match="without its picture"):
        _ = without.picture
    for bad in ("{", "[]", "{}", json.dumps({**explanation.to_dict(), "format": 99}),
                json.dumps({**explanation.to_dict(), "logits": "x"})):  # fmt: skip
        with pytest.raises(StoredExplanationError):
            Explanation.from_json(bad)


def test_a_comparison_accounts_for_the_whole_difference(client):
    cat, bird = client.explain(PICTURE, target="cat", top=2), client.explain(PICTURE, target="bird", top=3)
    comparison = cat.compare(bird)
    total = sum(one.change for one in comparison.changes) + comparison.rest_change + comparison.bias_change
    assert total == pytest.approx(bird.logit - cat.logit, abs=1e-4)
    assert comparison.logit_change == pytest.approx(total, abs=1e-4)
    assert all(one.name in str(comparison) for one in comparison.changes)
    other = client.explain(PICTURE[:, :40], target="bird")
    with pytest.raises(NotComparableError):
        cat.compare(other)


def test_spans_and_metrics_tell_of_calls_attempts_and_errors(server):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    from prometheus_client import CollectorRegistry

    from salf_client.telemetry import OpenTelemetryObserver, PrometheusObserver

    spans, registry, provider = InMemorySpanExporter(), CollectorRegistry(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    observers = [OpenTelemetryObserver(provider), PrometheusObserver(registry)]
    with Client(server.address, observers=observers, retry=Retry(first_pause_s=0.0)) as client:
        client.explain(PICTURE)
        server.fail("UNAVAILABLE", "Exceeds maximum queue size")
        client.explain(PICTURE)
        with pytest.raises(UnknownClassError):
            client.explain(PICTURE, target="cow")
    names = [span.name for span in spans.get_finished_spans()]
    assert names == ["salf explain"] * 3
    assert [len(span.events) for span in spans.get_finished_spans()] == [0, 1, 0]
    assert not spans.get_finished_spans()[2].status.is_ok
    value = registry.get_sample_value
    assert value("salf_client_call_seconds_count", {"call": "explain", "outcome": "ok"}) == 2
    assert value("salf_client_call_seconds_count", {"call": "explain", "outcome": "UnknownClassError"}) == 1
    for stage in ("prepare", "infer", "read"):
        assert value("salf_client_stage_seconds_count", {"call": "explain", "stage": stage}) == 2
        assert spans.get_finished_spans()[0].attributes[f"salf.{stage}_seconds"] > 0
    stages_s = [value("salf_client_stage_seconds_sum", {"call": "explain", "stage": stage}) or 0
                for stage in ("prepare", "infer", "read")]  # fmt: skip
    assert sum(stages_s) <= (value("salf_client_call_seconds_sum", {"call": "explain", "outcome": "ok"}) or 0)
    failed = {"address": server.address, "error": "ServerOverloadedError"}
    assert value("salf_client_failed_attempts_total", failed) == 1
    assert value("salf_client_calls_in_progress", {"call": "explain"}) == 0


def test_pictures_are_read_from_stores_by_their_url(client):
    import fsspec

    with fsspec.open("memory://pictures/one.jpg", "wb") as file:
        file.write(jpeg())
    assert client.explain("memory://pictures/one.jpg") == client.explain(jpeg())
    with pytest.raises(InvalidPictureError, match=r"pictures/two\.jpg cannot be read"):
        client.explain("memory://pictures/two.jpg")


def test_settings_of_a_connection_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(InvalidConnectionError, match="in the clear"):
        Client("salf.example:443", connection=Connection(token="secret"))
    with pytest.raises(InvalidConnectionError, match="belong together"):
        Tls(certificate=tmp_path / "client.pem")
    with pytest.raises(InvalidConnectionError, match="cannot be read"):
        Client("localhost:1", connection=Connection(tls=Tls(ca=tmp_path / "none.pem")))
    with pytest.raises(InvalidConnectionError, match="lower case"):
        Connection(headers={"Key": "x"})
    with pytest.raises(InvalidAddressError, match="no address"):
        Client([])
    assert "secret" not in repr(Connection(token="secret"))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """An authority, and a server's and a client's certificate that it signed: name -> (key, certificate)."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        openssl("req", *key[:-2], "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", "names", "-out", f"{name}.pem")  # fmt: skip
    return folder


def test_encryption_is_mutual_where_the_server_asks_for_it(certificates):
    def read(name):
        return (certificates / name).read_bytes()

    pair = [(read("server.key"), read("server.pem"))]
    credentials = grpc.ssl_server_credentials(pair, read("ca.pem"), require_client_auth=True)
    ca, client_key = certificates / "ca.pem", certificates / "client.key"
    known = Tls(ca=ca, certificate=certificates / "client.pem", key=client_key)
    once = Retry(attempts=1)

    async def asked(address):
        async with AsyncClient(address, connection=Connection(tls=known, token="secret")) as client:
            return await client.explain(PICTURE)

    with mock_server(credentials=credentials) as server:
        with Client(server.address, connection=Connection(tls=known, token="secret")) as client:
            assert client.explain(PICTURE) == asyncio.run(asked(server.address))
        for wrong in (Connection(tls=Tls(ca=ca)), Connection(tls=Tls()), Connection()):
            with Client(server.address, connection=wrong, retry=once) as client, pytest.raises(ServerUnavailableError):
                client.explain(PICTURE, timeout_s=5)


def test_compression_headers_and_a_token_reach_the_server(monkeypatch):
    from salf_client.testing import kserve

    seen, infer, made = [], kserve._Servicer.ModelInfer, iter(range(100))

    def spy(self, request, context):
        seen.append(dict(context.invocation_metadata()))
        return infer(self, request, context)

    monkeypatch.setattr(kserve._Servicer, "ModelInfer", spy)
    connection = Connection(token=lambda: f"token-{next(made)}", headers={"x-team": "boats"}, compression="gzip")
    with mock_server() as own, Client(own.address, connection=connection) as client:
        answers = [client.explain(PICTURE) for _ in range(2)]
    assert answers[0] == answers[1]
    assert [headers["x-team"] for headers in seen] == ["boats"] * 2
    first, second = (headers["authorization"].removeprefix("Bearer token-") for headers in seen)
    assert int(second) == int(first) + 1


def test_the_fixture_is_a_server_with_a_contract(salf_server):
    with Client(salf_server.address) as client:
        assert client.explain(PICTURE).label in ("cat", "dog", "bird")
    assert salf_server.calls["ModelInfer"] == 1
