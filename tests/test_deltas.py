import copy
import dataclasses
import logging
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers

from lse_interp.analysis.weights.compare import weight_deltas
from lse_interp.analysis.weights.delta_report import delta_report
from lse_interp.analysis.weights.deltas import UNDETERMINED, WeightDeltas
from lse_interp.analysis.weights.row_statistics import QUANTILES
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.deltas import main
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import CURVE_COLUMNS, FinetuneRun

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

D_MODEL, D_MLP, N_LAYERS, VOCAB = 8, 12, 3, 20
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": D_MODEL,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "bos_token_id": None,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_GATED = _SIZES | {"intermediate_size": D_MLP, "num_key_value_heads": 1}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**_GATED),
    "phi3": lambda: transformers.Phi3Config(**_GATED),
    "gpt2": lambda: transformers.GPT2Config(**_SIZES, n_inner=D_MLP),
}
CHOSEN = ((1, 4, 5, 11), (), (0, 7))


def tiny_hf(family="llama", *, seed=0, dtype=torch.float32, **changes):
    torch.manual_seed(seed)
    config = CONFIGS[family]()
    config.update(changes)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(std=0.3)
    return hf.to(dtype).eval()


def tiny(family="llama", **changes):
    return HookedModel(tiny_hf(family, **changes), name="tiny")


def tiny_tokenizer():
    words = ["<pad>", "<s>", "</s>", "<unk>"] + [f"w{i}" for i in range(VOCAB - 4)]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


def make_run(model, *, chosen=CHOSEN, method="target", seed=0, change=None, **results):
    """A run whose rows are `change(rows of the model)`, by default these plus noise."""
    random = torch.Generator().manual_seed(seed)
    neurons = tuple(torch.tensor(layer, dtype=torch.int64) for layer in chosen)
    base = tuple(read_rows(model, layer, layers) for layer, layers in enumerate(neurons))
    change = change or (
        lambda rows: rows + 0.1 * torch.randn(rows.shape, generator=random).to(rows)
    )
    return FinetuneRun(
        language="mlt",
        method=method,
        model=model.info,
        neurons=neurons,
        rows=tuple(change(rows) for rows in base),
        base=base,
        curves=pd.DataFrame(columns=list(CURVE_COLUMNS)),
        settings={},
        results=results,
    )


def record(model, method, folder, **results):
    """A run without rows, saved in a folder."""
    run = dataclasses.replace(
        make_run(model, method=method, **results), neurons=None, rows=None, base=None
    )
    run.save(folder)
    return FinetuneRun.load(folder)


def neuron_sets(info, *, languages=("slk", "mlt"), seed=1):
    """Sets with scores; those of Maltese are the first two neurons of each layer."""
    random = torch.Generator().manual_seed(seed)
    grid = (info.n_layers, info.d_mlp)
    both = tuple(torch.tensor([0, 1]) for _ in range(info.n_layers))
    return NeuronSets(
        indices=dict.fromkeys(languages, both),
        model=info,
        site="mlp.hook_act",
        method="lape",
        scores=torch.rand(grid, generator=random, dtype=torch.float64),
        score_name="lape",
        score_unit="nats",
        probability=torch.rand((len(languages), *grid), generator=random, dtype=torch.float64),
    )


def everything(model):
    return {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}


def mask_of(chosen):
    mask = torch.zeros(N_LAYERS, D_MLP, dtype=torch.bool)
    for row, layer in zip(mask, chosen, strict=True):
        row[list(layer)] = True
    return mask


# The numbers


