"""One default, one meaning: function and command, by name and by path, give the same counts."""

import dataclasses

import pytest
import torch

from lse_interp.activations import Config, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.counting.count import count_activations
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts
from lse_interp.data.corpora import load_corpus
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.packaged import packaged_folder


def test_function_and_command_count_the_same_by_name_and_by_path(tmp_path):
    found = {}
    for name in ("embedded", str(packaged_folder("embedded"))):
        config = Config(model=ModelArgs(name, device="cpu"), langs=("mlt",), root=tmp_path)
        found[name, "command"] = ActivationCounts.load(run(config)["mlt"])
        found[name, "function"] = count_activations(
            load_model(name, device="cpu"), load_corpus("embedded", language="mlt"), language="mlt"
        )
    first, *others = found.values()
    assert (first.n_tokens, first.n_shards) == (20_000, 8)
    settings = first.provenance["settings"]
    assert (settings["block_size"], settings["bos_at"]) == (128, "document")
    assert settings["prefix"] == [0]
    for other in others:
        assert torch.equal(other.shard_n_positive, first.shard_n_positive)
        assert torch.equal(other.shard_activation_sum, first.shard_activation_sum)
        assert torch.equal(other.shard_n_tokens, first.shard_n_tokens)
        assert other.provenance["settings"] == settings


def with_defaults(model, **defaults):
    return HookedModel(model.hf, model.tokenizer, name="tiny", defaults=ModelDefaults(**defaults))


def test_resolved_takes_the_defaults_of_the_model(model):
    tiny = with_defaults(model, block_size=24, bos="2,1", bos_at="document", n_tokens=70)
    found = CountSettings().resolved(tiny, corpus="some.txt")
    assert found == CountSettings(n_tokens=70, block_size=24, bos_at="document", prefix=(2, 1))
    chosen = CountSettings(n_tokens="all", block_size=8, bos_at="block", prefix=(2, 1))
    assert chosen.resolved(tiny, corpus="some.txt") == chosen


def test_resolved_takes_the_number_of_tokens_of_the_corpus_first(model):
    tiny = with_defaults(model, block_size=24, n_tokens=70)
    assert CountSettings().resolved(tiny, corpus="embedded").n_tokens == 20_000
    assert CountSettings(n_tokens=5).resolved(tiny, corpus="embedded").n_tokens == 5


def test_statistic_and_numerics_name_every_setting(model):
    settings = CountSettings(n_tokens=9, block_size=24)
    named = settings.statistic(model, language="mlt", corpus="some.txt")
    named |= settings.numerics(model)
    assert {field.name for field in dataclasses.fields(CountSettings)} <= set(named)


@pytest.mark.parametrize(
    "words", [["--n-tokens", "all"], ["--bos-at", "document"], ["--n-tokens", "5"]]
)
def test_flags_are_the_fields(words):
    import tyro

    found = tyro.cli(Config, args=words).counting
    name = words[0].removeprefix("--").replace("-", "_")
    assert str(getattr(found, name)) == words[1]
    assert dataclasses.replace(found, **{name: None}) == CountSettings()


def test_another_corpus_is_counted_with_the_tokens_of_the_model(model_folder, documents, tmp_path):
    """This model has no defaults file: more text is asked for than there is, with the way out."""
    from lse_interp.core.errors import CorpusError

    (tmp_path / "mlt.txt").write_text("\n".join(documents), encoding="utf-8")
    config = Config(
        model=ModelArgs(str(model_folder), device="cpu"),
        text=CorpusArgs(str(tmp_path / "mlt.txt")),
        langs=("mlt",),
        counting=CountSettings(block_size=16),
        root=tmp_path / "runs",
    )
    with pytest.raises(CorpusError, match="1,000,000 text tokens were asked for, but the corpus"):
        run(config)
