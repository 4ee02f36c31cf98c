"""An MLP that no row of the table describes: by argument, by a row, and what its error says."""

import pytest
import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import AutoModelForCausalLM

from lse_interp.core.errors import LseError, UnsupportedModelError
from lse_interp.counting.counter import NeuronCounter
from lse_interp.models import architectures
from lse_interp.models.architectures import MLPNames
from lse_interp.models.backends import BACKENDS
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.mlp_weights import weight_views
from lse_interp.subnetworks.apply import with_subnetworks
from lse_interp.subnetworks.export import export
from lse_interp.training.engines.base import NeuronRows, attach
from lse_interp.training.engines.compact import CompactRows, _gated_mlp
from lse_interp.training.engines.masked_gradients import MaskedGradients
from lse_interp.training.loss import total_loss
from tests.subnetworks.making_runs import chosen, make_run
from tests.tiny_models import D_MLP, D_MODEL, N_LAYERS, tiny_hf, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

W123 = MLPNames(gate="w1", up="w3", down="w2")
UP_FIRST = MLPNames(fused="both", down="down", up_first=True, act="squash", container="mixer.core")


class W123MLP(nn.Module):
    """Llama's MLP under other names, the up projection computed first."""

    def __init__(self, config):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = nn.SiLU()

    def forward(self, x):
        up = self.w3(x)
        return self.w2(self.act_fn(self.w1(x)) * up)


class W123Config(transformers.LlamaConfig):
    model_type = "w123"


class W123ForCausalLM(transformers.LlamaForCausalLM):
    config_class = W123Config

    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            layer.mlp = W123MLP(config)
        self.post_init()


transformers.AutoConfig.register("w123", W123Config, exist_ok=True)
AutoModelForCausalLM.register(W123Config, W123ForCausalLM, exist_ok=True)


class Conv(transformers.pytorch_utils.Conv1D):
    """transformers' Conv1D: the weight is [in out]."""


class UpFirst(nn.Module):
    """One matrix with the up half first, stored [in out], nested in the block."""

    def __init__(self):
        super().__init__()
        self.core = nn.Module()
        self.core.both, self.core.down = Conv(2 * D_MLP, D_MODEL), Conv(D_MODEL, D_MLP)
        self.core.squash = nn.GELU()

    def forward(self, x):
        up, gate = self.core.both(x).chunk(2, dim=-1)
        return self.core.down(self.core.squash(gate) * up)


def llama():
    hf = tiny_hf("llama")
    for layer in hf.model.layers:
        for name, weight in layer.mlp.named_parameters():
            if "bias" in name:
                weight.data.zero_()
    return hf


def w123(twin=None):
    """The toy, with the weights of a Llama that has Llama's own names."""
    twin = llama() if twin is None else twin
    config = W123Config(**twin.config.to_diff_dict() | {"model_type": "w123"})
    hf = W123ForCausalLM(config).eval()
    hf.set_attn_implementation("eager")
    names = {"w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"}
    state = twin.state_dict()
    for name in hf.state_dict():
        theirs = name
        for mine, other in names.items():
            theirs = theirs.replace(mine, other)
        hf.state_dict()[name].copy_(state[theirs])
    return hf


def up_first():
    torch.manual_seed(1)
    hf = tiny_hf("llama")
    for layer in hf.model.layers:
        del layer.mlp
        layer.mixer = UpFirst()
        layer.mlp = _Call(layer)
        for weight in layer.mixer.parameters():
            weight.data.normal_(std=0.3)
    return hf


class _Call(nn.Module):
    def __init__(self, block):
        super().__init__()
        self.__dict__["block"] = block

    def forward(self, x):
        return self.block.mixer(x)


MODELS = {"w123": (w123, W123), "up_first": (up_first, UP_FIRST)}


@pytest.fixture(params=MODELS)
def toy(request):
    make, names = MODELS[request.param]
    return HookedModel(make(), tiny_tokenizer(), name="toy", mlp=names)


