"""Publish a version of a family of models, go back to an older one, and drop old ones.

config.pbtxt is the moment of change: it names the version that is served, so a version directory that is there already
is not served before config.pbtxt says so. Of a family, the explain model's is replaced last.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from salf_contract import (
    CONFIG_FILE,
    METADATA_FILE,
    VERSION_CONFIG_FILE,
    ConfigError,
    Metadata,
    TuningError,
    parse_metadata,
    parse_tuning,
    sealed,
    tuning_file,
    with_served_version,
)
from salf_export.changing import Change, changing, sync_file, sync_tree
from salf_export.errors import OptionError, RepositoryError
from salf_export.repository import (
    ModelFolder,
    StoredModel,
    choose_version,
    models_with_version,
    read_documents,
    read_family,
    read_model,
)
from salf_export.served_config import served_config, settings_of, version_settings
from salf_export.version_files import version_problems, write_manifest, write_version
from salf_export.weight_files import link_same_files

_NEW = "new"  # aside: what appears, by model


@dataclass(frozen=True)
class RolledBack:
    """What a rollback changed.

    Attributes:
        models: that serve the version now, the explain model last.
        before: model -> the version it served before; None if that could not be told.
        without: models of the family that do not have the version, and serve what they served.
    """

    models: tuple[str, ...]
    before: Mapping[str, int | None]
    without: tuple[str, ...]


def publish(repository: Path, version: int, models: Sequence[ModelFolder], *, stamped: bool = False) -> None:
    """Add a version of a family, and serve it.

    Args:
        repository: made if missing.
        version: free in all model folders.
        models: in the order of appearance, the explain model last.
        stamped: whether the files hold a manifest and settings already, and are copied as they are.

    Raises:
        RepositoryError: no space, no permission, the version was taken meanwhile, or a copy differs from its manifest.
            The repository is as it was before.
    """
    what = f"version {version} of {models[-1].name} could not be written"
    try:
        repository.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RepositoryError(f"{what} to {repository}: {error}") from error
    with changing(repository, what=what) as change:
        choose_version(repository, tuple(model.name for model in reversed(models)), version)
        family = tuple(model.name for model in models)
        for model in models:
            _write(change.aside / _NEW, repository, version, model, family=None if stamped else family)
        link_same_files([change.aside / _NEW / model.name / str(version) for model in models])
        sync_tree(change.aside)
        _appear(change, repository, version, models)


def roll_back(repository: Path, name: str, *, to: int) -> RolledBack:
    """Serve another version that is there, in all models of a family.

    Args:
        repository: the model repository.
        name: of the explain model.
        to: the version.

    Raises:
        RepositoryError: no such model or version, a file of it is damaged, or the change failed and was undone.
    """
    read_family(repository, name)  # an unknown name needs no lock
    with changing(repository, what=f"{name} could not be rolled back") as change:
        family = read_family(repository, name)
        having = models_with_version(repository, family, to)
        for model in having:
            problems = version_problems(model.folder / str(to))
            if problems:
                raise RepositoryError(
                    f"version {to} of {model.name} is damaged: {'; '.join(problems)}; choose another version, "
                    "or bring these files back from a copy"
                )
        _serve(change, [(model, to) for model in having])
        return RolledBack(
            models=tuple(model.name for model in having),
            before={model.name: model.served for model in having},
            without=tuple(model.name for model in family if to not in model.documents),
        )


def drop_old_versions(repository: Path, name: str, *, keep: int) -> tuple[int, ...]:
    """Remove all but the newest versions of a family; one that is served stays.

    Args:
        repository: the model repository.
        name: of the explain model.
        keep: how many of the newest to keep, at least 1.

    Returns:
        The versions removed, rising.

    Raises:
        OptionError: keep is less than 1.
        RepositoryError: no such model, or the change failed and was undone.
    """
    if keep < 1:
        raise OptionError(f"keep is {keep}, expected at least 1 version")
    with changing(repository, what=f"old versions of {name} could not be removed") as change:
        family = read_family(repository, name)
        known = sorted({version for model in family for version in model.versions})
        served = {model.served for model in family}
        if None in served:
            raise RepositoryError(f"it is not clear which version of {name} is served; run salf verify {repository}")
        old = tuple(version for version in known[:-keep] if version not in served)
        for model in family:
            for version in sorted(set(old) & set(model.versions)):
                change.take(model.folder / str(version))
                if (model.folder / tuning_file(version)).is_file():
                    change.take(model.folder / tuning_file(version))
        if old:
            left = [read_model(model.folder) for model in family]
            _serve(change, [(model, model.served) for model in left if model.served is not None])
        return old


def _write(aside: Path, repository: Path, version: int, model: ModelFolder, *, family: tuple[str, ...] | None) -> None:
    """Write a model's new files aside; `family`: write manifest and settings too."""
    folder = aside / model.name / str(version)
    try:
        settings = version_settings(model.config)
        if family is None:
            write_version(folder, model.files)
        else:
            write_version(folder, {**model.files, VERSION_CONFIG_FILE: settings.encode()})
        document = parse_metadata((folder / METADATA_FILE).read_bytes())
        if family is not None:
            write_manifest(folder, document, model=model.name, family=family)
        problems = version_problems(folder)
        documents: dict[int, Metadata] = {**read_documents(repository / model.name), version: document}
        config = served_config(settings, documents, served=version)
    except ConfigError as error:
        raise RepositoryError(f"the settings of {model.name} cannot be used: {error}") from error
    if problems:
        raise RepositoryError(f"the copy of {model.name} version {version} is not what was published: {problems[0]}")
    (aside / model.name / CONFIG_FILE).write_text(config, encoding="utf-8")


def _appear(change: Change, repository: Path, version: int, models: Sequence[ModelFolder]) -> None:
    """Put everything into place: new models whole; of the others the versions first, then what serves them."""
    there = [model for model in models if (repository / model.name).exists()]
    for model in there:
        _pin(change, read_model(repository / model.name))
    for model in models:
        if model in there:
            change.put(change.aside / _NEW / model.name / str(version), repository / model.name / str(version))
        else:
            change.put(change.aside / _NEW / model.name, repository / model.name)
    for model in there:
        change.put(change.aside / _NEW / model.name / CONFIG_FILE, repository / model.name / CONFIG_FILE)


def _pin(change: Change, model: StoredModel) -> None:
    """Name the version that Triton would choose, so that it does not choose one that is put beside it."""
    if model.config and model.served is not None:
        pinned = with_served_version(model.config, model.served)
        if pinned != model.config:
            _replace_config(change, model, sealed(pinned))


def _serve(change: Change, chosen: Sequence[tuple[StoredModel, int]]) -> None:
    """Replace config.pbtxt of each model so that it serves a version; with the settings that were tuned for it."""
    configs = []
    for model, version in chosen:
        record = model.folder / tuning_file(version)
        try:
            tuning = parse_tuning(record.read_bytes()).best if record.is_file() else None
            settings = settings_of(model, version)
            configs.append(served_config(settings, model.documents, served=version, tuning=tuning))
        except (ConfigError, TuningError, UnicodeDecodeError) as error:
            raise RepositoryError(f"{model.folder} version {version} cannot be served: {error}") from error
    for (model, _), config in zip(chosen, configs, strict=True):
        _replace_config(change, model, config)


def _replace_config(change: Change, model: StoredModel, config: str) -> None:
    written = change.aside / f"{model.name}.{CONFIG_FILE}"
    written.write_text(config, encoding="utf-8")
    sync_file(written)
    change.put(written, model.folder / CONFIG_FILE)
