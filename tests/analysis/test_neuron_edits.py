"""Neurons switched off, held at a value or turned up while a model runs."""

import pytest
import torch

from lse_interp.analysis.losses import sentence_losses
from lse_interp.analysis.neuron_edits import ablate, amplify
from lse_interp.core.errors import ActivationError, LanguageError, LseError, MismatchError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.hooked import HookedModel
from tests.test_ablation import (
    D_MLP,
    N_LAYERS,
    TEXT,
    neurons_of,
    random_mask,
    tiny_model,
    without_columns,
)

IDS = torch.arange(3, 23).view(2, 10)


def logits(model):
    return model.run_with_hooks(IDS, {}, logits=True)


def sets_of(model):
    return neurons_of(model, {code: random_mask(seed) for seed, code in enumerate(("mlt", "kat"))})


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2"])
def test_ablate_equals_zeroed_columns(family):
    model = tiny_model(family, dtype=torch.float64)
    mask = random_mask(1)
    before = sentence_losses(model, TEXT["mlt"])
    expected = sentence_losses(without_columns(model, mask), TEXT["mlt"])
    assert ((expected - before).abs() > 1e-3).all()
    with ablate(model, mask):
        found = sentence_losses(model, TEXT["mlt"])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_ablate_nothing_changes_nothing():
    model = tiny_model()
    before = sentence_losses(model, TEXT["mlt"])
    with ablate(model, torch.zeros(N_LAYERS, D_MLP, dtype=torch.bool)):
        assert torch.equal(sentence_losses(model, TEXT["mlt"]), before)


def test_ablate_leaves_the_model_as_it_was():
    model = tiny_model()
    ids = torch.arange(3, 23).view(2, 10)
    before = model.run_with_hooks(ids, {}, logits=True)
    with ablate(model, random_mask(1)):
        assert not torch.equal(model.run_with_hooks(ids, {}, logits=True), before)
    assert torch.equal(model.run_with_hooks(ids, {}, logits=True), before)
    with pytest.raises(RuntimeError, match="inside"), ablate(model, random_mask(1)):
        raise RuntimeError("inside")
    assert torch.equal(model.run_with_hooks(ids, {}, logits=True), before)


@pytest.mark.parametrize("backend", ["lens", "nnsight"])
def test_ablate_holds_in_every_backend(backend):
    model = tiny_model()
    ids = torch.arange(3, 23).view(2, 10)
    other = HookedModel(model.hf, model.tokenizer, name="tiny", backend=backend)
    with ablate(model, random_mask(1)):
        expected = model.run_with_hooks(ids, {}, logits=True)
    with ablate(other, random_mask(1)):
        found = other.run_with_hooks(ids, {}, logits=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"site": "hook_mlp_out"}, ActivationError, "got site 'hook_mlp_out'"),
        (
            {"neurons": torch.ones(3, D_MLP).bool()},
            MismatchError,
            r"\[2, 24\] for tiny; got \[3, 24\]",
        ),
    ],
)
def test_ablate_refuses_bad_input(options, error, message):
    with (
        pytest.raises(error, match=message),
        ablate(tiny_model(), **({"neurons": random_mask()} | options)),
    ):
        pass


def test_sets_and_masks_are_the_same_neurons():
    model = tiny_model()
    neurons = sets_of(model)
    with ablate(model, neurons, "kat"):
        found = logits(model)
    with ablate(model, neurons.mask("kat")):
        assert torch.equal(logits(model), found)
    with ablate(model, neurons, ["mlt", "kat"]):
        both = logits(model)
    with ablate(model, neurons.union("mlt", "kat")):
        assert torch.equal(logits(model), both)


def test_every_layer_gets_its_own_neurons():
    model = tiny_model()
    neurons = sets_of(model)
    sites = [f"blocks.{layer}.mlp.hook_post" for layer in range(N_LAYERS)]
    intact = model.collect(IDS, sites)
    with ablate(model, neurons, "mlt"):
        edited = model.collect(IDS, sites)
    for layer, site in enumerate(sites):
        off = edited[site].flatten(0, -2).eq(0).all(dim=0)
        assert torch.equal(off, neurons.mask("mlt")[layer])
    assert not intact[sites[0]].flatten(0, -2).eq(0).all(dim=0).any()


@pytest.mark.parametrize("site", ["mlp.hook_post", "mlp.hook_act"])
def test_neurons_are_held_at_values_of_their_own(site):
    model = tiny_model()
    mask = random_mask(2)
    values = torch.randn(N_LAYERS, D_MLP, generator=torch.Generator().manual_seed(0))
    with ablate(model, mask, to=values, site=site):
        found = model.collect(IDS, [f"blocks.1.{site}"])[f"blocks.1.{site}"]
    assert torch.equal(found[..., mask[1]], values[1, mask[1]].expand_as(found[..., mask[1]]))


def test_counts_give_the_means_and_the_site():
    model = tiny_model()
    means = torch.randn(1, N_LAYERS, D_MLP, generator=torch.Generator().manual_seed(0)).double()
    counts = ActivationCounts(
        language="mlt",
        model=model.info,
        site="mlp.hook_act",
        shard_n_positive=torch.ones(1, N_LAYERS, D_MLP, dtype=torch.int64),
        shard_activation_sum=means * 4,
        shard_n_tokens=torch.tensor([4]),
    )
    with ablate(model, random_mask(1), to=counts):
        found = logits(model)
    with ablate(model, random_mask(1), to=means[0], site="mlp.hook_act"):
        assert torch.equal(logits(model), found)


def test_amplify_multiplies():
    model = tiny_model()
    mask = random_mask(1)
    intact = logits(model)
    with amplify(model, mask, factor=1):
        assert torch.equal(logits(model), intact)
    with amplify(model, mask, factor=0):
        off = logits(model)
    with ablate(model, mask):
        assert torch.equal(logits(model), off)
    site = "blocks.0.mlp.hook_post"
    before = model.collect(IDS, [site])[site]
    with amplify(model, mask, factor=3):
        after = model.collect(IDS, [site])[site]
    torch.testing.assert_close(after, torch.where(mask[0], before * 3, before))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((None,), LseError, "Say whose neurons to edit: mlt, kat"),
        (("fra",), LanguageError, "fra"),
    ],
)
def test_sets_are_edited_by_language(arguments, error, message):
    model = tiny_model()
    with pytest.raises(error, match=message), ablate(model, sets_of(model), *arguments):
        pass


def test_a_mask_has_no_language():
    with (
        pytest.raises(LseError, match="A mask is of no language"),
        ablate(tiny_model(), random_mask(), "mlt"),
    ):
        pass
