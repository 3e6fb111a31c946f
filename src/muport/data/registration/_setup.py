"""The arguments of the set-up, and the modalities and obsm keys of an object that they name."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

import anndata
import mudata

from muport._checks import check_columns, check_flags
from muport._keys import JOINT_MODALITY, SINGLE_MODALITY, UNLABELED_CATEGORY

_USUAL_BATCH_KEY = "batch"

logger = logging.getLogger("muport")


@dataclass(frozen=True)
class Setup:
    """The arguments of ``setup_mudata`` and ``setup_anndata``; their types are checked, data are not needed.

    Parameters
    ----------
    use_rep
        Modality -> ``obsm`` key of its own representation. A string is a key of ``mdata.obsm``, which holds a space of
        all cells; if it is not there, it is the key in every modality that takes part (see :func:`expand_use_rep`).
        None if only `shared_rep` is given.
    batch_key
        Column with the batch of each cell, or a list of columns if `crossed`. None: one batch.
    labels_key
        Column with the type of each cell. None: no labels.
    unlabeled_category
        Value of `labels_key` that means "not known", as does a missing value.
    shared_rep
        ``obsm`` key of a space that all modalities share: a string, or modality -> key.
    paired
        None: a name in two modalities is one cell if the data agree. False: such a name is an error. True: such a name
        is one cell, without a test, and every cell must be in every modality.
    time_key
        Column with the time of each cell, as numbers. None: no time.
    spatial_key
        Column with the region of each cell. None: no regions.
    sample_key
        Column with the sample (patient) of each cell. None: no samples.
    growth_key
        Column with an expected growth rate of each cell. None: no such rates.
    clone_key
        Column with the clone of each cell, or ``obsm`` key of a matrix of cells by clones. None: no clones.
    weight_key
        Column with the weight of each cell, numbers of at least 0. None: no weights.
    concatenate
        Concatenate the representations of several modalities, one row per cell; every cell must be in all of them.
    separate
        Allow several modalities without a shared representation, each in a space of its own.
    crossed
        Allow several batch columns.
    continuous_covariate_keys
        Columns with numbers whose effect on the coordinates is removed. None: no such columns.

    Raises
    ------
    TypeError
        If an argument is of another type.
    ValueError
        If neither `use_rep` nor `shared_rep` is given, a mapping or a list is empty, or a column is named twice.

    Examples
    --------
    >>> Setup(use_rep="X_pca", batch_key="donor").batch_key
    'donor'
    """

    use_rep: Mapping[str, str] | str | None = field(default_factory=lambda: {"rna": "X_pca"})
    batch_key: str | Sequence[str] | None = "batch"
    labels_key: str | None = None
    unlabeled_category: str = UNLABELED_CATEGORY
    shared_rep: Mapping[str, str] | str | None = None
    paired: bool | None = None
    time_key: str | None = None
    spatial_key: str | None = None
    sample_key: str | None = None
    growth_key: str | None = None
    clone_key: str | None = None
    weight_key: str | None = None
    concatenate: bool = False
    separate: bool = False
    crossed: bool = False
    continuous_covariate_keys: Sequence[str] | None = None

    def __post_init__(self) -> None:
        _check_keys("use_rep", self.use_rep)
        _check_keys("shared_rep", self.shared_rep)
        for name, value in vars(self).items():
            if not name.endswith("_key") or (name == "batch_key" and self.crossed):
                continue
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name}={value!r} must be the name of a column or None.")
        if not isinstance(self.unlabeled_category, str):
            raise TypeError(f"unlabeled_category={self.unlabeled_category!r} must be a string.")
        if self.paired is not None and not isinstance(self.paired, bool):
            raise TypeError(f"paired={self.paired!r} must be None, True or False.")
        check_flags(concatenate=self.concatenate, separate=self.separate, crossed=self.crossed)
        if self.crossed and not isinstance(self.batch_key, str | None):
            check_columns("batch_key", self.batch_key, "None for one batch")
            if len(self.batch_key) == 1:
                object.__setattr__(self, "batch_key", self.batch_key[0])
        if self.continuous_covariate_keys is not None:
            check_columns("continuous_covariate_keys", self.continuous_covariate_keys, "None for no covariates")
            if both := sorted(set(self.batch_keys) & set(self.continuous_covariate_keys)):
                raise ValueError(
                    f"{both[0]!r} is named in batch_key and in continuous_covariate_keys: leave it out of one of them."
                )
        if self.use_rep is None and self.shared_rep is None:
            raise ValueError("use_rep=None and shared_rep=None: give the obsm key of at least one of them.")

    @property
    def batch_keys(self) -> tuple[str, ...]:
        """The batch columns; none without a batch column."""
        if self.batch_key is None:
            return ()
        return (self.batch_key,) if isinstance(self.batch_key, str) else tuple(self.batch_key)

    @property
    def optional_keys(self) -> frozenset[str]:
        """``obsm`` keys that new cells may lack: those of own representations beside a shared one."""
        if self.shared_rep is None or not isinstance(self.use_rep, Mapping):
            return frozenset()
        shared = {self.shared_rep} if isinstance(self.shared_rep, str) else set(self.shared_rep.values())
        return frozenset(self.use_rep.values()) - shared

    @classmethod
    def from_args(cls, setup_args: Mapping[str, Any]) -> Setup:
        """Build from the ``setup_args`` of a registry; other keys are ignored."""
        names = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in setup_args.items() if key in names})


def _check_keys(name: str, value: object) -> None:
    if value is None or (isinstance(value, str) and value):
        return
    if not isinstance(value, Mapping):
        raise TypeError(f"{name}={value!r} must be an obsm key, or a dict of modality -> obsm key.")
    if not value:
        raise ValueError(f"{name} is an empty dict: name at least one modality, for example {{'rna': 'X_pca'}}.")
    for modality, key in value.items():
        if not isinstance(modality, str) or not isinstance(key, str):
            raise TypeError(f"{name}[{modality!r}]={key!r} must be an obsm key (a string).")


@dataclass(frozen=True)
class SpaceKeys:
    """The ``obsm`` keys of an object that a model reads.

    - `space`: Modality -> key of the working space.
    - `own`: Modality -> key of its own representation.
    - `concatenate`: Whether the working space is the concatenation of the representations of all modalities.
    - `separate`: Whether each modality has a space of its own: there is no working space, and `space` is `own`.
    """

    space: dict[str, str]
    own: dict[str, str]
    concatenate: bool = False
    separate: bool = False


def select_modalities(
    data: mudata.MuData | anndata.AnnData, setup: Setup, expected: Sequence[str] | None = None
) -> dict[str, anndata.AnnData | mudata.MuData]:
    """Return the modalities of `data` by name.

    An AnnData is one modality, with the name in `use_rep` if that has just one. A MuData whose own ``obsm`` holds the
    space is one modality, too, of name ``"joint"``: its rows are all cells.
    """
    if isinstance(data, mudata.MuData):
        _check_modalities(data)
        if _uses_joint_space(data, setup, expected):
            return {JOINT_MODALITY: data}
        # new cells for a model of an AnnData may be a MuData of one modality
        single = len(data.mod) == 1 and tuple(expected or ()) == (SINGLE_MODALITY,)
        return dict(zip((SINGLE_MODALITY,), data.mod.values(), strict=True)) if single else dict(data.mod)
    if not isinstance(data, anndata.AnnData):
        raise TypeError(f"data is a {type(data).__name__}, expected MuData or AnnData.")
    named = setup.shared_rep if isinstance(setup.shared_rep, Mapping) else setup.use_rep
    names = tuple(expected or (named if isinstance(named, Mapping) else (SINGLE_MODALITY,)))
    if len(names) > 1:
        raise ValueError(
            f"data is an AnnData, but the set-up names the modalities {list(names)}: pass a MuData that names the "
            "modality, MuData({modality: adata})."
        )
    return {names[0]: data}


def choose_batch_key(
    data: mudata.MuData | anndata.AnnData, batch_key: str | Sequence[str] | None
) -> str | Sequence[str] | None:
    """Return `batch_key`; for ``"auto"`` the column ``"batch"``, or None if there is no such column."""
    if not isinstance(batch_key, str) or batch_key != "auto":
        return batch_key
    parts = (data, *(data.mod.values() if isinstance(data, mudata.MuData) else ()))
    # what is no AnnData or MuData is refused later
    has_batches = any(_USUAL_BATCH_KEY in getattr(part, "obs", ()) for part in parts)
    logger.info("batch_key='auto': %s.", f"the batches of {_USUAL_BATCH_KEY!r}" if has_batches else "one batch")
    return _USUAL_BATCH_KEY if has_batches else None


def expand_use_rep(data: mudata.MuData | anndata.AnnData, setup_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments with a string ``use_rep`` replaced by modality -> key, if some modalities lack that key.

    The modalities that have it take part, and a log line names both. Nothing is replaced if no modality has it, or
    all do.
    """
    args, key, shared = dict(setup_args), setup_args.get("use_rep"), setup_args.get("shared_rep")
    if not isinstance(data, mudata.MuData) or not isinstance(key, str) or (shared is None and is_joint(data, key)):
        return args
    if not all(isinstance(part, anndata.AnnData) for part in data.mod.values()):
        return args  # it is refused later
    holders = [m for m, part in data.mod.items() if key in part.obsm]
    if isinstance(shared, Mapping):
        holders = [m for m in holders if m in shared]
    elif isinstance(shared, str):
        holders = [m for m in holders if shared in data.mod[m].obsm]
    absent = [m for m in data.mod if m not in holders]
    if not holders or not absent:
        return args
    args["use_rep"] = dict.fromkeys(holders, key)
    if shared is None:
        others = ", ".join(f"{m} (obsm: {', '.join(sorted(map(str, data.mod[m].obsm))) or 'empty'})" for m in absent)
        logger.warning(
            "obsm[%r] of %s takes part; %s is left out: %s.",
            key, ", ".join(holders), others, _advise_all(data, dict.fromkeys(holders, key), absent),
        )  # fmt: skip
    return args


