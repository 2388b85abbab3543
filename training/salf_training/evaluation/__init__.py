"""How good is a checkpoint: accuracy, places, faithfulness; one report for people and one for programs."""

from salf_training.evaluation.document import EvaluationReport
from salf_training.evaluation.evaluating import EvaluationSettings, evaluate_checkpoint

__all__ = ["EvaluationReport", "EvaluationSettings", "evaluate_checkpoint"]
