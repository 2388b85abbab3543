"""Both clients: the same surface, the same answers; what they ask, and what is kept of an answer."""

import asyncio
import gc
import inspect
import io
import json
import os
import pydoc
import time
import typing
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from salf_client import (
    AsyncClient,
    Client,
    CompanionNotFoundError,
    DeadlineExceededError,
    Edit,
    Explanation,
    InvalidConnectionError,
    InvalidEditError,
    InvalidPictureError,
    InvalidRegionError,
    InvalidRequestError,
    NotComparableError,
    Place,
    Removal,
    StoredExplanationError,
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
        if name not in ("explain_many", "close"):  # of which one is asynchronous in itself, and the other gives nothing
            hints = [typing.get_type_hints(getattr(kind, name)) for kind in (Client, AsyncClient)]
            assert hints[0] == hints[1], name
    arguments = [inspect.signature(kind).parameters for kind in (Client, AsyncClient)]
    assert list(arguments[0]) == list(arguments[1])


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_every_method_tells_a_user_its_arguments_and_what_comes_of_it(kind, server):
    """What help(), notebooks and editors show: nothing of how calls are written."""
    for name in public(kind):
        method = getattr(kind, name)
        signature = inspect.signature(method)
        arguments = [one for one in signature.parameters if one != "self"]
        assert next(iter(signature.parameters)) == "self", name
        assert "Steps" not in str(signature), name
        assert "session" not in (method.__doc__ or ""), name
        assert "Generator" not in str(typing.get_type_hints(method)["return"]), name
        if arguments:
            described = (method.__doc__ or "").partition("Args:")[2].partition("Raises:")[0]
            assert all(f" {argument}: " in described for argument in arguments), name
    (shown,) = inspect.signature(kind(server.address).explain).parameters.keys() - {"top", "target", "timeout_s"}
    assert shown == "image"
    assert "explain(self, image: 'Picture', *, " in pydoc.plain(pydoc.render_doc(kind.explain))


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
    # What is gone is not removed once more, whatever it is called by.
    twice = [Removal(present[0].name), Removal(present[0].index), Removal(present[0].name)]
    gone = client.what_if(PICTURE, twice, target="bird").edited_contributions
    assert gone[present[0].index] == pytest.approx(0, abs=1e-5)


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
    for wrong in (5, "ab", (1, 2, 3), (1, None)):
        with pytest.raises(InvalidRegionError, match="a point is 2 finite numbers"):
            client.region(PICTURE, point=wrong)
    for wrong in (5, "abcd", [(1, 2), (3, 4)]):
        with pytest.raises(InvalidRegionError, match="a box is 4 finite numbers"):
            client.region(PICTURE, box=wrong)
    with pytest.raises(TopOutOfRangeError, match="top"):
        client.region(PICTURE, point=(40, 25), top=0)
    with pytest.raises(UnknownConceptError, match="did you mean beak"):
        client.what_if(PICTURE, Edit("beek", 1.0))
    with pytest.raises(InvalidEditError, match="8 edits"):
        client.what_if(PICTURE, [Edit("fur", 1.0)] * 9)
    for wrong in ("fur", [("fur", 1.0)], ["fur"]):
        with pytest.raises(InvalidEditError, match=r"an Edit or a Removal, but .* a (str|tuple)"):
            client.what_if(PICTURE, wrong)
    for wrong in (float("nan"), float("inf"), "5", True, None, 1e39, -2e6, 10**400):
        with pytest.raises(InvalidEditError, match="finite"):
            Edit("fur", wrong)
    with pytest.raises(InvalidEditError, match="where of an edit is a Place"):
        Edit("fur", 1.0, (0, 0, 5, 5))
    assert Edit("fur", np.float32(2)).strength == 2
    with pytest.raises(UnknownClassError):
        client.rules("cow")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    "one", ["boat.jpg", Path("boat.jpg"), jpeg(), PICTURE, PICTURE[..., 0], Image.new("L", (8, 8))]
)
def test_one_picture_is_not_taken_for_many(kind, one):
    """A path would be taken for pictures named as its letters are, an array for its rows."""
    with pytest.raises(InvalidPictureError, match="this is one"):
        kind("127.0.0.1:9").explain_many(one)


