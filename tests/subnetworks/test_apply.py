import copy
import gc
import itertools
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import LseError, MismatchError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows
from lse_interp.subnetworks.apply import (
    applied,
    apply_subnetwork,
    remove_subnetwork,
    shared_neurons,
    with_subnetworks,
)
from lse_interp.subnetworks.finetune_run import FinetuneRun
from tests.tiny_models import FAMILIES, tiny_hf

from .making_runs import chosen, make_run, record_alone


def hooked(family="llama", *, seed=0, dtype=torch.float32):
    return HookedModel(tiny_hf(family, seed=seed).to(dtype), name="tiny")


def weights(model):
    return {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def lists(model, *layers):
    """Neuron lists by layer, given as sequences."""
    return [torch.tensor(layer, dtype=torch.int64) for layer in layers]


def overlapping(model):
    """Three runs: mlt and slk share 0:2 and 2:4, slk and slv share 2:4, and so do all three."""
    return (
        make_run(model, lists(model, [1, 2], [0], [4]), language="mlt", seed=1),
        make_run(model, lists(model, [2, 7], [], [4, 5]), language="slk", seed=2),
        make_run(model, lists(model, [9], [3], [4]), language="slv", seed=3),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", FAMILIES)
def test_apply_subnetwork_writes_the_rows_and_remove_restores_every_bit(family, dtype):
    model = hooked(family, dtype=dtype)
    run, before = make_run(model), weights(model)
    apply_subnetwork(model, run)
    for layer, neurons in enumerate(run.neurons):
        rest = torch.tensor(sorted(set(range(model.d_mlp)) - set(neurons.tolist())))
        original = HookedModel(copy.deepcopy(model.hf))
        original.hf.load_state_dict(before, strict=False)
        assert torch.equal(read_rows(model, layer, neurons), run.rows[layer])
        assert torch.equal(read_rows(model, layer, rest), read_rows(original, layer, rest))
    assert not same(before, weights(model))
    assert applied(model) == (run,)
    remove_subnetwork(model, run)
    assert same(before, weights(model))
    assert applied(model) == ()


def test_apply_subnetwork_changes_what_the_model_computes(ids):
    model = hooked()
    before = model.run_with_hooks(ids, {}, logits=True)
    with with_subnetworks(model, make_run(model)):
        assert (model.run_with_hooks(ids, {}, logits=True) - before).abs().max() > 0.01
    assert torch.equal(model.run_with_hooks(ids, {}, logits=True), before)


@pytest.mark.parametrize("shared", ["sum", "mean", "last"])
def test_shared_neurons_follow_the_rule(shared):
    model = hooked(dtype=torch.float64)
    mlt, slk, slv = overlapping(model)
    with with_subnetworks(model, mlt, slk, slv, shared=shared):
        two = read_rows(model, 0, torch.tensor([2]))
        three = read_rows(model, 2, torch.tensor([4]))
        alone = read_rows(model, 0, torch.tensor([1, 7, 9]))
    assert torch.equal(alone[:, :1], mlt.rows[0][:, :1])
    assert torch.equal(alone[:, 1:2], slk.rows[0][:, 1:])
    assert torch.equal(alone[:, 2:], slv.rows[0])
    by_two = [mlt.deltas[0][:, 1:], slk.deltas[0][:, :1]]
    by_three = [mlt.deltas[2], slk.deltas[2][:, :1], slv.deltas[2]]
    for found, base, parts in (
        (two, mlt.base[0][:, 1:], by_two),
        (three, mlt.base[2], by_three),
    ):
        changes = np.stack([part.numpy() for part in parts])
        expected = {"sum": changes.sum(0), "mean": changes.mean(0), "last": changes[-1]}[shared]
        np.testing.assert_allclose(found.numpy(), base.numpy() + expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("shared", ["sum", "mean", "last"])
@settings(max_examples=5, deadline=None)
@given(data=st.data())
def test_any_order_of_applying_and_removing_ends_in_the_base(shared, data):
    model = hooked(dtype=torch.bfloat16)
    before = weights(model)
    runs = [
        make_run(model, chosen(model, seed=s, sizes=(9, 12)), language=code, seed=s)
        for s, code in enumerate(("mlt", "slk", "slv", "ekk"))
    ]
    on = []
    for _ in range(10):
        run = data.draw(st.sampled_from(runs))
        if run in on:
            remove_subnetwork(model, run)
            on.remove(run)
        else:
            apply_subnetwork(model, run, shared=shared)
            on.append(run)
        assert list(applied(model)) == on
    fresh = hooked(dtype=torch.bfloat16)
    with with_subnetworks(fresh, *on, shared=shared):
        assert same(weights(fresh), weights(model))
    for run in data.draw(st.permutations(on)):
        remove_subnetwork(model, run)
    assert same(before, weights(model))


@pytest.mark.parametrize("shared", ["sum", "mean"])
def test_sum_and_mean_do_not_depend_on_the_order(shared):
    found = []
    for order in itertools.permutations(range(3)):
        model = hooked()
        runs = overlapping(model)
        for i in order:
            apply_subnetwork(model, runs[i], shared=shared)
        found.append(weights(model))
    assert all(same(found[0], other) for other in found[1:])


def test_shared_neurons_are_refused_by_default_and_nothing_is_written():
    model = hooked()
    mlt, slk, slv = overlapping(model)
    apply_subnetwork(model, mlt)
    before = weights(model)
    message = (
        "mlt:target and slk:target share 2 neurons. Choose `shared`: `sum` adds their changes, "
        "`mean` averages them, `last` takes those of the run applied last."
    )
    with pytest.raises(MismatchError, match=message):
        apply_subnetwork(model, slk)
    assert same(before, weights(model)) and applied(model) == (mlt,)
    apply_subnetwork(model, slk, shared="sum")
    message = "mlt:target and slv:target share 1 neurons; slk:target and slv:target share 1"
    with pytest.raises(MismatchError, match=message):
        apply_subnetwork(model, slv)


def test_one_rule_holds_until_no_neuron_is_shared():
    model = hooked()
    mlt, slk, slv = overlapping(model)
    apply_subnetwork(model, mlt)
    apply_subnetwork(model, slk, shared="sum")
    with pytest.raises(LseError, match=r"follow `sum`; got 'mean'. Pass shared='sum', or remove"):
        apply_subnetwork(model, slv, shared="mean")
    remove_subnetwork(model, slk)
    apply_subnetwork(model, slv, shared="mean")


def test_runs_without_common_neurons_need_no_rule():
    model = hooked()
    first = make_run(model, lists(model, [1], [], [2]))
    second = make_run(model, lists(model, [2], [1], []), language="slk")
    with with_subnetworks(model, first, second):
        assert torch.equal(read_rows(model, 0, torch.tensor([1])), first.rows[0])
        assert torch.equal(read_rows(model, 0, torch.tensor([2])), second.rows[0])


def test_a_run_loaded_again_is_the_same_run(tmp_path):
    model = hooked()
    run, before = make_run(model), weights(model)
    run.save(tmp_path)
    apply_subnetwork(model, run)
    with pytest.raises(LseError, match="mlt:target is applied to tiny already. To apply it again"):
        apply_subnetwork(model, FinetuneRun.load(tmp_path), shared="sum")
    remove_subnetwork(model, FinetuneRun.load(tmp_path))
    assert same(before, weights(model))


def test_remove_subnetwork_names_what_is_applied():
    model = hooked()
    run, other = make_run(model), make_run(model, language="slk", seed=5)
    with pytest.raises(LseError, match="mlt:target is not applied to tiny. Applied: none"):
        remove_subnetwork(model, run)
    apply_subnetwork(model, other)
    with pytest.raises(LseError, match="mlt:target is not applied to tiny. Applied: slk:target"):
        remove_subnetwork(model, run)
    # Of the same name, but other weights.
    with pytest.raises(LseError, match="slk:target is not applied"):
        remove_subnetwork(model, make_run(hooked(), language="slk", seed=6))


def test_another_model_is_refused():
    run = make_run(hooked(seed=1))
    model = hooked()
    with pytest.raises(MismatchError, match="The run mlt:target belongs to other weights"):
        apply_subnetwork(model, run)
    with pytest.raises(MismatchError, match="expected d_mlp 64"):
        apply_subnetwork(hooked("bloom"), run)
    apply_subnetwork(model, make_run(model))
    with pytest.raises(MismatchError, match="belongs to other weights"):
        apply_subnetwork(model, run)


def test_another_dtype_is_refused():
    run = make_run(hooked())
    model = hooked(dtype=torch.bfloat16)
    with pytest.raises(MismatchError, match=r"trained in torch.float32.*dtype='float32'"):
        apply_subnetwork(model, run)


@pytest.mark.parametrize("method", ["lora", "ffn", "full"])
def test_runs_without_rows_are_refused(method):
    model = hooked()
    run = record_alone(model, method)
    with pytest.raises(LseError, match=f"mlt:{method} trained no chosen neurons.*`load_tuned`"):
        apply_subnetwork(model, run)
    with pytest.raises(LseError, match="trained no chosen neurons"):
        shared_neurons([make_run(model), run])


def test_an_unknown_rule_is_refused():
    model = hooked()
    with pytest.raises(LseError, match="one of error, sum, mean, last; got 'maen'. Did you mean"):
        apply_subnetwork(model, make_run(model), shared="maen")


def test_weights_changed_by_hand_are_not_overwritten():
    model = hooked()
    run = make_run(model, lists(model, [1], [], []))
    apply_subnetwork(model, run)
    with torch.no_grad():
        model.hf.model.layers[0].mlp.up_proj.weight[1, 0] += 1
    by_hand = weights(model)
    message = "Weights of mlt:target in layer 0 of tiny were changed after it was applied"
    with pytest.raises(MismatchError, match=message):
        remove_subnetwork(model, run)
    with pytest.raises(MismatchError, match=message):
        apply_subnetwork(model, make_run(hooked(), lists(model, [], [1], []), language="slk"))
    assert same(by_hand, weights(model))


def test_weights_changed_elsewhere_survive_removal():
    model = hooked()
    run = make_run(model, lists(model, [1], [], []))
    apply_subnetwork(model, run)
    with torch.no_grad():
        model.hf.model.layers[0].mlp.up_proj.weight[2, 0] = 7
    remove_subnetwork(model, run)
    assert model.hf.model.layers[0].mlp.up_proj.weight[2, 0] == 7
    assert torch.equal(read_rows(model, 0, run.neurons[0]), run.base[0])


def test_rows_that_are_not_numbers_come_out_again():
    model = hooked()
    run, before = make_run(model), weights(model)
    run.rows[0][0, 0, 0] = torch.nan
    with with_subnetworks(model, run):
        assert any(weight.isnan().any() for weight in weights(model).values())
    assert same(before, weights(model))


def test_subnetworks_restores_after_an_exception():
    model = hooked()
    mlt, slk, _ = overlapping(model)
    before = weights(model)
    with pytest.raises(ZeroDivisionError), with_subnetworks(model, mlt, slk, shared="mean"):
        raise ZeroDivisionError
    assert same(before, weights(model))
    # The second cannot be applied, so the first is taken out.
    with pytest.raises(MismatchError, match="share 2 neurons"), with_subnetworks(model, mlt, slk):
        pass
    assert same(before, weights(model)) and applied(model) == ()


def test_record_belongs_to_the_weights_and_goes_with_them():
    model = hooked()
    run = make_run(model)
    apply_subnetwork(model, run)
    assert applied(HookedModel(model.hf)) == (run,)
    assert applied(HookedModel(copy.deepcopy(model.hf))) == ()
    gone = weakref.ref(model.hf)
    del model
    gc.collect()
    assert gone() is None


def test_conflicts_lists_each_shared_neuron_once():
    model = hooked()
    runs = overlapping(model)
    frame = shared_neurons(runs)
    assert list(frame) == ["layer", "neuron", "n_runs", "languages"]
    assert frame.to_numpy().tolist() == [[0, 2, 2, "mlt, slk"], [2, 4, 3, "mlt, slk, slv"]]
    assert shared_neurons(runs[:1]).empty and list(shared_neurons([])) == list(frame)


def test_conflicts_of_one_language_name_the_methods():
    model = hooked()
    both = [make_run(model, method=method) for method in ("target", "random:size")]
    frame = shared_neurons(both)
    assert len(frame) == 5 + 3
    assert set(frame["languages"]) == {"mlt:target, mlt:random:size"}


@settings(max_examples=20, deadline=None)
@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=4, unique=True))
def test_conflicts_agrees_with_masks(seeds):
    model = hooked()
    runs = [
        make_run(model, chosen(model, seed=seed, sizes=(6, 1, 20)), language=code)
        for seed, code in zip(seeds, ("mlt", "slk", "slv", "ekk"), strict=False)
    ]
    held = np.stack([run.mask().numpy() for run in runs]).sum(axis=0)
    frame = shared_neurons(runs)
    assert frame[["layer", "neuron"]].to_numpy().tolist() == np.argwhere(held > 1).tolist()
    assert frame["n_runs"].tolist() == held[held > 1].tolist()
