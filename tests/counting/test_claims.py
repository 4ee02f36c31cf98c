"""Which languages a run counts, without a model: finished, locked, resumed, overwritten."""

import dataclasses
import threading

import pytest

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import MismatchError
from lse_interp.counting.claims import Claims, shards_of
from tests.faults.small_artefacts import counts

ASKED = {language: {"language": language, "n_tokens": 9} for language in ("mlt", "deu", "ekk")}


class Killed(BaseException):
    """What ends a run at any place, as a signal would."""


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path, "tiny")


def finish(paths, language, **settings):
    """Write counts of a language."""
    about = {"settings": ASKED[language] | settings}
    made = dataclasses.replace(counts(), language=language, provenance=about)
    made.save(paths.counts(language))


def begin(paths, language, *, overwrite=False):
    """Leave a shard of a language."""
    folder = shards_of(paths.counts(language), overwrite=overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "00000.safetensors").write_bytes(b"anything")
    return folder


def killed_overwriting(paths, *, after):
    """Begin to overwrite, and die when the counts of some languages are written."""
    with pytest.raises(Killed), Claims(ASKED, paths, overwrite=True) as claims:
        for language in claims.take():
            begin(paths, language, overwrite=True)
            if language in after:
                finish(paths, language)
                claims.release(language)
        raise Killed


def test_takes_what_is_not_finished_in_the_order_asked(paths):
    finish(paths, "deu")
    folder = begin(paths, "ekk")
    (folder / "text.safetensors").write_bytes(b"of another launch")
    with Claims(ASKED, paths, overwrite=False) as claims:
        assert claims.take() == ["mlt", "ekk"]
        assert [path.name for path in folder.iterdir()] == ["00000.safetensors"]
        claims.release("ekk")
        assert not folder.exists()


def test_refuses_finished_counts_of_other_settings(paths):
    finish(paths, "deu", n_tokens=8)
    with (
        Claims(ASKED, paths, overwrite=False) as claims,
        pytest.raises(MismatchError, match="deu.safetensors was counted with .*was 8, now 9"),
    ):
        claims.take()
    with Claims(ASKED, paths, overwrite=True) as claims:
        assert claims.take() == list(ASKED)


def test_waits_for_another_run_and_takes_what_it_left(paths):
    taken = []

    def other():
        with Claims(ASKED, paths, overwrite=False) as claims:
            taken.append(claims.take())

    thread = threading.Thread(target=other)
    with Claims({"deu": ASKED["deu"]}, paths, overwrite=False) as claims:
        claims.take()
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and not taken
        finish(paths, "deu")
        claims.release("deu")
    thread.join(20)
    assert taken == [["mlt", "ekk"]]


def test_overwrite_begins_with_all_and_deletes_old_shards(paths):
    finish(paths, "deu")
    folder = begin(paths, "ekk")
    with Claims(ASKED, paths, overwrite=True) as claims:
        assert claims.take() == list(ASKED)
        assert claims.shards("ekk") != folder, "shards of a plain run are not used"
        assert paths.counts("deu").exists(), "it stays until it is replaced"
    assert not folder.exists()


def test_overwrite_resumes_what_a_killed_run_of_the_same_command_left(paths):
    for language in ASKED:
        finish(paths, language)
    killed_overwriting(paths, after=["mlt"])
    with Claims(ASKED, paths, overwrite=False) as claims:
        assert claims.take() == [], "finished counts are reused without the flag"
    with Claims(ASKED, paths, overwrite=True) as claims:
        assert claims.take() == list(ASKED)
        for language in ASKED:
            assert list(claims.shards(language).iterdir()), "its shards are kept, to be read again"
            claims.release(language)
            assert list(claims.shards(language).iterdir())
    assert not any(claims.shards(language).exists() for language in ASKED)


def test_leftovers_of_finished_counts_are_deleted(paths):
    finish(paths, "deu")
    begin(paths, "deu")
    (paths.counts("deu").parent / ".deu.safetensors.shards.0123abcd").mkdir()
    with Claims({"deu": ASKED["deu"]}, paths, overwrite=False) as claims:
        assert claims.take() == []
    left = sorted(path.name for path in paths.counts("deu").parent.iterdir())
    assert left == ["deu.json", "deu.safetensors"]
