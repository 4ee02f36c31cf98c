"""Tiny models to train, and AdamW on dense gradients times a mask, written out."""

import dataclasses
import functools

import torch
import transformers

from lse_interp.models.hooked import HookedModel
from lse_interp.training.engines.base import NeuronRows, attach, clip_gradients
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.loss import total_loss
from tests.tiny_models import CONFIGS, VOCAB

N_STEPS, ACCUMULATION = 20, 2
LR, DECAY, MAX_NORM = 1e-2, 0.1, 0.01
TOLERANCE = 1e-10
ENGINES = {"masked": MaskedGradients, "compact": CompactRows}
# The shared Llama has biases in its MLPs. The width of `llama_odd` does not halve.
LLAMAS = {
    "llama_plain": {"mlp_bias": False},
    "llama_odd": {"mlp_bias": False, "intermediate_size": 25},
}
FAMILIES = ("llama_plain", *CONFIGS)

_LLAMA = "model.layers.{}.mlp."
_GATED = (
    (_LLAMA + "gate_proj.weight", 0, 0),
    (_LLAMA + "up_proj.weight", 0, 0),
    (_LLAMA + "down_proj.weight", 1, 0),
)
# Where each family keeps its neurons: parameter, axis that runs over them, index of the first.
PLACES = {
    **dict.fromkeys(("llama", *LLAMAS, "mistral", "qwen3", "gemma"), _GATED),
    "phi3": (
        (_LLAMA + "gate_up_proj.weight", 0, 0),
        (_LLAMA + "gate_up_proj.weight", 0, 24),
        (_LLAMA + "down_proj.weight", 1, 0),
    ),
    "gpt2": (
        ("transformer.h.{}.mlp.c_fc.weight", 1, 0),
        ("transformer.h.{}.mlp.c_proj.weight", 0, 0),
    ),
    "opt": (
        ("model.decoder.layers.{}.fc1.weight", 0, 0),
        ("model.decoder.layers.{}.fc2.weight", 1, 0),
    ),
    "gpt_neox": (
        ("gpt_neox.layers.{}.mlp.dense_h_to_4h.weight", 0, 0),
        ("gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", 1, 0),
    ),
    "bloom": (
        ("transformer.h.{}.mlp.dense_h_to_4h.weight", 0, 0),
        ("transformer.h.{}.mlp.dense_4h_to_h.weight", 1, 0),
    ),
}


def indices(*lists):
    return tuple(torch.tensor(chosen, dtype=torch.int64) for chosen in lists)


# Three layers each: one without neurons, at the bottom or in the middle.
NEURONS = {
    "above": indices([], [1, 5, 6, 17, 23], [0, 2, 9]),
    "lowest": indices([0, 3, 11, 22], [], [7]),
    "one fewer": indices([], [1, 5, 6, 17, 23], [0, 2]),
}


def tiny_config(family):
    if family not in LLAMAS:
        return CONFIGS[family]()
    config = CONFIGS["llama"]()
    for name, value in LLAMAS[family].items():
        setattr(config, name, value)
    return config


def tiny(family, *, dtype=torch.float64, std=0.3):
    """Random weights, large enough that biases, gates and attention all matter."""
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(
        tiny_config(family), attn_implementation="eager"
    )
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=std)
    return HookedModel(hf.to(dtype).eval(), name=family)


def batches():
    """Token ids [step, accumulation, batch, pos]."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(3, VOCAB, (N_STEPS, ACCUMULATION, 2, 9), generator=generator)


def weights_of(hf):
    return {name: weight.detach().clone() for name, weight in hf.named_parameters()}


def masks_of(hf, family, neurons):
    """Mark the trained entries of every parameter that has some."""
    masks = {}
    for layer, chosen in enumerate(neurons):
        for template, axis, start in PLACES[family] if len(chosen) else ():
            name = template.format(layer)
            mask = masks.setdefault(name, torch.zeros_like(hf.get_parameter(name)).bool())
            mask.index_fill_(axis, chosen + start, True)
    return masks


def slices_of(weights, family, neurons):
    """Yield each trained slice: one neuron in one projection, a vector of d_model values."""
    for layer, chosen in enumerate(neurons):
        for template, axis, start in PLACES[family]:
            for neuron in chosen.tolist():
                yield weights[template.format(layer)].select(axis, neuron + start)


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """Loss (nats per token) and gradient norm of each step, and the weights at the end."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]

    def gap(self, other):
        """Return the largest difference in any loss, gradient norm or weight."""
        assert self.weights.keys() == other.weights.keys()
        numbers = zip(self.losses + self.norms, other.losses + other.norms, strict=True)
        return max(
            *(abs(a - b) for a, b in numbers),
            *(
                (weight - other.weights[name]).abs().max().item()
                for name, weight in self.weights.items()
            ),
        )


