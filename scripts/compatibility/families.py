"""Model families: does every site follow its equation, with every backend, and does training work?

A family is a tiny model with random weights, built from its transformers configuration. Values are
checked against the equations of `lse_interp/models/sites.py`, computed from the weights. An edit
at a site is checked against the same change made in the weights.
"""

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from lse_interp.core.errors import UnsupportedModelError
from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows, weight_views
from lse_interp.models.sites import SITES, site_name
from lse_interp.subnetworks.apply import with_subnetworks
from lse_interp.subnetworks.export import export
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS, FinetuneRun
from lse_interp.training.engines.base import NeuronRows, attach
from lse_interp.training.engines.compact import CompactRows
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.loss import total_loss

from ._tiny import FAMILIES, REFUSED, VOCAB, tiny_hf

NOTES = {
    "bitnet": "A norm lies between `mlp.hook_post`, act(gate) * up, and the down projection.",
    "falcon_h1": "The activation function reads the gate times a constant; `mlp.hook_pre` is the "
    "gate.",
    "gemma3n_text": "The activation function of the lower layers reads the largest gates alone; "
    "`mlp.hook_pre` is the gate. Blocks pass on four streams; `hook_resid_post` is the one that "
    "attention and MLP read and write (`altup_active_idx`).",
}

_CLOSE = {"rtol": 1e-5, "atol": 1e-6}
_Edit = tuple[str, Callable[..., Any], Tensor]

_HEAD = """
## Model families

Each row is a tiny model with random weights, built from the configuration of its family. A backend
is named where the values at the site follow the equation in every layer, computed from the weights
in float64, and where an edit has the effect of the same change in the weights. Any other value
fails the tests. TransformerLens has no adapter for some families; `--backend lens` is refused for
them. Left padding: values do not depend on it. Trains: both engines train chosen neurons alike,
dropout included, and nothing else. Exports: a trained subnetwork, saved as a folder and as a LoRA
adapter, gives the same logits.
"""
_REFUSED = """
Other families are refused. For some MLPs, `load_model(..., mlp=MLPNames(...))` is enough; the error
shows the call.
"""


def table() -> str:
    """Return the section of the page."""
    transformers.utils.logging.disable_progress_bar()
    columns = ["family", "class", *SITES, "left padding", "trains", "exports"]
    rows = [columns, ["---"] * len(columns)]
    rows += [[cells[column] for column in columns] for cells in map(measure, FAMILIES)]
    refused = [["family", "error"], ["---"] * 2]
    refused += [[family, refusal(family)] for family in REFUSED]
    notes = [f"- `{family}`: {note}" for family, note in NOTES.items()]
    return "\n".join([_HEAD, *_lines(rows), "", *notes, _REFUSED, *_lines(refused), ""])


def _lines(rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]


def refusal(family: str) -> str:
    """Return the first sentence of the error for a family that is refused."""
    try:
        HookedModel(tiny_hf(family))
    except UnsupportedModelError as error:
        return str(error).split(". ")[0] + "."
    raise AssertionError(f"{family} is not refused.")


@functools.cache
def measure(family: str) -> dict[str, str]:
    """Return what works for a family: a row of the table.

    Raises:
        AssertionError: Something gives other values than it should, and does not refuse.
    """
    ids, other = torch.randint(3, VOCAB, (2, 2, 7), generator=torch.Generator().manual_seed(1))
    with _float64():
        models = _with_backends(tiny_hf(family).double(), family)
        model = models["torch"]
        row = {"family": family, "class": type(model.hf).__name__}
        values, edits = _values(model, ids), list(_edits(model, ids, other))
        for kind in SITES:
            if site_name(kind, 0) in model.sites:
                for found in models.values():
                    _check(found, kind, ids, values, edits)
                row[kind] = _names(set(models))
        _check_training(model, ids)
        _check_exports(model, ids)
    # Softmax is computed in float32: in float64, a row of the mask without a token would be NaN.
    models = _with_backends(tiny_hf(family), family)
    row["left padding"] = _names({name for name in models if _reads_padding(models[name], ids)})
    return dict.fromkeys(SITES, "no such site") | row | {"trains": "yes", "exports": "yes"}


