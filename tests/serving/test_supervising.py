"""The supervisor's threads, without a server."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from served import wait_until

from salf_serving import FrontSettings, LaunchSettings, ServeSettings, ServingError, free_port, serve
from salf_serving.errors import ServerDiedError
from salf_serving.supervisor import _Supervisor


class Front:
    """Counts looks, in the place of a KeptFront; an error is raised once."""

    def __init__(self) -> None:
        self.looks, self.error = 0, None

    def look_after(self) -> None:
        self.looks += 1
        if self.error is not None:
            error, self.error = self.error, None
            raise error

    def set_flags(self, *, ready: bool, right: bool, out: bool) -> None:
        self.flags = (ready, right, out)


@pytest.fixture
def supervisor(tmp_path):
    (tmp_path / "run").mkdir()
    settings = ServeSettings(
        launch=LaunchSettings(repository=tmp_path, log_file=tmp_path / "triton.log"), front=FrontSettings()
    )
    one = _Supervisor(settings, tmp_path / "run", tmp_path)
    one._front = Front()
    one._triton = SimpleNamespace(died=lambda: False, dead_workers=lambda: ())
    thread = threading.Thread(target=one._look_after_front, args=(one._front,), daemon=True)
    thread.start()
    yield one
    one._stopping.set()
    thread.join(5)
    assert not thread.is_alive()


def test_the_front_is_looked_after_while_the_main_thread_waits_for_a_model(supervisor):
    time.sleep(0.5)
    assert supervisor._front.looks >= 3


def test_an_odd_error_of_the_front_is_not_its_end_but_too_many_deaths_are(supervisor):
    supervisor._front.error = ValueError("odd")
    looks = supervisor._front.looks
    wait_until(lambda: supervisor._front.looks > looks + 2, what="the next looks")
    supervisor._front.error = ServerDiedError("nginx died 6 times")
    with pytest.raises(ServerDiedError, match="nginx died 6 times"):
        supervisor.watch_over()


def test_the_front_is_told_of_wrong_answers(supervisor):
    supervisor._say_ready()
    assert supervisor._front.flags == (True, True, False)
    supervisor._probing.untrue.add("a")
    supervisor._status.set_problem("model a", "answered wrongly")
    supervisor._say_ready()
    assert supervisor._front.flags == (False, False, False)
    supervisor._probing.taken_out(["a"])
    supervisor._say_ready()
    assert supervisor._front.flags == (False, True, True)
    supervisor._probing.proved_right(["a"])
    supervisor._status.set_problem("model a", None)
    supervisor._say_ready()
    assert supervisor._front.flags == (True, True, False)


def test_readiness_is_logged_when_it_changes(supervisor, caplog):
    caplog.set_level("INFO", "salf_serving")
    for _ in range(3):
        supervisor._say_ready()
    supervisor._status.set_problem("front", "the front's certificate is not valid now")
    for _ in range(3):
        supervisor._say_ready()
    supervisor._status.set_problem("front", None)
    supervisor._say_ready()
    assert caplog.messages == ["ready", "not ready: front: the front's certificate is not valid now", "ready"]


@pytest.mark.parametrize(
    ("grpc", "metrics", "status", "said"),
    [
        (8001, None, 8001, "--port and --status-port are both 8001"),
        (8001, 8001, 8003, "--port and --metrics-port are both 8001"),
        (8001, 8002, 8002, "--metrics-port and --status-port are both 8002"),
    ],
)
def test_each_port_is_given_once(tmp_path, grpc, metrics, status, said):
    with pytest.raises(ServingError, match=said):
        ServeSettings(
            launch=LaunchSettings(repository=tmp_path, grpc_port=grpc, metrics_port=metrics), status_port=status
        )


def test_wrong_tokens_and_addresses_are_told_before_models_load(tmp_path, monkeypatch, nginx, tiny):
    """Loading may take minutes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("SALF_NGINX", str(nginx))
    monkeypatch.setattr(_Supervisor, "_stop", lambda _supervisor: None)
    monkeypatch.setattr("salf_serving.kept_triton.launched", lambda _settings: pytest.fail("a model was loaded"))
    tiny.write(tmp_path / "models")
    launch = LaunchSettings(repository=tmp_path / "models", grpc_port=free_port())
    for front, said in (
        (FrontSettings(tokens=tmp_path / "none"), r"the tokens in .*none cannot be read: No such file or directory$"),
        (FrontSettings(address="192.0.2.1", allow_plaintext=True), "192.0.2.1 is no address of this host"),
    ):
        with pytest.raises(ServingError, match=said):
            serve(ServeSettings(launch=launch, front=front))
    in_the_way = tmp_path / "file"
    in_the_way.touch()
    logs = replace(launch, log_file=in_the_way / "triton.log")
    with pytest.raises(ServingError, match=r"the front's log .* cannot be written"):
        serve(ServeSettings(launch=logs, front=FrontSettings()))


def test_the_watch_survives_what_nobody_thought_of(supervisor, monkeypatch):
    looks = []

    def look():
        looks.append(1)
        raise ValueError("odd")

    monkeypatch.setattr(supervisor._watch, "look", look)
    monkeypatch.setattr(supervisor, "_settings", SimpleNamespace(watch_interval_s=0.01))
    threading.Thread(target=supervisor._look_again_and_again, args=(supervisor._stopping,), daemon=True).start()
    wait_until(lambda: len(looks) > 2)
