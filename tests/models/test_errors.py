"""Bad input to models: each refusal names what was expected, what was found and what to do."""

import importlib.util
import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import nn

from lse_interp.core.errors import ActivationError, LseError, UnsupportedModelError
from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.packaged import PACKAGED
from lse_interp.models.sites import site_name
from tests.tiny_models import tiny_hf

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "head_dim": 8,
}
EXPERTS = {
    "MixtralForCausalLM": transformers.MixtralConfig(**SMALL, num_local_experts=4),
    "Qwen2MoeForCausalLM": transformers.Qwen2MoeConfig(
        **SMALL, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8
    ),
}


@pytest.mark.parametrize("name", EXPERTS)
def test_mixture_of_experts_is_refused_by_name(name, tmp_path):
    config = EXPERTS[name]
    hf = transformers.AutoModelForCausalLM.from_config(config)
    assert type(hf).__name__ == name
    message = rf"{name} is a mixture of experts \(num_\w*experts=4\).*Supported: .*Llama"
    with pytest.raises(UnsupportedModelError, match=message):
        HookedModel(hf)
    # From the configuration alone: there are no weights in this folder.
    config.architectures = [name]
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match=message):
        load_model(tmp_path)


def test_encoder_is_refused_by_name(tmp_path):
    config = transformers.BertConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        architectures=["BertForMaskedLM"],
    )
    config.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM is an encoder.*not causal"):
        load_model(tmp_path)
    with pytest.raises(UnsupportedModelError, match="BertForMaskedLM is an encoder.*not causal"):
        HookedModel(transformers.BertForMaskedLM(config))


def test_encoder_decoder_is_refused_by_name(tmp_path):
    config = transformers.T5Config(
        vocab_size=40, d_model=16, d_ff=24, num_layers=2, num_heads=2, d_kv=8
    )
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(tmp_path)
    with pytest.raises(
        UnsupportedModelError, match="T5ForConditionalGeneration is an encoder-decoder"
    ):
        load_model(tmp_path)


def test_model_without_language_head_is_refused(tmp_path):
    transformers.ViTConfig(architectures=["ViTModel"]).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="ViTModel is not a causal language model"):
        load_model(tmp_path)


def test_unknown_mlp_is_refused_naming_the_block():
    hf = tiny_hf("llama")
    hf.model.layers[1].mlp.extra = nn.Linear(4, 4)
    with pytest.raises(UnsupportedModelError, match=r"block model\.layers\.1 .*no dense MLP"):
        HookedModel(hf)


def test_blocks_of_different_sizes_are_refused():
    hf = tiny_hf("llama")
    mlp = hf.model.layers[1].mlp
    mlp.gate_proj, mlp.up_proj = nn.Linear(16, 20), nn.Linear(16, 20)
    mlp.down_proj = nn.Linear(20, 16)
    with pytest.raises(UnsupportedModelError, match=r"different sizes.*\(16, 20\), \(16, 24\)"):
        HookedModel(hf)