def _names(backends: set[str]) -> str:
    if not backends:
        return "refused"
    return "all" if backends == set(BACKENDS) else ", ".join(sorted(backends, key=BACKENDS.index))


@contextlib.contextmanager
def _float64() -> Iterator[None]:
    # XGLM makes a tensor of the default dtype out of the smallest float64.
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def _with_backends(hf: Any, name: str) -> dict[str, HookedModel]:
    """Wrap a model for every backend that does not refuse it."""
    models = {}
    for backend in BACKENDS:
        with contextlib.suppress(UnsupportedModelError):
            models[backend] = HookedModel(hf, name=name, backend=backend)
    return models


def _check(
    model: HookedModel, kind: str, ids: Tensor, values: dict[str, Tensor], edits: list[_Edit]
) -> None:
    """Check the values at a site in every layer, and the effect of an edit."""
    sites = [site for site in model.sites if site.endswith(kind)]
    for site, found in model.collect(ids, sites).items():
        if site in values:
            assert_close(found, values[site], **_CLOSE, msg=_where(model, site))
    for site, edit, logits in edits:
        if site in sites:
            found = model.run_with_hooks(ids, {site: edit}, logits=True)
            assert_close(found, logits, **_CLOSE, msg=_where(model, f"an edit at {site}"))


def _where(model: HookedModel, what: str) -> Callable[[str], str]:
    return lambda message: f"{model.name}, backend {model.backend}, {what}: {message}"


def _values(model: HookedModel, ids: Tensor) -> dict[str, Tensor]:
    """Compute every site from the weights and from what their modules read."""
    inputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            value = args[0] if args else kwargs["hidden_states"]
            value = value if value.ndim < 4 else value[model.layout.stream]
            inputs[name] = value.detach().clone().view(*ids.shape, -1)

        return hook

    handles = [
        model.hf.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True)
        for at in model.layout.blocks
        for path in at.paths
    ]
    with torch.no_grad():
        model.hf(ids)
    for handle in handles:
        handle.remove()
    values: dict[str, Tensor] = {}
    for layer, at in enumerate(model.layout.blocks):
        rows, x = weight_views(model, layer), inputs[at.up]
        up = x @ rows["up"].T + rows.get("up_bias", 0)
        pre = x @ rows["gate"].T + rows.get("gate_bias", 0) if model.gated else up
        # Some families scale or thin out what the activation function reads.
        act = model.hf.get_submodule(at.act)(pre if model.layout.one_act else inputs[at.act])
        found = {
            "mlp.hook_pre": pre,
            "mlp.hook_pre_linear": up,
            "mlp.hook_act": act,
            "mlp.hook_post": act * up if model.gated else act,
            # In BitNet, behind a norm.
            "hook_mlp_out": inputs[at.down] @ rows["down"] + rows.get("down_bias", 0),
        }
        values |= {site_name(kind, layer): value.detach() for kind, value in found.items()}
        if layer:
            values[site_name("hook_resid_post", layer - 1)] = inputs[at.block]
    return values


@torch.no_grad()
def _edits(model: HookedModel, ids: Tensor, other: Tensor) -> Iterator[_Edit]:
    """Yield a site, an edit of it, and the logits of a model changed to the same effect."""
    rows, random = weight_views(model, 0), torch.Generator().manual_seed(2)
    neurons = torch.rand(model.d_mlp, generator=random) + 0.5
    width = torch.rand(model.d_model, generator=random) + 0.5
    up = ("up", "up_bias")
    same_as = {
        "mlp.hook_pre": ("gate", "gate_bias") if model.gated else up,
        "mlp.hook_pre_linear": up,
        "mlp.hook_act": up if model.gated else ("down",),
        "mlp.hook_post": up if model.gated else ("down",),
        "hook_mlp_out": ("down", "down_bias"),
    }
    for kind, names in same_as.items():
        scale, column = (width, width) if kind == "hook_mlp_out" else (neurons, neurons[:, None])
        kept = {name: rows[name].clone() for name in names if name in rows}
        for name, weight in kept.items():
            rows[name].copy_(weight * (scale if weight.ndim == 1 else column))
        logits = model.hf(ids).logits
        for name, weight in kept.items():
            rows[name].copy_(weight)
        yield site_name(kind, 0), functools.partial(_scaled, scale), logits
    if model.layout.stream is None:
        # Nothing but the last stream reaches the logits.
        site = site_name("hook_resid_post", model.n_layers - 1)
        stream = model.collect(other, [site])[site]
        yield site, lambda activation, site: stream, model.hf(other).logits


