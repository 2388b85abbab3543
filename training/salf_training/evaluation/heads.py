"""Accuracy of heads with 5 to 30 concepts per class and dense, fitted anew on given training pictures."""

from salf_training.evaluation.document import RefittedHeads
from salf_training.head import HeadTraining
from salf_training.head_choice import LabelledScores, choose_heads
from salf_training.progress import Progress, silent

NECS = (5, 10, 15, 20, 25, 30)


def refit_heads(
    train: LabelledScores,
    held_out: LabelledScores,
    *,
    classes: int,
    settings: HeadTraining | None = None,
    on_progress: Progress = silent,
) -> RefittedHeads:
    """Fit heads on training scores, as training does, and judge them by others.

    Args:
        train: z [N,M].
        held_out: z [P,M].
        classes: K.
        settings: of the path and the refits; its own numbers of concepts are not looked at.
        on_progress: told after every head.
    """
    given = HeadTraining() if settings is None else settings
    necs = given.model_copy(update={"concepts_per_class": NECS[0], "curve": NECS})
    heads = choose_heads(train, held_out, classes=classes, settings=necs, on_progress=on_progress)
    return RefittedHeads(training_pictures=len(train.labels), curve=heads.curve, dense=heads.dense_accuracy)
