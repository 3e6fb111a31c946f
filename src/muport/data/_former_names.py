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
    "GroupMap": ("GroupMap", {"trust": "agreement"}),
    "Reference": (
        "Reference",
        {
            "image": "mapped_prototypes",
            "usual": "mean_proportions",
            "shaped": "shape_kept",
            "refined": "refinement_kept",
        },
    ),
    # patients
    "PatientClassifier": ("PatientClassifier", {"ratio_views": "coordinate_views"}),
    "RatioView": ("CoordinateView", {}),
    # integration
    "Bridge": ("GromovSpace", {"frames": "scalings", "image": "images", "figures": "diagnostics"}),
    "Frame": ("MetricScaling", {}),
    "Helped": ("AssistedPredictor", {"base": "shared_weight", "regressor": "regression", "explained": "r2"}),
    "JointSpace": ("JointSpace", {"routes": "predictor", "beside": "shared_scale"}),
    "Labels": (
        "LabelModel",
        {
            "temperature": "inverse_temperature",
            "own": "modality_classifiers",
            "starts": "subspace_starts",
            "linear": "joint_classifiers",
        },
    ),
    "Network": ("TrainedNetwork", {"views": "statistics", "second": "second_statistics"}),
    "Regressor": ("RidgeRegression", {"mean": "intercept", "explained": "r2"}),
    "Routes": ("CrossModalPredictor", {"plain": "direct"}),
    "Shared": ("SharedPredictor", {"own": "from_shared", "helped": "assisted"}),
    "SharedSpace": ("SharedSpace", {"told": "regressions", "middle": "denoised_center", "stretch": "rescaling"}),
    "Views": ("ViewStatistics", {}),
    "Weights": ("ModalityWeights", {"weight": "weights", "usual": "mean_weights"}),
}


def current_names(name: str, fields: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the name of a saved class, and its fields, under the names of this version."""
    if name not in _FORMER_NAMES:
        return name, fields
    current, renamed = _FORMER_NAMES[name]
    return current, {renamed.get(field, field): value for field, value in fields.items()}
