"""`salf concepts`: propose a concept list with a language model, and filter one."""

from pathlib import Path
from typing import Annotated

import typer

from salf_cli.failures import one_line_failures, print_json, report, stderr_console

concepts = typer.Typer(name="concepts", help="Propose concept lists, and filter them.", no_args_is_help=True)

_CLASSES = typer.Option(help="Text file with the names of the classes, one a line.", show_default=False)
_OUT = typer.Option(help="Text file for the concepts, one a line.", show_default=False)
_JSON = typer.Option("--json", help="Print the outcome as JSON on stdout.")


@concepts.command(no_args_is_help=True)
@one_line_failures(command="concepts propose", extra="train")
def propose(
    classes: Annotated[Path, _CLASSES],
    endpoint: Annotated[
        str, typer.Option(help="OpenAI-compatible base URL, e.g. http://127.0.0.1:8000/v1.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Name of the language model there.", show_default=False)],
    out: Annotated[Path, _OUT],
    key_env: Annotated[str, typer.Option(help="Environment variable that holds the key.")] = "OPENAI_API_KEY",
    no_key: Annotated[bool, typer.Option("--no-key", help="The endpoint needs no key.")] = False,
    timeout_s: Annotated[float, typer.Option(min=0.1, help="Seconds without an answer until a retry.")] = 60.0,
    connections: Annotated[int, typer.Option(min=1, help="Questions under way at a time.")] = 4,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Ask a language model for each class's features, surroundings and superclasses.

    Raw answers are kept in OUT with the ending .answers.jsonl; a second run asks only what they do not answer.

    Example: salf concepts propose --classes classes.txt --endpoint http://127.0.0.1:8000/v1 --model NAME --no-key \
--out proposed.txt
    """
    from salf_cli.stages import StageBars
    from salf_training.concept_sets import ChatEndpoint, key_from_environment, propose_concepts, write_names
    from salf_training.errors import DataError
    from salf_training.image_folder import read_names

    names = read_names(classes)
    key = None if no_key else key_from_environment(key_env)
    asked = ChatEndpoint(url=endpoint, model=model, key=key, timeout_s=timeout_s)
    answers = out.with_suffix(".answers.jsonl")
    with StageBars(stderr_console()) as bars:
        proposal = propose_concepts(names, asked, answers, connections=connections, on_progress=bars)
    if not proposal.concepts:
        raise DataError(f"none of {len(proposal.unusable)} answers holds a list of concepts; see {answers}")
    write_names(out, proposal.concepts)
    if proposal.unusable:
        name, question = proposal.unusable[0]
        report(
            f"{len(proposal.unusable)} answers hold no list, e.g. to {question!r} about {name!r}; see {answers}, "
            "and run again to ask these once more"
        )
    if json:
        found = {"concepts": len(proposal.concepts), "asked": proposal.asked, "taken_over": proposal.taken_over}
        print_json({**found, "unusable": [list(key) for key in proposal.unusable], "answers": str(answers)})
    else:
        typer.echo(f"{len(proposal.concepts)} concepts in {out}; next: salf concepts filter {out}")


@concepts.command(name="filter", no_args_is_help=True)
@one_line_failures(command="concepts filter", extra="train")
def filter_(
    file: Annotated[Path, typer.Argument(help="Text file with concepts, one a line.", show_default=False)],
    classes: Annotated[Path, _CLASSES],
    encoder: Annotated[
        str, typer.Option(help="open_clip name or local-dir:FOLDER, to compare texts.", show_default=False)
    ],
    out: Annotated[Path, _OUT],
    weights: Annotated[
        str | None, typer.Option(help="open_clip tag or local file of the encoder.", show_default=False)
    ] = None,
    merges: Annotated[
        Path | None, typer.Option(help="BPE merges of an encoder with its own vocabulary.", show_default=False)
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Image folder; drops what is too weak in it.", show_default=False)
    ] = None,
    length: Annotated[int, typer.Option(min=1, help="Most characters of a concept.")] = 30,
    class_similarity: Annotated[float, typer.Option(max=1, help="Most cosine with a class; 1 allows all.")] = 0.85,
    concept_similarity: Annotated[float, typer.Option(max=1, help="Most cosine of two concepts; 1 allows all.")] = 0.9,
    presence: Annotated[float, typer.Option(max=1, help="With --pictures: least mean cosine of the best five.")] = 0.25,
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Drop what is too long, too close to a class or to another concept, or not in the pictures.

    Each dropped concept is listed with its reason, also in OUT with the ending .report.json.

    Example: salf concepts filter proposed.txt --classes classes.txt --encoder ViT-B-16 --weights openai \
--out concepts.txt
    """
    from rich.console import Console

    from salf_cli.plans import dropped_table
    from salf_cli.stages import StageBars
    from salf_training.concept_sets import ConceptFilters, filter_file
    from salf_training.encoder import EncoderSettings

    filters = ConceptFilters(
        length=length,
        class_similarity=class_similarity,
        concept_similarity=concept_similarity,
        presence=presence if pictures is not None else None,
    )
    settings = EncoderSettings(model=encoder, weights=weights, merges=merges)
    with StageBars(stderr_console()) as bars:
        outcome = filter_file(file, classes, settings, filters, pictures=pictures, out=out, on_progress=bars)
    if json:
        print_json(outcome.model_dump(mode="json"))
    else:
        Console().print(dropped_table(outcome))
