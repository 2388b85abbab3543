"""What `NAME_encoded` could have been: an ensemble of a decoding step and the explain model, to compare it with."""

import shutil
from pathlib import Path

import salf_contract
from salf_contract import ENCODED_INPUTS, ENCODED_OUTPUTS, EXPLAIN_OUTPUTS, Metadata
from salf_export.triton_config import ServingSettings, config_text

_DECODER = Path(__file__).with_name("ensemble_decoder.py")
_PLACES = ("source_size", "crop_box")


def add_ensemble(repository: Path, document: Metadata) -> str:
    """Write NAME_decoder and NAME_ensemble beside NAME, which must be there.

    Returns:
        The ensemble's name; it takes and gives what `NAME_encoded` does.
    """
    name, settings = document.name, ServingSettings()
    height, width = document.preparation.height, document.preparation.width
    decoder, ensemble = repository / f"{name}_decoder", repository / f"{name}_ensemble"
    version = decoder / "1"
    version.mkdir(parents=True)
    shutil.copy2(_DECODER, version / "model.py")
    contract = Path(salf_contract.__file__).parent
    shutil.copytree(contract, version / contract.name, ignore=shutil.ignore_patterns("__pycache__"))
    preferred = ", ".join(map(str, settings.preferred_batch_sizes))
    (decoder / "config.pbtxt").write_text(
        f"""name: "{decoder.name}"
backend: "python"
max_batch_size: {settings.max_batch_size}
input [ {{ name: "encoded" data_type: TYPE_STRING dims: [ 1 ] }} ]
output [ {{ name: "image" data_type: TYPE_UINT8 dims: [ {height}, {width}, 3 ] }} ]
output [ {{ name: "source_size" data_type: TYPE_INT32 dims: [ 2 ] }} ]
output [ {{ name: "crop_box" data_type: TYPE_FP32 dims: [ 4 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {settings.decoders} }} ]
dynamic_batching {{
  preferred_batch_size: [ {preferred} ]
  max_queue_delay_microseconds: {settings.max_queue_delay_microseconds}
}}
"""
    )
    (ensemble / "1").mkdir(parents=True)
    (ensemble / "config.pbtxt").write_text(_ensemble_config(ensemble.name, document, settings, decoder=decoder.name))
    return ensemble.name


def _ensemble_config(name: str, document: Metadata, settings: ServingSettings, *, decoder: str) -> str:
    written = config_text(
        model_name=name,
        role="encoded",
        inputs=ENCODED_INPUTS,
        outputs=ENCODED_OUTPUTS,
        documents={1: document},
        settings=settings,
    )
    tensors = [line for line in written.splitlines() if line.startswith(("input ", "output "))]
    explained = [f'output_map {{ key: "{spec.name}" value: "{spec.name}" }}' for spec in EXPLAIN_OUTPUTS]
    placed = [f'output_map {{ key: "{place}" value: "{place}" }}' for place in _PLACES]
    return "\n".join(
        [
            f'name: "{name}"',
            'platform: "ensemble"',
            f"max_batch_size: {settings.max_batch_size}",
            *tensors,
            "ensemble_scheduling {",
            f'step [ {{ model_name: "{decoder}" model_version: -1',
            'input_map { key: "encoded" value: "encoded" }',
            'output_map { key: "image" value: "pixels" }',
            *placed,
            "} ]",
            f'step [ {{ model_name: "{document.name}" model_version: -1',
            'input_map { key: "image" value: "pixels" }',
            'input_map { key: "target" value: "target" }',
            *explained,
            "} ]",
            "}",
            "",
        ]
    )