def train(
    hf, engine, ids, *, optimizer=torch.optim.AdamW, chunk=None, after_step=None, lr=LR
) -> Trajectory:
    """Train through an engine as any loop would, then close it."""
    optimizer = optimizer(engine.leaves().values(), lr=lr, weight_decay=DECAY)
    detach = attach(engine, optimizer)
    n_tokens = ids[0][..., 1:].numel()
    losses, norms = [], []
    for step in ids:
        loss = 0.0
        for part in step:
            nats = total_loss(hf, part, part, chunk=chunk) / n_tokens
            nats.backward()
            loss += nats.item()
        losses.append(loss)
        norms.append(clip_gradients(engine, MAX_NORM).item())
        optimizer.step()
        optimizer.zero_grad()
        if after_step is not None:
            after_step()
    detach()
    engine.close()
    return Trajectory(losses, norms, weights_of(hf))


@functools.cache
def trained(family, engine, neurons="above", *, chunk=None) -> Trajectory:
    """Train a family through an engine, once per session and setting."""
    model = tiny(family)
    rows = NeuronRows(model, NEURONS[neurons])
    return train(model.hf, ENGINES[engine](rows), batches(), chunk=chunk)


def train_by_hand(
    hf, masks, ids, *, lr=LR, decay=DECAY, max_norm=MAX_NORM, decays="weight"
) -> Trajectory:
    """Train with AdamW on the dense gradient times a mask, in plain tensor arithmetic.

    Args:
        hf: The model.
        masks: Trained entries, by parameter name.
        ids: Token ids [step accumulation batch pos].
        decays: What decay shrinks: the `weight`, or its change since the start (`delta`).
    """
    start = weights_of(hf)
    trained = {name: hf.get_parameter(name) for name in masks}
    first = {name: torch.zeros_like(w) for name, w in trained.items()}
    second = {name: torch.zeros_like(w) for name, w in trained.items()}
    losses, norms = [], []
    for t, step in enumerate(ids, start=1):
        loss = sum(_nats_by_hand(hf, part) for part in step) / step[..., 1:].numel()
        gradients = torch.autograd.grad(loss, list(trained.values()))
        masked = {n: g * masks[n] for n, g in zip(trained, gradients, strict=True)}
        norm = torch.sqrt(sum((g * g).sum() for g in masked.values())).item()
        scale = min(1.0, max_norm / (norm + 1e-6))
        for name, weight in trained.items():
            g = masked[name] * scale
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g * g
            step_size = (first[name] / (1 - 0.9**t)) / (
                (second[name] / (1 - 0.999**t)).sqrt() + 1e-8
            )
            old = weight.detach()
            shrunk = old if decays == "weight" else old - start[name]
            new = old - lr * decay * shrunk - lr * step_size
            weight.data = torch.where(masks[name], new, old)
        losses.append(loss.item())
        norms.append(norm)
    return Trajectory(losses, norms, weights_of(hf))


def _nats_by_hand(hf, ids):
    log_p = hf(input_ids=ids).logits.log_softmax(dim=-1)
    return -log_p[:, :-1].gather(2, ids[:, 1:, None]).sum()


@functools.cache
def reference(family, neurons="above", *, n_steps=N_STEPS, **settings) -> Trajectory:
    """Train a family by hand, once per session and setting."""
    hf = tiny(family).hf
    return train_by_hand(
        hf, masks_of(hf, family, NEURONS[neurons]), batches()[:n_steps], **settings
    )


def assert_only_chosen_changed(before, after, family, neurons, hf):
    """Compare bitwise: every frozen entry as before, every trained slice different."""
    masks = masks_of(hf, family, neurons)
    for name, weight in after.items():
        frozen = ~masks[name] if name in masks else slice(None)
        assert torch.equal(weight[frozen], before[name][frozen]), name
    pairs = zip(slices_of(before, family, neurons), slices_of(after, family, neurons), strict=True)
    assert all(not torch.equal(old, new) for old, new in pairs)