@pytest.mark.parametrize("family", CONFIGS)
def test_weight_deltas_of_a_run_agree_with_its_rows(family):
    base = tiny(family)
    run = make_run(base, decay_factor=0.99)
    deltas = weight_deltas(base, run)
    assert deltas.projections == run.model.projections
    assert (deltas.language, deltas.name, deltas.method) == ("mlt", "target", "target")
    for layer, (before, after) in enumerate(zip(run.base, run.rows, strict=True)):
        for at, (old, new) in enumerate(zip(before.double(), after.double(), strict=True)):
            old, new = old.numpy(), new.numpy()
            change = new - old
            assert deltas.n_changed[layer, at] == change.size
            # The change itself is taken in float32.
            close = {"rtol": 1e-6, "atol": 1e-7}
            np.testing.assert_allclose(deltas.l2[layer, at], np.linalg.norm(change), **close)
            np.testing.assert_allclose(deltas.base_l2[layer, at], np.linalg.norm(old), **close)
            norms = [np.linalg.norm(row) for row in change]
            np.testing.assert_allclose(deltas.neuron_norms[layer][at], norms, **close)
            if not change.size:
                assert deltas.quantiles[layer, at].isnan().all()
                assert deltas.mean[layer, at].isnan() and deltas.histogram[layer, at].sum() == 0
                continue
            found = deltas.quantiles[layer, at]
            np.testing.assert_allclose(found, np.quantile(change, QUANTILES), **close)
            np.testing.assert_allclose(deltas.mean[layer, at], change.mean(), **close)
            np.testing.assert_allclose(deltas.std[layer, at], change.std(), **close)
            rms = np.sqrt(np.mean(change**2))
            np.testing.assert_allclose(deltas.rms[layer, at], rms, **close)
            ratio = np.linalg.norm(change) / np.linalg.norm(old)
            np.testing.assert_allclose(deltas.relative_l2[layer, at], ratio, **close)
            inside = np.abs(change) < 0.999 * deltas.limit
            assert inside.sum() <= deltas.histogram[layer, at].sum() <= change.size


@pytest.mark.parametrize("family", CONFIGS)
def test_weight_deltas_of_a_run_are_those_of_the_two_models(family):
    base = tiny(family)
    run = make_run(base)
    tuned = HookedModel(copy.deepcopy(base.hf), name="tuned")
    with torch.no_grad():
        for name, weight in _written(base, run).items():
            tuned.hf.get_parameter(name).copy_(weight)
    of_run = weight_deltas(base, run)
    of_models = weight_deltas(base, tuned, selected=run.mask(), language="Maltese")
    assert of_models.rest_exactly_zero and of_models.language == "mlt"
    assert of_models.tuned.fingerprint == of_run.tuned.fingerprint != base.info.fingerprint
    assert (of_models.name, of_models.method, of_models.decay_factor) == ("tuned", "models", None)
    for name in ("quantiles", "histogram", "mean", "l2", "base_l2", "n_changed"):
        a, b = getattr(of_run, name), getattr(of_models, name)
        assert torch.equal(a.nan_to_num(), b.nan_to_num())


def _written(base, run):
    """The parameters of the tuned model, written by plain indexing, without `write_rows`."""
    after = everything(base)
    for layer, (neurons, rows) in enumerate(zip(run.neurons, run.rows, strict=True)):
        if base.layout.architecture.startswith("GPT2"):
            at = f"transformer.h.{layer}.mlp."
            after[f"{at}c_fc.weight"][:, neurons] = rows[0].T
            after[f"{at}c_proj.weight"][neurons] = rows[1]
        elif base.layout.architecture.startswith("Phi3"):
            at = f"model.layers.{layer}.mlp."
            after[f"{at}gate_up_proj.weight"][neurons] = rows[0]
            after[f"{at}gate_up_proj.weight"][D_MLP + neurons] = rows[1]
            after[f"{at}down_proj.weight"][:, neurons] = rows[2].T
        else:
            at = f"model.layers.{layer}.mlp."
            after[f"{at}gate_proj.weight"][neurons] = rows[0]
            after[f"{at}up_proj.weight"][neurons] = rows[1]
            after[f"{at}down_proj.weight"][:, neurons] = rows[2].T
    return after


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weight_deltas_leave_the_base_as_it_is_and_the_rest_is_zero(dtype):
    base = tiny(dtype=dtype)
    before = everything(base)
    deltas = weight_deltas(base, make_run(base))
    assert all(torch.equal(weight, before[name]) for name, weight in everything(base).items())
    assert deltas.rest_exactly_zero
    assert deltas.rest_n_entries == 3 * D_MODEL * (N_LAYERS * D_MLP - 6)
    n_projections = 3 * N_LAYERS
    assert len(deltas.others) == len(before) - n_projections
    n_entries = sum(weight.numel() for weight in before.values())
    assert deltas.others["n_entries"].sum() == n_entries - n_projections * D_MODEL * D_MLP


