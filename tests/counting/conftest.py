"""A tiny random-weight Llama with a word tokenizer, and text for it."""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel

N_LAYERS, D_MODEL, D_MLP, N_WORDS = 3, 16, 24, 40


def tiny_tokenizer():
    words = ["<pad>", "<s>", "</s>", "<unk>"] + [f"w{i}" for i in range(N_WORDS)]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def tiny_hf(seed=0, **changes):
    torch.manual_seed(seed)
    hf = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=N_WORDS + 4,
            hidden_size=D_MODEL,
            intermediate_size=D_MLP,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=2,
            pad_token_id=0,
            **changes,
        )
    )
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.3)
    return hf.eval()


@pytest.fixture(scope="session")
def model():
    return HookedModel(tiny_hf(), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="session")
def make_model():
    """Return a function that builds a model of its own: seed, dtype, weights to edit."""

    def make(*, seed=0, dtype=torch.float32, tokenizer=True, bos="none"):
        tiny = tiny_tokenizer() if tokenizer else None
        defaults = ModelDefaults(bos=bos)
        return HookedModel(tiny_hf(seed).to(dtype), tiny, name="tiny", defaults=defaults)

    return make


@pytest.fixture(scope="session")
def documents():
    """Forty documents of 1 to 29 words."""
    rng = np.random.default_rng(0)
    return [
        " ".join(f"w{i}" for i in rng.integers(N_WORDS, size=rng.integers(1, 30)))
        for _ in range(40)
    ]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """The tiny model as a folder that `--model` can name."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_hf().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
