import pytest
import torch
import transformers

from lse_interp.core.errors import ActivationError, CorpusError, LseError
from lse_interp.models.backends import BACKENDS
from lse_interp.models.fingerprint import n_parameters
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.sites import SITES, site_name
from scripts.compatibility import _tiny
from tests.tiny_models import D_MLP, D_MODEL, FAMILIES, N_LAYERS, VOCAB, tiny_hf


def blocks_run(model):
    """List, as it grows, which blocks of the model have run."""
    ran = []
    for layer, at in enumerate(model.layout.blocks):
        block = model.hf.get_submodule(at.block)
        block.register_forward_hook(lambda *args, layer=layer: ran.append(layer))
    return ran


def n_hooks(hf):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hf.modules())


def test_load_model_describes_the_model(load, folders):
    model = load("llama")
    info = model.info
    assert (model.n_layers, model.d_model, model.d_mlp) == (N_LAYERS, D_MODEL, D_MLP)
    assert (info.n_layers, info.d_model, info.d_mlp) == (N_LAYERS, D_MODEL, D_MLP)
    assert info.name == str(folders("llama"))
    assert info.architecture == "LlamaForCausalLM"
    assert model.gated
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert not model.hf.training
    assert model.tokenizer("w1 w2")["input_ids"] == [5, 6]


def test_load_model_dtype_is_kept_or_set(folders):
    assert load_model(folders("llama"), device="cpu").dtype == torch.float32
    assert load_model(folders("llama"), device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_n_parameters_counts_tied_weights_once():
    gemma, llama = HookedModel(tiny_hf("gemma")), HookedModel(tiny_hf("llama"))
    assert gemma.hf.lm_head.weight is gemma.hf.model.embed_tokens.weight
    assert gemma.info.n_parameters == sum(t.numel() for t in set(gemma.hf.parameters()))
    assert llama.info.n_parameters == sum(t.numel() for t in llama.hf.state_dict().values())


def test_n_parameters_of_a_quantised_model_are_those_before_it_was_packed():
    hf = tiny_hf("gemma")
    expected = HookedModel(hf).info.n_parameters
    weight = hf.model.layers[0].mlp.up_proj.weight
    packed = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)
    hf.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(packed, requires_grad=False)
    hf.config.quantization_config, hf.is_quantized = {"quant_method": "bitsandbytes"}, True
    assert n_parameters(hf) == expected
    assert hf.config.quantization_config == {"quant_method": "bitsandbytes"}


def test_info_follows_the_weights():
    model = HookedModel(tiny_hf("llama"))
    first = model.info
    assert model.info is first
    with torch.no_grad():
        model.hf.lm_head.weight[0, 0] += 1
    assert model.info.fingerprint != first.fingerprint


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_shapes_are_batch_pos_width(load, ids, family, backend):
    model = load(family, backend)
    for kind in SITES:
        if kind == "mlp.hook_pre_linear" and not model.gated:
            continue
        site = site_name(kind, 1)
        width = model.d_mlp if kind.startswith("mlp") else model.d_model
        shapes = []
        model.run_with_hooks(ids, {site: lambda a, s, shapes=shapes: shapes.append((s, a.shape))})
        assert shapes == [(site, (2, 7, width))]


