"""`salf import`: a published checkpoint into one of ours."""

import json as json_text
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.markup import escape

from salf_cli.failures import UsageFailure, one_line_failures, print_json, stderr_console

if TYPE_CHECKING:
    from salf_training.importers import Layout

_LAYOUTS = ("show-and-tell", "salf-spatial", "label-free")


@one_line_failures(command="import", extra="train")
def import_published(
    folder: Annotated[Path, typer.Argument(help="Folder of the published checkpoint.", show_default=False)],
    layout: Annotated[
        str, typer.Option(help=f"Whose code wrote the folder: {', '.join(_LAYOUTS)}.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoint.", show_default=False)],
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Network the features come from: a timm name, torchvision:NAME, package.module:function, or "
            "'features' for none. Default: the one that the folder's args.txt names.",
            show_default=False,
        ),
    ] = None,
    backbone_options: Annotated[
        str | None,
        typer.Option(help="JSON object of its options, e.g. '{\"output_stride\": 16}'.", show_default=False),
    ] = None,
    stage: Annotated[int | None, typer.Option(help="timm: feature stage.", show_default=False)] = None,
    node: Annotated[str | None, typer.Option(help="torchvision: graph node.", show_default=False)] = None,
    weights: Annotated[Path | None, typer.Option(help="Weight file of the backbone.", show_default=False)] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Fetch the backbone's weights instead.")] = False,
    classes: Annotated[
        Path | None,
        typer.Option(help="Text file, one class name a line. Default: classes.txt in the folder.", show_default=False),
    ] = None,
    map_size: Annotated[
        tuple[int, int] | None,
        typer.Option(help="Rows and columns that features are resized to first.", show_default=False),
    ] = None,
    preparation: Annotated[
        str | None,
        typer.Option(
            help="JSON object: height, width, crop_fraction, interpolation of pictures. Default: 224 x 224.",
            show_default=False,
        ),
    ] = None,
    pixel_mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="RGB, of pixels in 0..1. Default: ImageNet's.", show_default=False),
    ] = None,
    pixel_std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="RGB, of pixels in 0..1. Default: ImageNet's.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the model card as JSON on stdout.")] = False,
) -> None:
    """Turn a published concept-bottleneck checkpoint into one that salf exports and serves.

    Example: salf import published/cub --layout label-free --backbone resnet18 --weights resnet18.pth --out runs/cub
    """
    if layout not in _LAYOUTS:
        raise UsageFailure(f"--layout is {layout!r}, expected one of {', '.join(_LAYOUTS)}")
    if backbone is None and (backbone_options, stage, node) != (None, None, None):
        raise UsageFailure("--backbone-options, --stage and --node describe a backbone; say which one with --backbone")
    from pydantic import ValidationError

    from salf_contract import Preparation, all_problems
    from salf_training.backbone import BackboneSettings
    from salf_training.checkpoint import check_replaceable, save_checkpoint
    from salf_training.importers import import_checkpoint

    options = _object("--backbone-options", backbone_options or "{}")
    try:
        size = None if preparation is None else Preparation.model_validate(_object("--preparation", preparation))
        network = backbone and BackboneSettings(name=backbone, options=options, stage=stage, node=node)
    except ValidationError as error:
        raise UsageFailure(f"--preparation or --backbone-options cannot be used: {all_problems(error)}") from error
    check_replaceable(out)
    with stderr_console().status(f"importing {escape(str(folder))} ..."):
        checkpoint = import_checkpoint(
            folder,
            layout=cast("Layout", layout),
            backbone=network or None,
            backbone_weights=weights,
            pretrained=pretrained,
            preparation=size,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            map_size=map_size,
            classes=classes,
        )
        card = save_checkpoint(out, checkpoint)
    if json:
        print_json(card.model_dump(mode="json"))
        return
    typer.echo(
        f"imported {len(checkpoint.concepts)} concepts and {len(checkpoint.classes)} classes ({card.pooling} pooling); "
        f"the model is in {out}; next: salf export {out} --repository model_repository --name NAME"
    )


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json_text.loads(text)
    except ValueError as error:
        raise UsageFailure(f"{option} is no JSON ({error}), expected an object such as {{}}") from error
    if not isinstance(value, dict):
        raise UsageFailure(f"{option} is {text!r}, expected a JSON object such as {{}}")
    return value