def _advise_all(data: mudata.MuData, use_rep: dict[str, str], absent: Sequence[str]) -> str:
    """Say how the modalities that are left out can take part."""
    empty = [m for m in absent if not data.mod[m].obsm]
    if empty:
        return f"compute a representation of {', '.join(empty)} first, for example with muport.pp.prepare"
    others = {m: "X_lsi" if "X_lsi" in data.mod[m].obsm else sorted(map(str, data.mod[m].obsm))[0] for m in absent}
    return f"pass use_rep={use_rep | others} to use all"


def sort_modalities[T](mods: Mapping[str, T], order: Sequence[str]) -> dict[str, T]:
    """Sort modalities as a fitted model lists them; others follow in their own order."""
    return {name: mods[name] for name in (*(m for m in order if m in mods), *(m for m in mods if m not in order))}


def _check_modalities(data: mudata.MuData) -> None:
    for name, part in data.mod.items():
        if not isinstance(part, anndata.AnnData | mudata.MuData):
            raise TypeError(f"modality {name!r} is a {type(part).__name__}, expected AnnData: replace it in mdata.mod.")


def is_joint(data: mudata.MuData, key: str) -> bool:
    """Return whether `key`, given as a string `use_rep`, is a space of all cells in ``mdata.obsm``.

    The masks of the modalities, which ``mdata.obsm`` holds under their names, are not such spaces. If there is only one
    modality, its own representation of that name comes first.
    """
    if key not in data.obsm or key in data.mod:
        return False
    return not (len(data.mod) == 1 and key in next(iter(data.mod.values())).obsm)