def _scaled(scale: Tensor, activation: Tensor, site: str) -> Tensor:
    return activation * scale


def _reads_padding(model: HookedModel, ids: Tensor) -> bool:
    """Check that values do not depend on padding; say whether the backend takes any."""
    last = model.n_layers - 1
    sites = [site_name("mlp.hook_act", last), site_name("hook_resid_post", last)]
    short = ids[:1, :4]
    rows = torch.cat([torch.cat([torch.zeros_like(ids[:1, :3]), short], dim=1), ids])
    mask = (torch.arange(7) >= 3).long() | torch.tensor([[0], [1], [1]])
    try:
        padded = model.collect({"input_ids": rows, "attention_mask": mask}, sites)
    except UnsupportedModelError:
        return False
    for site, alone in model.collect(short, sites).items():
        where = _where(model, f"left padding at {site}")
        # float32 sums over other lengths.
        assert_close(padded[site][:1, 3:], alone, rtol=1e-3, atol=1e-3, msg=where)
    return True


def _check_training(model: HookedModel, ids: Tensor) -> None:
    """Check that both engines train the same, dropout included, and nothing but the MLPs."""
    before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    neurons = [torch.tensor([1, 5, 6])] * model.n_layers
    trained = []
    for engine in (MaskedGradients, CompactRows):
        torch.manual_seed(0)
        opened = engine(NeuronRows(model, neurons))
        optimizer = torch.optim.AdamW(opened.leaves().values(), lr=1e-2)
        detach = attach(opened, optimizer)
        model.hf.train()
        for _ in range(2):
            total_loss(model.hf, ids, ids).backward()
            optimizer.step()
            optimizer.zero_grad()
        model.hf.eval()
        detach()
        opened.close()
        trained.append({name: w.clone() for name, w in model.hf.state_dict().items()})
        model.hf.load_state_dict(before)
    masked, compact = trained
    for name, weight in masked.items():
        assert_close(compact[name], weight, rtol=0, atol=1e-9, msg=_where(model, name))
    changed = {name for name in before if not torch.equal(before[name], masked[name])}
    paths = {path for at in model.layout.blocks for path in at.projections.values()}
    assert changed == {f"{path}.weight" for path in paths}, model.name


def _check_exports(model: HookedModel, ids: Tensor) -> None:
    """Check that a saved subnetwork gives the logits of the model that it was put into."""
    neurons = (torch.tensor([0, 3]),) * model.n_layers
    base = tuple(read_rows(model, layer, chosen) for layer, chosen in enumerate(neurons))
    run = FinetuneRun(
        language="mlt",
        method="target",
        model=model.info,
        neurons=neurons,
        rows=tuple(part * 1.5 for part in base),
        base=base,
        curves=pd.DataFrame(columns=list(CURVE_COLUMNS)),
        settings={},
        results={},
    )
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        with with_subnetworks(model, run):
            expected = model.hf(ids).logits
            model.hf.save_pretrained(f"{folder}/hf")
        loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/hf", attn_implementation="eager")
        assert_close(loaded(ids).logits, expected, **_CLOSE, msg=_where(model, "saved"))
        export(model, run, f"{folder}/lora", format="lora")
        adapted = PeftModel.from_pretrained(model.hf, f"{folder}/lora")
        assert_close(adapted(ids).logits, expected, **_CLOSE, msg=_where(model, "adapter"))
        adapted.unload()
