"""Names of earlier versions lead to classes and fields of this one."""

from __future__ import annotations

import dataclasses

import muport
from muport.data._former_names import _FORMER_NAMES, current_names
from muport.data._serialization import state_classes


def test_classes_and_fields_are_renamed():
    assert current_names("Frame", {"a": 1}) == ("MetricScaling", {"a": 1})
    assert current_names("GroupMap", {"trust": 1, "shift": 2}) == ("GroupMap", {"agreement": 1, "shift": 2})
    assert current_names("Unknown", {"trust": 1}) == ("Unknown", {"trust": 1})


def test_every_new_name_exists():
    states = [state_classes(model._state_class) for model in (muport.Integration, muport.GMM, muport.Velocity)]
    for name, fields in _FORMER_NAMES.values():
        known = [{field.name for field in dataclasses.fields(classes[name])} for classes in states if name in classes]
        assert any(set(fields.values()) <= names for names in known)