def _uses_joint_space(data: mudata.MuData, setup: Setup, expected: Sequence[str] | None) -> bool:
    if setup.shared_rep is not None or not isinstance(setup.use_rep, str):
        return False
    if expected is not None:
        return tuple(expected) == (JOINT_MODALITY,) and JOINT_MODALITY not in data.mod
    return is_joint(data, setup.use_rep)


def find_space_keys(
    mods: Mapping[str, anndata.AnnData | mudata.MuData], setup: Setup, expected: Sequence[str] | None = None
) -> SpaceKeys:
    """Find the ``obsm`` keys of the modalities that the set-up names.

    - `mods`: Modalities of the object, by name.
    - `expected`: Modalities of a fitted model. Then `mods` are new cells: one of these modalities is enough (all of
      them if they are concatenated), and the own representation of a modality may be absent if a shared one is given.

    Raises KeyError if a modality or an ``obsm`` key is missing; lists those that exist; ValueError if there are several
    modalities without a shared representation, and the model needs one.
    """
    space, own = _requested_keys(mods, setup, expected)
    several = setup.shared_rep is None and len(own) > 1
    concatenate = setup.concatenate and several
    if expected is not None:
        present = [m for m in expected if m in mods]
        if not present:
            raise KeyError(f"none of the model's modalities {list(expected)} is in the data, which has {list(mods)}.")
        if concatenate:
            present = list(expected)
        space = {m: space[m] for m in present}
        own = {m: k for m, k in own.items() if m in present and (setup.shared_rep is None or k in mods[m].obsm)}
    for argument, keys in (("use_rep", own), ("shared_rep", space)):
        for modality, key in keys.items():
            _check_exists(argument if setup.shared_rep is not None else "use_rep", modality, key, mods)
    return SpaceKeys(space, own, concatenate, setup.separate and several)


