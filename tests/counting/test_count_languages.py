import dataclasses
import json
import logging

import pytest
import torch

from lse_interp.activations import Config, main, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.core.errors import CorpusError, LanguageError, MismatchError
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.counting.shard_store import ShardStore


@pytest.fixture
def configure(model_folder, documents, tmp_path):
    """Return a function that builds a Config over text of two languages."""
    for code, text in (("mlt", documents), ("est", documents[::-1])):
        (tmp_path / f"{code}.txt").write_text("\n".join(text), encoding="utf-8")

    def build(**changes):
        values = {
            "model": ModelArgs(model=str(model_folder), device="cpu"),
            "text": CorpusArgs(corpus=str(tmp_path / "{lang}.txt")),
            "langs": ("mlt", "ekk"),
            "root": tmp_path / "runs",
        }
        names = {field.name for field in dataclasses.fields(CountSettings)}
        counting = {name: changes.pop(name) for name in names & set(changes)}
        counting = CountSettings(**{"n_tokens": 200, "block_size": 16} | counting)
        return Config(**values | changes, counting=counting)

    return build


def test_run_writes_counts_of_every_language(configure, caplog):
    with caplog.at_level(logging.INFO):
        written = run(configure())
    assert list(written) == ["mlt", "ekk"]
    for language, path in written.items():
        assert path.name == f"{language}.safetensors"
        counts = ActivationCounts.load(path)
        assert (counts.language, counts.n_tokens) == (language, 200)
        assert counts.provenance["config"]["counting"]["n_tokens"] == 200
        twin = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        assert twin["meta"]["site"] == "mlp.hook_act"
        assert not path.with_name(f"{path.name}.shards").exists()
    assert "tokens/s" in caplog.text
    assert "counts of 2 languages are in" in caplog.text
    assert "counts (400 tokens counted now" in caplog.text


@pytest.mark.parametrize("lacks", ["file", "field"])
def test_run_checks_the_text_of_every_language_before_it_loads_a_model(
    configure, tmp_path, monkeypatch, lacks
):
    monkeypatch.setattr("lse_interp.models.loading.load_from_args", pytest.fail)
    for code in ("mlt", "ekk"):
        (tmp_path / f"{code}.jsonl").write_text('{"text": "a"}\n', encoding="utf-8")
    if lacks == "file":
        (tmp_path / "ekk.jsonl").unlink()
    else:
        (tmp_path / "ekk.jsonl").write_text('{"content": "a"}\n', encoding="utf-8")
    message = {"file": "no text for Estonian", "field": r"ekk\.jsonl, line 1 has no field 'text'"}
    with pytest.raises(CorpusError, match=message[lacks]):
        run(configure(text=CorpusArgs(corpus=str(tmp_path / "{lang}.jsonl"))))


def test_run_takes_all_the_text_there_is(configure):
    counts = ActivationCounts.load(run(configure(n_tokens="all", langs=("mlt",)))["mlt"])
    with pytest.raises(CorpusError, match=f"but the corpus has {counts.n_tokens:,}") as caught:
        run(configure(n_tokens=counts.n_tokens + 1, langs=("ekk",)))
    (note,) = caught.value.__notes__
    assert note.startswith("This is Estonian (/") and "est.txt). --n-tokens takes less" in note


def test_run_refuses_one_file_for_two_languages(configure, tmp_path):
    with pytest.raises(CorpusError, match="is one text, and it was asked for as mlt, ekk"):
        run(configure(text=CorpusArgs(corpus=str(tmp_path / "mlt.txt"))))


def test_run_lets_go_of_a_language_when_its_counts_are_written(configure, tmp_path):
    held = {}

    class Watch(logging.Handler):
        def emit(self, record):
            locks = (tmp_path / "runs").rglob(".*.safetensors.lock")
            held[record.getMessage().partition(":")[0]] = {lock.name[1:4] for lock in locks}

    logger, watch = logging.getLogger("lse_interp"), Watch()
    logger.addHandler(watch)
    logger.setLevel(logging.INFO)
    try:
        run(configure())
    finally:
        logger.removeHandler(watch)
        logger.setLevel(logging.NOTSET)
    assert (held["mlt"], held["ekk"]) == ({"ekk"}, set())


def test_run_reuses_what_is_finished(configure, caplog):
    written = run(configure())
    before = {language: path.stat().st_mtime_ns for language, path in written.items()}
    with caplog.at_level(logging.INFO):
        again = run(configure())
    assert again == written
    assert {language: path.stat().st_mtime_ns for language, path in again.items()} == before
    assert caplog.text.count("is finished; reusing it (--overwrite to count again)") == 2
    run(configure(overwrite=True))
    assert all(path.stat().st_mtime_ns > before[lang] for lang, path in written.items())


class Killed(BaseException):
    """What ends a run between two languages, as a signal would."""


