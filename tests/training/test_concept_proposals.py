"""Proposals of a language model, asked over real HTTP on the loopback."""

import json
import time

import pytest
from chat_server import Reply, chat_server, completion

from salf_training.concept_sets import ChatEndpoint, key_from_environment, phrases_in, propose_concepts, read_questions
from salf_training.errors import EndpointError, SettingsError

LISTS = {
    "features matter most": "- orange fins\n- a round body",
    "most often seen": "1. a bowl\n2. water",
    "broader kinds": "- fish\n- animal",
}


def by_question(question: str, _before: int = 0) -> Reply:
    return completion(next(answer for words, answer in LISTS.items() if words in question))


def endpoint(server, **values) -> ChatEndpoint:
    return ChatEndpoint(url=server.url, model="m-1", **{"backoff_s": 0.01, "timeout_s": 5.0, **values})


def test_the_three_questions_name_the_class_once_before_their_example():
    questions = read_questions()
    assert list(questions) == ["important", "around", "superclass"]
    assert all(text.count("{name}") == 1 for text in questions.values())


def test_each_class_is_asked_three_questions_and_the_answers_become_one_list(tmp_path):
    told = []
    with chat_server(by_question) as server:
        proposal = propose_concepts(
            ("goldfish", "tench"),
            endpoint(server, key="secret"),
            tmp_path / "a.jsonl",
            on_progress=lambda *now: told.append(now),
        )
    assert proposal.concepts == ("orange fins", "a round body", "a bowl", "water", "fish", "animal")
    assert (proposal.asked, proposal.taken_over, proposal.unusable) == (6, 0, ())
    assert len(server.received) == 6
    assert {request.path for request in server.received} == {"/v1/chat/completions"}
    assert {request.headers["Authorization"] for request in server.received} == {"Bearer secret"}
    assert {request.body["model"] for request in server.received} == {"m-1"}
    assert sum("tench" in question.split("Example")[0] for question in server.questions) == 3
    assert told[-1] == ("questions", 6, 6)


def test_raw_answers_are_kept_and_not_asked_again(tmp_path):
    file = tmp_path / "a.jsonl"
    with chat_server(by_question) as server:
        first = propose_concepts(("goldfish",), endpoint(server), file)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert sorted((line["class_name"], line["question"]) for line in lines) == [
            ("goldfish", "around"),
            ("goldfish", "important"),
            ("goldfish", "superclass"),
        ]
        assert {line["answer"] for line in lines} == set(LISTS.values())
        again = propose_concepts(("goldfish", "tench"), endpoint(server), file)
    assert (again.asked, again.taken_over) == (3, 3)
    assert len(server.received) == 6
    assert all("goldfish" not in question.split("Example")[0] for question in server.questions[3:])
    assert again.concepts == first.concepts


def test_a_run_that_was_killed_goes_on_after_its_torn_last_line(tmp_path):
    file = tmp_path / "a.jsonl"
    with chat_server(by_question) as server:
        whole = propose_concepts(("goldfish",), endpoint(server), file)
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(lines[:2]) + lines[2][:25])
        resumed = propose_concepts(("goldfish",), endpoint(server), file)
        assert (resumed.asked, resumed.taken_over) == (1, 2)
        assert resumed.concepts == whole.concepts
        assert propose_concepts(("goldfish",), endpoint(server), file).asked == 0


def test_answers_before_a_failure_are_kept(tmp_path):
    def reply(question, before):
        return Reply("no such model", status=404) if "broader kinds" in question else by_question(question)

    file = tmp_path / "a.jsonl"
    with chat_server(reply) as server, pytest.raises(EndpointError, match="answers 404 for the model 'm-1'"):
        propose_concepts(("goldfish",), endpoint(server), file, connections=1)
    assert len(file.read_text().splitlines()) == 2
    assert len(server.received) == 3, "a refusal is not retried"


def test_another_model_is_asked_itself(tmp_path):
    with chat_server(by_question) as server:
        propose_concepts(("goldfish",), endpoint(server), tmp_path / "a.jsonl")
        other = ChatEndpoint(url=server.url, model="m-2")
        assert propose_concepts(("goldfish",), other, tmp_path / "a.jsonl").asked == 3


def test_a_busy_endpoint_is_asked_again(tmp_path):
    def reply(question, before):
        return by_question(question) if before == 2 else Reply("busy", status=(429, 503)[before])

    with chat_server(reply) as server:
        proposal = propose_concepts(("goldfish",), endpoint(server), tmp_path / "a.jsonl")
    assert len(proposal.concepts) == 6
    assert len(server.received) == 9


def test_retry_after_is_waited_for(tmp_path):
    def reply(question, before):
        return by_question(question) if before else Reply("busy", status=429, headers={"Retry-After": "1"})

    started = time.monotonic()
    with chat_server(reply) as server:
        propose_concepts(("goldfish",), endpoint(server), tmp_path / "a.jsonl")
    assert time.monotonic() - started >= 1


