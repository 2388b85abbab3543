"""Find what is damaged, missing or added in a model repository, and say what to do about it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from salf_contract import (
    CONFIG_FILE,
    MANIFEST_FILE,
    VERSION_CONFIG_FILE,
    ConfigError,
    ManifestError,
    MetadataError,
    TuningError,
    metadata_in_parameters,
    parameters_in,
    parse_config,
    parse_tuning,
    scalar,
    seal_is_intact,
    sealed,
    tuning_file,
)
from salf_export.changing import changing, sync_file
from salf_export.errors import RepositoryError
from salf_export.repository import StoredModel, model_folders, read_model
from salf_export.version_files import read_manifest, version_problems


@dataclass(frozen=True)
class Finding:
    """One thing that is not as salf wrote it.

    Attributes:
        model: the model's folder.
        version: of the model; None if it concerns all, or config.pbtxt.
        problem: what is wrong.
        remedy: what to do.
    """

    model: str
    version: int | None
    problem: str
    remedy: str


@dataclass(frozen=True)
class IntegrityReport:
    """What `verify_repository` found.

    Attributes:
        findings: by model and version; empty if everything is as it was published.
        checked: versions whose every file was compared with its hash.
        unstamped: (model, version) from before salf wrote manifests: only their documents were compared.
        foreign: folders that no export of salf wrote; not checked.
    """

    findings: tuple[Finding, ...]
    checked: int
    unstamped: tuple[tuple[str, int], ...]
    foreign: tuple[str, ...]


def verify_repository(repository: Path) -> IntegrityReport:
    """Compare every file of every version with its manifest, and every config.pbtxt with the versions' documents.

    Raises:
        RepositoryError: the repository cannot be read, or holds no model.
    """
    models = [read_model(folder) for folder in model_folders(repository)]
    if not models:
        raise RepositoryError(f"the model repository {repository} holds no models; write one with `salf export`")
    findings: list[Finding] = []
    unstamped: list[tuple[str, int]] = []
    foreign: list[str] = []
    checked = 0
    for model in models:
        if not _is_ours(model):
            foreign.append(model.name)
            continue
        damaged: dict[int, tuple[str, ...]] = {}
        for version in model.versions:
            problems = version_problems(model.folder / str(version))
            if problems is None and not _should_be_stamped(model, version):
                unstamped.append((model.name, version))
                problems = (model.unreadable[version],) if version in model.unreadable else ()
            else:
                checked += 1
                problems = (f"{MANIFEST_FILE} is missing",) if problems is None else problems
            if problems:
                damaged[version] = problems
        findings += _damages(repository, model, damaged)
        findings += _tuning_findings(repository, model)
        findings += _config_findings(repository, model)
    findings += _family_findings(repository, [model for model in models if model.name not in foreign])
    return IntegrityReport(tuple(findings), checked, tuple(unstamped), tuple(foreign))


def accept_configs(repository: Path) -> tuple[str, ...]:
    """Seal every config.pbtxt as it stands: for whoever changed it on purpose.

    Returns:
        Models whose config.pbtxt was sealed anew.

    Raises:
        RepositoryError: one is no protobuf text format, or the change failed and was undone.
    """
    accepted = []
    with changing(repository, what="config.pbtxt could not be sealed") as change:
        for folder in model_folders(repository):
            path = folder / CONFIG_FILE
            if not path.is_file() or not _is_ours(read_model(folder)):
                continue
            try:
                text = path.read_text(encoding="utf-8")
                parse_config(text)
            except (UnicodeDecodeError, ConfigError) as error:
                raise RepositoryError(f"{path} cannot be accepted: {error}") from error
            if text != sealed(text):
                written = change.aside / f"{folder.name}.{CONFIG_FILE}"
                written.write_text(sealed(text), encoding="utf-8")
                sync_file(written)
                change.put(written, path)
                accepted.append(folder.name)
    return tuple(accepted)


def _is_ours(model: StoredModel) -> bool:
    """Whether salf exported it: a document is left, or a manifest, or a seal."""
    return (
        bool(model.documents)
        or seal_is_intact(model.config) is not None
        or any(_should_be_stamped(model, version) for version in model.versions)
    )


def _should_be_stamped(model: StoredModel, version: int) -> bool:
    """Whether a version was published with a manifest, judged by what else is there."""
    folder = model.folder / str(version)
    return (folder / VERSION_CONFIG_FILE).exists() or (folder / MANIFEST_FILE).exists()


def _damages(repository: Path, model: StoredModel, damaged: dict[int, tuple[str, ...]]) -> Iterator[Finding]:
    sound = [version for version in model.versions if version not in damaged]
    for version, problems in damaged.items():
        if version != model.served:
            remedy = f"remove {model.folder / str(version)} in every model of the family, or bring the files back"
        elif sound:
            family = model.family or model.name
            remedy = f"bring the files back from a copy, or: salf rollback {repository} {family} --to {max(sound)}"
        else:
            remedy = "bring the files back from a copy, or export the model again"
        for problem in problems:
            yield Finding(model.name, version, problem, remedy)


def _tuning_findings(repository: Path, model: StoredModel) -> Iterator[Finding]:
    """Records of tunings that a rollback could not use, or would use for another version."""
    for version in model.versions:
        path = model.folder / tuning_file(version)
        if not path.exists():
            continue
        problem = ""
        try:
            record = parse_tuning(path.read_bytes())
            if (record.model, record.version) != (model.name, version):
                problem = f"{path.name} is that of {record.model} version {record.version}"
        except (OSError, TuningError) as error:
            problem = f"{path.name}: {error}"
        if problem:
            remedy = f"remove {path}; salf tune {repository} {model.name} measures again what is served"
            yield Finding(model.name, version, problem, remedy)


def _config_findings(repository: Path, model: StoredModel) -> Iterator[Finding]:
    """What is wrong with config.pbtxt, and with what lies beside it."""
    again = f"write it again with: salf rollback {repository} {model.family or model.name} --to VERSION"
    allowed = {CONFIG_FILE, *map(str, model.versions), *(tuning_file(version) for version in model.versions)}
    for path in sorted(model.folder.iterdir()):
        if path.name not in allowed:
            yield Finding(model.name, None, f"{path.name} was not published", f"remove {path}")
    if not model.config:
        reason = "cannot be read" if (model.folder / CONFIG_FILE).exists() else "is missing"
        yield Finding(model.name, None, f"{CONFIG_FILE} {reason}", again)
        return
    intact = seal_is_intact(model.config)
    stamped = any(_should_be_stamped(model, version) for version in model.versions)
    if intact is False or (intact is None and stamped):
        accept = f"if you changed it yourself: salf verify {repository} --accept-config; if not, {again}"
        yield Finding(model.name, None, f"{CONFIG_FILE} was changed since salf wrote it", accept)
    name = scalar(parse_config(model.config), "name")
    if name != model.name:
        yield Finding(model.name, None, f"{CONFIG_FILE} is that of {name!r}", again)
    if model.served not in model.versions:
        yield Finding(model.name, None, f"{CONFIG_FILE} serves version {model.served}, which is not there", again)
    yield from _document_findings(model, again)


def _document_findings(model: StoredModel, remedy: str) -> Iterator[Finding]:
    """Where the documents in config.pbtxt are not those of the version directories."""
    try:
        documents = metadata_in_parameters(parameters_in(model.config))
    except MetadataError:
        documents = {}
    for version, document in model.documents.items():
        if documents.get(version) != document:
            what = "differs from metadata.json" if version in documents else "is missing or cannot be read"
            yield Finding(model.name, version, f"the document in {CONFIG_FILE} {what}", remedy)
    for version in sorted(documents.keys() - set(model.versions)):
        yield Finding(model.name, version, f"{CONFIG_FILE} describes a version that is not there", remedy)


def _family_findings(repository: Path, models: list[StoredModel]) -> Iterator[Finding]:
    """What does not fit between models that were published together."""
    present = {model.name: model for model in models}
    families: dict[str, list[StoredModel]] = {}
    for model in models:
        if model.family is not None:
            families.setdefault(model.family, []).append(model)
        for version in model.versions:
            for other in _published_with(model, version):
                if other not in present or version not in present[other].versions:
                    yield Finding(
                        model.name, version, f"{other} was published with it and does not have this version",
                        f"publishing was interrupted, or files were removed: remove {model.folder / str(version)}, "
                        "or publish again",
                    )  # fmt: skip
    for name, family in families.items():
        served = [model.served for model in family if model.served is not None]
        # A model that does not have the others' version cannot serve it.
        mixed = [version for version in set(served) if all(version in model.versions for model in family)]
        if len(mixed) > 1:
            told = ", ".join(f"{model.name} {model.served}" for model in family)
            yield Finding(
                name, None, f"its models serve different versions: {told}",
                f"choose one: salf rollback {repository} {name} --to {max(mixed)}",
            )  # fmt: skip


def _published_with(model: StoredModel, version: int) -> tuple[str, ...]:
    try:
        manifest = read_manifest(model.folder / str(version))
    except ManifestError:  # found already, as a damage
        return ()
    return manifest.family if manifest is not None else ()