def killed_at(configure, language, monkeypatch):
    """Overwrite, and die after the first shard of a language; return the shards left."""
    save = ShardStore.save

    def die(store, index, shard):
        save(store, index, shard)
        if store.folder.name.startswith(language):
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ShardStore, "save", die)
        run(configure(overwrite=True))
    return list(configure().root.rglob(f"{language}.safetensors.new-shards/0*.safetensors"))


def test_run_goes_on_overwriting_where_it_was_killed(configure, caplog, monkeypatch):
    old = run(configure())
    expected = {code: ActivationCounts.load(path) for code, path in old.items()}
    before = {code: path.stat().st_mtime_ns for code, path in old.items()}
    left = killed_at(configure, "ekk", monkeypatch)
    assert len(left) == 1
    assert old["mlt"].stat().st_mtime_ns > before["mlt"]

    # Without the flag, the old counts are finished, and what was begun stays.
    run(configure())
    assert old["ekk"].stat().st_mtime_ns == before["ekk"]
    assert left[0].exists()

    with caplog.at_level(logging.INFO):
        run(configure(overwrite=True))
    assert "mlt: 200 tokens (0 tokens/s; 8 of 8 shards were finished before)" in caplog.text
    assert "1 of 8 shards were finished before" in caplog.text
    assert old["ekk"].stat().st_mtime_ns > before["ekk"]
    for code, path in old.items():
        found = ActivationCounts.load(path)
        assert torch.equal(found.shard_n_positive, expected[code].shard_n_positive)
        assert torch.equal(found.shard_activation_sum, expected[code].shard_activation_sum)
    left = sorted(path.name for path in old["mlt"].parent.iterdir())
    assert left == ["ekk.json", "ekk.safetensors", "mlt.json", "mlt.safetensors"]

    caplog.clear()
    with caplog.at_level(logging.INFO):
        run(configure(overwrite=True))
    assert "counts of 2 languages" in caplog.text and "finished before" not in caplog.text


@pytest.mark.parametrize("change", ["text", "settings"])
def test_run_overwrites_from_the_start_where_the_shards_are_of_no_use(
    configure, monkeypatch, tmp_path, change
):
    run(configure())
    assert killed_at(configure, "ekk", monkeypatch)
    text = tmp_path / "est.txt"
    if change == "text":
        text.write_text(text.read_text(encoding="utf-8").replace("w1", "w2"), encoding="utf-8")
    n_tokens = 200 if change == "text" else 100
    path = run(configure(overwrite=True, n_tokens=n_tokens))["ekk"]
    found = ActivationCounts.load(path)
    assert (found.n_tokens, found.provenance["n_shards_reused"]) == (n_tokens, 0)
    expected = run(configure(root=tmp_path / "other", n_tokens=n_tokens))["ekk"]
    assert torch.equal(found.shard_n_positive, ActivationCounts.load(expected).shard_n_positive)


def test_run_removes_what_a_killed_run_left_of_finished_counts(configure):
    path = run(configure())["mlt"]
    # Killed before the shards were deleted, and while they were.
    for name in ("mlt.safetensors.shards", ".mlt.safetensors.shards.0123abcd"):
        (path.parent / name).mkdir()
        (path.parent / name / "00000.safetensors").write_bytes(b"anything")
    (path.parent / ".mlt.safetensors.lock").touch()
    run(configure())
    assert sorted(file.name for file in path.parent.iterdir()) == [
        f"{language}.{suffix}" for language in ("ekk", "mlt") for suffix in ("json", "safetensors")
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_tokens": 100}, "n_tokens was 200, now 100"),
        ({"site": "mlp.hook_post"}, "site was mlp.hook_act, now mlp.hook_post"),
        ({"model_dtype": "float64"}, r"now torch.float64 \(pass --dtype float32 to keep it\)"),
    ],
)
def test_run_refuses_finished_counts_with_other_settings(configure, changes, message):
    run(configure())
    if dtype := changes.pop("model_dtype", None):
        changes["model"] = ModelArgs(model=configure().model.model, device="cpu", dtype=dtype)
    with pytest.raises(MismatchError, match=f"mlt.safetensors was counted with .*{message}"):
        run(configure(**changes))


def test_run_names_a_missing_corpus_before_it_compares_settings(configure, monkeypatch):
    run(configure())
    monkeypatch.setattr("lse_interp.models.loading.load_from_args", pytest.fail)
    with pytest.raises(CorpusError, match="no text for Maltese"):
        run(configure(text=CorpusArgs(corpus="nowhere.txt"), langs=("mlt",)))


def test_run_refuses_bad_input_before_any_work(configure):
    with pytest.raises(LanguageError, match="unknown language 'nlt'"):
        run(configure(langs=("mlt", "nlt")))
    with pytest.raises(CorpusError, match="`n_tokens` must be at least 1"):
        run(configure(n_tokens=0))
    assert not configure().root.exists()


def test_main_ends_with_one_line_about_a_mistake(configure, capsys):
    config = configure()
    status = main(
        ["--model", config.model.model, "--corpus", "nowhere.txt", "--langs", "mlt"]
        + ["--root", str(config.root), "--device", "cpu", "--block-size", "16"]
    )
    assert status == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: ")
