import pytest
import torch

from lse_interp.core.errors import ActivationError, LseError, MismatchError
from lse_interp.models.mlp_weights import read_rows
from lse_interp.models.sites import SITES, site_name
from lse_interp.training.engines.base import NeuronRows, attach, clip_gradients, master_dtype
from lse_interp.training.loss import total_loss
from lse_interp.training.trainee import recomputed

from .conftest import (
    DECAY,
    ENGINES,
    FAMILIES,
    LR,
    MAX_NORM,
    NEURONS,
    TOLERANCE,
    assert_only_chosen_changed,
    batches,
    indices,
    masks_of,
    reference,
    tiny,
    train,
    trained,
    weights_of,
)

both_engines = pytest.mark.parametrize("engine", ENGINES)


@pytest.mark.parametrize("family", FAMILIES)
@both_engines
def test_engines_match_adamw_on_masked_dense_gradients(family, engine):
    hf = tiny(family).hf
    found, expected = trained(family, engine), reference(family)
    assert found.gap(expected) < TOLERANCE
    assert min(found.norms) > MAX_NORM, "clipping should be at work in every step"
    assert_only_chosen_changed(weights_of(hf), found.weights, family, NEURONS["above"], hf)


@pytest.mark.parametrize("family", ["llama_plain", "phi3", "gpt2"])
@both_engines
def test_engines_match_with_neurons_in_the_lowest_layer_and_a_gap_above(family, engine):
    found = trained(family, engine, "lowest")
    assert found.gap(reference(family, "lowest")) < TOLERANCE


@both_engines
def test_engines_match_behind_a_loss_in_chunks(engine):
    found = trained("llama_plain", engine, chunk=5)
    assert found.gap(reference("llama_plain")) < TOLERANCE


@pytest.mark.parametrize("other", [{"decays": "delta"}, {"decay": 0.0}, {"max_norm": 1e9}], ids=str)
@both_engines
def test_engines_differ_from_another_update_rule(engine, other):
    found = trained("llama_plain", engine)
    assert found.gap(reference("llama_plain", **other)) > 1e6 * TOLERANCE


@both_engines
def test_engines_differ_once_a_row_is_left_out(engine):
    found = trained("llama_plain", engine, "one fewer")
    assert found.gap(reference("llama_plain")) > 1e6 * TOLERANCE


def test_adamw_on_the_dense_weights_would_decay_frozen_entries():
    model = tiny("llama_plain")
    before = weights_of(model.hf)
    masks = masks_of(model.hf, "llama_plain", NEURONS["above"])
    matrices = {name: model.hf.get_parameter(name) for name in masks}
    optimizer = torch.optim.AdamW(matrices.values(), lr=LR, weight_decay=DECAY)
    for step in batches():
        optimizer.zero_grad()
        for part in step:
            (total_loss(model.hf, part, part) / step[..., 1:].numel()).backward()
        for name, weight in matrices.items():
            weight.grad.mul_(masks[name])
        torch.nn.utils.clip_grad_norm_(matrices.values(), MAX_NORM)
        optimizer.step()
    after = weights_of(model.hf)
    chosen = max(
        (after[n] - reference("llama_plain").weights[n])[mask].abs().max()
        for n, mask in masks.items()
    )
    assert chosen > TOLERANCE, "the frozen entries that moved change the others' gradients"
    with pytest.raises(AssertionError):
        assert_only_chosen_changed(before, after, "llama_plain", NEURONS["above"], model.hf)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama_plain", "phi3", "gpt2"])
@both_engines
def test_model_holds_the_rounded_leaves_and_nothing_else_moves(family, engine, dtype):
    model = tiny(family, dtype=dtype)
    before = weights_of(model.hf)
    rows = NeuronRows(model, NEURONS["above"])
    seen = []

    def check():
        for layer in rows.layers:
            stored = read_rows(model, layer, rows.neurons[layer])
            assert rows.leaf(layer).dtype == torch.float32
            assert torch.equal(stored, rows.leaf(layer).detach().to(dtype))
        seen.append(weights_of(model.hf))
        assert {weight.dtype for weight in model.hf.parameters()} == {dtype}

    found = train(model.hf, ENGINES[engine](rows), batches()[:3], after_step=check)
    for after in [*seen, found.weights]:
        assert_only_chosen_changed(before, after, family, NEURONS["above"], model.hf)


