import copy
import json

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lse_interp.core.errors import ArtifactError, LseError, MismatchError, WriteError
from lse_interp.models.hooked import HookedModel
from lse_interp.subnetworks.apply import apply_subnetwork, with_subnetworks
from lse_interp.subnetworks.export import export
from tests.tiny_models import FAMILIES, tiny_hf, tiny_tokenizer

from .making_runs import make_run, record_alone

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def hooked(family="llama", *, dtype=torch.float32):
    return HookedModel(tiny_hf(family).to(dtype), tiny_tokenizer(), name="tiny")


def logits(hf, ids):
    with torch.no_grad():
        return hf(ids).logits


def weights(hf):
    return {name: weight.clone() for name, weight in hf.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_export_hf_loads_to_the_tuned_weights(family, tmp_path, ids):
    model = hooked(family)
    run, before = make_run(model), weights(model.hf)
    assert export(model, run, tmp_path / "out") == tmp_path / "out"
    loaded, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", output_loading_info=True, attn_implementation="eager"
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with with_subnetworks(model, run):
        for name, weight in model.hf.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], weight), name
        assert torch.equal(logits(loaded, ids), logits(model.hf, ids))
    for name, weight in model.hf.state_dict().items():
        assert torch.equal(before[name], weight), name
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w5")["input_ids"] == model.tokenizer("w3 w5")["input_ids"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# float32: the adapter rounds x (base + delta) as x base + x delta, about 1e-7 per operation.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("family", FAMILIES)
def test_export_lora_gives_the_same_logits_and_merged_weights(
    family, dtype, tolerance, tmp_path, ids
):
    model = hooked(family, dtype=dtype)
    run, before = make_run(model), weights(model.hf)
    export(model, run, tmp_path / "out", format="lora")
    with with_subnetworks(model, run):
        expected, tuned = logits(model.hf, ids), weights(model.hf)
    assert (expected - logits(model.hf, ids)).abs().max() > 0.05
    peft = PeftModel.from_pretrained(copy.deepcopy(model.hf), tmp_path / "out")
    torch.testing.assert_close(logits(peft, ids), expected, rtol=tolerance, atol=tolerance)
    merged = peft.merge_and_unload().state_dict()
    # One rounding: base + (tuned - base).
    rounding = 4 * torch.finfo(dtype).eps
    for name, weight in tuned.items():
        torch.testing.assert_close(merged[name], weight, rtol=rounding, atol=rounding)
    for name, weight in model.hf.state_dict().items():
        assert torch.equal(before[name], weight), name


def test_export_lora_has_no_module_where_there_are_no_neurons(tmp_path):
    model = hooked("phi3")
    run = make_run(
        model,
        [torch.tensor([3, 20]), torch.tensor([], dtype=torch.int64)] * 1 + [torch.tensor([7])],
    )
    export(model, run, tmp_path / "out", format="lora")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    modules = {
        f"model.layers.{i}.mlp.{name}" for i in (0, 2) for name in ("gate_up_proj", "down_proj")
    }
    assert set(config["target_modules"]) == modules
    ranks = {key.replace("\\", ""): rank for key, rank in config["rank_pattern"].items()}
    assert ranks["model.layers.0.mlp.gate_up_proj"] == 4
    assert ranks["model.layers.0.mlp.down_proj"] == 2
    assert config["alpha_pattern"] == config["rank_pattern"]
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert len(tensors) == 2 * len(modules)
    prefix = "base_model.model.model.layers.0.mlp"
    # One gate and one up entry per neuron, the up half behind the 24 gate rows.
    one_hot = tensors[f"{prefix}.gate_up_proj.lora_B.weight"]
    assert one_hot.nonzero().tolist() == [[3, 0], [20, 1], [24 + 3, 2], [24 + 20, 3]]
    assert torch.equal(tensors[f"{prefix}.gate_up_proj.lora_A.weight"][:2], run.deltas[0][0])
    assert tensors[f"{prefix}.down_proj.lora_A.weight"].nonzero().tolist() == [[0, 3], [1, 20]]
    assert torch.equal(tensors[f"{prefix}.down_proj.lora_B.weight"], run.deltas[0][2].mT)


def test_export_lora_tells_layers_of_a_deep_model_apart(tmp_path, ids):
    """Layers 1, 10 and 11 have names that begin alike, and other ranks."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=12,
        num_attention_heads=2,
    )
    hf = LlamaForCausalLM(config).double().eval()
    model = HookedModel(hf, tiny_tokenizer(), name="deep")
    sizes = [0, 1, 2, 3, 4, 0, 6, 7, 8, 9, 10, 5]
    run = make_run(model, [torch.arange(n) + 1 for n in sizes])
    export(model, run, tmp_path / "out", format="lora")
    with with_subnetworks(model, run):
        expected = logits(hf, ids)
    peft = PeftModel.from_pretrained(hf, tmp_path / "out")
    torch.testing.assert_close(logits(peft, ids), expected, rtol=1e-12, atol=1e-12)
    adapted = [name for name, module in peft.named_modules() if hasattr(module, "lora_A")]
    assert len(adapted) == 3 * sum(n > 0 for n in sizes)


@pytest.mark.parametrize("format", ["hf", "lora"])
def test_export_keeps_what_stands_in_the_way(format, tmp_path):
    model = hooked()
    run = make_run(model)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="full exists and is not empty. Give another folder"):
        export(model, run, tmp_path / "full", format=format)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    export(model, run, tmp_path / "empty", format=format)
    assert any((tmp_path / "empty").iterdir())


def test_export_leaves_nothing_behind_when_it_fails(tmp_path):
    model = hooked()
    run, before = make_run(model), weights(model.hf)

    def fail(path):
        raise OSError("disk full")

    broken = HookedModel(model.hf, tiny_tokenizer(), name="tiny")
    broken.tokenizer.save_pretrained = fail
    with pytest.raises(WriteError, match="disk full"):
        export(broken, run, tmp_path / "out", format="hf")
    assert not any(tmp_path.iterdir())
    assert all(torch.equal(before[name], w) for name, w in model.hf.state_dict().items())


@pytest.mark.parametrize("format", ["hf", "lora"])
def test_export_refuses(format, tmp_path):
    model, other = hooked(), hooked()
    with torch.no_grad():
        other.hf.lm_head.weight[0, 0] += 1
    with pytest.raises(MismatchError, match="The run mlt:target belongs to other weights"):
        export(model, make_run(other), tmp_path / "out", format=format)
    with pytest.raises(LseError, match="mlt:lora trained no chosen neurons.*`load_tuned`"):
        export(model, record_alone(model, "lora"), tmp_path / "out", format=format)
    run = make_run(model, language="slk", seed=3)
    apply_subnetwork(model, make_run(model))
    with pytest.raises(LseError, match=r"tiny has runs applied \(mlt:target\)"):
        export(model, run, tmp_path / "out", format=format)
    assert not any(tmp_path.iterdir())


def test_export_refuses_what_cannot_be_written(tmp_path):
    model = hooked()
    nothing = make_run(model, [torch.tensor([], dtype=torch.int64)] * 3)
    with pytest.raises(LseError, match="trained no neuron, so an adapter would be empty"):
        export(model, nothing, tmp_path / "out", format="lora")
    with pytest.raises(LseError, match="tiny has no tokenizer to write"):
        export(HookedModel(model.hf, name="tiny"), make_run(model), tmp_path / "out", format="hf")
    with pytest.raises(LseError, match="`format` must be hf or lora; got 'peft'"):
        export(model, make_run(model), tmp_path / "out", format="peft")
