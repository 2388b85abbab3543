"""config.pbtxt of a model: one version's settings, every version's document, and the one number that is served."""

from collections.abc import Mapping

from salf_contract import (
    VERSION_CONFIG_FILE,
    Metadata,
    Tuning,
    metadata_parameter,
    parameters_in,
    sealed,
    with_field,
    with_parameter,
    with_served_version,
    with_tuning,
)
from salf_export.repository import StoredModel
from salf_export.triton_config import document_line


def version_settings(config: str) -> str:
    """A version's own settings: a config.pbtxt without documents, without the number served, without a seal.

    Raises:
        ConfigError: the text is no protobuf text format.
    """
    for key in parameters_in(config):
        if key.startswith(metadata_parameter(0).removesuffix("0")):
            config = with_parameter(config, key, None)
    config = with_field(config, "version_policy", None)
    return sealed(config).partition("\n")[2]


def served_config(
    settings: str, documents: Mapping[int, Metadata], *, served: int, tuning: Tuning | None = None
) -> str:
    """Write the config.pbtxt that serves one version.

    Args:
        settings: of that version, see `version_settings`.
        documents: version -> metadata, of every version in the folder.
        served: the version.
        tuning: measured settings that replace the published ones.

    Raises:
        ConfigError: the settings are no protobuf text format.
    """
    config = with_served_version(settings, served)
    if tuning is not None:
        config = with_tuning(config, tuning)
    for version, document in sorted(documents.items()):
        config = with_parameter(config, metadata_parameter(version), document_line(document))
    return sealed(config)


def settings_of(model: StoredModel, version: int) -> str:
    """The settings that a version was published with; of one from before salf kept them, the present ones.

    Raises:
        ConfigError: the settings are no protobuf text format.
        OSError: they cannot be read.
    """
    kept = model.folder / str(version) / VERSION_CONFIG_FILE
    return kept.read_text(encoding="utf-8") if kept.is_file() else version_settings(model.config)