@pytest.mark.parametrize("family", FAMILIES)
def test_run_with_hooks_never_runs_the_head_unless_asked(load, ids, family):
    model = load(family)
    calls = []
    model.hf.get_output_embeddings().register_forward_hook(lambda *args: calls.append("head"))
    assert model.run_with_hooks(ids, {}) is None
    assert calls == []
    logits = model.run_with_hooks(ids, {}, logits=True)
    assert calls == ["head"]
    assert logits.shape == (2, 7, VOCAB)
    assert torch.equal(logits, model.hf(ids).logits)
    assert not logits.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_stop_after_ends_the_pass_once_the_last_site_fired(load, ids, family):
    model = load(family)
    ran = blocks_run(model)
    model.run_with_hooks(ids, {}, stop_after=1)
    assert ran == [0, 1]
    ran.clear()
    fired = []
    hooks = {site_name("mlp.hook_act", layer): lambda a, s: fired.append(s) for layer in (0, 1)}
    model.run_with_hooks(ids, hooks, stop_after=2)
    assert fired == list(hooks)
    assert ran == [0], "block 1 had not finished when its activation function fired"
    ran.clear()
    model.run_with_hooks(ids, hooks)
    assert ran == [0, 1, 2]


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop_after_gives_the_values_of_a_full_pass(load, ids, backend):
    model = load("llama", backend)
    site = site_name("mlp.hook_post", 1)
    seen = []
    model.run_with_hooks(ids, {site: lambda a, s: seen.append(a)})
    model.run_with_hooks(ids, {site: lambda a, s: seen.append(a)}, stop_after=1)
    model.run_with_hooks(ids, {site: lambda a, s: seen.append(a)}, stop_after=2)
    assert len(seen) == 3
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("backend", BACKENDS)
def test_collect_reduces_inside_the_hook(load, ids, backend):
    model = load("llama", backend)
    sites = [site_name("mlp.hook_act", layer) for layer in (2, 0)]
    full = model.collect(ids, sites)
    reduced = model.collect(ids, sites, reduce=lambda a, s: (a > 0).sum(dim=(0, 1)))
    assert list(full) == list(reduced) == sites
    for site in sites:
        assert torch.equal(reduced[site], (full[site] > 0).sum(dim=(0, 1)))


def test_collect_gives_tensors_without_history(load, ids):
    model = load("llama")
    site = site_name("mlp.hook_act", 0)
    assert not model.collect(ids, [site])[site].requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_collect_hands_out_values_that_nothing_overwrites(ids, backend):
    """An activation function that writes to its input, as nn.ReLU(inplace=True) does."""
    hf, other = tiny_hf("llama"), tiny_hf("llama")
    for layer in range(N_LAYERS):
        hf.model.layers[layer].mlp.act_fn = torch.nn.ReLU(inplace=True)
        other.model.layers[layer].mlp.act_fn = torch.nn.ReLU()
    sites = [site_name(kind, 1) for kind in ("mlp.hook_pre", "mlp.hook_act")]
    model = HookedModel(hf, backend=backend)
    found, expected = model.collect(ids, sites), HookedModel(other).collect(ids, sites)
    _, cached = model.run_with_cache(ids, sites)
    for site in sites:
        torch.testing.assert_close(found[site], expected[site], rtol=1e-5, atol=1e-5)
        assert torch.equal(cached[site], found[site])
    assert (found[sites[0]] < 0).any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_get_and_give_values_that_nothing_overwrites(ids, backend):
    """Falcon adds its attention to the output of its MLP, in place."""
    hf = _tiny.tiny_hf("falcon")
    model, site = HookedModel(hf, backend=backend), site_name("hook_mlp_out", 0)
    seen, sums = [], []
    model.run_with_hooks(ids, {site: lambda a, s: sums.append(a.sum())}, logits=True)
    model.run_with_hooks(ids, {site: lambda a, s: seen.append(a)}, logits=True)
    last = model.collect(ids, [site, "blocks.1.hook_resid_post"], reduce=lambda a, s: a[:, -1])
    assert torch.equal(seen[0].sum(), sums[0])
    assert torch.equal(last[site], seen[0][:, -1])
    patch = torch.zeros_like(seen[0])
    logits = model.run_with_hooks(ids, {site: lambda a, s: patch}, logits=True)
    assert not patch.any()
    assert torch.equal(
        model.run_with_hooks(ids, {site: lambda a, s: a.zero_()}, logits=True), logits
    )
    graph = model.collect(ids, [site, "blocks.1.hook_resid_post"], grad=True)[site]
    torch.testing.assert_close(graph, seen[0], rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model.collect(ids, [site])[site], seen[0])