def test_an_array_of_paths_is_many_pictures(client, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        Image.fromarray(PICTURE).save(path)
    for kind in (str, Path):
        outcomes = list(client.explain_many(np.array([kind(path) for path in paths])))
        assert [outcome.get().label for outcome in outcomes] == [client.explain(PICTURE).label] * 3


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_call_has_a_limit(client, timeout_s):
    with pytest.raises(ValueError, match="positive number of seconds"):
        client.explain(PICTURE, timeout_s=timeout_s)
    with pytest.raises(ValueError, match="positive number of seconds"):
        Client(timeout_s=timeout_s)


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


def test_a_deadline_holds_for_one_call_alone(client, server):
    client.explain(PICTURE)
    server.delay_s = 3.0
    started_s = time.monotonic()
    try:
        with pytest.raises(DeadlineExceededError):
            client.explain(PICTURE, timeout_s=0.1)
        assert time.monotonic() - started_s < 2
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


def test_a_comparison_says_what_changed_since_the_last_version():
    """By the names of concepts, which may stand elsewhere in another version, or be new."""
    first = MockModel(["cat", "dog"], ["tail", "fur", "leash"], version=1)
    second = MockModel(["dog", "cat"], ["fur", "wing", "tail"], version=2, seed=1)
    with mock_server(first) as server, Client(server.address) as client:
        before = client.explain(PICTURE, target="cat")
        server.model = second
        after = client.explain(PICTURE, target="cat")
    assert (before.version, after.version) == (1, 2)
    comparison = before.compare(Explanation.from_json(after.to_json(maps=False)))
    assert comparison.title == "cat (mock version 1) -> cat (mock version 2)"
    total = sum(one.change for one in comparison.changes) + comparison.rest_change + comparison.bias_change
    assert comparison.logit_change == pytest.approx(total, abs=1e-4) == pytest.approx(after.logit - before.logit)
    shown = {one.name: (one.before, one.after) for one in comparison.changes}
    for explanation, place in ((before, 0), (after, 1)):
        told = {concept.name: concept.contribution for concept in explanation.concepts}
        assert {name: values[place] for name, values in shown.items() if values[place] is not None} == told
    assert "hidden" in str(comparison)


def test_an_asynchronous_client_in_another_loop_says_so(server):
    client = AsyncClient(server.address)
    assert asyncio.run(client.explain(PICTURE)).label
    with pytest.raises(InvalidConnectionError, match="another event loop"):
        asyncio.run(client.explain(PICTURE))
    asyncio.run(client.close())


def test_pictures_are_read_from_stores_by_their_url(client):
    import fsspec

    with fsspec.open("memory://pictures/one.jpg", "wb") as file:
        file.write(jpeg())
    assert client.explain("memory://pictures/one.jpg") == client.explain(jpeg())
    with pytest.raises(InvalidPictureError, match=r"pictures/two\.jpg cannot be read"):
        client.explain("memory://pictures/two.jpg")
    with pytest.raises(InvalidPictureError, match=r"127\.0\.0\.1:9/a\.jpg cannot be read \(Cannot connect to host"):
        client.explain("http://127.0.0.1:9/a.jpg")
    with pytest.raises(InvalidPictureError, match=r"stores are s3://"):
        client.explain("foo://pictures/a.jpg")


def test_missing_credentials_of_a_store_name_the_variables(client, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InvalidPictureError, match=r"Unable to locate credentials.*AWS_ACCESS_KEY_ID"):
        client.explain("s3://photos/a.jpg")


def test_the_fixture_is_a_server_with_a_contract(salf_server):
    with Client(salf_server.address) as client:
        assert client.explain(PICTURE).label in ("cat", "dog", "bird")
    assert salf_server.calls["ModelInfer"] == 1


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_call_that_failed_lets_go_of_its_picture(kind, server):
    """At once: under many failures, what waits for the garbage collector is many pictures."""

    def failed(image):
        with Client(server.address) as client, pytest.raises(InvalidRequestError):
            client.explain(image)

    async def failed_async(image):
        async with AsyncClient(server.address) as client:
            with pytest.raises(InvalidRequestError):
                await client.explain(image)

    image = Image.new("RGB", (200, 200))
    server.fail("INVALID_ARGUMENT")
    gc.collect()
    gc.disable()
    try:
        failed(image) if kind is Client else asyncio.run(failed_async(image))
        left = weakref.ref(image)
        del image
        assert left() is None
    finally:
        gc.enable()
