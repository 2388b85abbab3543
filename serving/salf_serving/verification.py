"""What a version must prove before it is served: its files are as published, and its documents describe it."""

from pathlib import Path

from salf_contract import (
    CONFIG_FILE,
    FIDELITY_FILE,
    MANIFEST_FILE,
    METADATA_FILE,
    ContractError,
    FileStamp,
    Metadata,
    fidelity_problems,
    manifest_problems,
    metadata_in_parameters,
    parameters_in,
    parse_manifest,
    parse_metadata,
    parse_verdict,
    seal_is_intact,
)
from salf_serving.errors import RefusedVersionError
from salf_serving.snapshot import file_sha256, files_below, versions_to_serve


def check_files(model: Path) -> None:
    """Check the files of a model's served versions against their manifests, where they have one.

    Raises:
        RefusedVersionError: a file is missing, changed or not listed; config.pbtxt was changed by hand after it was
            sealed; a manifest is of another model or version, or cannot be read.
    """
    if seal_is_intact((model / CONFIG_FILE).read_text()) is False:
        raise RefusedVersionError(
            f"{CONFIG_FILE} of model {model.name} was changed after it was written; publish the version again",
            reason="manifest",
        )
    for folder in versions_to_serve(model):
        path = folder / MANIFEST_FILE
        if not path.is_file():
            continue
        where = f"model {model.name} version {folder.name}"
        try:
            manifest = parse_manifest(path.read_bytes())
        except ContractError as error:
            raise RefusedVersionError(f"{where}: {error}", reason="manifest") from error
        if (manifest.model, manifest.version) != (model.name, int(folder.name)):
            raise RefusedVersionError(
                f"{where}: its manifest is of model {manifest.model} version {manifest.version}", reason="manifest"
            )
        found = {
            str(file.relative_to(folder)): FileStamp(sha256=file_sha256(file), size_bytes=file.stat().st_size)
            for file in files_below(folder)
        }
        if problems := manifest_problems(manifest, found):
            raise RefusedVersionError(f"{where} is not as it was published: {'; '.join(problems)}", reason="manifest")


def check_documents(model: Path) -> None:
    """Check that the metadata of each served version is readable, its own, and what config.pbtxt tells clients.

    Its fidelity report is judged again by the bounds that are stored with it. Models that salf did not export have no
    documents, and pass.

    Raises:
        RefusedVersionError: a document does not fit, or the report does not allow the version to be served.
    """
    for folder in versions_to_serve(model):
        document = _metadata(folder)
        if document is None:
            continue
        where = f"model {model.name} version {folder.name}"
        if document.version != int(folder.name):
            raise RefusedVersionError(f"{where}: its metadata is of version {document.version}", reason="metadata")
        if document.fidelity is None:
            raise RefusedVersionError(
                f"{where} was never compared with its source: its metadata has no fidelity report; export it again",
                reason="metadata",
            )
        _check_fidelity(document, folder, where)
        try:
            told = metadata_in_parameters(parameters_in((model / CONFIG_FILE).read_text())).get(document.version)
        except ContractError as error:
            raise RefusedVersionError(f"{where}: {error}", reason="metadata") from error
        if told is not None and told.contract_id != document.contract_id:
            raise RefusedVersionError(
                f"{where}: {CONFIG_FILE} tells clients of another document than {METADATA_FILE}; export it again",
                reason="metadata",
            )


def _check_fidelity(document: Metadata, folder: Path, where: str) -> None:
    path = folder / FIDELITY_FILE
    if not path.is_file():
        return
    try:
        verdict = parse_verdict(path.read_bytes())
    except ContractError as error:
        raise RefusedVersionError(f"{where}: {error}", reason="fidelity") from error
    if verdict.fidelity != document.fidelity:
        raise RefusedVersionError(
            f"{where}: {FIDELITY_FILE} is not what {METADATA_FILE} tells of it; export it again", reason="fidelity"
        )
    if problems := fidelity_problems(verdict):
        raise RefusedVersionError(
            f"{where} is not faithful to its source: {'; '.join(problems)}; export it again", reason="fidelity"
        )


def family_of(model: Path) -> str:
    """What a model belongs to: models that were published together change together.

    Raises:
        RefusedVersionError: its documents cannot be read.
    """
    for folder in reversed(versions_to_serve(model)):
        document = _metadata(folder)
        if document is not None:
            return document.name
    return model.name


def _metadata(folder: Path) -> Metadata | None:
    path = folder / METADATA_FILE
    if not path.is_file():
        return None
    try:
        return parse_metadata(path.read_bytes().decode())
    except (ContractError, UnicodeDecodeError) as error:
        raise RefusedVersionError(
            f"model {folder.parent.name} version {folder.name}: {error}", reason="metadata"
        ) from error