def test_names_in_an_argument_give_the_values_of_the_twin(ids):
    twin = llama()
    expected, found = HookedModel(twin), HookedModel(w123(twin), mlp=W123)
    assert torch.equal(found(ids), expected(ids))
    sites = expected.sites
    for (site, value), other in zip(
        found.collect(ids, sites).items(), expected.collect(ids, sites).values(), strict=True
    ):
        assert torch.equal(value, other), site


def test_a_row_of_the_table_is_enough(monkeypatch, ids):
    hf = w123()
    with pytest.raises(UnsupportedModelError):
        HookedModel(hf)
    monkeypatch.setattr(architectures, "MLPS", (*architectures.MLPS, W123))
    assert HookedModel(hf).layout == HookedModel(hf, mlp=W123).layout


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_read_the_toys_or_say_that_they_cannot(toy, ids, backend):
    if backend == "lens":
        with pytest.raises(UnsupportedModelError, match="TransformerLens cannot wrap"):
            HookedModel(toy.hf, backend=backend, mlp=toy.mlp)
        return
    other = HookedModel(toy.hf, backend=backend, mlp=toy.mlp)
    expected = toy.collect(ids, toy.sites)
    found = other.collect(ids, toy.sites)
    assert all(torch.equal(found[site], expected[site]) for site in toy.sites)
    hooks = {"blocks.1.mlp.hook_pre_linear": lambda a, s: a * -1.5}
    edited = [model.run_with_hooks(ids, hooks, logits=True) for model in (toy, other)]
    torch.testing.assert_close(*edited)
    assert not torch.allclose(edited[0], toy(ids))


def test_sites_of_a_fused_matrix_follow_their_equations(ids):
    model = HookedModel(up_first(), mlp=UP_FIRST)
    assert model.layout.transposed and model.gated and model.d_mlp == D_MLP
    x = []
    handle = model.hf.get_submodule("model.layers.0.mixer").register_forward_pre_hook(
        lambda module, args: x.append(args[0])
    )
    at = model.collect(ids, model.sites)
    handle.remove()
    rows = weight_views(model, 0)
    up, gate = (
        x[0] @ m.T + bias
        for m, bias in ((rows["up"], rows["up_bias"]), (rows["gate"], rows["gate_bias"]))
    )
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(at["blocks.0.mlp.hook_pre_linear"], up, **close)
    torch.testing.assert_close(at["blocks.0.mlp.hook_pre"], gate, **close)
    torch.testing.assert_close(at["blocks.0.mlp.hook_post"], nn.functional.gelu(gate) * up, **close)


def test_the_toys_are_counted(toy, ids):
    counter = NeuronCounter(toy, "mlp.hook_act")
    counter.add(ids, torch.ones_like(ids, dtype=torch.bool))
    n_positive = counter.finish(what="text")[0]
    sites = [site for site in toy.sites if site.endswith("hook_act")]
    for layer, act in enumerate(toy.collect(ids, sites).values()):
        assert torch.equal(n_positive[layer], (act > 0).sum(dim=(0, 1)))


def trained(toy, engine, ids):
    """The weights after a few steps of AdamW through an engine, in float64."""
    model = HookedModel(toy.hf.double(), name="toy", mlp=toy.mlp)
    before = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    opened = engine(NeuronRows(model, chosen(model)))
    optimizer = torch.optim.AdamW(opened.leaves().values(), lr=1e-2, weight_decay=0.1)
    detach = attach(opened, optimizer)
    for _ in range(3):
        total_loss(model.hf, ids, ids).backward()
        optimizer.step()
        optimizer.zero_grad()
    detach()
    opened.close()
    after = {name: weight.clone() for name, weight in model.hf.state_dict().items()}
    model.hf.load_state_dict(before)
    return before, after


