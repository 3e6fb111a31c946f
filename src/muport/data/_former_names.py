"""Names that classes and fields of fitted states had in earlier versions, so that their saved models still load."""

from __future__ import annotations

from typing import Any

__all__ = ["current_names"]

#: Class name in a saved model -> its name today, and its fields that have another name today.
_FORMER_NAMES: dict[str, tuple[str, dict[str, str]]] = {
    "IntegrationState": (
        "IntegrationState",
        {
            "member": "map_of_group",
            "sharp": "sharpening_centers",
            "sharpness": "sharpening",
            "evidence": "batch_effect",
        },
    ),
    "Reference": (
        "Reference",
        {"usual": "mean_proportions", "shaped": "shape_kept", "refined": "refinement_kept"},
    ),
}


def current_names(name: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a saved class, and its fields, under the names of this version."""
    if name not in _FORMER_NAMES:
        return name, fields
    current, renamed = _FORMER_NAMES[name]
    return current, {renamed.get(field, field): value for field, value in fields.items()}
