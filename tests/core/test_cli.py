"""From a command line to an exit status."""

import dataclasses

import pytest

from lse_interp.core.cli import CONFIG_FLAT, main_for
from lse_interp.core.errors import LseError


@dataclasses.dataclass(frozen=True)
class Config:
    lang: str = "mlt"
    langs: tuple[str, ...] = ()
    batch_size: int = 1


@pytest.mark.parametrize(
    ("words", "flags"),
    [
        (["--lang", "mlt", "--lang", "isl"], "--lang"),
        (["--lang=mlt", "--lang=mlt"], "--lang"),
        (["--batch-size", "1", "--batch_size=2", "--langs", "a", "--langs", "b"], "--batch-size"),
    ],
)
def test_a_flag_counts_once(words, flags, capsys):
    with pytest.raises(SystemExit, match="2"):
        main_for(Config, pytest.fail, words)
    assert capsys.readouterr().err.startswith(f"error: {flags}")


@dataclasses.dataclass(frozen=True)
class Training:
    lr: float = 1.0
    model: str = "embedded"


@dataclasses.dataclass(frozen=True)
class Nested(Config):
    training: CONFIG_FLAT[Training] = Training()
    overwrite: bool = False


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--learning-rate", "1"], "there is no flag --learning-rate. Did you mean --lr?"),
        (["--learning_rate=1"], "there is no flag --learning-rate. Did you mean --lr?"),
        (["--languages", "mlt", "isl"], "there is no flag --languages. Did you mean --langs?"),
        (["--language", "mlt"], "there is no flag --language. Did you mean --lang?"),
        (["--batchsize", "2"], "there is no flag --batchsize. Did you mean --batch-size"),
        (["--model-name-or-path", "x"], "there is no flag --model-name-or-path. Did you mean --mo"),
        (["--zzz"], "there is no flag --zzz. --help explains every flag."),
    ],
)
def test_an_unknown_flag_names_the_nearest(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main_for(Nested, pytest.fail, words)
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_flags_of_groups_and_of_switches_are_known():
    seen = []
    words = ["--lr", "2", "--no-overwrite", "--batch_size=-3", "--langs", "--model", "x"]
    assert main_for(Nested, seen.append, words) == 0
    assert seen == [Nested(training=Training(2.0, "x"), batch_size=-3)]


def test_flags_that_begin_alike_are_others():
    seen = []
    assert main_for(Config, seen.append, ["--lang", "isl", "--langs", "--batch-size", "3"]) == 0
    assert seen == [Config("isl", (), 3)]


def test_errors_and_interruptions_are_told_apart_by_status(capsys):
    def fail(config):
        error = LseError("not so")
        error.add_note("but so")
        raise error

    def interrupt(config):
        raise KeyboardInterrupt

    assert main_for(Config, fail, []) == 2
    assert capsys.readouterr().err == "error: not so\nbut so\n"
    assert main_for(Config, interrupt, []) == 130
    assert "interrupted. Finished work is kept; rerun" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        main_for(Config, lambda config: 1 / 0, [])
