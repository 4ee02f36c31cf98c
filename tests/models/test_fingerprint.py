import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM

from lse_interp.core.errors import MismatchError
from lse_interp.models.fingerprint import fingerprint
from lse_interp.models.hooked import HookedModel
from tests.tiny_models import tiny_hf

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
PAIRS = list(itertools.product(DTYPES, DTYPES))


def test_fingerprint_survives_saving_and_sees_every_weight(folders, tmp_path):
    hf = tiny_hf("llama")
    first = fingerprint(hf)
    assert first == fingerprint(AutoModelForCausalLM.from_pretrained(folders("llama")))
    assert first != fingerprint(tiny_hf("llama", seed=1))
    for weight in hf.parameters():
        before = weight.view(-1)[-1].item()
        with torch.no_grad():
            weight.view(-1)[-1] = before + 1e-3
            assert fingerprint(hf) != first
            weight.view(-1)[-1] = before
    assert fingerprint(hf) == first


def test_fingerprint_depends_on_names_and_dtype():
    one, other = torch.nn.Module(), torch.nn.Module()
    one.a, one.b = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.zeros(3))
    other.b, other.a = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.ones(3))
    assert fingerprint(one) == fingerprint(other)
    other.a, other.b = one.b, one.a
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != fingerprint(one.to(torch.bfloat16))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_fingerprint_sees_one_value_among_many(dtype):
    # Far more values than the sample holds, and a few bytes that fill no 64-bit word.
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.randn(100_003).to(dtype))
    seen = {fingerprint(module)}
    positions = torch.randperm(100_003)[:20].tolist() + [0, 100_002]
    for position in positions:
        with torch.no_grad():
            module.weight[position] += 1
        seen.add(fingerprint(module))
    assert len(seen) == 1 + len(positions)


def info(hf):
    return HookedModel(hf).info


def held_in(dtype, *, stored=torch.float32):
    """The same tiny checkpoint, stored in one dtype and held in another."""
    return tiny_hf("llama").to(stored).to(dtype)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_checkpoint_is_the_same_model_in_every_dtype(stored, one, other):
    first, second = (info(held_in(dtype, stored=stored)) for dtype in (one, other))
    first.require_same(second, what="The file")


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_change_of_one_row_is_another_model_in_every_dtype(one, other):
    edited = held_in(other)
    with torch.no_grad():
        edited.model.layers[1].mlp.up_proj.weight[3] *= -1.01
    with pytest.raises(MismatchError, match="The file belongs to other weights") as refused:
        info(held_in(one)).require_same(info(edited), what="The file")
    needed = str(other).removeprefix("torch.")
    assert (f"pass `--dtype {needed}`" in str(refused.value)) == (one != other)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_slight_change_of_one_row_is_another_model(dtype):
    edited = tiny_hf("llama")
    with torch.no_grad():
        edited.model.layers[1].mlp.up_proj.weight[3] *= 1.01
    for one, other in ((dtype, dtype), (torch.float32, dtype), (dtype, torch.float32)):
        with pytest.raises(MismatchError, match="The file belongs to other weights"):
            info(held_in(one)).require_same(info(edited.to(other)), what="The file")


def test_models_that_keep_some_weights_in_float32_are_the_same():
    mixed = held_in(torch.bfloat16)
    mixed.model.norm.float()
    info(held_in(torch.float32)).require_same(info(mixed), what="The file")
    info(held_in(torch.bfloat16)).require_same(info(mixed), what="The file")


def test_models_that_keep_the_same_weights_in_float32_are_the_same_in_both_halves():
    halves = []
    for dtype in (torch.bfloat16, torch.float16):
        hf = held_in(dtype)
        hf.model.norm.float()
        halves.append(info(hf))
    halves[0].require_same(halves[1], what="The file")
    halves[0].require_same(info(held_in(torch.float16)), what="The file")
