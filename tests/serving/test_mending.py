"""What the supervisor does about wrong probes and dead workers, without a server."""

import threading
from types import SimpleNamespace

import pytest

from salf_serving.mending import RELOAD_AFTER, RESTART_AFTER, mend_models
from salf_serving.probing import Probing
from salf_serving.status import Status


class Triton:
    """Counts what is done to it, in the place of a KeptTriton."""

    def __init__(self, *, dead_workers=(), reload_helps=True, can_take_out=True) -> None:
        self.done: list[str] = []
        self._dead, self._reload_helps, self._can_take_out = dead_workers, reload_helps, can_take_out
        self.server = SimpleNamespace(grpc_address="127.0.0.1:1")

    def died(self) -> bool:
        return False

    def dead_workers(self) -> tuple[str, ...]:
        return tuple(self._dead)

    def start_again(self, reason: str) -> None:
        self.done.append(f"start: {reason}")

    def take_out(self, model: str) -> bool:
        self.done.append(f"take out {model}")
        return self._can_take_out

    def reload(self, model: str, reason: str) -> bool:
        self.done.append(f"reload {model}: {reason}")
        return self._reload_helps


@pytest.fixture
def mend(tmp_path):
    """Mend after so many wrong probes of each model; returns what is still counted as wrong."""

    def run(triton: Triton, *probes: dict[str, int], untrue=()) -> dict[str, tuple[int, str]]:
        steady = threading.Lock()
        probing = Probing(triton, tmp_path, Status(), interval_s=1, timeout_s=1, steady=steady)
        probing.untrue = set(untrue)

        def say_unready(_model: str, _reason: str) -> None:
            if untrue:
                triton.done.append(f"refused: {sorted(probing.untrue)}")

        for wrong in probes:
            probing.wrong = {model: (times, f"{model} is wrong") for model, times in wrong.items()}
            mend_models(triton, probing, steady=steady, say_unready=say_unready)
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


def test_models_that_answer_wrong_are_taken_out_before_the_first_gets_new_workers(mend):
    triton = Triton()
    wrong = mend(triton, {"a": 1, "b": 2}, untrue=("a", "b"))
    assert triton.done[:4] == ["refused: ['a', 'b']", "refused: ['a', 'b']", "take out a", "take out b"]
    assert [done for done in triton.done if done.startswith("reload")] == [
        "reload a: a is wrong",
        "reload b: b is wrong",
    ]
    told = [done for done in triton.done[4:] if done.startswith("refused")]
    assert told == ["refused: []"] * 2, "all others go on, and each model is told of once before it gets new workers"
    assert {model: times for model, (times, _) in wrong.items()} == {"a": RELOAD_AFTER + 1, "b": RELOAD_AFTER + 1}


def test_a_model_that_cannot_be_taken_out_keeps_everybody_out_until_it_has_new_workers(mend):
    triton = Triton(can_take_out=False)
    mend(triton, {"a": RELOAD_AFTER}, untrue=("a",))
    refused = "refused: ['a']"
    assert triton.done == [refused, "take out a", refused, "reload a: a is wrong"]


def test_a_model_that_cannot_be_taken_out_is_tried_once_for_each_wrong_probe(mend):
    triton = Triton(can_take_out=False)
    mend(triton, {"a": 1}, {"a": 1}, {"a": 1}, untrue=("a",))
    assert triton.done.count("take out a") == 1
    mend(triton, {"a": 1}, {"a": 1}, {"a": RELOAD_AFTER}, untrue=("a",))
    assert triton.done.count("take out a") == 1 + 2


def test_a_model_that_new_workers_do_not_help_makes_triton_start_again(mend):
    triton = Triton()
    mend(triton, {"a": RESTART_AFTER}, untrue=("a",))
    assert triton.done == ["refused: ['a']", "start: a is wrong"]
