"""The model that ships with the package is what its card says."""

import json
import math
from pathlib import Path

import pytest
import torch

import lse_interp
from lse_interp import load_model
from lse_interp.core.languages import PAPER_LANGUAGES, PAPER_REFERENCE, PAPER_TARGETS
from lse_interp.data.embedded import sentences

FOLDER = Path(lse_interp.__file__).parent / "models" / "packaged" / "embedded"


@pytest.fixture(scope="module")
def model():
    return load_model("embedded")


@pytest.fixture(scope="module")
def reported():
    return json.loads((FOLDER / "training.json").read_text(encoding="utf-8"))


def _nats_per_sentence(model, language: str, split: str, n: int) -> float:
    """Loss, one sentence at a time, without padding."""
    total = 0.0
    for sentence in sentences(language, split)[:n]:
        ids = model.tokenizer(sentence.text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model.hf(input_ids=ids).logits[0, :-1].double()
        total -= logits.log_softmax(dim=-1).gather(1, ids[0, 1:, None]).sum().item()
    return total / n


def test_model_files_stay_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 20e6


def test_tokenizer_round_trips_every_language(model):
    for language in PAPER_LANGUAGES:
        for sentence in sentences(language, "devtest")[:5]:
            ids = model.tokenizer(sentence.text)["input_ids"]
            assert model.tokenizer.decode(ids, skip_special_tokens=True) == sentence.text


@pytest.mark.parametrize("language", ["eng", "kat", "jpn"])
def test_reported_loss_is_the_measured_loss(model, reported, language):
    found = _nats_per_sentence(model, language, "devtest", 160)
    assert math.isclose(found, reported["devtest"][language]["nats_per_sentence"], rel_tol=1e-4)


def test_the_twelve_are_clearly_worse_than_the_nine(model):
    def mean(languages):
        losses = [_nats_per_sentence(model, language, "devtest", 10) for language in languages]
        return sum(losses) / len(losses)

    assert mean(PAPER_TARGETS) > 1.15 * mean(PAPER_REFERENCE)


@pytest.mark.parametrize("language", ["eng", "kat", "npi", "zho", "arb"])
def test_generation_is_readable_text(model, language):
    start = sentences(language, "pretrain")[0].text[:6]
    batch = model.tokenizer(start, return_tensors="pt")
    ids = model.hf.generate(**batch, max_new_tokens=30, do_sample=False)
    text = model.tokenizer.decode(ids[0], skip_special_tokens=True)
    # A token may end inside a character only where generation was cut off.
    assert "\ufffd" not in text[:-2]
    assert len(text) > len(start) + 10
