"""Take a version from one repository to another: from where it was tried to where it is served."""

from pathlib import Path

from salf_contract import ConfigError
from salf_export.errors import FidelityError, OptionError, RepositoryError
from salf_export.publishing import publish
from salf_export.repository import ModelFolder, check_name, models_with_version, read_family
from salf_export.served_config import settings_of
from salf_export.version_files import version_problems


def publish_version(source: Path, name: str, repository: Path, *, version: int | None = None) -> int:
    """Publish an exported version in another repository, with its number and its files as they are.

    Args:
        source: repository that has it.
        name: of the explain model; its whole family is published.
        repository: where to; made if missing.
        version: None takes the one that is served in `source`.

    Returns:
        The version.

    Raises:
        OptionError: the name cannot be a model, or both repositories are the same.
        FidelityError: the version was never compared with its trained model.
        RepositoryError: it is not there, not whole, has no manifest, or its number is taken.
    """
    check_name(name)
    if source.resolve() == repository.resolve():
        raise OptionError(f"{source} is the repository to publish to as well; to serve another version: salf rollback")
    family = read_family(source, name)
    number = family[-1].served if version is None else version
    if number is None:
        raise RepositoryError(f"it is not clear which version of {name} {source} serves; name one: {name}:VERSION")
    models = []
    for model in models_with_version(source, family, number):
        folder = model.folder / str(number)
        problems = version_problems(folder)
        if problems is None:
            raise RepositoryError(
                f"{folder} has no manifest, so nobody can tell whether it is whole; export it again with this salf"
            )
        if problems:
            raise RepositoryError(f"{folder} is not as it was published: {'; '.join(problems)}; export it again")
        if model.documents[number].fidelity is None:
            raise FidelityError(
                f"{folder} was never compared with its trained model; export it again, which compares them"
            )
        try:
            settings = settings_of(model, number)
        except ConfigError as error:
            raise RepositoryError(f"{folder}: {error}; export it again") from error
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        models.append(ModelFolder(name=model.name, config=settings, files=files))
    publish(repository, number, models, stamped=True)
    return number