def test_both_engines_train_the_toys_alike(toy, ids):
    before, compact = trained(toy, CompactRows, ids)
    _, masked = trained(toy, MaskedGradients, ids)
    changed = {name for name in before if not torch.equal(before[name], compact[name])}
    paths = {path for at in toy.layout.blocks for path in at.projections.values()}
    assert changed == {f"{path}.weight" for path in paths if ".1." not in path}
    for name, weight in compact.items():
        torch.testing.assert_close(weight, masked[name], rtol=0, atol=1e-10)
        assert torch.equal(weight == before[name], masked[name] == before[name])


def test_compact_trains_other_names_in_one_function():
    model = HookedModel(w123(), mlp=W123)
    assert _gated_mlp(model, model.layout.blocks[0]) is model.hf.model.layers[0].mlp


@pytest.mark.parametrize("format", ["hf", "lora"])
def test_runs_are_put_into_the_toys_and_exported(toy, ids, tmp_path, format):
    run = make_run(toy)
    before = toy(ids)
    with with_subnetworks(toy, run):
        expected = toy(ids)
    assert torch.equal(toy(ids), before) and not torch.allclose(expected, before)
    export(toy, run, tmp_path / "out", format=format)
    if format == "lora":
        found = PeftModel.from_pretrained(toy.hf, tmp_path / "out")(ids).logits
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    elif toy.mlp == W123:
        loaded = load_model(tmp_path / "out", device="cpu", mlp=W123)
        loaded.hf.set_attn_implementation("eager")
        assert torch.equal(loaded(ids), expected)


def test_load_model_takes_the_names(tmp_path, ids):
    w123().save_pretrained(tmp_path / "w123")
    tiny_tokenizer().save_pretrained(tmp_path / "w123")
    with pytest.raises(UnsupportedModelError, match="name the parts: load_model"):
        load_model(tmp_path / "w123", device="cpu")
    model = load_model(tmp_path / "w123", device="cpu", mlp=W123)
    assert (model.n_layers, model.d_mlp, model.mlp) == (N_LAYERS, D_MLP, W123)


GUESSES = {
    "w123": (
        w123,
        r"mlp\.w1: Linear 16 -> 24\n.*mlp\.w2: Linear 24 -> 16\n.*"
        r"mlp=MLPNames\(gate='w1', up='w3', down='w2', act='act_fn', container='mlp'\)",
    ),
    "up_first": (
        up_first,
        r"mlp=MLPNames\(fused='both', down='down', act='squash', container='mixer\.core'\)",
    ),
}


@pytest.mark.parametrize("name", GUESSES)
def test_the_error_shows_what_a_block_holds_and_the_call_to_try(name):
    make, message = GUESSES[name]
    with pytest.raises(
        UnsupportedModelError, match=rf"(?s)no dense MLP of a known form.*{message}"
    ):
        HookedModel(make())


def test_names_that_do_not_fit_are_refused():
    with pytest.raises(
        UnsupportedModelError, match=r"has no MLP like MLPNames\(gate='w1', up='w3', down='w4'\)"
    ):
        HookedModel(w123(), mlp=MLPNames(gate="w1", up="w3", down="w4"))
    with pytest.raises(UnsupportedModelError, match=r"does not read act\(gate x\) \* \(up x\)"):
        HookedModel(w123(), mlp=MLPNames(gate="w3", up="w1", down="w2"))
    swapped = MLPNames(fused="both", down="down", act="squash", container="mixer.core")
    with pytest.raises(UnsupportedModelError, match="in a fused one which half"):
        HookedModel(up_first(), mlp=swapped)


@pytest.mark.parametrize(
    "names", [{}, {"up": "a", "fused": "b"}, {"fused": "a", "gate": "b"}], ids=str
)
def test_names_that_contradict_each_other_are_refused(names):
    with pytest.raises(LseError, match="MLPNames takes `up` .* or `fused`"):
        MLPNames(down="d", **names)
