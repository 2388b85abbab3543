"""New workers for a model that lost one or answers wrong, and a new Triton if they do not help.

While a model is known to answer wrong, nobody may be answered: the front cannot see which model a request asks. So such
a model is taken out of Triton at once, and the others go on while it gets new workers.
"""

import threading
from collections.abc import Callable

from salf_serving.kept_triton import KeptTriton
from salf_serving.probing import Probing

#: Wrong probes in a row before a model gets new workers, and before Triton is started again.
RELOAD_AFTER, RESTART_AFTER = 2, 5


def mend_models(
    triton: KeptTriton, probing: Probing, *, steady: threading.Lock, say_unready: Callable[[str, str], None]
) -> None:
    """Mend one model after the other, until Triton had to be started again: a new Triton has mended them all.

    Args:
        triton: that serves the models.
        probing: what it found wrong.
        steady: held while models are probed, and here while they are mended.
        say_unready: told of a model and what is wrong with it, before that takes its time.

    Raises:
        ServerDiedError: Triton had to be started again, and died too often.
    """
    for model in _taken_out(triton, probing, steady=steady, say_unready=say_unready):
        times, said = probing.fault_of(model)
        if not _reload(triton, probing, model, said, steady=steady, say_unready=say_unready):
            return
        probing.wrong[model] = (max(times, RELOAD_AFTER + 1), said)
    for model in triton.dead_workers():
        if not _reload(triton, probing, model, "a worker of it died", steady=steady, say_unready=say_unready):
            return
    for model, (times, said) in list(probing.wrong.items()):
        if times >= RESTART_AFTER:
            with steady:
                if not triton.died():
                    triton.start_again(said)
                    probing.forget()
            return
        if times == RELOAD_AFTER:
            if not _reload(triton, probing, model, said, steady=steady, say_unready=say_unready):
                return
            probing.wrong[model] = (times + 1, said)


def _taken_out(
    triton: KeptTriton, probing: Probing, *, steady: threading.Lock, say_unready: Callable[[str, str], None]
) -> list[str]:
    """Models that answer wrong, and that nobody can ask any more. The front hears of it when the first is mended."""
    for model in sorted(probing.untrue):  # the front refuses all inferences before it could hear of a missing model
        say_unready(model, probing.fault_of(model)[1])
    if not probing.untrue:
        return []
    taken = []
    with steady:
        for model in sorted(probing.untrue):
            times, _ = probing.fault_of(model)
            # What could not be taken out is tried again after the next wrong probe, not at every turn.
            if times >= RESTART_AFTER or times == probing.kept_in.get(model) or triton.died():
                continue
            if triton.take_out(model):
                taken.append(model)
            else:
                probing.kept_in[model] = times
        probing.taken_out(taken)
    return taken


def _reload(
    triton: KeptTriton,
    probing: Probing,
    model: str,
    reason: str,
    *,
    steady: threading.Lock,
    say_unready: Callable[[str, str], None],
) -> bool:
    """Whether the same Triton goes on."""
    say_unready(model, reason)
    with steady:
        if triton.died():
            return False
        if not triton.reload(model, reason):
            probing.forget()
            return False
        probing.proved_right([model])
    return True