@pytest.mark.parametrize(
    ("parameter", "at", "where"),
    [
        ("model.layers.2.mlp.gate_proj.weight", (3, 1), (2, 0)),
        ("model.layers.1.mlp.up_proj.weight", (0, 0), (1, 1)),
        ("model.layers.0.mlp.down_proj.weight", (2, 9), (0, 2)),
        ("model.embed_tokens.weight", (19, 3), None),
        ("model.layers.1.self_attn.k_proj.weight", (1, 2), None),
        ("model.layers.0.input_layernorm.weight", (7,), None),
    ],
)
def test_weight_deltas_find_one_changed_entry_anywhere(parameter, at, where):
    base = tiny()
    tuned = HookedModel(copy.deepcopy(base.hf), name="tuned")
    with torch.no_grad():
        tuned.hf.get_parameter(parameter)[at] += 0.5
    deltas = weight_deltas(base, tuned, selected=mask_of(CHOSEN))
    assert not deltas.rest_exactly_zero
    assert deltas.n_changed.sum() == 0 and deltas.language == UNDETERMINED
    changed = deltas.others[deltas.others["n_changed"] > 0]
    if where is None:
        assert deltas.rest_n_changed.sum() == 0
        assert changed[["parameter", "n_changed"]].values.tolist() == [[parameter, 1]]
        assert changed[["l2", "max_abs"]].to_numpy() == pytest.approx(0.5, rel=1e-5)
    else:
        assert deltas.rest_n_changed.sum() == deltas.rest_n_changed[where] == 1
        assert deltas.rest_l2[where].item() == pytest.approx(0.5, rel=1e-5)
        assert deltas.rest_max_abs.sum().item() == pytest.approx(0.5, rel=1e-5)
        assert changed.empty


def test_weight_deltas_select_everything_by_default():
    base, tuned = tiny(), tiny(seed=1)
    deltas = weight_deltas(base, tuned)
    assert deltas.n_neurons.tolist() == [D_MLP] * N_LAYERS
    assert deltas.rest_n_entries == deltas.rest_n_changed.sum() == 0
    assert not deltas.rest_exactly_zero
    old, new = everything(base), everything(tuned)
    name = "model.layers.1.mlp.down_proj.weight"
    change = new[name].double() - old[name].double()
    torch.testing.assert_close(deltas.l2[1, 2], change.norm(), rtol=1e-6, atol=0)
    columns = deltas.neuron_frame().query("layer == 1")["norm_down"]
    np.testing.assert_allclose(columns, change.norm(dim=0), rtol=1e-6)


# Weight decay


def test_decay_share_is_one_when_decay_is_all_there_is():
    base = tiny(dtype=torch.float64)
    deltas = weight_deltas(base, make_run(base, change=lambda rows: 0.97 * rows, decay_factor=0.97))
    expected = torch.ones(2, 3, dtype=torch.float64)
    torch.testing.assert_close(deltas.decay_share[[0, 2]], expected, rtol=1e-10, atol=0)
    assert deltas.total_decay_share == pytest.approx(1, rel=1e-10)
    torch.testing.assert_close(deltas.decay_l2, deltas.l2, rtol=1e-10, atol=1e-15)
    assert deltas.decay_share[1].isnan().all()


def test_decay_share_by_hand():
    # The weights double; decay alone would halve them: d = w, e = -w / 2, 1 - 2.25 = -1.25.
    base = tiny(dtype=torch.float64)
    deltas = weight_deltas(base, make_run(base, change=lambda rows: 2 * rows, decay_factor=0.5))
    assert deltas.total_decay_share == pytest.approx(-1.25, rel=1e-12)
    none = weight_deltas(base, make_run(base, decay_factor=1.0))
    assert none.total_decay_share == 0
    unknown = weight_deltas(base, make_run(base))
    assert np.isnan(unknown.total_decay_share) and unknown.decay_l2.isnan().all()


