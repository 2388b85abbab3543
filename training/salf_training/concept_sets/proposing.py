"""Concepts proposed by a language model: three questions for each class, every raw answer kept."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from salf_training.concept_sets.answers import phrases_in
from salf_training.concept_sets.endpoint import ChatEndpoint, ask, open_pool
from salf_training.progress import Progress, silent

#: The three questions of Label-free CBM, in the order in which concepts are listed.
QUESTIONS = ("important", "around", "superclass")

_logger = logging.getLogger(__name__)


class _Answer(BaseModel):
    """One line of the answers file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_name: str
    question: str
    asked: str  # hash of model and full question: another model or wording is asked again
    model: str
    answer: str


@dataclass(frozen=True)
class Proposal:
    """What came of asking.

    Attributes:
        concepts: in the order of classes and questions, none twice (in any case).
        asked: questions that were asked now.
        taken_over: questions that had been answered before.
        unusable: (class, question) whose answers held no list, in every attempt; asking again starts with them.
    """

    concepts: tuple[str, ...]
    asked: int
    taken_over: int
    unusable: tuple[tuple[str, str], ...]


def read_questions() -> dict[str, str]:
    """The texts of the three questions; `{name}` stands for the class."""
    folder = files("salf_training.concept_sets") / "questions"
    return {name: (folder / f"{name}.txt").read_text(encoding="utf-8") for name in QUESTIONS}


def propose_concepts(
    classes: Sequence[str],
    endpoint: ChatEndpoint,
    answers_file: Path,
    *,
    questions: Mapping[str, str] | None = None,
    attempts: int = 3,
    connections: int = 4,
    on_progress: Progress = silent,
) -> Proposal:
    """Ask for every class's important features, surroundings and superclasses.

    Args:
        classes: K names.
        endpoint: the language model.
        answers_file: raw answers, one JSON object a line; what it holds is not asked again, so a broken run goes on.
        questions: texts by name with `{name}` for the class; the repository's own by default.
        attempts: how often a question is asked whose answer holds no list.
        connections: questions under way at a time.
        on_progress: told after every question.

    Raises:
        EndpointError: the endpoint does not answer or refuses; answers so far are kept.
    """
    texts = read_questions() if questions is None else questions
    wanted = {(name, question): text.replace("{name}", name) for name in classes for question, text in texts.items()}
    answered = {
        key: found
        for key, found in _read_answers(answers_file).items()
        if key in wanted and found.asked == _asked(endpoint, wanted[key])
    }
    phrases = {key: found for key, answer in answered.items() if (found := phrases_in(answer.answer))}
    open_questions = [key for key in wanted if key not in phrases]
    taken_over = len(phrases)
    on_progress("questions", taken_over, len(wanted))
    answers_file.parent.mkdir(parents=True, exist_ok=True)
    _end_torn_line(answers_file)
    pool = open_pool(endpoint, connections=connections)

    def answer_to(key: tuple[str, str]) -> str:
        for _ in range(attempts):
            answer = ask(endpoint, wanted[key], pool)
            if phrases_in(answer):
                break
        return answer

    with answers_file.open("a", encoding="utf-8") as file, ThreadPoolExecutor(connections) as threads:
        asked = {threads.submit(answer_to, key): key for key in open_questions}
        try:
            for done, future in enumerate(as_completed(asked), start=1):
                key = asked[future]
                answer = future.result()
                line = _Answer(
                    class_name=key[0],
                    question=key[1],
                    asked=_asked(endpoint, wanted[key]),
                    model=endpoint.model,
                    answer=answer,
                )
                file.write(line.model_dump_json() + "\n")
                file.flush()
                if found := phrases_in(answer):
                    phrases[key] = found
                on_progress("questions", taken_over + done, len(wanted))
            os.fsync(file.fileno())
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise
    return Proposal(
        concepts=_distinct(phrase for key in wanted for phrase in phrases.get(key, ())),
        asked=len(open_questions),
        taken_over=taken_over,
        unusable=tuple(key for key in wanted if key not in phrases),
    )


def _asked(endpoint: ChatEndpoint, question: str) -> str:
    return hashlib.sha256(f"{endpoint.model}\n{question}".encode()).hexdigest()[:16]


def _read_answers(file: Path) -> dict[tuple[str, str], _Answer]:
    """The latest answer to each question; a line that a killed run left unfinished is not one."""
    if not file.is_file():
        return {}
    found = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            values: Any = json.loads(line)
            answer = _Answer.model_validate(values)
        except (ValueError, ValidationError):
            _logger.warning("%s: line %d is no answer and is asked again", file, number)
            continue
        found[answer.class_name, answer.question] = answer
    return found


def _end_torn_line(file: Path) -> None:
    """Start on a line of its own after a line that a killed run left unfinished."""
    if file.is_file() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("ab") as end:
            end.write(b"\n")


def _distinct(phrases: Iterator[str]) -> tuple[str, ...]:
    first_of: dict[str, str] = {}
    for phrase in phrases:
        first_of.setdefault(phrase.casefold(), phrase)
    return tuple(first_of.values())
