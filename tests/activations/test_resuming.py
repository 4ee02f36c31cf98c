"""A run that was cut off, or shared by processes, gives the counts of one run left alone."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from lse_interp.activations import ActivationCounts, Config, count_activations, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.core.errors import ArtifactError, MismatchError

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
    with pytest.raises(MismatchError, match="model was [0-9a-f]{16}, now [0-9a-f]{16}"):
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


def config(model_folder, corpus, root, *, n_tokens):
    return Config(
        model=ModelArgs(model=str(model_folder), device="cpu"),
        text=CorpusArgs(corpus=str(corpus)),
        langs=("mlt",),
        n_tokens=n_tokens,
        block_size=16,
        batch_size=1,
        n_shards=12,
        root=root,
    )


def command(model_folder, corpus, root, *, n_tokens):
    """Spell `config` as arguments of the stage."""
    flags = {
        "model": model_folder,
        "device": "cpu",
        "corpus": corpus,
        "langs": "mlt",
        "n-tokens": n_tokens,
        "block-size": 16,
        "batch-size": 1,
        "n-shards": 12,
        "root": root,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return ["-m", "lse_interp.activations", *words]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def only(root, pattern):
    (path,) = root.rglob(pattern)
    return path


@pytest.mark.usefixtures("one_thread")
def test_killed_run_goes_on_where_it_was(model_folder, corpus, tmp_path):
    n_tokens = 30_000
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    run(config(model_folder, corpus, alone, n_tokens=n_tokens))
    arguments = [sys.executable, *command(model_folder, corpus, killed, n_tokens=n_tokens)]
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(killed.rglob("0*.safetensors")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    left = sorted(killed.rglob("0*.safetensors"))
    assert 1 <= len(left) < 12
    assert not list(killed.rglob("mlt.safetensors"))

    again = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{len(left)} of 12 shards were there" in again.stderr
    assert not list(killed.rglob("*.shards"))
    found = ActivationCounts.load(only(killed, "mlt.safetensors"))
    assert found.provenance["n_shards_reused"] == len(left)
    assert_same(found, ActivationCounts.load(only(alone, "mlt.safetensors")))


@pytest.mark.usefixtures("one_thread")
def test_two_processes_count_as_one(model_folder, corpus, tmp_path):
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    run(config(model_folder, corpus, alone, n_tokens=2000))
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes=2"]
    launch += ["--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]
    launch += ["--main_process_port=0"]
    done = subprocess.run(
        [sys.executable, *launch, *command(model_folder, corpus, shared, n_tokens=2000)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("wrote") <= 1
    found = ActivationCounts.load(only(shared, "mlt.safetensors"))
    assert found.provenance["n_processes"] == 2
    assert not list(shared.rglob("*.shards"))
    assert_same(found, ActivationCounts.load(only(alone, "mlt.safetensors")))