def test_decay_factor_is_where_adamw_takes_weights_without_gradient():
    base = tiny(dtype=torch.float64)
    rate, decay, n_steps = 1e-2, 0.3, 25

    def steps(rows):
        weights = torch.nn.Parameter(rows.clone())
        optimizer = torch.optim.AdamW([weights], lr=rate, weight_decay=decay)
        for _ in range(n_steps):
            weights.grad = torch.zeros_like(weights)
            optimizer.step()
        return weights.detach()

    factor = (1 - rate * decay) ** n_steps
    deltas = weight_deltas(base, make_run(base, change=steps, decay_factor=factor))
    assert deltas.total_decay_share == pytest.approx(1, rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 8.0])
def test_decay_share_does_not_depend_on_the_scale_of_the_weights(scale):
    base = tiny(dtype=torch.float64)
    run = make_run(base, decay_factor=0.9)
    larger = tiny(dtype=torch.float64)
    with torch.no_grad():
        for weight in larger.hf.parameters():
            weight.mul_(scale)
    scaled = make_run(larger, decay_factor=0.9)
    scaled = dataclasses.replace(scaled, rows=tuple(scale * rows for rows in run.rows))
    a, b = weight_deltas(base, run), weight_deltas(larger, scaled)
    torch.testing.assert_close(a.decay_share, b.decay_share, rtol=1e-9, atol=0, equal_nan=True)
    torch.testing.assert_close(a.relative_l2, b.relative_l2, rtol=1e-9, atol=0, equal_nan=True)


# Neurons


def test_neuron_frame_joins_change_and_scores():
    base = tiny()
    run, sets = make_run(base), neuron_sets(base.info)
    frame = weight_deltas(base, run, neurons=sets).neuron_frame()
    assert list(zip(frame["layer"], frame["neuron"], strict=True)) == [
        (layer, neuron) for layer, neurons in enumerate(CHOSEN) for neuron in neurons
    ]
    assert set(frame["language"]) == {"mlt"}
    row = frame.query("layer == 2 and neuron == 7").iloc[0]
    assert row["lape"] == sets.scores[2, 7].item()
    assert row["probability"] == sets.probability[1, 2, 7].item()
    parts = run.deltas[2][:, 1].double().norm(dim=-1)
    names = ["norm_gate", "norm_up", "norm_down"]
    np.testing.assert_allclose(row[names].astype(float), parts, rtol=1e-6)
    assert row["norm"] == pytest.approx(parts.norm().item(), rel=1e-6)


def test_neuron_frame_without_gate_or_scores():
    base = tiny("gpt2")
    frame = weight_deltas(base, make_run(base)).neuron_frame()
    assert frame[["score", "probability", "norm_gate"]].isna().all(axis=None)
    squares = frame["norm_up"] ** 2 + frame["norm_down"] ** 2
    np.testing.assert_allclose(frame["norm"] ** 2, squares, rtol=1e-12)


def test_neuron_frame_knows_no_probability_of_a_language_that_was_not_counted():
    base = tiny()
    sets = neuron_sets(base.info, languages=("slk", "ekk"))
    frame = weight_deltas(base, make_run(base), neurons=sets).neuron_frame()
    assert frame["probability"].isna().all() and frame["lape"].notna().all()


def test_correlation_agrees_with_scipy_and_leaves_out_neurons_that_never_fire():
    base = tiny()
    sets = neuron_sets(base.info)
    sets.scores[0, 3] = torch.inf
    deltas = weight_deltas(base, tiny(seed=1), neurons=sets)
    frame = deltas.neuron_frame().query("lape < inf")
    found = deltas.correlation()
    assert found["n_neurons"] == len(frame) == N_LAYERS * D_MLP - 1
    overall = scipy.stats.spearmanr(frame["lape"], frame["norm"]).statistic
    assert found["overall"] == pytest.approx(overall, rel=1e-12)
    within = [
        (scipy.stats.spearmanr(rows["lape"], rows["norm"]).statistic, len(rows))
        for _, rows in frame.groupby("layer")
    ]
    expected = np.average([rho for rho, _ in within], weights=[n for _, n in within])
    assert found["within_layers"] == pytest.approx(expected, rel=1e-12)


