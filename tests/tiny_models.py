"""Tiny random-weight models of each supported family, loaded from local folders."""

import functools

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from scripts.compatibility import _tiny
from scripts.compatibility._tiny import D_MLP, D_MODEL, VOCAB, tiny_config

__all__ = ["D_MLP", "D_MODEL", "VOCAB", "folders", "ids", "load", "tiny_hf", "tiny_tokenizer"]

N_LAYERS = 3
FAMILIES = ("llama", "mistral", "qwen3", "gemma", "phi3", "gpt2", "opt", "gpt_neox", "bloom")
CONFIGS = {name: functools.partial(tiny_config, name, n_layers=N_LAYERS) for name in FAMILIES}
tiny_hf = functools.partial(_tiny.tiny_hf, n_layers=N_LAYERS)


def tiny_tokenizer():
    words = ["<pad>", "<s>", "</s>", "<unk>"] + [f"w{i}" for i in range(VOCAB - 4)]
    vocab = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Return a function family -> folder with a saved model and tokenizer."""
    root = tmp_path_factory.mktemp("models")

    def folder(family):
        path = root / family
        if not path.exists():
            tiny_hf(family).save_pretrained(path)
            tiny_tokenizer().save_pretrained(path)
        return path

    return folder


@pytest.fixture
def load(folders):
    """Return a function that loads a family through `load_model`, with eager attention."""

    def load_family(family, backend="torch"):
        model = load_model(folders(family), device="cpu")
        model.hf.set_attn_implementation("eager")
        if backend == "torch":
            return model
        return HookedModel(model.hf, model.tokenizer, backend=backend)

    return load_family


@pytest.fixture
def ids():
    return torch.randint(3, VOCAB, (2, 7), generator=torch.Generator().manual_seed(1))
