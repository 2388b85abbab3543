"""Concept sets: proposed by a language model, filtered, every dropped concept listed with its reason.

Source: Oikarinen et al., "Label-free CBM", ICLR 2023, section 3.1; SALF-CBM takes its lists over.
"""

from salf_training.concept_sets.answers import phrases_in
from salf_training.concept_sets.endpoint import ChatEndpoint, ask, key_from_environment
from salf_training.concept_sets.filtering import filter_file, write_names
from salf_training.concept_sets.filters import ConceptFilters, filter_absent, filter_texts, filter_unlearnt, presence
from salf_training.concept_sets.proposing import Proposal, propose_concepts, read_questions
from salf_training.concept_sets.report import ConceptReport, DroppedConcept

__all__ = [
    "ChatEndpoint",
    "ConceptFilters",
    "ConceptReport",
    "DroppedConcept",
    "Proposal",
    "ask",
    "filter_absent",
    "filter_file",
    "filter_texts",
    "filter_unlearnt",
    "key_from_environment",
    "phrases_in",
    "presence",
    "propose_concepts",
    "read_questions",
    "write_names",
]