def test_an_endpoint_that_stays_busy_or_silent_is_an_error_that_says_so(tmp_path):
    with (
        chat_server(lambda question, before: Reply("busy", status=429)) as server,
        pytest.raises(EndpointError, match="answers 429"),
    ):
        propose_concepts(("goldfish",), endpoint(server, retries=1), tmp_path / "a.jsonl")
    with (
        chat_server(lambda question, before: Reply("{}", after_s=30)) as server,
        pytest.raises(EndpointError, match=r"does not answer \(0\.2 s, 1 retries\)"),
    ):
        propose_concepts(("goldfish",), endpoint(server, retries=1, timeout_s=0.2), tmp_path / "b.jsonl")
    with pytest.raises(EndpointError, match="does not answer"):
        propose_concepts(("goldfish",), endpoint(server, retries=0), tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    "malformed",
    [
        Reply("<html>gateway</html>"),
        Reply("{}"),
        Reply('{"choices": []}'),
        Reply('{"choices": [{"message": {"content": 7}}]}'),
        Reply("[1, 2]"),
        completion(None),
        completion(""),
        completion("I am sorry, but I cannot help with that."),
    ],
)
def test_a_malformed_answer_is_asked_for_again_then_reported(tmp_path, malformed):
    def reply(question, before):
        return malformed if "broader kinds" in question else by_question(question)

    with chat_server(reply) as server:
        proposal = propose_concepts(("goldfish",), endpoint(server), tmp_path / "a.jsonl", attempts=2)
        assert proposal.unusable == (("goldfish", "superclass"),)
        assert proposal.concepts == ("orange fins", "a round body", "a bowl", "water")
        assert len(server.received) == 4
    with chat_server(by_question) as server:
        healed = propose_concepts(("goldfish",), endpoint(server), tmp_path / "a.jsonl")
    assert (healed.asked, healed.unusable) == (1, ())
    assert "animal" in healed.concepts


@pytest.mark.parametrize(
    ("answer", "phrases"),
    [
        ("- a\n- b", ("a", "b")),
        ("Sure! Here you go:\n\n* **Red roof**\n* `tiles`.\n\nAnything else?", ("Red roof", "tiles")),
        ("1. one\n2) two\n10. ten", ("one", "two", "ten")),
        ("\u2022 one\n\u2013 two", ("one", "two")),
        ('["a", "b"]', ("a", "b")),
        ('```json\n["a",\n "b"]\n```', ("a", "b")),
        ("fish, vertebrate, animal", ("fish", "vertebrate", "animal")),
        ("fish\nvertebrate", ("fish", "vertebrate")),
        ("<think>\n- no\n</think>\n- yes", ("yes",)),
        ("<think>\n- no, and it never ended", ()),
        ("- A tail\n- a tail\n- \n-\n- tail", ("A tail", "tail")),
        ("-not a number -5", ("not a number -5",)),
        ("It has fins and scales, which are orange.", ()),
        ("", ()),
        ('{"a": 1}', ()),
    ],
)
def test_lists_are_understood_and_prose_is_not(answer, phrases):
    assert phrases_in(answer) == phrases


def test_a_missing_key_is_named(monkeypatch):
    monkeypatch.delenv("SALF_TEST_KEY", raising=False)
    with pytest.raises(SettingsError, match="SALF_TEST_KEY is not set"):
        key_from_environment("SALF_TEST_KEY")
    monkeypatch.setenv("SALF_TEST_KEY", " k\n")
    assert key_from_environment("SALF_TEST_KEY") == "k"


def test_a_key_is_not_shown_and_not_sent_in_the_clear():
    assert "secret" not in repr(ChatEndpoint(url="https://e.example/v1", model="m", key="secret"))
    with pytest.raises(SettingsError, match="unencrypted"):
        ChatEndpoint(url="http://e.example/v1", model="m", key="secret")
    for url in ("http://localhost:1/v1", "http://127.0.0.1:1/v1", "http://[::1]:1/v1"):
        ChatEndpoint(url=url, model="m", key="secret")
    with pytest.raises(SettingsError, match="is no URL"):
        ChatEndpoint(url="e.example/v1", model="m")


def test_a_redirect_does_not_carry_the_key_away(tmp_path):
    with chat_server(by_question) as elsewhere:
        redirect = Reply("", status=307, headers={"Location": f"{elsewhere.url}/chat/completions"})
        with (
            chat_server(lambda question, before: redirect) as server,
            pytest.raises(EndpointError, match="answers 307"),
        ):
            propose_concepts(("goldfish",), endpoint(server, key="secret"), tmp_path / "a.jsonl")
    assert elsewhere.received == []
