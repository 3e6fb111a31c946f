"""Methods of scvi-tools that the models do not have: they are neither listed nor found."""

from __future__ import annotations

import inspect
from typing import Any, NoReturn

from scvi.model.base._base_model import BaseModelMetaClass

from muport.data._data_argument import accept_in_methods

__all__ = ["HiddenMethod", "HiddenMethodError", "ModelType", "list_visible"]


class HiddenMethodError(AttributeError, NotImplementedError):
    """A method of scvi-tools was asked of a model that does not have it."""


class HiddenMethod:
    """Takes the place of an inherited method that could only raise an error, so that ``hasattr`` is False.

    Parameters
    ----------
    advice
        What to use instead.
    """

    def __init__(self, advice: str) -> None:
        self._advice = advice
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type) -> NoReturn:
        raise HiddenMethodError(f"{owner.__name__} has no {self._name}: {self._advice}.")


def list_visible(cls: type, names: list[str]) -> list[str]:
    """Return the names that are not those of hidden methods of the class."""
    return [name for name in names if not isinstance(inspect.getattr_static(cls, name, None), HiddenMethod)]


class ModelType(BaseModelMetaClass):  # type: ignore[misc]
    """Type of the model classes: hidden methods are not listed, and the cells may be passed under any name."""

    def __new__(
        mcls: type[ModelType], name: str, bases: tuple[type, ...], namespace: dict[str, Any], **kwargs: Any
    ) -> Any:
        return super().__new__(mcls, name, bases, accept_in_methods(namespace), **kwargs)

    def __dir__(cls) -> list[str]:
        return list_visible(cls, list(super().__dir__()))