@pytest.mark.parametrize("family", ["llama_plain", "llama", "gpt2"])
@both_engines
def test_close_leaves_the_model_as_it_was_found(family, engine):
    model = tiny(family)
    ids = batches()[0, 0]
    for i, weight in enumerate(model.hf.parameters()):
        weight.requires_grad_(i % 2 == 0)
    state = _outside_state(model.hf)
    with torch.no_grad():
        logits = model.hf(ids).logits
    opened = ENGINES[engine](NeuronRows(model, NEURONS["above"]))
    assert _outside_state(model.hf) != state
    opened.close()
    assert _outside_state(model.hf) == state
    with torch.no_grad():
        assert torch.equal(model.hf(ids).logits, logits)


def _outside_state(hf):
    """Everything on a model that an engine might leave behind."""
    modules = [
        (name, "forward" in vars(m), len(m._forward_hooks), len(m._forward_pre_hooks))
        for name, m in hf.named_modules()
    ]
    weights = [
        (name, w.requires_grad, len(w._post_accumulate_grad_hooks or {}), w.grad is None)
        for name, w in hf.named_parameters()
    ]
    return modules, weights


@pytest.mark.parametrize("family", ["llama_plain", "phi3", "gpt2"])
@both_engines
def test_inference_works_while_an_engine_is_open(family, engine):
    model = tiny(family)
    ids = batches()[0, 0]
    kinds = [kind for kind in SITES if model.gated or kind != "mlp.hook_pre_linear"]
    sites = [site_name(kind, layer) for kind in kinds for layer in range(model.n_layers)]

    def observe():
        tokens = model.hf.generate(
            ids, max_new_tokens=4, do_sample=False, eos_token_id=None, attention_mask=ids * 0 + 1
        )
        logits = model.run_with_hooks(ids, {sites[1]: lambda a, _: a * 1.5}, logits=True)
        return [tokens, logits, *model.collect(ids, sites).values()]

    opened = ENGINES[engine](NeuronRows(model, NEURONS["above"]))
    optimizer = torch.optim.AdamW(opened.leaves().values(), lr=LR, weight_decay=DECAY)
    attach(opened, optimizer)
    total_loss(model.hf, ids, ids).backward()
    optimizer.step()
    during = observe()
    total_loss(model.hf, ids, ids).backward()
    opened.close()
    assert all(torch.equal(a, b) for a, b in zip(during, observe(), strict=True))


def test_compact_refuses_to_read_inside_a_patched_mlp_with_gradients():
    model = tiny("llama_plain")
    opened = ENGINES["compact"](NeuronRows(model, NEURONS["above"]))
    with pytest.raises(ActivationError, match=r"blocks\.1\.mlp\.hook_act"):
        model.collect(batches()[0, 0], ["blocks.1.mlp.hook_act"], grad=True)
    assert opened.rows.layers == [1, 2]


@pytest.mark.parametrize("family", ["llama_plain", "gpt2"])
@both_engines
def test_trained_model_saves_as_a_plain_folder(tmp_path, family, engine):
    model = tiny(family)
    keys = set(model.hf.state_dict())
    train(model.hf, ENGINES[engine](NeuronRows(model, NEURONS["above"])), batches()[:2])
    model.hf.save_pretrained(tmp_path)
    loaded, report = type(model.hf).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert set(loaded.state_dict()) == set(model.hf.state_dict()) == keys
    expected = weights_of(model.hf)
    assert all(torch.equal(w, expected[name]) for name, w in weights_of(loaded).items())