def test_correlation_without_scores_is_not_a_number():
    base = tiny()
    found = weight_deltas(base, make_run(base)).correlation()
    assert np.isnan([found["overall"], found["within_layers"]]).all() and found["n_neurons"] == 0


# Runs that chose no neurons


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    tiny_hf().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def base(base_folder):
    from lse_interp.models.loading import load_model

    return load_model(base_folder, device="cpu")


@pytest.fixture
def full_run(base, tmp_path):
    folder = tmp_path / "somewhere" / "full"
    run = record(base, "full", folder, decay_factor=0.9)
    tiny_hf(seed=1).save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    return run


def test_weight_deltas_of_a_full_run_compare_with_its_folder(base, full_run):
    deltas = weight_deltas(base, full_run)
    expected = weight_deltas(base, tiny(seed=1))
    assert torch.equal(deltas.l2, expected.l2) and deltas.name == "full"
    assert deltas.decay_factor == 0.9
    assert deltas.others.equals(expected.others)


def test_weight_deltas_of_a_lora_run_are_the_product_of_its_factors(base, tmp_path):
    run = record(base, "lora", tmp_path / "lora", decay_factor=0.9)
    config = LoraConfig(r=2, lora_alpha=6, target_modules=["gate_proj"])
    peft = get_peft_model(copy.deepcopy(base.hf), config)
    factors = {}
    with torch.no_grad():
        for name, weight in peft.named_parameters():
            if "lora_" in name:
                weight.normal_()
                factors[name] = weight.double()
    peft.save_pretrained(tmp_path / "lora" / "adapter")
    deltas = weight_deltas(base, run)
    for layer in range(N_LAYERS):
        at = f"base_model.model.model.layers.{layer}.mlp.gate_proj.lora_"
        change = 3 * factors[f"{at}B.default.weight"] @ factors[f"{at}A.default.weight"]
        torch.testing.assert_close(deltas.l2[layer, 0], change.norm(), rtol=1e-5, atol=0)
    assert deltas.l2[:, 1:].sum() == 0
    assert deltas.rest_exactly_zero
    # Decay acted on the factors, and nobody knows what that does to their product.
    assert deltas.decay_factor is None


# Refusals


def test_weight_deltas_refuse_a_run_of_another_base():
    run = make_run(tiny())
    with pytest.raises(MismatchError, match="belongs to other weights: expected fingerprint"):
        weight_deltas(tiny(seed=1), run)
    with pytest.raises(MismatchError, match="expected n_layers 2 .*found n_layers 3"):
        weight_deltas(tiny(num_hidden_layers=2), run)


def test_weight_deltas_refuse_models_of_two_shapes():
    with pytest.raises(
        MismatchError,
        match=r"embed_tokens.weight has shape \(20, 8\) in the first and \(21, 8\) in the second",
    ):
        weight_deltas(tiny(), tiny(vocab_size=21))
    with pytest.raises(MismatchError, match=r"layers\.2\.\S+ has shape none in the first"):
        weight_deltas(tiny(num_hidden_layers=2), tiny())


def test_weight_deltas_refuse_an_empty_or_foreign_selection():
    base = tiny()
    with pytest.raises(LseError, match=r"`selected` should mark neurons of 3 layers of 12.*with 0"):
        weight_deltas(base, tiny(seed=1), selected=torch.zeros(N_LAYERS, D_MLP, dtype=torch.bool))
    with pytest.raises(LseError, match=r"got shape \(3, 9\)"):
        weight_deltas(base, tiny(seed=1), selected=torch.ones(N_LAYERS, 9, dtype=torch.bool))


def test_weight_deltas_refuse_scores_of_another_model():
    sets = neuron_sets(tiny(seed=3).info)
    with pytest.raises(MismatchError, match="file of neuron sets belongs to other weights"):
        weight_deltas(tiny(), tiny(seed=1), neurons=sets)


