"""Ablation: losses, switching neurons off, who is hurt, and the stage on disk."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lse_interp import ablation as stage
from lse_interp.analysis.ablation import measure_ablation
from lse_interp.analysis.ablation_matrix import AblationMatrix
from lse_interp.analysis.losses import perplexity, sentence_losses
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import (
    ActivationError,
    ArtifactError,
    CorpusError,
    LanguageError,
    LseError,
    MismatchError,
)
from lse_interp.data.parallel import ParallelText, load_parallel
from lse_interp.models.hooked import HookedModel
from lse_interp.models.info import ModelInfo
from lse_interp.models.mlp_weights import weight_views
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.sets import NeuronSets

FEW = settings(max_examples=8, deadline=None, derandomize=True)
N_LAYERS, D_MLP = 2, 24
TEXT = {
    "mlt": ("Il-qattus jorqod.", "Xita.", "Illum kalm.", "Kif int?"),
    "eng": ("The cat is asleep.", "Rain.", "Calm today.", "How are you?"),
    "kat": ("კატას სძინავს.", "წვიმა.", "წყნარია.", "როგორ ხარ?"),
}


def tokenizer_of(words, pre_tokenizer, model, *, bos):
    backend = Tokenizer(model({word: i for i, word in enumerate(words)}))
    backend.pre_tokenizer = pre_tokenizer
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 1)]
        )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def byte_tokenizer(*, bos=True):
    words = ["<pad>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return tokenizer_of(words, pre_tokenizer, lambda v: models.BPE(v, []), bos=bos)


def tiny_hf(family="llama", *, seed=0, dtype=torch.float32, **changes):
    common = {
        "vocab_size": 259,
        "hidden_size": 16,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    rotary = common | {"intermediate_size": D_MLP, "num_key_value_heads": 1}
    config = {
        "llama": lambda: transformers.LlamaConfig(**rotary | changes),
        "phi3": lambda: transformers.Phi3Config(**rotary | changes),
        "gpt2": lambda: transformers.GPT2Config(n_inner=D_MLP, **common | changes),
    }[family]()
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.4)
    return hf.to(dtype).eval()


def tiny_model(family="llama", *, bos=True, **kwargs):
    return HookedModel(tiny_hf(family, **kwargs), byte_tokenizer(bos=bos), name="tiny")


def parallel(text=TEXT):
    return ParallelText(languages=tuple(text), sentences=text, spec="test text", split=None)


def random_mask(seed=0, *, share=0.2):
    return torch.rand(N_LAYERS, D_MLP, generator=torch.Generator().manual_seed(seed)) < share


def neurons_of(model, masks):
    indices = {code: mask_to_indices(mask) for code, mask in masks.items()}
    return NeuronSets(indices=indices, model=model.info, site="mlp.hook_act", method="hand")


def random_neurons(model, codes=("mlt", "eng", "kat")):
    return neurons_of(model, {code: random_mask(seed) for seed, code in enumerate(codes)})


def without_columns(model, mask):
    """Copy the model and zero the columns of the down projection, as a reference."""
    edited = HookedModel(copy.deepcopy(model.hf), model.tokenizer, name=model.name)
    for layer, row in enumerate(mask):
        weight_views(edited, layer)["down"][row] = 0
    return edited


def reference_losses(model, sentences, *, n_bos):
    """One sentence per forward pass, no padding, one token at a time, in NumPy."""
    found = []
    for sentence in sentences:
        ids = [1] * n_bos + model.tokenizer(sentence, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model.hf(torch.tensor([ids])).logits[0].double().numpy()
        total = 0.0
        for t in range(1, len(ids)):
            scores = logits[t - 1]
            total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[ids[t]]
        found.append(total)
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_sentence_losses_agree_with_a_slow_reference(family, bos):
    model = tiny_model(family, bos=bos, dtype=torch.float64)
    for sentences in TEXT.values():
        found = sentence_losses(model, sentences, batch_size=3)
        expected = reference_losses(model, sentences, n_bos=int(bos))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


@FEW
@given(
    batch_size=st.integers(1, 13),
    order=st.permutations(range(12)),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_sentence_losses_are_blind_to_batches_and_order(batch_size, order, dtype):
    model = tiny_model(dtype=dtype)
    sentences = [sentence for lines in TEXT.values() for sentence in lines]
    alone = sentence_losses(model, sentences, batch_size=1)
    together = sentence_losses(model, [sentences[i] for i in order], batch_size=batch_size)
    rtol = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(together, alone[list(order)], rtol=rtol, atol=0)


def test_sentence_losses_of_a_model_that_knows_nothing_are_the_log_of_the_vocabulary():
    model = tiny_model()
    with torch.no_grad():
        model.hf.lm_head.weight.zero_()
    found = sentence_losses(model, ["ab", "abcde"])
    expected = math.log(259) * torch.tensor([2.0, 5.0], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("sentences", "options", "error", "message"),
    [
        ([], {}, CorpusError, "no sentence to predict"),
        (["ab", ""], {}, CorpusError, "Sentence 2 has no token"),
        (["ab", "a" * 200], {}, CorpusError, "Sentence 2 has 201 tokens"),
        (["ab"], {"batch_size": 0}, LseError, "`batch_size` must be at least 1; got 0"),
    ],
)
def test_sentence_losses_refuse_bad_input(sentences, options, error, message):
    with pytest.raises(error, match=message):
        sentence_losses(tiny_model(), sentences, **options)


def test_sentence_losses_refuse_a_token_with_nothing_before_it():
    with pytest.raises(CorpusError, match="Sentence 2 is one token, and .* puts no BOS"):
        sentence_losses(tiny_model(bos=False), ["ab", "a"])


def test_sentence_losses_refuse_broken_weights():
    model = tiny_model()
    with torch.no_grad():
        model.hf.lm_head.weight[70] = torch.nan
    with pytest.raises(ActivationError, match="The loss of tiny on sentence 1 is nan"):
        sentence_losses(model, ["ab"])


@pytest.mark.parametrize("bos", [True, False])
def test_perplexity_is_per_predicted_token(bos):
    model = tiny_model(bos=bos)
    sentences = ["Il-qattus jorqod.", "Xita."]
    n_tokens = sum(len(s.encode()) - (not bos) for s in sentences)
    nats = float(sentence_losses(model, sentences).sum())
    assert perplexity(model, sentences) == pytest.approx(math.exp(nats / n_tokens))


def wired_model():
    """Two made-up languages with words of their own, each with one neuron that knows them.

    Neuron 0 fires on words of `mlt` alone and raises the logits of its four words by z; neuron 1
    does so for `slk`. Neuron 2 is random and writes nowhere. Returns the model and z.
    """
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"{c}{i}" for c in "ms" for i in range(4))]
    tokenizer = tokenizer_of(
        words,
        pre_tokenizers.Whitespace(),
        lambda vocab: models.WordLevel(vocab, unk_token="<unk>"),
        bos=True,
    )
    hf = tiny_hf(
        vocab_size=12, hidden_size=8, intermediate_size=3, num_hidden_layers=1, dtype=torch.float64
    )
    block, is_language = hf.model.layers[0], {0: slice(4, 8), 1: slice(8, 12)}
    with torch.no_grad():
        for norm in (block.input_layernorm, block.post_attention_layernorm, hf.model.norm):
            norm.weight.fill_(1)
        block.self_attn.o_proj.weight.zero_()
        for weight in (hf.model.embed_tokens, hf.lm_head, block.mlp.down_proj):
            weight.weight.zero_()
        block.mlp.gate_proj.weight[:2] = block.mlp.up_proj.weight[:2] = torch.eye(8)[:2].double()
        hf.model.embed_tokens.weight[:4, 7] = 1
        for language, tokens in is_language.items():
            hf.model.embed_tokens.weight[tokens, language] = 1
            block.mlp.down_proj.weight[2 + language, language] = 1
            hf.lm_head.weight[tokens, 2 + language] = 1
    # The norm in front of the MLP scales a unit vector of 8 to length sqrt(8).
    x = math.sqrt(8)
    written = x / (1 + math.exp(-x)) * x
    z = written * math.sqrt(8 / (1 + written**2))
    return HookedModel(hf, tokenizer, name="wired"), z


def wired_text():
    mlt = ("m0 m1", "m2 m3 m0 m1", "m1")
    return parallel({"mlt": mlt, "slk": tuple(line.replace("m", "s") for line in mlt)})


def wired_neurons(model):
    masks = {"mlt": [[True, False, False]], "slk": [[False, True, False]]}
    return neurons_of(model, {code: torch.tensor(mask) for code, mask in masks.items()})


def test_measure_ablation_of_a_model_wired_to_be_selective():
    model, z = wired_model()
    matrix = measure_ablation(model, wired_neurons(model), wired_text(), control=None)
    # Four words out of twelve share the raised logit; the first word follows BOS and gains nothing.
    known = math.log(4 * math.exp(z) + 8) - z
    n_gaining = (1 + 3 + 0) / 3
    own = n_gaining * (math.log(12) - known)
    expected = torch.tensor([[own, 0.0], [0.0, own]], dtype=torch.float64)
    torch.testing.assert_close(matrix.loss_increase, expected, rtol=1e-5, atol=1e-12)
    assert torch.equal(matrix.without[0, 1], matrix.intact[1])
    table = matrix.selectivity()
    assert table["rank"].tolist() == [1, 1]
    assert table["most_hurt"].tolist() == ["mlt", "slk"]


def test_measure_ablation_averages_controls_that_hurt_nobody_in_the_wired_model():
    model, _ = wired_model()
    text, neurons = wired_text(), wired_neurons(model)
    matrix = measure_ablation(model, neurons, text, control="layer", n_controls=4, seed=3)
    drawn = [neurons.random_like(seed=3 + i, match="layer") for i in range(4)]
    # A control of mlt is neuron 1 (slk's own) or neuron 2 (nobody's).
    share = sum(bool(sets.mask("mlt")[0, 1]) for sets in drawn) / 4
    assert 0 < share < 1
    increase = matrix.control_increase[0]
    assert increase[0] == 0
    assert float(increase[1]) == pytest.approx(share * float(matrix.loss_increase[1, 1]))


def test_measure_ablation_agrees_with_edited_copies_of_the_model():
    model = tiny_model(dtype=torch.float64)
    neurons = random_neurons(model)
    matrix = measure_ablation(model, neurons, parallel(), n_controls=2, batch_size=5, seed=1)
    drawn = [neurons.random_like(seed=seed, match="layer") for seed in (1, 2)]
    assert matrix.ablated == matrix.measured == ("mlt", "eng", "kat")
    close = {"rtol": 1e-10, "atol": 0}
    for row, ablated in enumerate(matrix.ablated):
        copies = [without_columns(model, sets.mask(ablated)) for sets in (neurons, *drawn)]
        for column, measured in enumerate(matrix.measured):
            losses = [reference_losses(m, TEXT[measured], n_bos=1) for m in (model, *copies)]
            intact, without, *controls = losses
            torch.testing.assert_close(matrix.intact[column], intact, **close)
            torch.testing.assert_close(matrix.without[row, column], without, **close)
            mean = (controls[0] + controls[1]) / 2
            torch.testing.assert_close(matrix.without_random[row, column], mean, **close)


def test_measure_ablation_of_a_language_without_neurons_is_zero_and_marked():
    model = tiny_model()
    masks = {"mlt": random_mask(0), "kat": random_mask(0, share=0.0)}
    matrix = measure_ablation(model, neurons_of(model, masks), parallel(), n_controls=1)
    row = matrix.ablated.index("kat")
    assert matrix.n_neurons[row] == 0
    assert (matrix.loss_increase[row] == 0).all() and (matrix.control_increase[row] == 0).all()
    marked = matrix.selectivity().set_index("language").loc["kat"]
    assert marked["own"] == marked["standard_error"] == 0
    assert marked[["ratio", "rank", "most_hurt"]].isna().all()


def test_measure_ablation_takes_some_languages_in_any_spelling():
    model = tiny_model()
    neurons = random_neurons(model)
    whole = measure_ablation(model, neurons, parallel(), control=None)
    some = measure_ablation(model, neurons, parallel(), control=None, languages=["ka", "Maltese"])
    assert (some.ablated, some.measured) == (("mlt", "kat"), whole.measured)
    assert torch.equal(some.without, whole.without[[0, 2]])


@pytest.mark.parametrize(
    ("options", "text", "error", "message"),
    [
        ({}, {"mlt": TEXT["mlt"], "kat": TEXT["kat"]}, LanguageError, "without eng, for mlt, kat"),
        ({"languages": ["deu"]}, TEXT, LanguageError, "has no neurons of deu; it has"),
        ({"languages": ["nlt"]}, TEXT, LanguageError, "unknown language 'nlt'"),
        ({"languages": ["mlt"]}, {"mlt": TEXT["mlt"]}, LanguageError, "compares a language with"),
        ({}, {code: text[:1] for code, text in TEXT.items()}, CorpusError, "at least 2 sentences"),
        ({"n_controls": 0}, TEXT, LseError, "`n_controls` must be at least 1; got 0"),
    ],
)
def test_measure_ablation_refuses_bad_input(options, text, error, message):
    model = tiny_model()
    with pytest.raises(error, match=message):
        measure_ablation(model, random_neurons(model), parallel(text), **options)


def test_measure_ablation_refuses_neurons_of_another_model():
    model = tiny_model()
    with pytest.raises(MismatchError, match="The neuron set belongs to other weights"):
        measure_ablation(model, random_neurons(tiny_model(seed=1)), parallel())
    with pytest.raises(MismatchError, match="expected n_layers 2 .* found n_layers 3"):
        deeper = dataclasses.replace(model.info, n_layers=3)
        indices = {code: 3 * (torch.tensor([0]),) for code in TEXT}
        neurons = NeuronSets(indices=indices, model=deeper, site=None, method="hand")
        measure_ablation(model, neurons, parallel())


def matrix_of(intact, without, **changes):
    fields = {
        "ablated": ("mlt", "eng"),
        "measured": ("mlt", "eng", "kat"),
        "intact": torch.as_tensor(intact, dtype=torch.float64),
        "without": torch.as_tensor(without, dtype=torch.float64),
        "without_random": None,
        "n_neurons": torch.tensor([5, 7]),
        "model": ModelInfo("toy", "abc", "LlamaForCausalLM", 2, 4, 10, 1000),
        "method": "hand",
        "site": "mlp.hook_post",
        "neurons": "aa",
        "text": "bb",
        "control": None,
        "n_controls": 0,
        "seed": 0,
    }
    return AblationMatrix(**fields | changes)


INTACT = [[10.0, 30.0], [40.0, 40.0], [5.0, 15.0]]
RISES = [[[4.0, 8.0], [1.0, 3.0], [0.0, 2.0]], [[0.0, 4.0], [3.0, 3.0], [5.0, 3.0]]]


def hand_matrix(**changes):
    return matrix_of(INTACT, np.array(INTACT) + np.array(RISES), **changes)


def test_selectivity_of_a_hand_computed_case():
    table = hand_matrix().selectivity().set_index("language")
    assert table["own"].tolist() == [6.0, 3.0]
    assert table["others"].tolist() == [1.5, 3.0]
    assert table["contrast"].tolist() == [4.5, 0.0]
    assert table["ratio"].tolist() == [4.0, 1.0]
    assert table["rank"].tolist() == [1, 2]
    assert table["most_hurt"].tolist() == ["mlt", "kat"]
    assert table["control_own"].isna().all()
    relative = hand_matrix().selectivity("relative_increase").set_index("language")
    assert relative["own"].tolist() == pytest.approx([6 / 20, 3 / 40])
    assert relative["others"].tolist() == pytest.approx([(2 / 40 + 1 / 10) / 2, (0.1 + 0.4) / 2])


def test_selectivity_finds_a_language_by_code_and_not_by_position():
    table = hand_matrix(ablated=("kat", "mlt")).selectivity().set_index("language")
    assert table.loc["kat", ["own", "others", "rank"]].tolist() == [1.0, 4.0, 3]
    assert table.loc["mlt", ["own", "others", "rank"]].tolist() == [2.0, 3.5, 3]


def test_selectivity_reports_the_control_on_its_own_language():
    control = np.array(INTACT) + np.array(RISES)[::-1]
    matrix = hand_matrix(without_random=torch.tensor(control), control="layer", n_controls=1)
    assert matrix.selectivity()["control_own"].tolist() == [2.0, 2.0]
    relative = matrix.selectivity("relative_increase")["control_own"]
    assert relative.tolist() == pytest.approx([2 / 20, 2 / 40])


def test_selectivity_has_no_ratio_where_others_do_not_rise():
    matrix = matrix_of(INTACT, np.array([INTACT, INTACT]))
    assert matrix.selectivity()["ratio"].isna().all()


@pytest.mark.parametrize("call", [AblationMatrix.selectivity, AblationMatrix.contrast_error])
def test_values_are_increases(call):
    with pytest.raises(LseError, match="`value` must be .* got 'loss'"):
        call(hand_matrix(), "loss")


def test_contrast_error_is_the_error_of_a_mean():
    rng = np.random.default_rng(0)
    intact, rise = 50 + rng.random((3, 200)), rng.normal(2, 1, (2, 3, 200))
    matrix = matrix_of(intact, intact + rise)
    contrast = np.stack([rise[0, 0] - rise[0, 1:].mean(0), rise[1, 1] - rise[1, ::2].mean(0)])
    expected = contrast.std(axis=-1) / np.sqrt(200)
    found = matrix.contrast_error(n_bootstrap=4000)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=0.05, atol=0)
    # The intact loss hardly varies, so the relative error is that of its numerator.
    relative = matrix.contrast_error("relative_increase", n_bootstrap=4000)
    torch.testing.assert_close(relative, found / 50.5, rtol=0.05, atol=0)


def test_contrast_error_is_zero_where_sentences_rise_alike_and_repeats_by_seed():
    shared = torch.tensor([[1.0], [7.0], [2.0]]).double().expand(3, 5)
    intact = torch.rand(3, 5).double() + 10
    matrix = matrix_of(intact, torch.stack([intact + shared, intact + shared.flip(0)]))
    assert (matrix.contrast_error() < 1e-12).all()
    hand = hand_matrix()
    assert torch.equal(hand.contrast_error(seed=1), hand.contrast_error(seed=1))
    assert not torch.equal(hand.contrast_error(seed=1), hand.contrast_error(seed=2))


@FEW
@given(seed=st.integers(0, 1000), factor=st.floats(0.1, 10))
def test_relative_increase_does_not_depend_on_the_unit(seed, factor):
    rng = np.random.default_rng(seed)
    intact, without = rng.random((3, 4)) + 1, rng.random((2, 3, 4)) + 1
    nats, other = matrix_of(intact, without), matrix_of(factor * intact, factor * without)
    torch.testing.assert_close(nats.relative_increase, other.relative_increase)
    torch.testing.assert_close(nats.loss_increase * factor, other.loss_increase)


def test_to_frame_lists_every_cell_with_its_labels():
    frame = hand_matrix().to_frame().set_index(["ablated", "measured"])
    assert len(frame) == 6
    cell = frame.loc[("eng", "kat")]
    assert (cell["n_neurons"], cell["base_loss"], cell["loss_increase"]) == (7, 10.0, 4.0)
    assert cell["relative_increase"] == 0.4
    assert frame["control_increase"].isna().all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"measured": ("eng", "kat", "deu")}, LanguageError, "neurons of mlt are ablated, but"),
        ({"measured": ("mlt", "eng", "eng")}, LanguageError, "each named once"),
        ({"ablated": ()}, LanguageError, "one or more, each named once; got none"),
        ({"ablated": ("kat",)}, MismatchError, r"`without` should have shape \(1, 3, 2\).* \(2, 3"),
        ({"measured": ("mlt", "eng")}, MismatchError, r"`intact` should have shape \(2, 2\)"),
        ({"n_neurons": torch.tensor([5, 0])}, MismatchError, "eng has no neurons, so its row"),
        ({"control": "layer"}, MismatchError, "given together, or neither"),
    ],
)
def test_ablation_matrix_refuses_impossible_values(changes, error, message):
    with pytest.raises(error, match=message):
        hand_matrix(**changes)


@pytest.mark.parametrize("bad", [torch.nan, -1.0])
def test_ablation_matrix_refuses_what_is_no_loss(bad):
    with pytest.raises(MismatchError, match="`intact` must hold finite numbers of at least 0"):
        matrix_of(torch.full((3, 2), bad), [INTACT, INTACT])


@pytest.mark.parametrize("control", [None, "layer"])
def test_ablation_matrix_survives_a_round_trip(tmp_path, control):
    without_random = None if control is None else torch.tensor(np.array([INTACT, INTACT]))
    matrix = hand_matrix(control=control, without_random=without_random)
    loaded = AblationMatrix.load(matrix.save(tmp_path / "ablation.safetensors"))
    assert (loaded.setup, loaded.model) == (matrix.setup, matrix.model)
    for name in ("intact", "without", "n_neurons"):
        assert torch.equal(getattr(loaded, name), getattr(matrix, name))
    assert loaded.to_frame().equals(matrix.to_frame())


@pytest.fixture
def config(tmp_path):
    """A run folder with a saved model, its neurons and parallel text on disk."""
    model, folder = tiny_model(), tmp_path / "tiny"
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    (tmp_path / "text").mkdir()
    for code, lines in TEXT.items():
        (tmp_path / "text" / f"{code}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = stage.Config(
        model=stage.ModelArgs(model=str(folder), device="cpu"),
        parallel=str(tmp_path / "text"),
        root=tmp_path / "runs",
        n_sentences=3,
    )
    random_neurons(model).save(RunPaths(settings.root, str(folder)).neurons)
    return settings


def test_run_writes_reuses_and_redoes(config, caplog):
    caplog.set_level("INFO")
    out = RunPaths(config.root, config.model.model).folder / "ablation.safetensors"
    first = stage.run(config)
    assert torch.equal(AblationMatrix.load(out).without, first.without)
    assert first.intact.shape == (3, 3)
    assert "Own language hurt most in" in caplog.text
    assert "ablation: 3 languages" in caplog.messages

    written = out.stat().st_mtime_ns
    assert torch.equal(stage.run(config).without, first.without)
    assert out.stat().st_mtime_ns == written
    assert "is finished; --overwrite makes it again" in caplog.text

    bare = dataclasses.replace(config, model=dataclasses.replace(config.model, bos="none"))
    with pytest.raises(MismatchError, match="measured .*: bos was None, now none.*--overwrite"):
        stage.run(bare)

    stage.run(dataclasses.replace(config, overwrite=True))
    assert out.stat().st_mtime_ns > written


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_sentences": 2}, "n_sentences was 3, now 2"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"langs": ("mlt", "kat")}, "ablated was .* now .*mlt"),
        ({"control": None}, "control was layer, now None"),
    ],
)
def test_run_replaces_nothing_that_was_measured_with_other_settings(config, change, told):
    first = stage.run(config)
    (out,) = config.root.rglob("ablation.safetensors")
    written = out.stat().st_mtime_ns
    with pytest.raises(MismatchError, match=f"ablation.safetensors was measured .*{told}.*--over"):
        stage.run(dataclasses.replace(config, **change))
    assert out.stat().st_mtime_ns == written
    again = stage.run(dataclasses.replace(config, overwrite=True, **change))
    assert again.setup != first.setup


def test_run_takes_as_many_sentences_as_there_are_up_to_48(config, capsys):
    parallel = load_parallel(config.parallel, languages=("mlt",))
    assert len(parallel) < 48
    found = stage.run(dataclasses.replace(config, n_sentences=None))
    assert found.intact.shape[-1] == len(parallel)
    with pytest.raises(CorpusError, match="48 sentences were asked for"):
        stage.run(dataclasses.replace(config, n_sentences=48, overwrite=True))


def test_run_looks_for_neurons_before_it_looks_for_sentences(config):
    with pytest.raises(LanguageError, match="has no neurons of isl; it has those of mlt"):
        stage.run(dataclasses.replace(config, langs=("isl",)))


def test_run_measures_again_with_other_neurons(config):
    first = stage.run(config)
    path = RunPaths(config.root, config.model.model).neurons
    neurons = NeuronSets.load(path)
    neurons.random_like(seed=0).save(path)
    assert stage.run(config).neurons != first.neurons


def test_run_ablates_some_languages_and_measures_others(config):
    matrix = stage.run(dataclasses.replace(config, langs=("mlt",), against=("eng",)))
    assert (matrix.ablated, matrix.measured) == (("mlt",), ("mlt", "eng"))


def test_run_refuses_neurons_of_another_model(config):
    path = random_neurons(tiny_model(seed=1)).save(config.root / "foreign.safetensors")
    with pytest.raises(MismatchError, match="foreign.safetensors belongs to other weights"):
        stage.run(dataclasses.replace(config, neurons=path))


def test_run_refuses_a_missing_neuron_file(config):
    with pytest.raises(ArtifactError, match=r"none.safetensors does not exist"):
        stage.run(dataclasses.replace(config, neurons=config.root / "none.safetensors"))


def test_main_ends_bad_input_with_one_line(config, capsys):
    argv = ["--model", config.model.model, "--root", str(config.root), "--langs", "mlt"]
    argv += ["--parallel", config.parallel, "--n-sentences", "9"]
    assert stage.main(argv) == 2
    assert "error: 9 sentences were asked for" in capsys.readouterr().err