def test_projections_that_do_not_fit_are_refused():
    hf = tiny_hf("phi3")
    hf.model.layers[0].mlp.gate_up_proj = nn.Linear(16, 50)
    with pytest.raises(
        UnsupportedModelError, match="gate_up_proj maps 16 to 50.*expected 16 to 48"
    ):
        HookedModel(hf)


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "~/model", "a/b/c"])
def test_missing_folder_is_named(name):
    with pytest.raises(LseError, match="no model folder at .*Give a folder from save_pretrained"):
        load_model(name)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "There is no device cuda: torch .* sees 0 GPUs. Check nvidia-smi"),
        ("cuda:3", "There is no device cuda:3: torch .* sees"),
        ("gpu", "`device` must be cpu, cuda, cuda:1, ... or auto; got gpu"),
    ],
)
def test_a_device_that_is_not_there_is_named(device, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(LseError, match=message):
        load_model("embedded", device=device)


def test_folder_without_config_is_named(tmp_path):
    with pytest.raises(LseError, match=r"holds no config\.json"):
        load_model(tmp_path)


def test_unreachable_hub_model_is_named():
    with pytest.raises(
        LseError, match="'nobody/nothing' from the Hugging Face hub.*Check the name"
    ):
        load_model("nobody/nothing")


def test_truncated_weights_are_named(folders, tmp_path):
    folder = shutil.copytree(folders("llama"), tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(LseError, match="Cannot read the weights in .*cut"):
        load_model(folder)


def test_incomplete_weights_are_refused_not_filled_at_random(folders, tmp_path):
    folder = shutil.copytree(folders("llama"), tmp_path / "part")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        LseError, match=r"lack 1 of the tensors.*model\.layers\.1\.mlp\.up_proj\.weight"
    ):
        load_model(folder)


def test_folder_without_tokenizer_is_named(tmp_path):
    tiny_hf("gpt2").save_pretrained(tmp_path)
    with pytest.raises(LseError, match="holds no tokenizer.*save_pretrained"):
        load_model(tmp_path)


def test_a_tokenizer_larger_than_the_embedding_is_refused(folders, tmp_path):
    folder = shutil.copytree(folders("llama"), tmp_path / "grown")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    # No text is read as padding, so it needs no embedding.
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    assert load_model(folder, device="cpu").tokenizer.pad_token_id == 40
    tokenizer.add_tokens(["ħobż"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        LseError,
        match=r"grown has 42 token ids, and its embedding 40 rows.*resize_token_embeddings\(len",
    ):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install -U bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "pip install optimum"),
        ({"quant_method": "awq", "bits": 4}, "pip install gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "install compressed-tensors"),
        ({"quant_method": "torchao", "quant_type": "int4_weight_only"}, "torchao"),
        ({"quant_method": "newest"}, "Unknown quantization type, got newest"),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else None,
)
def test_quantised_weights_whose_package_is_missing_say_which(about, message, folders, tmp_path):
    package = {"compressed-tensors": "compressed_tensors", "awq": "gptqmodel", "gptq": "optimum"}
    if importlib.util.find_spec(package.get(about["quant_method"], about["quant_method"])):
        pytest.skip("the package is installed")
    config = json.loads((folders("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": about}))
    # There are no weights in this folder.
    with pytest.raises(
        LseError, match=rf"quantised \({about['quant_method']}\), and cannot be read.*{message}"
    ):
        load_model(tmp_path, device="cpu")


def test_incomplete_embedded_model_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(PACKAGED, "embedded", lambda: tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(LseError, match=r"model\.safetensors, tokenizer\.json missing from"):
        load_model("embedded")


def test_unknown_backend_lists_the_choices(folders):
    with pytest.raises(LseError, match="Unknown backend 'lense'. Did you mean lens"):
        load_model(folders("llama"), backend="lense")


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_site_is_refused_before_the_pass(load, ids, backend):
    model = load("llama", backend)
    with pytest.raises(ActivationError, match="Unknown activation site 'mlp.hook_acts'. Did you"):
        model.run_with_hooks(ids, {"blocks.0.mlp.hook_acts": lambda a, s: None})
    with pytest.raises(ActivationError, match="names layer 3; LlamaForCausalLM has 3 layers"):
        model.collect(ids, [site_name("mlp.hook_act", 3)])
    with (
        pytest.raises(ActivationError, match="names layer 3"),
        model.edits({site_name("mlp.hook_act", 3): lambda a, s: None}),
    ):
        pass


def test_ungated_model_has_no_linear_site(load, ids):
    with pytest.raises(
        ActivationError, match=r"GPT2LMHeadModel has an ungated MLP.*no mlp\.hook_pre_linear.*Known"
    ):
        load("gpt2").collect(ids, [site_name("mlp.hook_pre_linear", 0)])


def test_site_behind_stop_after_is_refused(load, ids):
    model = load("llama")
    hooks = {site_name("mlp.hook_act", 2): lambda a, s: None}
    with pytest.raises(ActivationError, match="comes after stop_after=1.*at least 2"):
        model.run_with_hooks(ids, hooks, stop_after=1)
    with pytest.raises(ActivationError, match="stop_after must be a layer, 0 to 2; got 3"):
        model.run_with_hooks(ids, {}, stop_after=3)
    with pytest.raises(LseError, match="stop_after ends the pass before the logits"):
        model.run_with_hooks(ids, {}, stop_after=1, logits=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_site_that_never_fires_is_an_error(ids, backend):
    hf = tiny_hf("llama")
    mlp = hf.model.layers[1].mlp
    # A forward that computes the activation without its module, as a fused kernel would.
    mlp.forward = lambda x: mlp.down_proj(nn.functional.silu(mlp.gate_proj(x)) * mlp.up_proj(x))
    model = HookedModel(hf, backend=backend)
    hooks = {site_name("mlp.hook_act", layer): lambda a, s: None for layer in range(3)}
    with pytest.raises(ActivationError, match=r"blocks\.1\.mlp\.hook_act .*it fired 0 times"):
        model.run_with_hooks(ids, hooks)


@pytest.mark.parametrize("backend", BACKENDS)
def test_site_that_fires_twice_is_an_error(ids, backend):
    hf = tiny_hf("llama")
    layers = hf.model.layers
    layers[1].mlp.act_fn = layers[0].mlp.act_fn
    model = HookedModel(hf, backend=backend)
    with pytest.raises(ActivationError, match=r"blocks\.0\.mlp\.hook_act .*it fired 2 times"):
        model.run_with_hooks(ids, {site_name("mlp.hook_act", 0): lambda a, s: None})


@pytest.mark.parametrize("backend", BACKENDS)
def test_replacement_of_another_shape_is_refused(load, ids, backend):
    model = load("llama", backend)
    hooks = {site_name("mlp.hook_act", 1): lambda a, s: a[..., :3]}
    with pytest.raises(
        ActivationError, match=r"must return None or a tensor of shape \[2, 7, 24\]"
    ):
        model.run_with_hooks(ids, hooks)


def test_malformed_batches_are_refused(load, ids):
    model = load("llama")
    with pytest.raises(LseError, match=r"needs input_ids; got the keys \['tokens'\]"):
        model.run_with_hooks({"tokens": ids}, {})
    with pytest.raises(LseError, match=r"\[batch pos\]; got shape \[7\]"):
        model.run_with_hooks({"input_ids": ids[0]}, {})
    with pytest.raises(LseError, match=r"shape of input_ids, \[2, 7\]; got \[2, 6\]"):
        model.run_with_hooks({"input_ids": ids, "attention_mask": torch.ones(2, 6)}, {})