def _requested_keys(
    mods: Mapping[str, anndata.AnnData | mudata.MuData], setup: Setup, expected: Sequence[str] | None
) -> tuple[dict[str, str], dict[str, str]]:
    names = list(mods if expected is None else expected)
    if setup.shared_rep is None:
        own = _by_modality(setup.use_rep, names)
        if len(own) > 1 and not (setup.concatenate or setup.separate):
            _refuse_several(setup.use_rep, own, mods)
        return own, own
    named = dict(setup.use_rep) if isinstance(setup.use_rep, Mapping) else {}
    if isinstance(setup.shared_rep, str):
        key = setup.shared_rep
        holders = [m for m in names if expected is not None or m in named or key in mods[m].obsm]
        space = dict.fromkeys([*holders, *(m for m in named if m not in holders)], key)
    else:
        space = dict(setup.shared_rep)
    if not space:
        raise KeyError(f"shared_rep={setup.shared_rep!r} is in no modality; obsm holds {_obsm_keys(mods)}.")
    if extra := sorted(set(named) - set(space)):
        raise ValueError(f"use_rep names {extra}, which shared_rep={dict(space)} lacks: add them to shared_rep.")
    return space, _by_modality(setup.use_rep, list(space))


def _refuse_several(
    use_rep: Mapping[str, str] | str | None, own: Mapping[str, str], mods: Mapping[str, anndata.AnnData | mudata.MuData]
) -> NoReturn:
    existing = _obsm_keys(mods)
    if isinstance(use_rep, str) and not any(use_rep in keys for keys in existing.values()):
        raise KeyError(f"use_rep={use_rep!r} is neither in mdata.obsm nor in a modality; their obsm holds {existing}.")
    raise ValueError(
        f"use_rep names {len(own)} modalities ({', '.join(own)}), whose spaces differ: give shared_rep, the obsm key "
        "of a representation they share (for example one PCA of RNA and gene activity), where the model takes one; "
        "or the key of a joint space in mdata.obsm; or one modality, {modality: key}."
    )


def _obsm_keys(mods: Mapping[str, anndata.AnnData | mudata.MuData]) -> dict[str, list[str]]:
    return {name: sorted(part.obsm.keys()) for name, part in mods.items()}


def _by_modality(keys: Mapping[str, str] | str | None, names: Sequence[str]) -> dict[str, str]:
    if isinstance(keys, str):
        return dict.fromkeys(names, keys)
    return dict(keys or {})


def _check_exists(argument: str, modality: str, key: str, mods: Mapping[str, anndata.AnnData | mudata.MuData]) -> None:
    if modality not in mods:
        raise KeyError(f"{argument} names modality {modality!r}, but the data has {list(mods)}: correct {argument}.")
    part = mods[modality]
    if key in part.obsm:
        return
    if isinstance(part, mudata.MuData):
        existing = sorted(k for k in part.obsm if k not in part.mod)
        raise KeyError(f"{argument}={key!r} is not in mdata.obsm, which has {existing}: write the joint space first.")
    hint = "; pass use_rep=None to use shared_rep alone" if argument == "use_rep" and len(mods) > 1 else ""
    raise KeyError(
        f"{argument}: obsm[{key!r}] is not in modality {modality!r}, which has {sorted(part.obsm.keys())}: compute it "
        f"first{hint}."
    )
