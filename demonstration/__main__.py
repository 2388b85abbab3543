"""Explain pictures with the real Triton, and show what it saw: `python -m demonstration`."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from demonstration.paths import OUTPUT, PICTURES, REPOSITORY
from salf_cli.tables import explanation_table
from salf_client import Client, ClientError, ConceptEvidence, Explanation, ModelInfo
from salf_contract import sum_tolerance
from salf_serving import ServingError, free_port, launch

#: How many concepts are drawn for each picture, and how many of them, those most for its class, are printed.
DRAWN, PRINTED = 10, 5


class DemonstrationError(Exception):
    """The demonstration's own files are missing, or an answer is wrong."""


@dataclass(frozen=True)
class Shown:
    """One picture with its answer.

    Attributes:
        picture: the file.
        truth: its class.
        explanation: the server's answer.
        png: the drawing of it.
    """

    picture: Path
    truth: str
    explanation: Explanation
    png: Path

    def to_dict(self) -> dict[str, Any]:
        """The picture's entry in summary.json."""
        answer = self.explanation.to_dict()
        by_name = {concept["name"]: concept for concept in answer["concepts"]}
        return {
            "picture": self.picture.name,
            "label": answer["label"],
            "truth": self.truth,
            "probability": answer["predicted_probability"],
            "concepts": [by_name[concept.name] for concept in most_for(self.explanation)],
            "latency_ms": answer["latency_ms"],
            "png": self.png.name,
        }


def main() -> int:
    """Run the demonstration; returns the exit status."""
    console = Console()
    try:
        truths = read_truths(PICTURES)
        with console.status("starting Triton ..."), launch(REPOSITORY, grpc_port=free_port()) as server:
            console.print(f"Triton {server.version} answers at {server.grpc_address}\n", highlight=False)
            with Client(server.grpc_address) as client:
                model = only_model(client)
                shown = explain_all(client, truths, OUTPUT, console, top=min(DRAWN, model.top))
        summary = {
            "pictures": [one.to_dict() for one in shown],
            "server": {"version": server.version, "backend": model.backend},
        }
        (OUTPUT / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    except (DemonstrationError, ClientError, ServingError, OSError) as error:
        Console(stderr=True).print(Text(f"the demonstration failed: {error}", style="red"), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    right = sum(one.explanation.label == one.truth for one in shown)
    console.print(f"{right} of {len(shown)} pictures are named right. Now look at the drawings:", highlight=False)
    for path in [*(one.png for one in shown), OUTPUT / "summary.json"]:
        console.print(f"  {_from_here(path)}", soft_wrap=True, highlight=False, markup=False)
    return 0


def read_truths(folder: Path) -> dict[Path, str]:
    """Which pictures to explain, and their classes.

    Args:
        folder: holds the pictures and truth.json: {"file.jpg": {"truth": "class"}}.

    Raises:
        DemonstrationError: there is no truth.json, or a picture in it is missing.
    """
    try:
        document = json.loads((folder / "truth.json").read_text())
        truths = {folder / name: str(entry["truth"]) for name, entry in sorted(document.items())}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DemonstrationError(
            f"{folder / 'truth.json'} cannot be read ({error}); check the clone out again"
        ) from error
    missing = [str(picture) for picture in truths if not picture.is_file()]
    if missing or not truths:
        raise DemonstrationError(f"pictures are missing: {', '.join(missing) or folder}; check the clone out again")
    return truths


def only_model(client: Client) -> ModelInfo:
    """The demonstration's model.

    Raises:
        DemonstrationError: the repository holds none, or more than one.
    """
    models = client.models()
    if len(models) != 1:
        names = ", ".join(model.name for model in models) or "none"
        raise DemonstrationError(
            f"expected one explain model in {REPOSITORY}, found {names}; check the clone out again"
        )
    return models[0]


def explain_all(client: Client, truths: dict[Path, str], output: Path, console: Console, *, top: int) -> list[Shown]:
    """Explain every picture, print and draw each explanation.

    Raises:
        DemonstrationError: an answer does not add up.
        ClientError: the server could not answer.
    """
    output.mkdir(exist_ok=True)
    client.explain(next(iter(truths)))  # the first call looks names up and warms the server: not to be timed
    explanations = {picture: client.explain(picture, top=top) for picture in truths}
    shown = []
    for picture, explanation in explanations.items():
        check_sum(explanation, picture)
        truth = truths[picture]
        png = output / f"{picture.stem}.png"
        explanation.plot(image=picture, path=png)
        title = f"{picture.name} ({'right' if explanation.label == truth else f'truth: {truth}'})"
        console.print(explanation_table(explanation, title=title, concepts=most_for(explanation)))
        console.print()
        shown.append(Shown(picture=picture, truth=truth, explanation=explanation, png=png))
    return shown


def most_for(explanation: Explanation) -> list[ConceptEvidence]:
    """The concepts that spoke most for the class, by being present or by being absent.

    Where fewer than five did, the strongest that spoke against it follow.
    """
    ranked = sorted(explanation.concepts, key=lambda concept: (not concept.speaks_for, -abs(concept.contribution)))
    return ranked[:PRINTED]


def check_sum(explanation: Explanation, picture: Path) -> None:
    """Contributions, rest and bias must sum to the logit.

    Raises:
        DemonstrationError: they do not.
    """
    parts = [*(concept.contribution for concept in explanation.concepts), explanation.rest_contribution]
    total = sum(parts) + explanation.bias
    if not abs(total - explanation.logit) <= sum_tolerance(np.array(parts)):
        raise DemonstrationError(
            f"the evidence for {picture.name} sums to {total:.6f}, but the logit is {explanation.logit:.6f}; "
            f"export the model again"
        )


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


if __name__ == "__main__":
    sys.exit(main())
