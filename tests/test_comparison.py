"""Losses of several models on the same sentences: differences, pairs by seed, the stage."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.analysis.losses import LossComparison, compare_losses, sentence_losses
from lse_interp.artifacts.paths import RunPaths
from lse_interp.comparison import main
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.data.parallel import ParallelText
from lse_interp.subnetworks.apply import apply_subnetwork
from tests.subnetworks.making_runs import make_run
from tests.training.tiny_runs import counting, noise, tiny_model, tune

LABELS = ("base", "target", "layer", "target-1", "layer-1", "full")
METHODS = ("base", "target", "random:layer", "target", "random:layer", "full")
SEEDS = (0, 0, 0, 1, 1, 0)
# Two languages, three sentences; losses that are easy to subtract.
LOSSES = torch.tensor(
    [
        [[10, 20, 30], [5, 5, 5]],
        [[8, 17, 26], [5, 6, 7]],
        [[9, 19, 28], [5, 5, 6]],
        [[7, 17, 27], [6, 6, 6]],
        [[9, 18, 30], [5, 5, 5]],
        [[4, 14, 24], [9, 9, 12]],
    ],
    dtype=torch.float64,
)


def comparison(**changes):
    parts = {
        "models": LABELS,
        "methods": METHODS,
        "seeds": SEEDS,
        "fingerprints": tuple("abcdef"),
        "language": "mlt",
        "measured": ("mlt", "eng"),
        "losses": LOSSES,
        "text": "0123",
    }
    return LossComparison(**parts | changes)


def test_difference_is_that_of_the_means():
    found = comparison().difference("target", "base")
    assert found["measured"].tolist() == ["mlt", "eng"]
    assert found["loss"].tolist() == [17, 6]
    assert found["reference"].tolist() == [20, 5]
    assert found["difference"].tolist() == [-3, 1]
    # The three differences are -2, -3, -4: no resample has a mean outside.
    assert -4 <= found["low"][0] < -3 < found["high"][0] <= -2
    again = comparison().difference("target", "base")
    assert again.equals(found)


def test_difference_of_a_constant_shift_is_certain():
    found = comparison().difference("full", "base")
    assert found.loc[0, ["difference", "low", "high"]].tolist() == [-6, -6, -6]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(shift=st.floats(-5, 5), order=st.permutations(range(3)))
def test_difference_is_paired_and_antisymmetric(shift, order):
    plain = comparison().difference("target", "layer")
    back = comparison().difference("layer", "target")
    np.testing.assert_allclose(back["difference"], -plain["difference"])
    hard = torch.tensor([shift, 100 * shift, 0.0], dtype=torch.float64)
    # What makes a sentence hard for both cancels; so does the order of sentences, in the mean.
    harder = comparison(losses=(LOSSES + hard)[..., list(order)])
    found = harder.difference("target", "layer")
    np.testing.assert_allclose(found["difference"], plain["difference"], atol=1e-9)


def test_interval_agrees_with_a_bootstrap_by_hand():
    rng = np.random.default_rng(0)
    losses = torch.tensor(rng.normal(size=(2, 1, 200)))
    made = comparison(
        models=("base", "target"), methods=("base", "target"), seeds=(0, 0),
        fingerprints=("a", "b"), measured=("mlt",), losses=losses,
    )  # fmt: skip
    found = made.difference("target", "base")
    gaps = (losses[1] - losses[0])[0].numpy()
    means = [gaps[rng.integers(0, 200, 200)].mean() for _ in range(4000)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert found["low"][0] == pytest.approx(low, abs=0.03)
    assert found["high"][0] == pytest.approx(high, abs=0.03)


def test_frame_lists_every_change_of_the_base():
    frame = comparison().to_frame()
    assert frame["model"].unique().tolist() == list(LABELS[1:])
    assert set(frame["against"]) == {"base"}
    assert set(frame["n_sentences"]) == {3}
    row = frame[(frame["model"] == "layer-1") & (frame["measured"] == "mlt")].iloc[0]
    assert (row["loss"], row["base"], row["difference"]) == (19, 20, -1)
    assert (row["method"], row["seed"], row["language"]) == ("random:layer", 1, "mlt")


def test_frame_pairs_target_with_the_control_of_its_own_seed():
    frame = comparison().to_frame(against=("base", "random:layer"))
    pairs = frame[frame["against"] == "random:layer"].set_index(["model", "measured"])
    assert pairs["difference"].to_dict() == {
        ("target", "mlt"): -5 / 3,
        ("target", "eng"): pytest.approx(2 / 3),
        ("target-1", "mlt"): -2,
        ("target-1", "eng"): 1,
    }
    assert pairs["base"].to_dict()[("target-1", "mlt")] == 19
    assert len(frame[frame["against"] == "base"]) == 10


def test_frame_leaves_out_a_target_without_a_control_of_its_seed():
    frame = comparison(seeds=(0, 0, 0, 2, 1, 0)).to_frame(against=("random:layer",))
    assert frame["model"].unique().tolist() == ["target"]


def test_frame_needs_what_it_compares_with():
    no_base = comparison(methods=("full", *METHODS[1:]))
    with pytest.raises(LseError, match="no model of method 'base'"):
        no_base.to_frame()
    with pytest.raises(LseError, match="no model of method 'random:lair'.*random:layer"):
        comparison().to_frame(against=("base", "random:lair"))
    with pytest.raises(LseError, match="No target has the seed of a model of random:layer"):
        comparison(seeds=(0, 2, 0, 3, 1, 0)).to_frame(against=("random:layer",))


def test_of_selects_by_label():
    assert torch.equal(comparison().of("full"), LOSSES[5])
    with pytest.raises(LseError, match="No model 'ful' here. Did you mean full"):
        comparison().of("ful")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 0)}, "got 2 of seeds"),
        ({"measured": ("mlt",)}, r"got \[6, 2, 3\]"),
        ({"models": ("base", *LABELS[1:5], "target")}, "target stands for more than one"),
        ({"losses": LOSSES.where(LOSSES != 26, torch.inf)}, "must be finite"),
        ({"losses": LOSSES.where(LOSSES != 26, torch.nan)}, "must be finite"),
    ],
)
def test_comparison_checks_itself(changes, message):
    with pytest.raises(MismatchError, match=message):
        comparison(**changes)


def test_save_and_load(tmp_path):
    made = comparison(provenance={"note": "x"})
    made.save(tmp_path / "mlt.safetensors")
    found = LossComparison.load(tmp_path / "mlt.safetensors")
    for name in ("models", "methods", "seeds", "fingerprints", "language", "measured", "text"):
        assert getattr(found, name) == getattr(made, name)
    assert torch.equal(found.losses, LOSSES)
    assert found.provenance == {"note": "x"}
    content = bytearray((tmp_path / "mlt.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "mlt.safetensors").write_bytes(content)
    with pytest.raises(ArtifactError, match="was altered"):
        LossComparison.load(tmp_path / "mlt.safetensors")


def parallel():
    sentences = {"mlt": tuple(counting([3, 9, 14])), "eng": tuple(noise(3))}
    return ParallelText(languages=("mlt", "eng"), sentences=sentences, spec="test", split=None)


def test_compare_losses_measures_every_model_on_the_same_sentences():
    base, tuned = tiny_model(), tiny_model()
    apply_subnetwork(tuned, make_run(tuned))
    text = parallel()
    found = compare_losses({"base": base, "target": tuned}, text, language="mlt")
    assert (found.methods, found.seeds) == (("base", "target"), (0, 0))
    for label, model in (("base", base), ("target", tuned)):
        for row, code in zip(found.of(label), ("mlt", "eng"), strict=True):
            expected = sentence_losses(model, text.sentences[code])
            torch.testing.assert_close(row, expected, rtol=1e-6, atol=0)
    assert found.fingerprints[0] != found.fingerprints[1]
    named = compare_losses(
        {"a": base}, text, language="mlt", against=(), methods={"a": ("random:size", 4)}
    )
    assert (named.methods, named.seeds) == (("random:size",), (4,))


def test_sentences_come_as_a_dictionary_or_a_folder(tmp_path):
    models, text = {"base": tiny_model()}, parallel()
    expected = compare_losses(models, text, language="mlt")
    plain = {"Maltese": list(text.sentences["mlt"]), "en": list(text.sentences["eng"])}
    for code, lines in text.sentences.items():
        (tmp_path / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for sentences in (plain, tmp_path, str(tmp_path)):
        found = compare_losses(models, sentences, language="maltese", against=["en"])
        assert torch.equal(found.losses, expected.losses)
        assert (found.language, found.text) == (expected.language, expected.text)


@pytest.mark.parametrize(
    ("sentences", "message"),
    [
        ({"mlt": "one string"}, "mlt has one string"),
        ({"mlt": ["a"], "mt": ["b"]}, "are the same language"),
        ({"mlt": ["a", "b"], "eng": ["a"]}, "found mlt 2, eng 1"),
        ({"mlt": ["a"]}, "were loaded without eng"),
    ],
)
def test_a_wrong_dictionary_is_refused(sentences, message):
    with pytest.raises(LseError, match=message):
        compare_losses({"base": tiny_model()}, sentences, language="mlt")


@pytest.fixture
def stage(tmp_path):
    """A folder model with two runs, sentences, and the words of a command."""
    model = tiny_model()
    folder = tmp_path / "model"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    paths = RunPaths(tmp_path / "runs", str(folder))
    for name, method, seed in (("target", "target", 0), ("random-layer", "random:layer", 1)):
        make_run(model, method=method, seed=seed).save(paths.finetune("mlt", name))
    for code, sentences in parallel().sentences.items():
        (tmp_path / f"{code}.txt").write_text("\n".join(sentences), encoding="utf-8")
    words = ["--lang", "mlt", "--model", str(folder), "--device", "cpu"]
    return paths, [*words, "--parallel", str(tmp_path), "--root", str(paths.root)]


def test_stage_measures_every_run_and_reuses_what_it_measured(stage, caplog, capsys):
    paths, words = stage
    with caplog.at_level(logging.INFO):
        assert main([*words, "--runs", "target"]) == 0
    out = paths.comparison("mlt")
    first = LossComparison.load(out)
    assert first.models == ("base", "target")
    assert "Nats per sentence after training Maltese (3 sentences" in caplog.text

    # A number that no model gives shows what is measured again.
    marked = comparison(
        models=first.models, methods=first.methods, seeds=first.seeds,
        fingerprints=first.fingerprints, losses=first.losses + 1000, text=first.text,
    )  # fmt: skip
    marked.save(out)
    assert main(words) == 0
    found = LossComparison.load(out)
    assert found.models == ("base", "target", "random-layer")
    assert found.methods == ("base", "target", "random:layer")
    assert torch.equal(found.losses[:2], marked.losses)
    assert (found.losses[2] < 1000).all()

    # Models that are not asked for stay.
    assert main([*words, "--runs", "target"]) == 0
    assert LossComparison.load(out).models == ("base", "target", "random-layer")
    assert torch.equal(LossComparison.load(out).losses, found.losses)

    assert main([*words, "--n-sentences", "2"]) == 2
    error = capsys.readouterr().err
    assert f"{out} was measured with other settings: n_sentences was 3, now 2. Pass --ov" in error
    assert torch.equal(LossComparison.load(out).losses, found.losses)
    assert main([*words, "--n-sentences", "2", "--overwrite"]) == 0
    fewer = LossComparison.load(out)
    assert fewer.losses.shape == (3, 2, 2) and (fewer.losses < 1000).all()
    marked.save(out)
    assert main([*words, "--overwrite"]) == 0
    found = LossComparison.load(out)
    assert torch.equal(found.losses[:2], first.losses)


def test_stage_measures_a_run_that_was_trained_again(stage):
    paths, words = stage
    assert main([*words, "--runs", "target"]) == 0
    before = LossComparison.load(paths.comparison("mlt"))
    make_run(tiny_model(), seed=7).save(paths.finetune("mlt", "target"))
    assert main([*words, "--runs", "target"]) == 0
    after = LossComparison.load(paths.comparison("mlt"))
    assert torch.equal(after.of("base"), before.of("base"))
    assert not torch.equal(after.of("target"), before.of("target"))


def test_stage_ends_with_one_clear_message(stage, capsys):
    paths, words = stage
    for extra, message in (
        (["--runs", "targt"], "no finished run 'targt'"),
        (["--root", str(paths.root / "none")], "holds no finished run"),
        (["--against", "enk"], "unknown language 'enk'"),
        (["--n-sentences", "9"], "9 sentences were asked for"),
    ):
        given = words[:-2] if "--root" in extra else words
        assert main([*given, *extra]) == 2
        assert message in capsys.readouterr().err
    make_run(tiny_model(seed=1)).save(paths.finetune("mlt", "other"))
    assert main([*words, "--runs", "other"]) == 2
    assert "fingerprint" in capsys.readouterr().err


@pytest.mark.parametrize("same", [True, False])
def test_stage_marks_models_that_the_measured_sentences_chose(stage, caplog, same):
    paths, words = stage
    held_out = parallel().sentences["mlt"] if same else counting([5, 7])
    run = tune(
        tiny_model(), corpus=noise(12, seed=9), validation={"mlt": [*held_out, *noise(1)]}, lr=1e-3
    )
    run.save(paths.finetune("mlt", "target"))
    with caplog.at_level(logging.INFO):
        assert main([*words, "--runs", "target", "random-layer"]) == 0
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    found = LossComparison.load(paths.comparison("mlt"))
    if same:
        assert found.caution.startswith("Caution: some of these sentences chose the weights of")
        assert "of target (3), so" in found.caution
        assert found.caution in warnings
        assert any("Nats per" in text and found.caution in text for text in caplog.messages)
    else:
        assert (found.caution, warnings) == ("", [])
