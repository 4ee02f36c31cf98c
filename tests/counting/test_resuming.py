"""A run that was cut off, or shared by processes, gives the counts of one run left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lse_interp.activations import Config, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.core.errors import ArtifactError, MismatchError
from lse_interp.counting.count import count_activations
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts

OPTIONS = {"language": "mlt", "n_tokens": 300, "block_size": 16, "batch_size": 2, "n_shards": 5}
BATCHES_PER_SHARD = 2


class Stopped(Exception):
    pass


def stop_after(n_batches):
    """Return a hook for the first layer that stops the run in batch `n_batches`, from 0."""
    seen = iter(range(n_batches))

    def hook(activation, site):
        if next(seen, None) is None:
            raise Stopped

    return {"blocks.0.mlp.hook_act": hook}


def assert_same(found, expected):
    assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
    assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
    assert torch.equal(found.shard_n_tokens, expected.shard_n_tokens)


@pytest.mark.parametrize("n_batches", [0, 1, 2, 5, 9])
def test_resumed_counts_are_identical(model, documents, tmp_path, n_batches):
    expected = count_activations(model, documents, **OPTIONS)
    with pytest.raises(Stopped), model.edits(stop_after(n_batches)):
        count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    found = count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    assert_same(found, expected)
    assert found.provenance["n_shards_reused"] == n_batches // BATCHES_PER_SHARD
    again = count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    assert_same(again, expected)
    assert again.provenance["n_shards_reused"] == found.n_shards
    assert again.provenance["n_tokens_counted"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch_size was 2, now 3"),
        ({"n_tokens": 299}, "n_tokens was 300, now 299, text was"),
        ({"n_shards": 4}, "n_shards was 5, now 4"),
        ({"separator": "none"}, "separator was eos, now none"),
        ({"site": "mlp.hook_post"}, "site was mlp.hook_act, now mlp.hook_post"),
    ],
)
def test_shards_of_other_settings_are_refused(model, documents, tmp_path, changes, message):
    count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    with pytest.raises(MismatchError, match=f"unfinished run with other settings: {message}"):
        count_activations(model, documents, **OPTIONS | changes, workdir=tmp_path)
    fresh = count_activations(
        model, documents, **OPTIONS | changes, workdir=tmp_path, overwrite=True
    )
    assert fresh.provenance["n_shards_reused"] == 0


def test_shards_of_other_weights_or_text_are_refused(model, make_model, documents, tmp_path):
    count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    with pytest.raises(MismatchError, match="model was [0-9a-f]{16}.*, now [0-9a-f]{16}"):
        count_activations(make_model(seed=1), documents, **OPTIONS, workdir=tmp_path)
    with pytest.raises(MismatchError, match="text was [0-9a-f]{16}, now [0-9a-f]{16}"):
        count_activations(model, documents[::-1], **OPTIONS, workdir=tmp_path)


def test_altered_shard_is_refused(model, documents, tmp_path):
    count_activations(model, documents, **OPTIONS, workdir=tmp_path)
    path = tmp_path / "00003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"00003.safetensors was altered"):
        count_activations(model, documents, **OPTIONS, workdir=tmp_path)


@pytest.fixture
def corpus(documents, tmp_path):
    path = tmp_path / "mlt.txt"
    path.write_text("\n".join(documents * 60), encoding="utf-8")
    return path


N_TOKENS, N_SHARDS = 4000, 12


def command(model_folder, corpus, root):
    """Arguments that run the stage as `uninterrupted` does."""
    flags = {
        "model": model_folder,
        "device": "cpu",
        "corpus": corpus,
        "langs": "mlt",
        "n-tokens": N_TOKENS,
        "block-size": 16,
        "batch-size": 1,
        "n-shards": N_SHARDS,
        "root": root,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return ["-m", "lse_interp.activations", *words]


def uninterrupted(model_folder, corpus, root):
    config = Config(
        model=ModelArgs(model=str(model_folder), device="cpu"),
        text=CorpusArgs(corpus=str(corpus)),
        langs=("mlt",),
        counting=CountSettings(n_tokens=N_TOKENS, block_size=16, batch_size=1, n_shards=N_SHARDS),
        root=root,
    )
    return ActivationCounts.load(run(config)["mlt"])


def kill_at_the_first_shard(arguments, root):
    """Run a command until a shard is there, kill it with SIGKILL; return the shards it left."""
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(root.rglob("0*.safetensors")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return list(root.rglob("0*.safetensors"))


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@pytest.mark.slow
def test_a_killed_run_resumes_in_two_processes(model_folder, corpus, tmp_path):
    root = tmp_path / "killed"
    stage = command(model_folder, corpus, root)
    left = kill_at_the_first_shard([sys.executable, *stage], root)
    assert 1 <= len(left) < N_SHARDS
    assert not list(root.rglob("mlt.safetensors"))

    # The flag's name notwithstanding, this starts processes on CPUs as well; port 0 is a free one.
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
    launch += ["--num_processes=2", "--num_machines=1", "--main_process_port=0"]
    launch += ["--mixed_precision=no", "--dynamo_backend=no"]
    shared = subprocess.run(
        [sys.executable, *launch, *stage], env=environment(), capture_output=True, text=True
    )
    assert shared.returncode == 0, shared.stderr
    assert f"{len(left)} of {N_SHARDS} shards were finished before" in shared.stderr
    assert shared.stderr.count("tokens counted now") == 1  # the main process alone reports
    assert "Loading weights" not in shared.stderr  # transformers' bar, of no use in a log
    assert not list(root.rglob("*.shards"))
    (path,) = root.rglob("mlt.safetensors")
    found = ActivationCounts.load(path)
    assert found.provenance["n_processes"] == 2
    assert found.provenance["n_shards_reused"] == len(left)
    assert_same(found, uninterrupted(model_folder, corpus, tmp_path / "alone"))
