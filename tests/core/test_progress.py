"""What is said about long work, by a clock that stands still until it is moved."""

import logging
import sys

import pytest

from lse_interp.core.progress import Progress, progress


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock(caplog):
    caplog.set_level(logging.INFO)
    return Clock()


def work(bar, clock, seconds, n=1.0, **rest):
    clock.seconds += seconds
    bar.advance(n, **rest)


def test_a_line_every_30_seconds_says_how_long_the_rest_takes(clock, caplog):
    with Progress("ablation", total=21, unit="language", clock=clock) as bar:
        for _ in range(21):
            work(bar, clock, 13)
    assert caplog.messages == [
        "ablation: 21 languages",
        "ablation: 3 of 21 languages, about 4 min left",
        "ablation: 6 of 21 languages, about 3 min left",
        "ablation: 9 of 21 languages, about 3 min left",
        "ablation: 12 of 21 languages, about 2 min left",
        "ablation: 15 of 21 languages, about 78 s left",
        "ablation: 18 of 21 languages, about 39 s left",
    ]


def test_the_first_tenth_is_told_at_once_if_much_is_left(clock, caplog):
    with Progress("x", total=100, unit="step", announced=False, clock=clock) as bar:
        for _ in range(10):
            work(bar, clock, 2)
    assert caplog.messages == ["x: 10 of 100 steps, about 3 min left"]


def test_before_the_first_tenth_nothing_is_estimated(clock, caplog):
    with Progress("x", total=1000, unit="step", clock=clock) as bar:
        work(bar, clock, 31)
    assert caplog.messages == ["x: 1,000 steps", "x: 1 of 1,000 steps"]


def test_short_work_says_how_much_there_is_and_no_more(clock, caplog):
    with Progress("x", total=1, unit="language", clock=clock) as bar:
        for _ in range(3):
            work(bar, clock, 9, 1 / 3)
    with Progress("y", total=0, unit="language", clock=clock):
        pass
    with Progress("z", total=2, unit="language", shown=False, clock=clock) as bar:
        work(bar, clock, 99)
    assert caplog.messages == ["x: 1 language"]


def test_what_was_finished_before_does_not_count_as_fast(clock, caplog):
    with Progress("x", total=4, unit="language", announced=False, clock=clock) as bar:
        work(bar, clock, 0, 2, worked=False)
        for _ in range(3):
            work(bar, clock, 20, 1 / 3)
    assert caplog.messages == [
        "x: 2 of 4 languages, about 2 min left",
        "x: 3 of 4 languages, about 60 s left",
    ]


def test_an_unknown_amount_is_counted(clock, caplog):
    with Progress("reading", total=None, unit="document", clock=clock) as bar:
        work(bar, clock, 31, 1200)
    assert caplog.messages == ["reading", "reading: 1,200 documents"]


def test_progress_gives_the_items(caplog):
    caplog.set_level(logging.INFO)
    assert list(progress("abc", "letters", unit="letter")) == ["a", "b", "c"]
    assert list(progress(iter("ab"), "more", unit="letter", total=2)) == ["a", "b"]
    assert caplog.messages == ["letters: 3 letters", "more: 2 letters"]


def test_a_terminal_gets_a_bar(monkeypatch, capsys, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("lse_interp.core.progress._DELAY", 0)
    with Progress("ablation", total=2, unit="language") as bar:
        bar.advance()
        bar._bar.refresh()
    assert "ablation: 1 of 2 languages:  50%|" in capsys.readouterr().err
    assert caplog.messages == []
