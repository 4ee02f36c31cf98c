import pytest
import torch
import transformers
from torch.nn import functional

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.data.packing import IGNORE
from lse_interp.training.loss import check_chunked, total_loss

from .conftest import FAMILIES, batches, tiny

# 18 positions: chunks that divide them, that do not, that hold one, and that hold them all.
CHUNKS = (1, 5, 6, 18, 100)


@pytest.fixture
def ids():
    return batches()[0, 0]


def labels_with_gaps(ids):
    """Ignore scattered labels, and everything that chunk 1 of 5 positions would predict."""
    labels = ids.clone()
    labels[0, [2, 3]] = IGNORE
    labels[0, 6:] = IGNORE
    labels[1, :3] = IGNORE
    return labels


def loss_and_gradients(hf, ids, labels, *, chunk, weights):
    for weight in hf.parameters():
        weight.requires_grad_(False)
    for weight in weights:
        weight.requires_grad_(True)
    loss = 3.0 * total_loss(hf, ids, labels, chunk=chunk)
    return loss.detach(), torch.autograd.grad(loss, weights)


def test_total_loss_sums_next_token_nats(ids):
    hf = tiny("llama_plain").hf
    labels = labels_with_gaps(ids)
    with torch.no_grad():
        log_p = hf(ids).logits.log_softmax(dim=-1)
        expected = sum(
            -log_p[b, t, labels[b, t + 1]]
            for b in range(2)
            for t in range(8)
            if labels[b, t + 1] != IGNORE
        )
        torch.testing.assert_close(total_loss(hf, ids, labels), expected, rtol=1e-13, atol=0)
        whole = total_loss(hf, ids, ids)
        # transformers takes the mean over 16 labels, in float32.
        mean = hf(ids, labels=ids).loss
    torch.testing.assert_close(whole, 16 * mean.double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("chunk", CHUNKS)
@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_chunks_change_neither_loss_nor_gradients(ids, chunk, head):
    hf = tiny("llama_plain").hf
    labels = labels_with_gaps(ids)
    weights = [hf.model.layers[1].mlp.up_proj.weight, hf.model.norm.weight]
    if head == "trained":
        weights.append(hf.lm_head.weight)
    expected = loss_and_gradients(hf, ids, labels, chunk=None, weights=weights)
    found = loss_and_gradients(hf, ids, labels, chunk=chunk, weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert all(gradient.abs().max() > 0 for gradient in found[1])


def test_labels_hide_a_whole_chunk(ids):
    """What the chunked tests rely on."""
    targets = labels_with_gaps(ids)[:, 1:]
    assert (functional.pad(targets, (0, 1), value=IGNORE).flatten()[5:10] == IGNORE).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_agree_for_every_family_with_a_plain_head(ids, family):
    hf = tiny(family).hf
    check_chunked(hf)
    weights = [next(p for n, p in hf.named_parameters() if "layers.0" in n or "h.0" in n)]
    expected = loss_and_gradients(hf, ids, ids, chunk=None, weights=weights)
    found = loss_and_gradients(hf, ids, ids, chunk=7, weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("head", ["frozen", "trained"])
def test_loss_without_labels_is_zero_with_zero_gradients(ids, chunk, head):
    hf = tiny("llama_plain").hf
    weights = [hf.lm_head.weight if head == "trained" else hf.model.norm.weight]
    loss, (gradient,) = loss_and_gradients(
        hf, ids, torch.full_like(ids, IGNORE), chunk=chunk, weights=weights
    )
    assert loss == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("chunk", [None, 5])
def test_token_losses_are_taken_in_float32(ids, chunk):
    hf = tiny("llama_plain", dtype=torch.bfloat16).hf
    with torch.no_grad():
        found = total_loss(hf, ids, ids, chunk=chunk)
        logits = hf(ids).logits.float()
    assert found.dtype == torch.float32
    expected = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum"
    )
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_chunked_gradients_follow_whole_ones_in_narrow_types(ids, dtype):
    hf = tiny("llama_plain", dtype=dtype).hf
    weights = [hf.model.layers[1].mlp.up_proj.weight]
    _, (expected,) = loss_and_gradients(hf, ids, ids, chunk=None, weights=weights)
    _, (found,) = loss_and_gradients(hf, ids, ids, chunk=5, weights=weights)
    # A few roundings of the head's input gradient, each half a unit in the last place.
    tolerance = 10 * torch.finfo(dtype).eps
    assert (found - expected).norm() < tolerance * expected.norm()


def gemma2(*, cap):
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=cap,
        pad_token_id=0,
    )
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


# At 30, its usual value, the logits of fresh weights are too small for the cap to show in them.
@pytest.mark.parametrize("cap", [30.0, 0.01])
def test_check_chunked_refuses_a_soft_cap(cap):
    with pytest.raises(UnsupportedModelError, match=r"Gemma2ForCausalLM .*soft cap.*--loss-chunk"):
        check_chunked(gemma2(cap=cap))


def test_a_soft_cap_would_make_the_chunked_loss_another_loss(ids):
    capped, plain = gemma2(cap=0.01), gemma2(cap=None)
    check_chunked(plain)
    with torch.no_grad():
        torch.testing.assert_close(
            total_loss(plain, ids, ids), total_loss(plain, ids, ids, chunk=5)
        )
        gap = total_loss(capped, ids, ids) - total_loss(capped, ids, ids, chunk=5)
    assert abs(gap) > 1e-2


@pytest.mark.parametrize("scaling", [1.0, 8.0])
def test_check_chunked_refuses_a_scale_on_the_logits(scaling):
    config = transformers.GraniteConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        logits_scaling=scaling,
        pad_token_id=0,
    )
    hf = transformers.AutoModelForCausalLM.from_config(config)
    if scaling == 1.0:
        check_chunked(hf)
        return
    with pytest.raises(UnsupportedModelError, match=r"GraniteForCausalLM .*a scale"):
        check_chunked(hf)
