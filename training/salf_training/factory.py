"""Factories: functions that people name in settings as `package.module:function`."""

import importlib
import inspect
import re
from collections.abc import Callable
from typing import Any

from salf_training.errors import SettingsError

_NAME = re.compile(r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")


def is_factory_name(name: str) -> bool:
    """Whether a name has the form `package.module:function`."""
    return _NAME.match(name) is not None


def import_factory(name: str, *, returns: type) -> Callable[..., Any]:
    """Import the function that a name stands for.

    A checkpoint's card may name one too, and then its author chooses what is called. Only functions whose signature
    says that they return `returns` are therefore given: `os:system` is no factory.

    Args:
        name: `package.module:function`; the module must be importable (installed, or its folder on PYTHONPATH).
        returns: the class that the function's return annotation must be, or be derived from.

    Raises:
        SettingsError: no such module or function, or one that is annotated with something else.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the factory {name!r} cannot be imported: {error}; install its package or put its folder on PYTHONPATH"
        ) from error
    # A user's module may fail in any way when it is imported.
    except Exception as error:
        raise SettingsError(
            f"the factory {name!r}: importing {module_name} failed: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, function_name, None)
    if not inspect.isfunction(function):
        raise SettingsError(f"the factory {name!r}: {module_name} has no function {function_name!r}")
    if not _returns(function, returns):
        raise SettingsError(
            f"the factory {name!r} must be annotated with what it returns (def {function_name}(...) -> "
            f"{returns.__name__}); salf calls no function that does not say so"
        )
    return function


def call_factory(name: str, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a factory, and say whose fault it is if that fails.

    Raises:
        SettingsError: the function does not take these arguments, or fails.
    """
    try:
        return function(**arguments)
    # A user's function may fail in any way.
    except Exception as error:
        raise SettingsError(
            f"the factory {name!r} failed with the options {arguments}: {type(error).__name__}: {error}"
        ) from error


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has a parameter of this name."""
    return argument in inspect.signature(function).parameters


def _returns(function: Callable[..., Any], expected: type) -> bool:
    try:
        annotation = inspect.get_annotations(function, eval_str=True).get("return")
    except (NameError, SyntaxError, AttributeError, TypeError):
        return False
    return isinstance(annotation, type) and expected in annotation.__mro__