@pytest.mark.parametrize("family", FAMILIES)
def test_run_with_cache_gives_logits_and_every_site(load, ids, family):
    model = load(family)
    logits, cache = model.run_with_cache(ids)
    assert torch.equal(logits, model(ids)) and torch.equal(logits, model.hf(ids).logits)
    assert tuple(cache) == model.sites
    expected = model.collect(ids, model.sites)
    assert all(torch.equal(cache[site], expected[site]) for site in model.sites)


def test_run_with_cache_filters_by_name_list_or_function(load, ids):
    model = load("llama")
    names = ["blocks.2.hook_resid_post", "blocks.0.mlp.hook_act"]
    assert list(model.run_with_cache(ids, names[0])[1]) == names[:1]
    assert list(model.run_with_cache(ids, names)[1]) == names
    acts = model.run_with_cache(ids, lambda name: name.endswith("hook_act"))[1]
    assert list(acts) == [site_name("mlp.hook_act", layer) for layer in range(N_LAYERS)]
    assert not model(ids).requires_grad and model(ids, grad=True).requires_grad
    with pytest.raises(ActivationError, match="Unknown activation site 'hook_resid'"):
        model.run_with_cache(ids, "blocks.0.hook_resid")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_text_is_read_behind_the_prefix_and_padded_on_the_tokenizers_side(folders, side, backend):
    model = load_model(folders("llama"), device="cpu", backend=backend)
    model.tokenizer.padding_side = side
    model.prefix = (1,)
    tokens = model.to_tokens(["w1 w2 w3", "w4"])
    short = [0, 0, 1, 8] if side == "left" else [1, 8, 0, 0]
    assert tokens["input_ids"].tolist() == [[1, 5, 6, 7], short]
    alone = model(torch.tensor([[1, 8]]))
    both = model(["w1 w2 w3", "w4"])
    at = slice(2, 4) if side == "left" else slice(0, 2)
    torch.testing.assert_close(both[1:, at], alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(model("w4"), alone)
    site = site_name("hook_resid_post", 1)
    assert torch.equal(model.collect("w4", [site])[site], model.run_with_cache("w4")[1][site])


def test_text_that_cannot_be_read_is_refused(load):
    model = load("llama")
    with pytest.raises(CorpusError, match="Sentence 2 has no token"):
        model(["w1", ""])
    with pytest.raises(CorpusError, match="There is no sentence"):
        model([])
    with pytest.raises(CorpusError, match="Sentence 1 has 65 tokens, more than the 64 positions"):
        model.to_tokens("w1 " * 65)
    with pytest.raises(LseError, match="tiny has no tokenizer"):
        HookedModel(model.hf, name="tiny")("w1")


def test_collect_grad_builds_the_graph(load, ids):
    model = load("llama")
    site = site_name("hook_resid_post", 0)
    activation = model.collect(ids, [site], grad=True)[site]
    activation.sum().backward()
    assert model.hf.model.layers[0].mlp.down_proj.weight.grad is not None


def test_batch_takes_an_encoding_and_ignores_other_keys(load):
    model = load("llama")
    site = site_name("hook_resid_post", 2)
    encoding = model.tokenizer(["w1 w2 w3", "w4"], padding=True, return_tensors="pt")
    encoding["labels"] = encoding["input_ids"]
    padded = model.collect(encoding, [site])[site]
    # "w4" is token 8.
    alone = model.collect(torch.tensor([[8]]), [site])[site]
    real = padded[1, encoding["attention_mask"][1].bool()]
    torch.testing.assert_close(real, alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropout_is_off_and_the_mode_is_restored(ids, backend):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=2, vocab_size=VOCAB, resid_pdrop=0.5, embd_pdrop=0.5
    )
    hf = transformers.GPT2LMHeadModel(config).train()
    hf.transformer.ln_f.eval()
    model = HookedModel(hf, backend=backend)
    site = site_name("hook_resid_post", 1)
    first, second = model.collect(ids, [site])[site], model.collect(ids, [site])[site]
    assert torch.equal(first, second)
    assert hf.training
    assert not hf.transformer.ln_f.training
    assert hf.transformer.h[0].mlp.dropout.training
    hf.eval().transformer.h[0].mlp.dropout.train()
    assert torch.equal(model.collect(ids, [site])[site], first)
    assert hf.transformer.h[0].mlp.dropout.training


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_are_gone_after_an_exception(load, ids, backend):
    model = load("llama", backend)
    before = n_hooks(model.hf)

    def fail(activation, site):
        raise RuntimeError("from the hook")

    site = site_name("mlp.hook_act", 1)
    with pytest.raises(RuntimeError, match="from the hook"):
        model.run_with_hooks(ids, {site: fail})
    with pytest.raises(RuntimeError, match="from the hook"), model.edits({site: fail}):
        model.run_with_hooks(ids, {})
    assert n_hooks(model.hf) == before
    # A left-over hook would raise again.
    model.run_with_hooks(ids, {site_name("mlp.hook_act", 2): lambda a, s: None})
    model.run_with_hooks(ids, {}, stop_after=0)
    assert n_hooks(model.hf) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_keep_the_dtype_of_the_model(ids, backend, dtype):
    hf = tiny_hf("llama").to(dtype)
    model = HookedModel(hf, backend=backend)
    site = site_name("mlp.hook_act", 0)
    assert model.collect(ids, [site])[site].dtype == dtype
    assert {p.dtype for p in hf.parameters()} == {dtype}


def test_a_kind_of_site_means_every_layer(load, ids):
    model = load("llama")
    names = [site_name("mlp.hook_post", layer) for layer in range(N_LAYERS)]
    found, expected = model.collect(ids, "mlp.hook_post"), model.collect(ids, names)
    assert list(found) == names
    assert all(torch.equal(found[name], expected[name]) for name in names)
    assert list(model.run_with_cache(ids, "mlp.hook_post")[1]) == names
    assert list(model.collect(ids, names[0])) == names[:1]
    seen = []
    model.run_with_hooks(ids, {"mlp.hook_post": lambda value, site: seen.append(site)})
    assert seen == names
    with model.edits({"mlp.hook_post": lambda value, site: torch.zeros_like(value)}):
        out = model.collect(ids, "hook_mlp_out")
    # What is left of the MLP is its bias, the same everywhere.
    assert all(torch.equal(value, value[:1, :1].expand_as(value)) for value in out.values())


def test_a_kind_that_the_model_lacks_is_refused(load, ids):
    with pytest.raises(ActivationError, match="which has no mlp.hook_pre_linear"):
        load("gpt2").collect(ids, "mlp.hook_pre_linear")


def test_generate_continues_text(load):
    model = load("llama")
    expected = model.hf.generate(**model.to_tokens("w1 w2"), max_new_tokens=4, do_sample=False)
    text = model.generate("w1 w2", max_new_tokens=4, do_sample=False)
    assert text == model.tokenizer.decode(
        expected[0, model.to_tokens("w1 w2")["input_ids"].shape[1] :], skip_special_tokens=True
    )
    both = model.generate(["w1", "w1 w2"], max_new_tokens=4, do_sample=False)
    assert both[1] == text
    with model.edits({"mlp.hook_post": lambda value, site: value * 30}):
        assert model.generate("w1 w2", max_new_tokens=4, do_sample=False) != text


def test_repr_says_what_the_model_is(load):
    assert repr(load("llama")).endswith(
        f"LlamaForCausalLM, {N_LAYERS} layers x {D_MLP} neurons, d_model {D_MODEL}, "
        "float32 on cpu, backend torch)"
    )
