import numpy as np
import pytest

from muport.data.projection._recipe import ProjectionRecipe


def recipe(**changes):
    parts = {
        "transform": "log",
        "features": ("a", "b", "c"),
        "used": np.array([0, 2]),
        "scale": np.ones(2),
        "mean": np.zeros(2),
        "loadings": np.eye(2, dtype=np.float32),
        "offset": np.zeros(2),
    }
    return ProjectionRecipe(**(parts | changes))


def test_a_dict_gives_the_same_recipe_back():
    links = {"link_weight": np.ones(2), "link_column": np.array([0, 2]), "link_start": np.array([0, 1, 1, 2])}
    first = recipe(largest=10.0, **links)
    second = ProjectionRecipe.from_dict(first.to_dict(), "the recipe")
    assert second.fingerprint == first.fingerprint
    assert np.array_equal(second.links.toarray(), [[1, 0, 0], [0, 0, 0], [0, 0, 1]])


def test_features_that_are_linked_to_nothing_have_no_weight():
    nothing = {"link_weight": np.ones(0), "link_column": np.empty(0, np.int64), "link_start": np.zeros(4, np.int64)}
    assert recipe(**nothing).links.toarray().tolist() == [[0, 0, 0]] * 3


@pytest.mark.parametrize(
    "changes", [{"scale": np.full(2, 2.0)}, {"features": ("a", "b", "d")}, {"target": 2.0}, {"unit_values": True}]
)
def test_every_part_is_in_the_fingerprint(changes):
    assert recipe(**changes).fingerprint != recipe().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"transform": "sqrt"},
        {"used": np.array([0, 3])},
        {"scale": np.ones(3)},
        {"mean": np.full(2, np.nan)},
        {"link_start": np.array([0, 1])},
        {"schema_version": 99},
    ],
)
def test_a_damaged_dict_is_refused(changes):
    with pytest.raises(ValueError, match="the recipe is no recipe of a projection"):
        ProjectionRecipe.from_dict(recipe().to_dict() | changes, "the recipe")