def open_for_training(family, engine, *, checkpointing, input_gradients=False):
    """Return a model, an engine on it, and what passes each block from now on."""
    model = tiny(family)
    opened = ENGINES[engine](NeuronRows(model, NEURONS["above"]))
    model.hf.train()
    if checkpointing:
        # Held, as it would end with its last reference.
        model.checkpointing = recomputed(model.hf)
        model.checkpointing.__enter__()
    if input_gradients:
        model.hf.enable_input_require_grads()
    passes = [{"forward": 0, "backward": 0, "needs": None} for _ in range(model.n_layers)]
    for at, counts in zip(model.layout.blocks, passes, strict=True):
        block = model.hf.get_submodule(at.block)
        block.register_forward_pre_hook(_gradients_into(counts), with_kwargs=True)
        # Hooks of the block itself lie outside of what is computed again.
        attention = next(m for name, m in block.named_children() if "att" in name)
        attention.register_forward_pre_hook(_passes_into(counts))
    return model, opened, passes


def _gradients_into(counts):
    def count(_):
        counts["backward"] += 1

    def watch(_, args, kwargs):
        x = args[0] if args else kwargs["hidden_states"]
        # Older transformers call the block again, on the same tensor, where it is computed again.
        again, counts["needs"] = counts["needs"] is not None, x.requires_grad
        if x.requires_grad and not again:
            x.register_hook(count)

    return watch


def _passes_into(counts):
    def count(*_):
        counts["forward"] += 1

    return count


@pytest.mark.parametrize("family", ["llama_plain", "llama", "phi3", "gpt2"])
@both_engines
def test_gradients_under_activation_checkpointing_are_the_same(family, engine):
    ids = batches()[0, 0]
    leaves = []
    for checkpointing in (False, True):
        model, opened, passes = open_for_training(family, engine, checkpointing=checkpointing)
        # Dropout, where a family has it, draws the same in both.
        torch.manual_seed(1)
        total_loss(model.hf, ids, ids).backward()
        opened.before_step()
        leaves.append(opened.leaves())
    # The block below the lowest neurons is not computed again.
    assert [counts["forward"] for counts in passes] == [1, 2, 2]
    for name, leaf in leaves[0].items():
        assert leaf.grad.abs().max() > 0
        assert torch.equal(leaves[1][name].grad, leaf.grad)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["llama_plain", "llama", "gpt2"])
@both_engines
def test_backward_ends_in_the_lowest_layer_with_neurons(family, engine, checkpointing):
    model, _, passes = open_for_training(family, engine, checkpointing=checkpointing)
    ids = batches()[0, 0]
    total_loss(model.hf, ids, ids).backward()
    assert [counts["needs"] for counts in passes] == [False, False, True]
    assert [counts["backward"] for counts in passes] == [0, 0, 1]


