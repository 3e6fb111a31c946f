"""The names of the data layer are imported when they are first used."""

from __future__ import annotations

from importlib import import_module

import pytest

import muport.data


def test_every_name_is_that_of_its_module():
    for module, names in muport.data._NAMES.items():
        for name in names:
            assert muport.data.__getattr__(name) is getattr(import_module(f"muport.data.{module}"), name)
    assert {name for names in muport.data._NAMES.values() for name in names} == set(muport.data.__all__)
    with pytest.raises(AttributeError, match=r"module 'muport\.data' has no attribute 'nothing'"):
        muport.data.__getattr__("nothing")