@pytest.mark.parametrize(
    ("parameter", "note"),
    [
        ("model.layers.1.mlp.up_proj.weight", "This is up of layer 1, tiny to tiny"),
        ("model.norm.weight", "This is model.norm.weight, tiny to tiny"),
    ],
)
def test_weight_deltas_say_where_weights_are_not_finite(parameter, note):
    tuned = tiny(seed=1)
    with torch.no_grad():
        tuned.hf.get_parameter(parameter).view(-1)[3] = torch.nan
    with pytest.raises(LseError, match="not finite, as one of the models does") as caught:
        weight_deltas(tiny(), tuned)
    assert any(note in line for line in caught.value.__notes__)


# The artefact


@pytest.fixture
def deltas():
    base = tiny()
    return weight_deltas(base, make_run(base, decay_factor=0.99), neurons=neuron_sets(base.info))


def test_deltas_survive_saving_and_loading(deltas, tmp_path):
    loaded = WeightDeltas.load(deltas.save(tmp_path / "target.safetensors"))
    for field in dataclasses.fields(WeightDeltas):
        a, b = getattr(deltas, field.name), getattr(loaded, field.name)
        if isinstance(a, torch.Tensor):
            assert a.dtype == b.dtype
            assert torch.equal(a.nan_to_num(), b.nan_to_num()), field.name
        elif isinstance(a, tuple):
            assert all(map(torch.equal, a, b)), field.name
        elif isinstance(a, pd.DataFrame):
            pd.testing.assert_frame_equal(a, b)
        elif field.name != "provenance":
            assert a == b, field.name
    unscored = dataclasses.replace(deltas, scores=None, probability=None, decay_factor=None)
    loaded = WeightDeltas.load(unscored.save(tmp_path / "other.safetensors"))
    assert (loaded.scores, loaded.probability, loaded.decay_factor) == (None, None, None)


def test_load_refuses_a_truncated_file(deltas, tmp_path):
    path = deltas.save(tmp_path / "target.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ArtifactError, match="truncated"):
        WeightDeltas.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"neurons": (torch.tensor([]).long(),) * 3}, "at least one neuron"),
        ({"neurons": (torch.tensor([1]),) * 2}, "each of the 3 layers"),
        (
            {"scores": (torch.zeros(1).double(),) * 3},
            r"`scores` should have one value per .*\[4, 0, 2",
        ),
        ({"limit": 0.0}, "`limit` must be above 0; got 0.0"),
        ({"decay_factor": 1.2}, r"`decay_factor` must be in \(0, 1\].*got 1.2"),
        ({"n_changed": torch.full((3, 3), 99)}, "`n_changed` must count at most the selected"),
        ({"histogram": torch.full((3, 3, 101), 1)}, "`histogram` must count at most the selected"),
        ({"others": pd.DataFrame({"parameter": []})}, "`others` needs the columns parameter, n_en"),
    ],
)
def test_deltas_refuse_values_they_cannot_have(deltas, change, message):
    with pytest.raises(MismatchError, match=message):
        dataclasses.replace(deltas, **change)


def test_deltas_refuse_a_model_of_another_depth(deltas):
    deeper = dataclasses.replace(deltas.base, n_layers=4)
    with pytest.raises(
        MismatchError, match=r"`quantiles` should have shape \(4, 3, 11\); got \(3,"
    ):
        dataclasses.replace(deltas, base=deeper)


def test_deltas_refuse_quantiles_that_fall_and_neurons_out_of_order(deltas):
    with pytest.raises(MismatchError, match="`quantiles` must not fall"):
        dataclasses.replace(deltas, quantiles=deltas.quantiles.flip(-1))
    backwards = tuple(layer.flip(0) for layer in deltas.neurons)
    with pytest.raises(MismatchError, match=r"`neurons` in layer 0 must be indices in \[0, 12\)"):
        dataclasses.replace(deltas, neurons=backwards)


def test_to_frame_holds_every_value_under_its_labels(deltas):
    frame = deltas.to_frame()
    assert len(frame) == N_LAYERS * 3
    row = frame.query("layer == 2 and projection == 'down'").iloc[0]
    assert (row["language"], row["name"], row["n_neurons"]) == ("mlt", "target", 2)
    assert row["n_entries"] == 2 * D_MODEL
    for name in ("mean", "std", "rms", "l2", "base_l2", "relative_l2", "decay_l2", "decay_share"):
        assert row[name] == getattr(deltas, name)[2, 2].item()
    assert [row[f"q{q:g}"] for q in QUANTILES] == deltas.quantiles[2, 2].tolist()


