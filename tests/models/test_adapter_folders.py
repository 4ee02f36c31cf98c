"""An adapter folder is the adapted model: base and adapter, merged."""

import dataclasses
import json
import shutil

import peft
import pytest
import torch

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError
from lse_interp.models import loading
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.info import ModelInfo
from lse_interp.models.loading import check_model, load_model, read_defaults
from tests.tiny_models import tiny_hf, tiny_tokenizer

# peft asks transformers about checkpointing by a deprecated name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

KINDS = {
    "lora": lambda target: peft.LoraConfig(**target, r=2),
    "dora": lambda target: peft.LoraConfig(**target, r=2, use_dora=True),
    "ia3": lambda target: peft.IA3Config(**target, feedforward_modules=target["target_modules"]),
    "loha": lambda target: peft.LoHaConfig(target_modules=target["target_modules"], r=2),
}
TARGETS = {
    "llama": {"target_modules": ["gate_proj", "down_proj"]},
    "gpt2": {"target_modules": ["c_fc"], "fan_in_fan_out": True},
}


@pytest.fixture
def adapter(folders, tmp_path):
    """Return a function: kind, family, base -> the folder of an adapter and its peft model."""

    def make(kind="lora", family="llama", *, base=None):
        torch.manual_seed(1)
        hf = tiny_hf(family)
        wrapped = peft.get_peft_model(hf, KINDS[kind](TARGETS[family]))
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.data += 0.3 * torch.randn_like(weight)
        for config in wrapped.peft_config.values():
            config.base_model_name_or_path = str(base or folders(family))
        wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
        return tmp_path / "adapter", wrapped.eval()

    return make


