"""A model lists only methods that do something."""

from __future__ import annotations

import ast
import inspect
import textwrap
from typing import Any

import pytest
from anndata import AnnData

import muport

HIDDEN = ("get_normalized_expression", "differential_abundance", "convert_legacy_save")
SETUP: dict[str, dict[str, Any]] = {
    "Integration": {"batch_key": "batch"},
    "GMM": {"sample_key": "sample", "labels_key": "condition"},
    "Velocity": {"time_key": "time"},
}


def only_raises(member: Any) -> bool:
    """Whether the body of a function does nothing but raise a NotImplementedError, apart from naming its text."""
    function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", None) or member))
    if not inspect.isfunction(function):
        return False
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    assert isinstance(node, ast.FunctionDef)
    body = [line for line in node.body if not isinstance(line, ast.Expr | ast.Assign)]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.unparse(body[0])


@pytest.fixture(params=SETUP)
def model(request, adata: AnnData) -> Any:
    cls = getattr(muport, request.param)
    adata.obs["time"] = [i % 4 for i in range(adata.n_obs)]
    adata.obs["sample"] = [f"s{i % 4}" for i in range(adata.n_obs)]
    adata.obs["condition"] = [f"c{i % 2}" for i in range(adata.n_obs)]
    cls.setup_anndata(adata, use_rep="X_pca", **SETUP[request.param])
    return cls(adata)


@pytest.mark.promise("A model lists no method that only raises NotImplementedError")
def test_no_method_only_raises(model, record_property):
    tries = 0
    for owner, cls in ((model, type(model)), (type(model), type(model))):
        names = [name for name in dir(owner) if not name.startswith("_")]
        assert {"save", "load", "train", "map_query"} <= set(names)
        assert [name for name in names if only_raises(inspect.getattr_static(cls, name, None))] == []
        assert not set(HIDDEN) & set(names)
        tries += len(names)
    record_property("tries", tries)


@pytest.mark.promise("A model lists no method that only raises NotImplementedError")
@pytest.mark.parametrize("name", HIDDEN)
def test_a_hidden_method_is_no_attribute(model, name):
    for owner in (model, type(model)):
        assert not hasattr(owner, name)
        # as before, for callers that expect it of scvi-tools
        with pytest.raises(NotImplementedError, match=f"{type(model).__name__} has no {name}: "):
            getattr(owner, name)


def test_the_check_finds_such_methods():
    from scvi.model.base import BaseModelClass

    assert only_raises(BaseModelClass.get_normalized_expression)
    assert only_raises(BaseModelClass.differential_abundance)
    assert not only_raises(BaseModelClass.save)
