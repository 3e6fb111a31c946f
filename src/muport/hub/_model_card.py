"""The card of a model: the text that the Hugging Face Hub shows to those who look for a model."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import scvi.hub
from scvi.data import AnnDataManager

from muport.hub._hub_metadata import load_without_data

if TYPE_CHECKING:
    from pathlib import Path

    from huggingface_hub import ModelCard

__all__ = ["HubModelCardHelper"]

_CARD = """\
---
{header}
---

A model of class `muport.{model}`. muport moves single cells with optimal transport: between batches, between
modalities, between patients and through time.

# Description

{description}

# Use

```python
import muport

model = muport.hub.HubModel.pull_from_huggingface_hub("USER/NAME").model
```

# Model

Options:

```json
{options}
```

Set-up, by `{setup_method}`:

```json
{setup}
```

{statistics}

{registry}

# Metrics of the fit

```json
{metrics}
```

# Data

- Modalities: {modalities}
- Tissues: {tissues}
- Annotated: {annotated}
- Training data: {data_url}
- Training code: {code_url}

# References

{references}
"""


class HubModelCardHelper(scvi.hub.HubModelCardHelper):  # type: ignore[misc]
    """Card of a saved model, as ``scvi.hub.HubModelCardHelper``, with the fields of that class.

    :meth:`from_dir` fills in all that the saved model says. `license_info`, `description`, `references`,
    `data_modalities`, `tissues`, `data_is_annotated`, `training_data_url` and `training_code_url` are yours to give.
    ``model_card`` is the ``huggingface_hub.ModelCard``.
    """

    @classmethod
    def from_dir(
        cls,
        local_dir: str | Path,
        license_info: str,
        anndata_version: str,
        metrics_report: dict[str, float] | None = None,
        data_is_minified: bool | None = False,
        map_location: Any = None,
        **kwargs: Any,
    ) -> HubModelCardHelper:
        """Write the card of a saved model, as in the example of :class:`HubModel`.

        Parameters
        ----------
        local_dir
            Directory of the model.
        license_info
            License of the model, such as ``"cc-by-4.0"``.
        anndata_version
            Version of anndata with which the model was trained.
        metrics_report
            Names and values that describe the model; ``model.metrics_`` by default.
        data_is_minified, map_location
            Not used: as in scvi-tools.
        kwargs
            Other fields of the card.

        Raises
        ------
        ModuleNotFoundError
            Without huggingface_hub: ``pip install "muport[hub]"``.
        FileNotFoundError, ValueError
            As :meth:`muport.Integration.load`.
        """
        model = load_without_data(local_dir)
        registry = model.registry_
        card: HubModelCardHelper = cls(
            license_info,
            registry["model_name"],
            model.init_params_,
            {"method": registry["setup_method_name"], **registry["setup_args"]},
            dict(AnnDataManager._get_summary_stats_from_registry(registry)),
            dict(AnnDataManager._get_data_registry_from_registry(registry)),
            registry["scvi_version"],
            anndata_version,
            metrics_report=dict(model.metrics_ if metrics_report is None else metrics_report),
            data_is_minified=data_is_minified,
            **{"model_parent_module": "muport", **kwargs},
        )
        return card

    def _to_model_card(self) -> ModelCard:
        """Return the card; the class of scvi-tools calls this, and knows the texts of its own models only."""
        from huggingface_hub import ModelCard, ModelCardData

        tags = ["biology", "genomics", "single-cell", f"model_cls_name:{self.model_cls_name}"]
        tags += [f"scvi_version:{self.scvi_version}", f"anndata_version:{self.anndata_version}"]
        tags += [f"modality:{name}" for name in self.data_modalities] + [f"tissue:{name}" for name in self.tissues]
        if self.data_is_annotated is not None:
            tags.append(f"annotated:{self.data_is_annotated}")
        header = ModelCardData(license=self.license_info, library_name="muport", tags=tags)
        setup = dict(self.model_setup_anndata_args)
        text = _CARD.format(
            header=header.to_yaml(),
            model=self.model_cls_name,
            description=self.description,
            options=_as_json({**self.model_init_params["non_kwargs"], **self.model_init_params["kwargs"]}),
            setup_method=setup.pop("method"),
            setup=_as_json(setup),
            statistics=AnnDataManager._view_summary_stats(self.model_summary_stats, as_markdown=True),
            registry=AnnDataManager._view_data_registry(self.model_data_registry, as_markdown=True),
            metrics=_as_json({name: round(value, 4) for name, value in (self.metrics_report or {}).items()}),
            modalities=", ".join(self.data_modalities) or "not given",
            tissues=", ".join(self.tissues) or "not given",
            annotated={None: "not given", True: "yes", False: "no"}[self.data_is_annotated],
            data_url=self.training_data_url or "not given",
            code_url=self.training_code_url or "not given",
            references=self.references,
        )
        return ModelCard(text)


def _as_json(values: dict[str, Any]) -> str:
    return json.dumps(values, indent=2, default=str)