@pytest.mark.parametrize(
    ("kind", "family"), [*((kind, "llama") for kind in KINDS), ("lora", "gpt2"), ("ia3", "gpt2")]
)
def test_load_model_merges_an_adapter_into_its_base(adapter, folders, ids, kind, family):
    folder, wrapped = adapter(kind, family)
    model = load_model(folder, device="cpu")
    with torch.no_grad():
        expected = wrapped(ids).logits
    torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)
    base = load_model(folders(family), device="cpu")
    assert type(model.hf) is type(base.hf)
    assert model.sites == base.sites
    assert not torch.allclose(model(ids), base(ids), atol=1e-2)
    assert model.info.fingerprint != base.info.fingerprint
    assert all(weight.requires_grad for weight in model.hf.parameters())
    described = ModelInfo.from_config(folder)
    assert described == dataclasses.replace(model.info, fingerprint=None)
    assert model.tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_the_sites_of_an_adapter_are_those_of_the_adapted_model(adapter, ids):
    folder, wrapped = adapter()
    found = load_model(folder, device="cpu").collect(ids, ["blocks.1.mlp.hook_post"])
    seen = []
    mlp = wrapped.base_model.model.model.layers[1].mlp.down_proj
    mlp.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        wrapped(ids)
    torch.testing.assert_close(found["blocks.1.mlp.hook_post"], seen[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("place", ["of the adapter", "of the working directory"])
def test_a_relative_base_is_found(adapter, folders, ids, tmp_path, monkeypatch, place):
    shutil.copytree(folders("llama"), tmp_path / "base")
    folder, wrapped = adapter(base="../base" if place == "of the adapter" else "base")
    monkeypatch.chdir("/" if place == "of the adapter" else tmp_path)
    with torch.no_grad():
        expected = wrapped(ids).logits
    torch.testing.assert_close(
        load_model(folder, device="cpu")(ids), expected, rtol=1e-4, atol=1e-4
    )


def test_an_adapter_has_the_defaults_of_its_base_unless_it_has_its_own(adapter, folders, tmp_path):
    shutil.copytree(folders("llama"), tmp_path / "base")
    ModelDefaults(block_size=24, bos=(3, 1)).write(tmp_path / "base")
    folder, _ = adapter(base=tmp_path / "base")
    assert read_defaults(folder).block_size == 24
    assert load_model(folder, device="cpu").prefix == (3, 1)
    ModelDefaults(block_size=12).write(folder)
    assert load_model(folder, device="cpu").defaults == ModelDefaults(block_size=12)


def test_a_model_is_looked_for_once(folders, monkeypatch):
    # Without a network, each look at the hub waits for many seconds.
    seen = []
    monkeypatch.setattr(loading, "base_of_adapter", lambda source, **_: seen.append(source))
    load_model(folders("llama"), device="cpu")
    assert len(seen) == 1


def test_an_adapter_brings_its_own_tokenizer(adapter):
    folder, _ = adapter()
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 17
    tokenizer.save_pretrained(folder)
    assert load_model(folder, device="cpu").tokenizer.model_max_length == 17


# Older versions of peft take the configuration's word for it that the two are tied.
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_an_adapter_brings_the_embeddings_of_tokens_that_it_adds(folders, tmp_path):
    hf, tokenizer = tiny_hf("llama"), tiny_tokenizer()
    tokenizer.add_tokens(["ħobż", "ġbejna"])
    hf.resize_token_embeddings(48)
    config = KINDS["lora"](TARGETS["llama"] | {"modules_to_save": ["embed_tokens", "lm_head"]})
    wrapped = peft.get_peft_model(hf, config).eval()
    wrapped.peft_config["default"].base_model_name_or_path = str(folders("llama"))
    wrapped.save_pretrained(tmp_path, save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path)
    model = load_model(tmp_path, device="cpu")
    ids = model.to_tokens("w1 ġbejna ħobż")["input_ids"]
    assert ids.tolist() == [[5, 41, 40]]
    with torch.no_grad():
        expected = wrapped(ids).logits
    torch.testing.assert_close(model(ids), expected, rtol=1e-4, atol=1e-4)
    assert type(model.hf.lm_head) is torch.nn.Linear


def test_an_adapter_of_the_embedded_model_names_it(tmp_path, ids):
    base = load_model("embedded", device="cpu")
    wrapped = peft.get_peft_model(base.hf, KINDS["lora"]({"target_modules": ["down_proj"]}))
    wrapped.peft_config["default"].base_model_name_or_path = "embedded"
    wrapped.save_pretrained(tmp_path, save_embedding_layers=False)
    with torch.no_grad():
        expected = wrapped.eval()(ids).logits
    found = load_model(tmp_path, device="cpu")
    torch.testing.assert_close(found(ids), expected, rtol=1e-4, atol=1e-4)
    assert found.defaults == base.defaults


def test_a_base_that_is_missing_is_named(adapter):
    folder, _ = adapter(base="/nowhere/llama")
    with pytest.raises(
        LseError,
        match="adapter is an adapter of /nowhere/llama, which cannot be loaded: There is no model "
        "folder at /nowhere/llama.*Put the base there, or name another as base_model_name_or_path",
    ):
        load_model(folder)


def test_an_adapter_is_checked_by_its_base_before_it_is_loaded(adapter, folders):
    folder, _ = adapter(base=folders("llama"))
    check_model(ModelArgs(model=str(folder)))
    folder, _ = adapter(base="/nowhere/llama")
    with pytest.raises(LseError, match="adapter is an adapter of /nowhere/llama, which cannot be"):
        check_model(ModelArgs(model=str(folder)))


def test_an_adapter_that_names_itself_is_refused(tmp_path):
    about = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    with pytest.raises(LseError, match="adapter_config.json names itself as its base model"):
        load_model(tmp_path)


def test_an_adapter_that_does_not_fit_its_base_is_refused(adapter, folders):
    folder, _ = adapter(base=folders("gpt2"))
    with pytest.raises(LseError, match="adapter cannot be merged into GPT2LMHeadModel"):
        load_model(folder, device="cpu")


def test_an_adapter_whose_weights_are_called_otherwise_is_refused(adapter):
    """peft would leave out all of them with a warning, and give the base."""
    from safetensors.torch import load_file, save_file

    folder, _ = adapter()
    path = folder / "adapter_model.safetensors"
    save_file({f"other.{name}": w for name, w in load_file(path).items()}, path)
    with pytest.raises(LseError, match="cannot be merged into Llama.*missing adapter keys"):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "of type PROMPT_TUNING, which cannot be merged"),
        ({"peft_type": "NEWEST"}, "of type NEWEST, which cannot be merged"),
        ({"base_model_name_or_path": None}, "names no base model. Write it there, as base_model_"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(adapter, changes, message):
    folder, _ = adapter()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(LseError, match=message):
        load_model(folder)


def test_a_damaged_adapter_configuration_is_named(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{")
    with pytest.raises(LseError, match=r"adapter_config\.json is no configuration of a peft"):
        load_model(tmp_path)
