"""A model that is reloaded under a client: new versions are looked up once, and never guessed."""

import numpy as np
import pytest

from salf_client import (
    Client,
    CompanionNotFoundError,
    ContractMismatchError,
    Edit,
    InvalidRequestError,
    TopOutOfRangeError,
    UnknownClassError,
    UnknownConceptError,
)
from salf_client.testing import MockModel, mock_server

SMALL = np.zeros((40, 40, 3), np.uint8)


def test_a_new_version_is_looked_up_once(client, server, linear_model, picture):
    client.explain(picture)
    server.serve(linear_model(seed=1, version=2, concepts=30))
    server.calls.clear()
    explanation = client.explain(picture)
    assert explanation.version == 2
    assert server.calls == ["infer", "repository_index", "model_config"]
    server.calls.clear()
    assert client.explain(picture).version == 2
    assert server.calls == ["infer"]


def test_going_back_to_a_known_version_needs_no_look_up(client, server, linear_model, picture):
    client.explain(picture)
    server.serve(linear_model(seed=1, version=2))
    client.explain(picture)
    server.serve(linear_model())
    server.calls.clear()
    assert client.explain(picture).version == 1
    assert server.calls == ["infer"]


def test_a_new_input_size_is_prepared_anew(client, server, linear_model, picture):
    client.explain(picture)
    server.serve(linear_model(version=2, size=(40, 40)))
    assert client.explain(picture).version == 2
    assert server.requests[-1][1]["image"].shape == (1, 40, 40, 3)
    assert [call for call in server.calls if call == "infer"] == ["infer"] * 3


def test_a_class_that_moved_is_asked_for_again(client, server, linear_model, picture):
    client.explain(picture)
    moved = linear_model(version=2)
    moved.metadata = moved.metadata.model_copy(update={"classes": ("class 3", "class 2", "class 1", "class 0")})
    server.serve(moved)
    explanation = client.explain(picture, target="class 3")
    assert (explanation.target, explanation.target_index, explanation.version) == ("class 3", 0, 2)


def test_an_answer_that_no_metadata_describes_is_refused_after_one_look_up(client, server, linear_model, picture):
    client.explain(picture)
    server.serve(linear_model(version=2), describe=False)
    server.documents["scenes"].pop(2, None)
    server.served["scenes"].metadata = server.served["scenes"].metadata.model_copy(update={"version": 1, "top": 5})
    server.calls.clear()
    with pytest.raises(ContractMismatchError, match="contract id"):
        client.explain(picture)
    assert server.calls == ["infer", "repository_index", "model_config"]


def test_a_refused_request_is_not_repeated_if_nothing_changed(client, server, picture):
    client.explain(picture)

    def refuse(_server):
        raise InvalidRequestError("refused")

    server.before_infer = refuse
    server.calls.clear()
    with pytest.raises(InvalidRequestError):
        client.explain(picture)
    assert server.calls.count("infer") == 1


def test_a_shared_client_answers_threads_through_a_reload(server, linear_model, picture):
    from concurrent.futures import ThreadPoolExecutor

    client = Client(transport=server)
    with ThreadPoolExecutor(4) as threads:
        futures = [threads.submit(client.explain, picture) for _ in range(40)]
        server.serve(linear_model(seed=3, version=2, size=(16, 16)))
        futures += [threads.submit(client.explain, picture) for _ in range(40)]
        versions = [future.result().version for future in futures]
    assert set(versions) <= {1, 2}
    assert versions[-1] == 2


@pytest.mark.parametrize(
    ("ask", "error"),
    [
        (lambda client: client.explain(SMALL, target="bird"), UnknownClassError),
        (lambda client: client.explain(SMALL, top=4), TopOutOfRangeError),
        (lambda client: client.what_if(SMALL, Edit("wing", 1.0)), UnknownConceptError),
        (lambda client: client.concept_maps(SMALL), CompanionNotFoundError),
        (lambda client: client.rules("bird"), UnknownClassError),
    ],
)
def test_what_only_a_new_version_has_may_be_the_first_thing_that_is_asked_of_it(ask, error):
    """No answer would tell the client of that version: it used to refuse such questions without sending any."""
    old = MockModel(["cat", "dog"], ["tail", "fur", "leash"], version=1)
    roles = ("explain", "what_if", "all_scores")
    with mock_server(old, roles=roles) as server, Client(server.address) as client:
        assert client.explain(SMALL).version == 1
        looks = server.calls["RepositoryIndex"]
        with pytest.raises(error):
            ask(client)
        assert server.calls["RepositoryIndex"] == looks + 1  # there is nothing new
        server.model = MockModel(["bird", "cat"], ["wing", "tail", "fur", "beak"], version=2)
        server.roles = (*roles, "all_maps")
        assert ask(client)
        assert client.model().version == 2


def test_a_first_question_that_is_wrong_costs_one_look_up():
    with mock_server() as server, Client(server.address) as client:
        with pytest.raises(UnknownClassError):
            client.explain(SMALL, target="cow")
        assert server.calls["RepositoryIndex"] == 1
