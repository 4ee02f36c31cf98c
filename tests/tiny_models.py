"""Tiny random-weight models of each supported family, loaded from local folders."""

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model

D_MODEL, D_MLP, N_LAYERS, VOCAB = 16, 24, 3, 40

_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ROTARY = _COMMON | {"intermediate_size": D_MLP, "num_key_value_heads": 1}


def _plain(config_class, **changes):
    return lambda: config_class(**_COMMON | changes)


def _rotary(config_class, **changes):
    return lambda: config_class(**_ROTARY | changes)


CONFIGS = {
    "llama": _rotary(transformers.LlamaConfig, mlp_bias=True),
    "mistral": _rotary(transformers.MistralConfig, sliding_window=None),
    "qwen3": _rotary(transformers.Qwen3Config, head_dim=8),
    "gemma": _rotary(transformers.GemmaConfig, head_dim=8),
    "phi3": _rotary(transformers.Phi3Config),
    "gpt2": _plain(transformers.GPT2Config, n_inner=D_MLP),
    "opt": _plain(transformers.OPTConfig, ffn_dim=D_MLP, word_embed_proj_dim=D_MODEL),
    "gpt_neox": _plain(transformers.GPTNeoXConfig, intermediate_size=D_MLP),
    # BLOOM has no width of its own for the MLP: always 4 d_model.
    "bloom": _plain(transformers.BloomConfig),
}
FAMILIES = tuple(CONFIGS)


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


def tiny_hf(family, *, seed=0):
    """Random weights, large enough that biases, gates and attention all matter."""
    torch.manual_seed(seed)
    hf = transformers.AutoModelForCausalLM.from_config(
        CONFIGS[family](), attn_implementation="eager"
    )
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.3)
    return hf.eval()


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