def test_mask_and_neurons_are_one(deltas):
    assert torch.equal(deltas.mask(), mask_of(CHOSEN))
    assert all(map(torch.equal, mask_to_indices(deltas.mask()), deltas.neurons))


def test_delta_report_names_what_moved_most_and_the_rest(deltas):
    text = delta_report(deltas)
    frame = deltas.to_frame()
    top = frame.loc[frame["rms"].idxmax()]
    assert f"most of all {top['projection']} in layer {top['layer']} ({top['rms']:.2e})" in text
    assert "144 of 144 weights differ" in text
    assert "The rest is exactly zero: 0 of 720 weights of other neurons and 0 of" in text
    assert "explains" in text and "Spearman" in text
    base = tiny()
    other = delta_report(weight_deltas(base, tiny(seed=1), selected=mask_of(CHOSEN)))
    assert "The rest changed too: 720 of 720 weights of other neurons" in other
    assert "Weight decay: unknown." in other and "no scores known" in other


def test_delta_report_of_two_equal_models():
    text = delta_report(weight_deltas(tiny(), tiny()))
    assert "0 of 864 weights differ" in text and "The rest is exactly zero" in text


# The stage


@pytest.fixture
def paths(base_folder, tmp_path):
    return RunPaths(tmp_path / "runs", str(base_folder))


@pytest.fixture
def saved(base, paths):
    """The run `target` of Maltese, where the stage finds it."""
    run = make_run(base, decay_factor=0.99)
    run.save(paths.finetune("mlt", "target"))
    return run


@pytest.fixture
def stage(base_folder, tmp_path):
    def run_stage(*argv, model=True):
        more = ["--model", str(base_folder)] if model else []
        more += ["--device", "cpu", "--root", str(tmp_path / "runs")]
        return main([*argv, *more, "--figures", str(tmp_path / "figures")])

    return run_stage


