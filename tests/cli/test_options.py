"""Options, and the YAML file they may come from."""

from __future__ import annotations

import pytest

from muport import cli
from muport.cli import _main, _options


@pytest.mark.parametrize(
    ("words", "expected"),
    [(None, None), (["X_pca"], "X_pca"), (["rna=X_pca", "atac=X_lsi"], {"rna": "X_pca", "atac": "X_lsi"})],
)
def test_representation(words, expected):
    assert _options.representation(words) == expected


@pytest.mark.parametrize("words", [["X_pca", "X_lsi"], ["rna="], ["=X_pca"], ["rna=X_pca", "X_lsi"]])
def test_a_representation_that_is_neither(words):
    with pytest.raises(ValueError, match="MODALITY=KEY"):
        _options.representation(words)


def parsed(tmp_path, text, *argv):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    parser, commands = _main._parser()
    return parser.parse_args(_options.expanded([*argv, "--config", str(config)], parser, commands))


def test_config_gives_options_of_every_kind(tmp_path):
    text = (
        "out: b.h5mu\nuse_rep: {rna: X_pca, atac: X_lsi}\nstrength: 0.25\nforce: true\nquiet: false\nlabels-key: null\n"
    )
    args = parsed(tmp_path, text, "integrate", "a.h5mu")
    assert (str(args.out), args.strength, args.force, args.quiet, args.labels_key) == (
        "b.h5mu",
        0.25,
        True,
        False,
        None,
    )
    assert _options.representation(args.use_rep) == {"rna": "X_pca", "atac": "X_lsi"}


def test_the_command_line_goes_before_the_config(tmp_path):
    args = parsed(tmp_path, "strength: 0.25\nseed: 3\nout: b.h5ad", "integrate", "a.h5ad", "--strength", "0.75")
    assert (args.strength, args.seed) == (0.75, 3)


def test_a_flag_of_the_config_can_be_taken_back(tmp_path):
    text = "resume: false\nout: b.zarr"
    assert not parsed(tmp_path, text, "atlas", "a.zarr").resume
    assert parsed(tmp_path, text, "atlas", "a.zarr", "--resume").resume


def test_values_may_look_like_options(tmp_path):
    assert parsed(tmp_path, "batch_key: --odd\nout: b.h5ad", "integrate", "a.h5ad").batch_key == "--odd"


@pytest.mark.promise("Malformed files and options are refused in one line, and nothing is written")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strenght: 1", "'strenght', which is no option"),
        ("force: 3", "force must be true or false"),
        ("sharpen: [1, 2]", "sharpen must be one value"),
        ("- 1", "'option: value'"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_wrong_config_is_one_line(tmp_path, capsys, text, message):
    config = tmp_path / "run.yaml"
    config.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["integrate", "a.h5ad", "-o", "b.h5ad", "--config", str(config)])
    error = capsys.readouterr().err
    assert stopped.value.code == 1
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.promise("Damaged, changed or foreign files are refused by name, and no code in them runs")
def test_a_config_runs_nothing(tmp_path, capsys):
    config = tmp_path / "run.yaml"
    config.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']")
    with pytest.raises(SystemExit):
        cli.main(["integrate", "a.h5ad", "--config", str(config)])
    assert not (tmp_path / "made").exists()


def test_one_or_several_batch_variables(tmp_path):
    argv = ["integrate", "a.h5ad", "-o", "b.h5ad", "--batch-key"]
    assert parsed(tmp_path, "{}", *argv, "donor").batch_key == "donor"
    args = parsed(
        tmp_path, "strength: {donor: 1, a=b: 0}", *argv, "donor", "a=b", "--continuous-covariate-keys", "depth"
    )
    assert (args.batch_key, args.strength) == (["donor", "a=b"], {"donor": 1.0, "a=b": 0.0})
    assert args.continuous_covariate_keys == ["depth"]


def test_a_strength_that_is_no_number_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        parsed(tmp_path, "{}", "integrate", "a.h5ad", "-o", "b.h5ad", "--strength", "donor=much")
    assert "must be a number, or COLUMN=X" in capsys.readouterr().err
