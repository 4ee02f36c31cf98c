"""From a command line to an exit status."""

import dataclasses

import pytest

from lse_interp.core.cli import main_for
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
