"""The example web service: the real server's answers, and an HTTP status for each way to fail."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from examples.explaining_service import LARGEST_UPLOAD_BYTES, STATUSES, Prediction, create_app, prediction
from salf_client import Client, ClientError, errors
from salf_client.testing import MockServer, mock_server
from salf_serving import RunningServer, free_port

ROOT = Path(__file__).resolve().parents[2]
HARBOUR = (ROOT / "demonstration" / "pictures" / "harbour.jpg").read_bytes()


@pytest.fixture
def mock() -> Iterator[MockServer]:
    with mock_server() as server:
        yield server


@pytest.fixture
def service(mock: MockServer) -> Iterator[TestClient]:
    with TestClient(create_app(mock.address, timeout_s=0.6)) as asked:
        yield asked


def ask(service: TestClient, picture: bytes = HARBOUR, **query: str | int):
    return service.post("/predictions", params=query, files={"picture": ("picture.jpg", picture)})


def test_a_prediction_comes_with_the_reasons_that_the_client_gives(triton_server: RunningServer) -> None:
    with TestClient(create_app(triton_server.grpc_address, timeout_s=30)) as service:
        answer = ask(service, top=3)
        why_not = ask(service, target="farm")
        assert service.get("/readyz").status_code == 200
    with Client(triton_server.grpc_address) as client:
        expected = prediction(client.explain(HARBOUR, top=3))
    assert answer.status_code == 200
    got = Prediction.model_validate(answer.json())
    assert got.model_copy(update={"reasons": []}) == expected.model_copy(update={"reasons": []})
    assert [reason.concept for reason in got.reasons] == [reason.concept for reason in expected.reasons]
    assert any(reason.strongest_at for reason in got.reasons)
    assert why_not.json()["label"] == "farm"


def test_bad_pictures_and_questions_are_the_callers(service: TestClient) -> None:
    broken = ask(service, b"\xff\xd8\xff no picture")
    assert broken.status_code == 422
    assert "picture" in broken.json()["detail"]
    assert ask(service, target="no such class").status_code == 422
    assert ask(service, top=99).status_code == 422
    assert ask(service, b"0" * (LARGEST_UPLOAD_BYTES + 1)).status_code == 413


def test_overload_is_503_and_says_when_to_come_back(service: TestClient, mock: MockServer) -> None:
    assert ask(service).status_code == 200
    mock.fail("RESOURCE_EXHAUSTED", "too many requests at once", times=20)
    refused = ask(service)
    assert refused.status_code == 503
    assert int(refused.headers["Retry-After"]) > 0
    assert mock.address not in refused.text


def test_a_late_answer_is_504(service: TestClient, mock: MockServer) -> None:
    assert ask(service).status_code == 200
    mock.delay_s = 1.0
    assert ask(service).status_code == 504


def test_a_fault_of_the_server_is_502_and_keeps_its_words_to_itself(service: TestClient, mock: MockServer) -> None:
    mock.fail("INTERNAL", "tensor 0xdeadbeef at node 7", times=20)
    failed = ask(service)
    assert failed.status_code == 502
    assert "deadbeef" not in failed.text


def test_several_servers_share_the_work(monkeypatch: pytest.MonkeyPatch, mock: MockServer) -> None:
    with mock_server() as other:
        monkeypatch.setenv("SALF_URL", f"{mock.address} {other.address}")
        with TestClient(create_app()) as service:
            assert {ask(service).status_code for _ in range(6)} == {200}
        assert mock.calls["ModelInfer"]
        assert other.calls["ModelInfer"]


def test_health_tells_the_process_from_its_server(service: TestClient, mock: MockServer) -> None:
    assert service.get("/readyz").status_code == 200
    mock.ready = False
    assert service.get("/healthz").status_code == 200
    assert service.get("/readyz").status_code == 503
    with TestClient(create_app(f"127.0.0.1:{free_port()}", timeout_s=0.5)) as alone:
        assert alone.get("/healthz").status_code == 200
        assert alone.get("/readyz").status_code == 503
        assert ask(alone).status_code == 503


#: What callers hear of each error that is not the service's own fault; all others are 502.
EXPECTED = {
    "InvalidPictureError": 422,
    "UnknownClassError": 422,
    "TopOutOfRangeError": 422,
    "MessageTooLargeError": 413,
    "DeadlineExceededError": 504,
    "ServerOverloadedError": 503,
    "QueueTimeoutError": 503,
    "ServerNotReadyError": 503,
    "ServerUnavailableError": 503,
}


def test_every_error_of_the_client_has_its_status() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ClientError)]
    found = {kind.__name__: next(row[1] for row in STATUSES if issubclass(kind, row[0])) for kind in kinds}
    assert found == {kind.__name__: 502 for kind in kinds} | EXPECTED


def test_the_schema_names_answers_and_problems(service: TestClient) -> None:
    document = service.get("/openapi.json").json()
    answers = document["paths"]["/predictions"]["post"]["responses"]
    assert {"200", "413", "422", "502", "503", "504"} <= set(answers)
    assert {"Prediction", "Reason", "Problem"} <= set(document["components"]["schemas"])
