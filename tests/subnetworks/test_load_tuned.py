import dataclasses

import pytest
import torch
from peft import LoraConfig, get_peft_model

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, MismatchError
from lse_interp.models.loading import load_model
from lse_interp.subnetworks.apply import applied, remove_subnetwork, with_subnetworks
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.subnetworks.load_tuned import load_tuned

from .making_runs import make_run, record_alone

# peft reads a property that transformers 5 renames.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def logits(model, ids):
    return model.run_with_hooks(ids, {}, logits=True)


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "opt"])
def test_load_tuned_puts_the_rows_into_the_base(family, folders, tmp_path, ids):
    base = load_model(folders(family), device="cpu")
    run = make_run(base)
    run.save(tmp_path)
    tuned = load_tuned(tmp_path)
    assert tuned.name == f"{folders(family)}+mlt:target"
    assert tuned.info.name == tuned.name
    assert tuned.info.fingerprint != base.info.fingerprint
    with with_subnetworks(base, run):
        assert torch.equal(logits(tuned, ids), logits(base, ids))
        assert tuned.info.fingerprint == base.info.fingerprint
    assert len(applied(tuned)) == 1
    remove_subnetwork(tuned, run)
    assert tuned.info.fingerprint == base.info.fingerprint


def test_load_tuned_takes_a_run_in_memory_and_model_flags(folders, ids):
    base = load_model(folders("llama"), dtype="bfloat16", device="cpu")
    run = make_run(base, method="random:size")
    # The dtype of the rows, where the checkpoint is in float32.
    assert load_tuned(run).dtype == torch.bfloat16
    args = ModelArgs(model=str(folders("llama")), dtype="bfloat16", backend="nnsight")
    tuned = load_tuned(run, args)
    assert (tuned.name, tuned.backend) == (f"{folders('llama')}+mlt:random:size", "nnsight")
    assert torch.equal(logits(tuned, ids), logits(load_tuned(run), ids))


def test_load_tuned_reads_before_text_what_the_run_did(folders):
    base = load_model(folders("llama"), device="cpu")
    run = make_run(base)
    run = dataclasses.replace(run, settings={**run.settings, "prefix": [3, 1]})
    assert base.prefix == ()
    assert load_tuned(run).prefix == (3, 1)
    args = ModelArgs(model=str(folders("llama")), bos="none")
    assert load_tuned(run, args).prefix == ()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_load_tuned_merges_an_adapter(family, folders, tmp_path, ids):
    base = load_model(folders(family), device="cpu")
    run = record_alone(base, "lora")
    untuned = logits(base, ids)
    target = "c_fc" if family == "gpt2" else "up_proj"
    config = LoraConfig(r=2, target_modules=[target], fan_in_fan_out=family == "gpt2")
    peft = get_peft_model(base.hf, config)
    for name, weight in peft.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    run.save(tmp_path)
    peft.save_pretrained(tmp_path / "adapter")
    tuned = load_tuned(tmp_path)
    assert tuned.name.endswith("+mlt:lora")
    assert not any("lora" in name for name, _ in tuned.hf.named_parameters())
    with torch.no_grad():
        expected = peft(ids).logits
    assert (expected - untuned).abs().max() > 0.01
    # float32: merging rounds every weight once.
    torch.testing.assert_close(logits(tuned, ids), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["ffn", "full"])
def test_load_tuned_reads_a_whole_model(method, folders, tmp_path, ids):
    base = load_model(folders("llama"), device="cpu")
    record_alone(base, method).save(tmp_path)
    with torch.no_grad():
        base.hf.model.layers[0].mlp.up_proj.weight += 0.1
    base.hf.save_pretrained(tmp_path / "model")
    base.tokenizer.save_pretrained(tmp_path / "model")
    tuned = load_tuned(tmp_path)
    assert torch.equal(logits(tuned, ids), logits(base, ids))
    assert tuned.info.fingerprint == base.info.fingerprint
    assert tuned.name == f"{folders('llama')}+mlt:{method}"


@pytest.mark.parametrize("method", ["target", "lora"])
def test_load_tuned_refuses_another_base(method, folders, tmp_path):
    base = load_model(folders("llama"), device="cpu")
    run = make_run(base) if method == "target" else record_alone(base, method)
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, fingerprint="0" * 16))
    run.save(tmp_path)
    (tmp_path / "adapter").mkdir()
    with pytest.raises(MismatchError, match=f"The run mlt:{method} belongs to other weights"):
        load_tuned(tmp_path)
    with pytest.raises(MismatchError, match=f"The run mlt:{method} belongs to another model"):
        load_tuned(tmp_path, ModelArgs(model=str(folders("bloom"))))


def test_load_tuned_refuses_a_whole_model_of_another_shape(folders, tmp_path):
    record_alone(load_model(folders("llama"), device="cpu"), "full").save(tmp_path)
    (tmp_path / "model").symlink_to(folders("bloom"))
    with pytest.raises(MismatchError, match="model belongs to another model: expected d_mlp 24"):
        load_tuned(tmp_path)


@pytest.mark.parametrize(("method", "name"), [("lora", "adapter"), ("ffn", "model")])
def test_load_tuned_names_what_is_missing(method, name, folders, tmp_path):
    run = record_alone(load_model(folders("llama"), device="cpu"), method)
    with pytest.raises(ArtifactError, match=f"was not loaded from a folder, so its `{name}/`"):
        load_tuned(run)
    run.save(tmp_path)
    with pytest.raises(ArtifactError, match=rf"{name} does not exist: a run of method {method}"):
        load_tuned(FinetuneRun.load(tmp_path))
    with pytest.raises(ArtifactError, match="holds no finished fine-tuning run"):
        load_tuned(tmp_path / "nowhere")
