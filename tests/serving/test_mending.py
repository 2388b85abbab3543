"""What the supervisor does about wrong probes and dead workers, without a server."""

import threading
from types import SimpleNamespace

import pytest

from salf_serving.mending import RELOAD_AFTER, RESTART_AFTER, mend_models
from salf_serving.probing import Probing
from salf_serving.status import Status


class Triton:
    """Counts what is done to it, in the place of a KeptTriton."""

    def __init__(self, *, dead_workers=(), reload_helps=True) -> None:
        self.done: list[str] = []
        self._dead, self._reload_helps = dead_workers, reload_helps
        self.server = SimpleNamespace(grpc_address="127.0.0.1:1")

    def died(self) -> bool:
        return False

    def dead_workers(self) -> tuple[str, ...]:
        return tuple(self._dead)

    def start_again(self, reason: str) -> None:
        self.done.append(f"start: {reason}")

    def reload(self, model: str, reason: str) -> bool:
        self.done.append(f"reload {model}: {reason}")
        return self._reload_helps


@pytest.fixture
def mend(tmp_path):
    """Mend once, after so many wrong probes of each model; returns what is still counted as wrong."""

    def run(triton: Triton, wrong: dict[str, int]) -> dict[str, tuple[int, str]]:
        steady = threading.Lock()
        probing = Probing(triton, tmp_path, Status(), interval_s=1, timeout_s=1, steady=steady)
        probing.wrong = {model: (times, f"{model} is wrong") for model, times in wrong.items()}
        mend_models(triton, probing, steady=steady, say_unready=lambda _model, _reason: None)
        return probing.wrong

    return run


def test_a_hanging_triton_with_many_models_is_started_again_once(mend):
    triton = Triton()
    assert mend(triton, dict.fromkeys("abcdefg", RESTART_AFTER)) == {}
    assert triton.done == ["start: a is wrong"]


def test_a_new_triton_ends_the_mending_of_all_models(mend):
    triton = Triton(dead_workers=("a", "b"), reload_helps=False)
    assert mend(triton, {"c": RELOAD_AFTER, "d": RESTART_AFTER}) == {}
    assert triton.done == ["reload a: a worker of it died"]
    triton = Triton(reload_helps=False)
    assert mend(triton, {"c": RELOAD_AFTER, "d": RELOAD_AFTER}) == {}
    assert triton.done == ["reload c: c is wrong"]


def test_each_wrong_model_gets_new_workers_once(mend):
    triton = Triton(dead_workers=("a",))
    wrong = mend(triton, {"a": RELOAD_AFTER - 1, "b": RELOAD_AFTER, "c": RELOAD_AFTER, "d": RELOAD_AFTER + 1})
    assert triton.done == ["reload a: a worker of it died", "reload b: b is wrong", "reload c: c is wrong"]
    assert {model: times for model, (times, _) in wrong.items()} == {
        "a": RELOAD_AFTER - 1, "b": RELOAD_AFTER + 1, "c": RELOAD_AFTER + 1, "d": RELOAD_AFTER + 1
    }  # fmt: skip