def test_stage_measures_the_target_run_by_default(stage, saved, base, paths, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    neuron_sets(base.info).save(paths.neurons)
    assert stage("--lang", "Maltese") == 0
    path = paths.deltas("mlt", "target")
    found = WeightDeltas.load(path)
    expected = weight_deltas(base, saved, neurons=neuron_sets(base.info))
    assert torch.equal(found.l2, expected.l2)
    assert all(map(torch.equal, found.scores, expected.scores))
    assert found.provenance["config"]["lang"] == "Maltese"
    written = sorted(file.name for file in (tmp_path / "figures").iterdir())
    assert written == [f"fig06_weight_deltas_mlt_base.{s}" for s in ("csv", "pdf", "png")]
    assert delta_report(found) in caplog.text and f"wrote {path}" in caplog.text


def test_stage_reuses_what_is_of_the_same_weights(stage, saved, base, paths, caplog):
    caplog.set_level(logging.INFO)
    path, reused = paths.deltas("mlt", "target"), "is finished; --overwrite"
    assert stage("--lang", "mlt") == 0
    assert reused not in caplog.text
    # A value that no measurement gives shows where the numbers come from.
    marked = dataclasses.replace(WeightDeltas.load(path), mean=torch.full((3, 3), 7.0).double())
    marked.save(path)
    assert stage("--lang", "mlt") == 0
    assert reused in caplog.text and (WeightDeltas.load(path).mean == 7).all()

    make_run(base, seed=1, decay_factor=0.99).save(paths.finetune("mlt", "target"))
    assert stage("--lang", "mlt") == 0
    assert not (WeightDeltas.load(path).mean == 7).any()
    marked.save(path)
    assert stage("--lang", "mlt", "--overwrite") == 0
    assert not (WeightDeltas.load(path).mean == 7).any()


def test_stage_measures_again_once_there_are_scores(stage, saved, base, paths):
    assert stage("--lang", "mlt") == 0
    assert WeightDeltas.load(paths.deltas("mlt", "target")).scores is None
    neuron_sets(base.info).save(paths.neurons)
    assert stage("--lang", "mlt") == 0
    assert WeightDeltas.load(paths.deltas("mlt", "target")).scores is not None


def test_stage_takes_a_run_by_name_or_folder(stage, base, paths, tmp_path):
    make_run(base, method="random:layer").save(paths.finetune("mlt", "random-layer"))
    assert stage("--lang", "mlt", "--run", "random-layer") == 0
    named = WeightDeltas.load(paths.deltas("mlt", "random-layer"))
    make_run(base, seed=2).save(tmp_path / "elsewhere" / "mine")
    assert stage("--run", str(tmp_path / "elsewhere" / "mine")) == 0
    by_folder = WeightDeltas.load(paths.deltas("mlt", "mine"))
    assert (named.name, named.method) == ("random-layer", "random:layer")
    assert (by_folder.name, by_folder.language) == ("mine", "mlt")
    figures = {path.stem for path in (tmp_path / "figures").iterdir()}
    names = ("random-layer", "mine")
    assert figures == {f"fig06_weight_deltas_mlt_{name}_base" for name in names}


def test_stage_looks_at_the_neurons_of_the_language_in_a_full_run(stage, base, full_run, paths):
    neuron_sets(base.info).save(paths.neurons)
    assert stage("--run", str(full_run.folder), "--select", "language") == 0
    found = WeightDeltas.load(paths.deltas("mlt", "full-language"))
    assert found.n_neurons.tolist() == [2, 2, 2]
    assert not found.rest_exactly_zero and (found.rest_n_changed > 0).all()


def test_stage_compares_two_folders(stage, base_folder, full_run, paths, caplog):
    caplog.set_level(logging.INFO)
    tuned = str(full_run.folder / "model")
    assert stage("--base", str(base_folder), "--tuned", tuned, model=False) == 0
    found = WeightDeltas.load(paths.deltas(UNDETERMINED, "model"))
    assert (found.method, found.language) == ("models", UNDETERMINED)
    assert "The rest changed too" in caplog.text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "error: Name the language of the run, e.g. --lang mlt"),
        (["--lang", "nlt"], "error: unknown language 'nlt'"),
        (["--lang", "slk"], "error: There is no finished run 'target' of slk in"),
        (["--lang", "slk"], " --lang slk --method target`"),
        (["--lang", "mlt", "--run", "tagret"], "Did you mean target?"),
        (
            ["--lang", "mlt", "--run", "random-size"],
            "--method random --random-match size`",
        ),
        (["--lang", "mlt", "--run", "full", "--tuned", "x"], "`--run` and `--tuned` both name"),
        (["--lang", "mlt", "--base", "x"], "`--base` goes with `--tuned`"),
        (["--tuned", "x", "--select", "language"], "`--select language` needs `--lang`"),
        (["--lang", "mlt", "--select", "language"], "neurons/lape.safetensors does not exist"),
        (["--lang", "mlt", "--tuned", "/nowhere/x"], "There is no model folder at /nowhere/x"),
    ],
)
def test_stage_ends_with_one_clear_line(stage, saved, paths, capsys, argv, message):
    assert stage(*argv) == 2
    assert message in capsys.readouterr().err
    assert not paths.deltas("mlt", "target").exists()


def test_stage_refuses_a_folder_of_another_language(stage, base, tmp_path, capsys):
    make_run(base).save(tmp_path / "mine")
    assert stage("--lang", "slk", "--run", str(tmp_path / "mine")) == 2
    assert "trained mlt, not slk. Leave out --lang" in capsys.readouterr().err


def test_stage_refuses_a_run_of_another_base(stage, paths, capsys):
    make_run(tiny(seed=5)).save(paths.finetune("mlt", "target"))
    assert stage("--lang", "mlt") == 2
    assert "belongs to other weights" in capsys.readouterr().err


def test_stage_starts_without_a_warning():
    command = [sys.executable, "-W", "error", "-m", "lse_interp.deltas", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--lang" in done.stdout