@both_engines
def test_backward_would_go_on_down_if_the_embeddings_required_gradients(engine):
    model, _, passes = open_for_training(
        "llama_plain", engine, checkpointing=True, input_gradients=True
    )
    ids = batches()[0, 0]
    total_loss(model.hf, ids, ids).backward()
    assert [counts["backward"] for counts in passes] == [1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_leaves_are_float32_at_least(dtype):
    model = tiny("llama_plain", dtype=dtype)
    rows = NeuronRows(model, NEURONS["above"])
    assert {leaf.dtype for leaf in rows.leaves.values()} == {
        torch.float64 if dtype == torch.float64 else torch.float32
    }
    assert master_dtype(dtype) == rows.leaf(1).dtype
    assert rows.leaf(1).shape == (3, 5, model.d_model)
    assert rows.layers == [1, 2]
    assert torch.equal(rows.leaf(2).to(dtype), read_rows(model, 2, rows.neurons[2]))


@both_engines
def test_float32_masters_keep_updates_that_bfloat16_leaves_lose(engine):
    """At lr 1e-4 most updates are below half a unit in the last place of bfloat16."""

    def change(dtype, *, leaves=torch.float32):
        model = tiny("llama_plain", dtype=torch.bfloat16)
        model.hf.to(dtype)
        rows = NeuronRows(model, NEURONS["above"]).to(leaves)
        start = _flat(rows)
        train(model.hf, ENGINES[engine](rows), batches()[:10], lr=1e-4)
        return _flat(rows) - start

    expected = change(torch.float32)
    masters = change(torch.bfloat16)
    narrow = change(torch.bfloat16, leaves=torch.bfloat16)
    assert (masters != 0).all()
    assert (narrow != 0).float().mean() < 0.15, "nine weights in ten should be stuck"
    assert _relative_distance(masters, expected) < 0.05
    assert _relative_distance(narrow, expected) > 0.9


def _flat(rows):
    return torch.cat([leaf.detach().float().flatten() for leaf in rows.leaves.values()])


def _relative_distance(found, expected):
    return (found - expected).norm() / expected.norm()


def test_attach_runs_the_engine_around_any_step_until_detached():
    model = tiny("llama_plain")
    before = weights_of(model.hf)
    opened = ENGINES["masked"](NeuronRows(model, NEURONS["above"]))
    optimizer = torch.optim.AdamW(opened.leaves().values(), lr=LR)
    detach = attach(opened, optimizer)
    detach()
    ids = batches()[0, 0]
    total_loss(model.hf, ids, ids).backward()
    optimizer.step()
    assert all(torch.equal(w, before[name]) for name, w in weights_of(model.hf).items())
    attach(opened, optimizer)
    optimizer.step()
    opened.close()
    assert_only_chosen_changed(
        before, weights_of(model.hf), "llama_plain", NEURONS["above"], model.hf
    )


@pytest.mark.parametrize("family", ["llama_plain", "phi3", "gpt2"])
def test_hooks_zero_the_gradients_of_other_neurons_as_they_arrive(family):
    hf = tiny(family).hf
    masks = masks_of(hf, family, NEURONS["above"])
    ids = batches()[0, 0]
    matrices = [hf.get_parameter(name) for name in masks]
    dense = torch.autograd.grad(total_loss(hf, ids, ids), matrices)
    opened = ENGINES["masked"](NeuronRows(tiny(family), NEURONS["above"]))
    hf = opened.rows.model.hf
    total_loss(hf, ids, ids).backward()
    for name, weight in hf.named_parameters():
        assert (weight.grad is None) == (name not in masks)
    for (name, mask), gradient in zip(masks.items(), dense, strict=True):
        assert torch.equal(hf.get_parameter(name).grad, gradient.where(mask, 0.0))


@both_engines
def test_clip_gradients_measures_without_clipping(engine):
    model = tiny("llama_plain")
    opened = ENGINES[engine](NeuronRows(model, NEURONS["above"]))
    ids = batches()[0, 0]
    total_loss(model.hf, ids, ids).backward()
    norm = clip_gradients(opened, float("inf"))
    gradients = torch.cat([leaf.grad.flatten() for leaf in opened.leaves().values()])
    torch.testing.assert_close(norm, gradients.norm(), rtol=1e-12, atol=0)
    assert clip_gradients(opened, 0.5 * norm.item()) == norm
    torch.testing.assert_close(clip_gradients(opened, 1e9), 0.5 * norm, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("neurons", "error", "message"),
    [
        (indices([], []), MismatchError, r"each of the 3 layers of llama_plain; got 2 layers"),
        (indices([], [], []), LseError, r"no neuron to train.*a larger --k of .*lse_interp.lape"),
        (
            indices([3, 24], [], []),
            MismatchError,
            r"layer 0 must be indices in \[0, 24\).*got \[3, 24\]",
        ),
        (
            indices([], [-1, 2], []),
            MismatchError,
            r"layer 1 must be indices in \[0, 24\).*got \[-1, 2\]",
        ),
    ],
)
def test_rows_of_impossible_neurons_are_refused(neurons, error, message):
    with pytest.raises(error, match=message):
        NeuronRows(tiny("llama_plain"), neurons)
