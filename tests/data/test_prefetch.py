"""The next result is made while the caller uses the one before: in order, one at a time."""

import threading
import time
from types import SimpleNamespace

import pytest

from lse_interp.data import prefetch
from lse_interp.data.prefetch import one_ahead

PATIENCE = 10.0


def test_one_ahead_gives_the_results_in_order():
    jobs = [lambda i=i: i * i for i in range(5)]
    assert [ahead.result()[0] for ahead in one_ahead(jobs)] == [0, 1, 4, 9, 16]
    assert list(one_ahead([])) == []


def test_one_ahead_starts_the_next_job_before_it_is_asked_for():
    started = [threading.Event() for _ in range(3)]

    def job(i):
        started[i].set()
        return i

    stream = one_ahead([lambda i=i: job(i) for i in range(3)])
    first = next(stream)
    assert first.result()[0] == 0
    assert started[1].wait(PATIENCE), "the second job should run while the first result is used"
    time.sleep(0.05)
    assert not started[2].is_set(), "two results ahead are one too many"
    assert next(stream).result()[0] == 1
    assert started[2].wait(PATIENCE)


def test_one_ahead_never_runs_two_jobs_at_once():
    running, most = 0, 0
    lock = threading.Lock()

    def job():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1

    for ahead in one_ahead([job] * 4):
        ahead.result()
    assert most == 1


def test_result_says_how_long_it_was_waited_for(monkeypatch):
    clock = iter([10.0, 12.5])
    monkeypatch.setattr(prefetch, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    (ahead,) = prefetch.one_ahead([lambda: "text"])
    assert ahead.result() == ("text", 2.5)


def test_an_error_is_raised_in_its_turn():
    def fail():
        raise ValueError("no text")

    first, second, third = one_ahead([lambda: 1, fail, lambda: 3])
    assert first.result()[0] == 1
    with pytest.raises(ValueError, match="no text"):
        second.result()
    assert third.result()[0] == 3


def test_a_caller_that_stops_is_not_held_up():
    release = threading.Event()
    stream = one_ahead([lambda: 0, release.wait])
    began = time.monotonic()
    next(stream).result()
    stream.close()
    assert time.monotonic() - began < PATIENCE / 2
    release.set()
