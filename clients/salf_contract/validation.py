"""What pydantic finds wrong with a document, in words."""

from pydantic import ValidationError


def first_problem(error: ValidationError, *, whole: str = "document") -> str:
    """`place: message` of the first problem.

    Args:
        error: as raised.
        whole: stands for the place of a problem that concerns everything.
    """
    return _problems(error, whole)[0]


def all_problems(error: ValidationError, *, whole: str = "document") -> str:
    """The same of every problem, with semicolons between them."""
    return "; ".join(_problems(error, whole))


def _problems(error: ValidationError, whole: str) -> list[str]:
    return [f"{'.'.join(map(str, one['loc'])) or whole}: {one['msg']}" for one in error.errors()]
