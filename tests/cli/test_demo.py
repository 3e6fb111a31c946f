"""The command line: what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import subprocess
import sys
from types import SimpleNamespace

import mudata
import numpy as np
import pytest

from muport import cli, datasets
from muport._demo import _examples, _run
from muport._demo._scores import scib_scores
from muport.integration import Integration
from muport.velocity import Velocity

SMALL = {"n_cells": 240, "n_genes": 120, "n_peaks": 240, "n_types": 4}


@pytest.fixture(scope="module")
def small():
    """The embedded data, small, and without what takes its time from other packages."""
    simulate, follow = datasets.simulated_multiome, datasets.simulated_dynamics
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MUPORT_DATA", raising=False)
        patch.setattr(datasets, "simulated_multiome", lambda random_state: simulate(**SMALL, random_state=random_state))
        patch.setattr(datasets, "simulated_dynamics", lambda kind, **kwargs: follow(kind, **{**kwargs, "n_cells": 500}))
        patch.setattr("muport._demo._scores.find_spec", lambda name: object())
        patch.setattr(_run, "scib_scores", lambda outcome: {"Total": (0.25, 0.75)})
        yield


@pytest.fixture(scope="module")
def finished(small, tmp_path_factory):
    """One demonstration: its folder, and what it printed."""
    out = tmp_path_factory.mktemp("cli") / "demo"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["demo", "--out", str(out), "--seed", "1", "--scib"]) == 0
    return out, printed.getvalue()


@pytest.fixture
def nothing(monkeypatch):
    """A demonstration without data, for what happens around it."""
    monkeypatch.delenv("MUPORT_DATA", raising=False)
    parts = [dataclasses.replace(part, examples=lambda seed: iter(())) for part in _run._PARTS]
    monkeypatch.setattr(_run, "_PARTS", parts)


def test_demo_writes_data_model_pictures_and_scores(finished):
    out, printed = finished
    for text in ("simulated_rna", "pbmc68k_reduced", "simulated_multiome", "FOSCTTM", "total .25 → .75"):
        assert text in printed
    names = {"simulated_rna", "pbmc68k_reduced", "simulated_multiome"}
    assert {path.stem for path in out.glob("*.h5mu")} == names | {"simulated_dynamics"}
    pictures = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert set(pictures) == {f"{name}_cells.png" for name in names} | {
        "simulated_multiome_confusion.png", "simulated_dynamics_stream.png",
    }  # fmt: skip
    assert all(image.startswith(b"\x89PNG") for image in pictures.values())
    mark = json.loads((out / "demo.json").read_text())
    assert (mark["finished"], mark["seed"], set(mark["scores"])) == (True, 1, names | {"simulated_dynamics"})


def test_demo_gets_better(finished):
    scores = json.loads((finished[0] / "demo.json").read_text())["scores"]
    mixing, labels = scores["simulated_rna"]["mixing"], scores["simulated_multiome"]["accuracy"]
    assert mixing["after"] > mixing["before"] + 0.3
    assert labels["after"] >= labels["before"]


def test_velocity_is_right_in_the_integrated_space(finished):
    scores = json.loads((finished[0] / "demo.json").read_text())["scores"]["simulated_dynamics"]
    assert scores["mixing"]["after"] > scores["mixing"]["before"] + 0.3
    assert scores["cosine"]["after"] > max(0.9, scores["cosine"]["before"] - 0.02)
    assert scores["fate"]["after"] > 0.9


def test_the_saved_velocity_is_the_one_that_was_used(finished):
    mdata = mudata.read_h5mu(finished[0] / "simulated_dynamics.h5mu")
    model = Velocity.load(finished[0] / "velocity_model", adata=mdata)
    assert np.array_equal(model.get_velocity(), mdata.obsm["velot_velocity_integration"])


def test_the_saved_model_is_the_one_that_was_used(finished):
    mdata = mudata.read_h5mu(finished[0] / "simulated_multiome.h5mu")
    model = Integration.load(finished[0] / "model", adata=mdata)
    assert np.array_equal(model.get_latent_representation(), mdata.obsm["X_muport"])
    assert model.predict().astype(str).tolist() == mdata.obs["prediction"].astype(str).tolist()


def test_demo_hides_pairing_and_types(small):
    example = next(_examples.transfer_examples(0))
    rna, atac = example.mdata["rna"], example.mdata["atac"]
    assert not set(rna.obs_names) & set(atac.obs_names)
    assert list(atac.obs.columns) == ["batch"]
    assert rna.obs_names.get_indexer(example.partner).tolist() != list(range(rna.n_obs))
    # partners are of one type and one batch: the truth that the scores use is right
    partners = rna.obs.loc[example.partner]
    assert (partners["cell_type"].astype(str).to_numpy() == example.true_types.to_numpy()).all()
    assert (partners["batch"].astype(str).to_numpy() == atac.obs["batch"].astype(str).to_numpy()).all()


def test_an_earlier_demo_is_replaced_and_says_so(nothing, tmp_path, capsys):
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    (tmp_path / "demo" / "note.txt").write_text("mine")
    assert "Replacing" not in capsys.readouterr().out
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--seed", "2"]) == 0
    assert "Replacing the earlier demonstration" in capsys.readouterr().out
    assert json.loads((tmp_path / "demo" / "demo.json").read_text())["seed"] == 2
    assert (tmp_path / "demo" / "note.txt").read_text() == "mine"


def interrupt():
    raise KeyboardInterrupt


def test_a_demo_that_was_cut_off_can_be_repeated(nothing, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        parts = [dataclasses.replace(part, examples=lambda seed: interrupt()) for part in _run._PARTS]
        patch.setattr(_run, "_PARTS", parts)
        assert cli.main(["demo", "--out", str(tmp_path)]) == 130
    assert not json.loads((tmp_path / "demo.json").read_text())["finished"]
    assert cli.main(["demo", "--out", str(tmp_path)]) == 0


def test_a_folder_with_other_files_needs_force(nothing, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "--force" in captured.err
    assert captured.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert cli.main(["demo", "--out", str(tmp_path), "--force"]) == 0
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_file_in_the_way(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MUPORT_DATA", raising=False)
    (tmp_path / "demo").write_text("")
    assert cli.main(["demo", "--out", str(tmp_path / "demo"), "--force"]) == 1
    assert "is a file" in capsys.readouterr().err


def test_an_empty_data_folder_is_one_clear_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MUPORT_DATA", str(tmp_path))
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("muport demo: error: MUPORT_DATA=")
    assert error.count("\n") == 1
    assert not (tmp_path / "demo").exists()
    with pytest.raises(FileNotFoundError):
        cli.main(["--debug", "demo", "--out", str(tmp_path / "demo")])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyError("no column 'batch'"), 1, "muport demo: error: no column 'batch'"),
        (ValueError("two\n  lines"), 1, "muport demo: error: two lines"),
        (KeyboardInterrupt(), 130, "muport demo: interrupted"),
    ],
)
def test_errors_are_one_line(monkeypatch, capsys, error, code, line):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("muport._demo.run", fail)
    assert cli.main(["demo"]) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("installed", [True, False])
def test_scib_scores_are_computed_only_if_asked_for(nothing, tmp_path, monkeypatch, capsys, installed):
    monkeypatch.setattr("muport._demo._scores.find_spec", lambda name: object() if installed else None)
    monkeypatch.setattr(_run, "scib_scores", lambda outcome: interrupt())
    assert cli.main(["demo", "--out", str(tmp_path / "demo")]) == 0
    assert cli.main(["demo", "--out", str(tmp_path / "scib"), "--scib"]) == (0 if installed else 1)
    error = capsys.readouterr().err
    assert error == (
        "" if installed else "muport demo: error: --scib needs scib-metrics: pip install 'muport[metrics]'.\n"
    )
    assert (tmp_path / "scib").exists() == installed


@pytest.mark.slow
def test_scib_metrics_scores_both_spaces():
    pytest.importorskip("scib_metrics")
    mdata = mudata.MuData({"rna": datasets.pbmc68k_reduced()})
    before = np.asarray(mdata["rna"].obsm["X_pca"], np.float32)
    batch = mdata["rna"].obs["batch"].to_numpy(str) == "S"
    outcome = SimpleNamespace(example=SimpleNamespace(mdata=mdata), before=before, after=before + 9 * batch[:, None])
    scores = scib_scores(outcome)
    assert set(scores) == {"Bio conservation", "Batch correction", "Total"}
    assert scores["Batch correction"][0] > scores["Batch correction"][1]


@pytest.mark.parametrize("argv", [[], ["dmeo"], ["demo", "--seed", "-1"], ["demo", "--seed", "x"]])
def test_unreadable_arguments_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(argv)
    assert stopped.value.code == 2
    assert "usage: muport" in capsys.readouterr().err


def test_help_in_a_fresh_process_is_light():
    code = "import sys; sys.argv = ['muport', 'demo', '--help']; import runpy, atexit\n"
    code += "atexit.register(lambda: print(sorted({'torch', 'scanpy', 'muport.integration'} & set(sys.modules))))\n"
    code += "runpy.run_module('muport', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert "MUPORT_DATA" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
    failed = subprocess.run([sys.executable, "-m", "muport", "dmeo"], capture_output=True, text=True)
    assert failed.returncode == 2
    assert "invalid choice" in failed.stderr
