"""`salf export`: a checkpoint into a model repository."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from salf_cli.failures import one_line_failures, print_json, stderr_console


@one_line_failures(command="export", extra="export")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a trained model.", show_default=False)],
    repository: Annotated[Path, typer.Option(help="Model repository to publish into.", show_default=False)],
    name: Annotated[str, typer.Option(help="Name of the served model.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="How many concepts an answer holds.")] = 16,
    from_features: Annotated[
        bool, typer.Option("--from-features", help="Also publish NAME_from_features, for published cases and tests.")
    ] = False,
    encoded: Annotated[
        bool, typer.Option(help="Also publish NAME_encoded, which takes JPEG, PNG or WebP files.")
    ] = True,
    runtime: Annotated[str, typer.Option(help="onnxruntime, openvino or tensorrt.")] = "onnxruntime",
    precision: Annotated[str, typer.Option(help="fp32, bf16, fp16 or int8; the head stays in fp32.")] = "fp32",
    calibration: Annotated[
        Path | None, typer.Option(help="Pictures for int8: like those that will be asked about.", show_default=False)
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(help="Other pictures, to compare explanations on; masks/ is used.", show_default=False),
    ] = None,
    thresholds: Annotated[
        Path | None, typer.Option(help="YAML file: what explanations must reach on them.", show_default=False)
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Then keep this many of the newest versions.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON on stdout.")] = False,
) -> None:
    """Export a trained model, compare it with its source, and publish it as the next version.

    Example: salf export runs/scenes --repository model_repository --name scenes
    """
    from pydantic import TypeAdapter

    from salf_cli.repository import removed_versions
    from salf_export import Thresholds, drop_old_versions, export_checkpoint, parse_kind, read_thresholds

    what = f"exporting {escape(str(checkpoint))}"
    with stderr_console().status(f"{what} ...") as status:
        report = export_checkpoint(
            checkpoint,
            repository,
            name=name,
            top=top,
            from_features=from_features,
            encoded=encoded,
            kind=parse_kind(runtime, precision),
            calibration=calibration,
            held_out=held_out,
            thresholds=Thresholds() if thresholds is None else read_thresholds(thresholds),
            on_step=lambda step: status.update(f"{what}: {step} ..."),
        )
    # Only now: should the export fail, nothing is removed.
    removed = () if keep is None else drop_old_versions(repository, report.models[0], keep=keep)
    if json:
        print_json(TypeAdapter(type(report)).dump_python(report, mode="json"))
        return
    fidelity = report.fidelity
    distance = (
        f"at most {max(fidelity.max_abs_error.values()):.2g} away from the checkpoint over {fidelity.pictures} inputs"
    )
    if fidelity.explanations is not None:
        found = fidelity.explanations
        distance = (
            f"{fidelity.runtime} {fidelity.precision}; on {found.pictures} held-out pictures the same class for "
            f"{found.class_agreement:.1%}, top-5 overlap {found.top5_overlap:.3f}, map cosine {found.map_cosine:.4f}"
        )
    kept = f"; in float stayed {', '.join(fidelity.kept_float)}" if fidelity.kept_float else ""
    typer.echo(
        f"published {name} version {report.version} in {repository}: {', '.join(report.models)}; {distance}{kept}"
        f"{removed_versions(removed)}"
    )
    typer.echo(f"serve it with: salf serve {repository}")
