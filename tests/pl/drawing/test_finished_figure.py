"""Figures are saved, shown and returned if asked, and bad paths are refused before anything is drawn."""

from __future__ import annotations

import pytest
from matplotlib import pyplot as plt

import muport

HISTORY = {"loss": [3.0, 2.0, 1.0]}
DISTANCES = [[0.0, 1.0], [1.0, 0.0]]
PLOTS = {
    "training_curves": lambda **options: muport.pl.training_curves(HISTORY, **options),
    "distance_map": lambda **options: muport.pl.distance_map(DISTANCES, **options),
    "confusion": lambda **options: muport.pl.confusion(["a", "b"], ["a", "a"], **options),
    "patient_embedding": lambda **options: muport.pl.patient_embedding(DISTANCES, **options),
    "components": lambda **options: muport.pl.components(None, DISTANCES, DISTANCES, **options),
}


@pytest.mark.parametrize("name", PLOTS)
def test_files_figures_and_axes(name, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(name))
    path = tmp_path / "figure.png"
    figure = PLOTS[name](save=path, show=True, return_fig=True)
    assert path.stat().st_size > 1000
    assert shown == [name]
    assert figure.axes
    assert PLOTS[name]().figure is not figure
    assert shown == [name]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"save": True}, TypeError, "save=True must be the name of a file"),
        ({"save": "figure.abc"}, ValueError, "save='figure.abc' must end in one of .*.png"),
        ({"save": "no/such/folder/figure.png"}, FileNotFoundError, "folder 'no/such/folder' does not exist: create it"),
        ({"show": "yes"}, TypeError, "show='yes' must be True or False"),
        ({"return_fig": 1}, TypeError, "return_fig=1 must be True or False"),
    ],
)
def test_bad_options_draw_nothing(options, error, message):
    for draw in PLOTS.values():
        with pytest.raises(error, match=message):
            draw(**options)
    assert not plt.get_fignums()
