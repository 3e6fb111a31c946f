"""Files that were changed: each change is refused by name, or gives the same answer; no code in a file is run."""

from __future__ import annotations

import importlib.util
import json
import pickle
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import muport
from muport.data import _model_files as files

GOLDEN = Path(__file__).parents[1] / "golden"
SAVED = GOLDEN / "schema_1"
_spec = importlib.util.spec_from_file_location("golden_models", GOLDEN / "golden_models.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

NAMES = sorted(golden.MODELS)
#: What a changed file may raise; everything else is a defect.
REFUSALS = (ValueError, KeyError, TypeError, FileNotFoundError)


def class_of(name: str) -> type:
    return getattr(muport, {"gmm": "GMM", "velocity": "Velocity"}.get(name, "Integration"))


def load(folder: Path, name: str):
    return class_of(name).load(folder, adata=False, accelerator="cpu")


def copy_of(name: str, tmp_path: Path) -> Path:
    folder = tmp_path / name
    shutil.copytree(SAVED / name, folder)
    return folder


def contents(model) -> tuple:
    """Everything that a loaded model holds, as it would be saved again: equal contents give equal answers."""
    tensors: dict[str, np.ndarray] = {}
    document = {key: json.dumps(muport.data.pack(v, key, tensors)) for key, v in model._contents().items()}
    return document, {key: (array.dtype, array.tobytes()) for key, array in tensors.items()}


def sign(folder: Path, **changes) -> None:
    """Change the document of a model, and give it the checksum of what it says now."""
    path = folder / "model.json"
    document = {**json.loads(path.read_text()), **changes}
    document.pop("checksum", None)
    path.write_text(json.dumps({**document, "checksum": files._checksum(document)}))


def change_tensor(folder: Path, key: str, array: np.ndarray) -> None:
    """Change a tensor of a model, and sign the model again."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    tensors[key] = array
    save_file(tensors, path)
    listed = {"file": path.name, "entries": {name: files._describe(a) for name, a in tensors.items()}}
    sign(folder, tensors=listed)


@pytest.mark.promise("Every changed byte of a saved model is refused, or the answer is the same bit by bit")
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_byte_is_refused_or_harmless(name, tmp_path, record_property):
    folder, expected = copy_of(name, tmp_path), contents(load(SAVED / name, name))
    rng, tries, refused = np.random.default_rng(0), 0, 0
    for file in ("model.json", "model.safetensors"):
        whole = (folder / file).read_bytes()
        # the header of the tensors, and anywhere
        places = [*rng.integers(0, min(len(whole), 4_000), 8), *rng.integers(0, len(whole), 8)]
        for place in places:
            changed = bytearray(whole)
            changed[place] ^= 1 << rng.integers(8)
            (folder / file).write_bytes(changed)
            tries += 1
            try:
                model = load(folder, name)
            except REFUSALS:
                refused += 1
            else:
                assert contents(model) == expected
        (folder / file).write_bytes(whole)
    record_property("tries", tries)
    assert refused > tries / 2


@pytest.mark.promise("A file of a saved model that is cut, missing or of another model is refused")
@pytest.mark.parametrize("name", NAMES)
def test_cut_missing_and_swapped_files_are_refused(name, tmp_path, record_property):
    folder, other = copy_of(name, tmp_path), NAMES[NAMES.index(name) - 1]
    tries = 0
    for file in ("model.json", "model.safetensors"):
        whole = (folder / file).read_bytes()
        for content in (
            None,
            b"",
            whole[:1],
            whole[: len(whole) // 2],
            whole[:-1],
            (SAVED / other / file).read_bytes(),
        ):
            (folder / file).unlink()
            if content is not None:
                (folder / file).write_bytes(content)
            with pytest.raises(REFUSALS, match="model"):
                load(folder, name)
            tries += 1
            (folder / file).write_bytes(whole)
    record_property("tries", tries)


class Bomb:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.promise("No code in a file is run when it is loaded")
def test_a_pickle_in_any_file_is_not_run(tmp_path, record_property):
    marker = tmp_path / "ran"
    content = pickle.dumps(Bomb(marker))
    pickle.loads(content)
    assert marker.exists(), "the pickle works"
    marker.unlink()
    data = golden.modality(60, 5, "g", 0)
    muport.Integration.setup_anndata(data, use_rep="X_own", batch_key="batch", labels_key="cell_type")
    model = muport.Integration(data)
    model.train(max_iter=1, **golden.QUIET)
    model.save(tmp_path / "m", save_anndata=True)
    names = ["model.json", "model.safetensors", "adata.h5ad", "model.pt", "attr.pkl", "var_names.csv", "registry.json"]
    for name in names:
        folder = tmp_path / f"with_{name}"
        shutil.copytree(tmp_path / "m", folder)
        (folder / name).write_bytes(content)
        for call in (
            lambda at: muport.Integration.load(at, accelerator="cpu"),
            lambda at: muport.Integration.load(at, adata=False, accelerator="cpu"),
            muport.Integration.load_registry,
            muport.Integration.view_setup_args,
            lambda at: muport.Integration.convert_legacy_save(at, tmp_path / "converted"),
        ):
            try:
                call(folder)
            except (*REFUSALS, NotImplementedError):
                pass
    record_property("tries", 5 * len(names))
    assert not marker.exists()


def save_with_data(folder: Path) -> Path:
    """Save a model with its data, and return the file of the data."""
    data = golden.modality(60, 5, "g", 0)
    muport.Integration.setup_anndata(data, use_rep="X_own", batch_key="batch")
    model = muport.Integration(data)
    model.train(max_iter=1, **golden.QUIET)
    model.save(folder, save_anndata=True)
    return folder / "adata.h5ad"


@pytest.mark.promise("The data saved with a model carry a checksum: every changed byte is noticed")
def test_changed_data_are_refused(tmp_path, record_property):
    file = save_with_data(tmp_path / "m")
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 40):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.integers(8)
        file.write_bytes(changed)
        with pytest.raises(ValueError, match=r"adata\.h5ad.*checksum.*adata=False"):
            muport.Integration.load(tmp_path / "m", accelerator="cpu")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"adata\.h5ad.*adata=False"):
        muport.Integration.load(tmp_path / "m", accelerator="cpu")
    record_property("tries", 41)
    file.write_bytes(whole)
    assert muport.Integration.load(tmp_path / "m", accelerator="cpu").adata.n_obs == 60


#: Tensors (by their names in version 0.1.0) of which there may be any number of rows.
ANY_NUMBER = r"\.(sharp|image|landmarks|quantiles|prototypes|own\.\w+|reference\.means)$"
SPOIL = {
    "NaN": lambda a: np.full_like(a, np.nan),
    "infinite": lambda a: np.full_like(a, np.inf),
    "one row less": lambda a: a[:-1],
    "one dimension more": lambda a: a[..., None],
    "another type": lambda a: a.astype(np.int32),
}


@pytest.mark.promise("A state whose numbers cannot be is refused by the name of its field, even with a valid checksum")
@pytest.mark.parametrize("name", ["batches", "gmm", "joint_with_shared", "gromov", "vae", "velocity"])
def test_impossible_tensors_are_refused_by_name(name, tmp_path, record_property):
    folder = copy_of(name, tmp_path)
    whole = {file.name: file.read_bytes() for file in folder.iterdir()}
    entries = json.loads(whole["model.json"])["tensors"]["entries"]
    # what is not used after the fit: it was measured during it, or is a part of the network for training alone
    shown = ("history", "ratios", "log_likelihood", "decoders")
    keys = [key for key in entries if key.startswith("state") and not any(word in key for word in shown)]
    rng, tries = np.random.default_rng(0), 0
    for key in rng.choice(keys, min(len(keys), 12), replace=False):
        with safe_open(folder / "model.safetensors", framework="numpy") as file:
            array = file.get_tensor(key)
        for spoil in SPOIL:
            if array.dtype.kind != "f" and spoil in ("NaN", "infinite"):
                continue
            if array.size == 0 or array.ndim == 0 or (spoil == "one row less" and re.search(ANY_NUMBER, key)):
                continue
            change_tensor(folder, key, SPOIL[spoil](array))
            with pytest.raises(ValueError, match="changed or damaged"):
                load(folder, name)
            tries += 1
            for file_name, content in whole.items():
                (folder / file_name).write_bytes(content)
    record_property("tries", tries)


@pytest.mark.promise("Sizes and depths of a file are checked before memory is taken")
def test_bombs_are_refused(tmp_path, record_property):
    folder = copy_of("batches", tmp_path)
    whole = (folder / "model.json").read_bytes()
    deep = b"[" * 100_000 + b"]" * 100_000
    for content in (
        deep,
        b'{"schema_version": 2, "state": ' + deep + b"}",
        b'{"schema_version": NaN}',
        b" " * 2**26 + whole,
    ):
        (folder / "model.json").write_bytes(content)
        with pytest.raises(ValueError, match=r"model\.json"):
            load(folder, "batches")
    nested: object = 0
    for _ in range(400):
        nested = {"$": "tuple", "v": [nested]}
    (folder / "model.json").write_bytes(whole)
    sign(folder, state=nested)
    with pytest.raises(ValueError, match="batches"):
        load(folder, "batches")
    (folder / "model.json").write_bytes(whole)
    header = json.dumps({"state.center": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    for size in (len(header), 2**62):
        (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match=r"model\.safetensors"):
            load(folder, "batches")
    record_property("tries", 7)


def test_data_that_would_fill_the_memory_are_refused(tmp_path):
    file = save_with_data(tmp_path / "m")
    with h5py.File(file, "r+") as root:
        del root["obsm/X_own"]
        root.create_dataset("obsm/X_own", shape=(2**34, 64), dtype="f4", chunks=(2**14, 64), compression="gzip")
    sign(tmp_path / "m", data_sha256=muport.data._durable_files.hash_file(file))
    with pytest.raises(ValueError, match=r"adata\.h5ad.*GB of memory"):
        muport.Integration.load(tmp_path / "m", accelerator="cpu")


def test_a_newer_version_is_refused_and_says_what_to_do(tmp_path):
    folder = copy_of("batches", tmp_path)
    sign(folder, schema_version=files.SCHEMA_VERSION + 1)
    with pytest.raises(ValueError, match="newer than.*update muport"):
        load(folder, "batches")
