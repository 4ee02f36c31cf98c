"""Fine-tuning under `accelerate launch`: replicas (DDP), and one model in parts (FSDP2)."""

import json
import math
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError
from lse_interp.finetune import Config, main, run
from lse_interp.models.loading import load_model
from lse_interp.subnetworks.apply import apply_subnetwork
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.launch_options import Launch
from lse_interp.training.methods import METHODS
from tests.tiny_models import tiny_tokenizer

from .conftest import tiny
from .tiny_stage import Place, last_checkpoint, start, wait_for_checkpoint

WORKER = Path(__file__).with_name("launched.py")
CONFIGS = Path(__file__).parents[2] / "docs" / "accelerate"
STRATEGIES = {"ddp": "ddp_8gpu", "fsdp2": "fsdp2_8gpu"}

# Together or alone, four blocks make a step; with 13 of them, the last step of an epoch has one.
TOKENS, N_BLOCKS, BLOCK = 190, 13, 16
COMMON = {"n_tokens": TOKENS, "epochs": 2}
CASES = {
    "target": {},
    "masked": {"engine": "masked"},
    "lean": {"batch_size": 1, "accumulation": 2, "loss_chunk": 7, "checkpointing": True},
    "lora": {"method": "lora", "lora_rank": 3},
    "ffn": {"method": "ffn"},
    "full": {"method": "full"},
}
# Long enough to be killed on the way, and by which process.
LONG = {"epochs": 16, "validate_every": 4}
LONG_METHODS = {"ddp": "target", "fsdp2": "full"}
VICTIMS = {"ddp": "0", "fsdp2": "1"}
TOLERANCE = 1e-9


class Launched:
    """Runs on a model in float64, whose width does not halve, and on one in bfloat16."""

    def __init__(self, root):
        self.root = root
        self.places = {}
        for dtype in (torch.float64, torch.bfloat16):
            model = tiny("llama_odd", dtype=dtype)
            model.tokenizer = tiny_tokenizer()
            name = str(dtype).removeprefix("torch.")
            (root / name).mkdir()
            self.places[name] = Place(root / name, model=model)

    def arguments(self, case, *, runs, dtype="float64", **flags):
        flags = COMMON | CASES.get(case, {}) | flags
        words = ["--checkpointing"] if flags.pop("checkpointing", False) else []
        if not METHODS[flags.get("method", "target")].needs_neurons:
            flags["neurons"] = None
        return self.places[dtype].arguments(*words, name=case, runs=runs, **flags)

    def long(self, strategy, *, case="long"):
        return self.arguments(case, runs=strategy, method=LONG_METHODS[strategy], **LONG)

    def folder(self, case, *, runs, dtype="float64"):
        return self.places[dtype].run(case, runs=runs)

    def found(self, case, *, runs, dtype="float64"):
        return FinetuneRun.load(self.folder(case, runs=runs, dtype=dtype))


def launcher(strategy):
    options = [f"--config_file={CONFIGS / STRATEGIES[strategy]}.yaml"]
    options += ["--num_processes=2", "--main_process_port=0"]
    return ["-m", "accelerate.commands.accelerate_cli", "launch", *options]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Train in one process, with twice the batch of each of two."""
    torch.set_num_threads(1)
    launched = Launched(tmp_path_factory.mktemp("launched"))
    for case, flags in CASES.items():
        twice = {"batch_size": 2 * flags.get("batch_size", 2)}
        assert main(launched.arguments(case, runs="alone", **twice)) == 0
    assert main(launched.arguments("target", runs="alone", dtype="bfloat16", batch_size=4)) == 0
    return launched


@pytest.fixture(scope="module")
def logs(alone):
    """Train in two processes, both ways; return what they logged."""
    return {strategy: _train_all(alone, strategy) for strategy in STRATEGIES}


def _train_all(launched, strategy):
    commands = [launched.arguments(case, runs=strategy) for case in CASES]
    commands.append(launched.arguments("target", runs=strategy, dtype="bfloat16"))
    commands.append(launched.long(strategy))
    # Once more, to find it finished.
    commands.append(commands[0])
    commands.append(launched.long(strategy, case="killed"))
    path = launched.root / f"{strategy}.json"
    path.write_text(json.dumps(commands), encoding="utf-8")
    with path.with_suffix(".log").open("w+", encoding="utf-8") as log:
        process = start([WORKER, path], launcher=launcher(strategy), log=log)
        wait_for_checkpoint(process, launched.folder("killed", runs=strategy))
        _kill_one(process, rank=VICTIMS[strategy])
        process.wait()
        killed = launched.folder("killed", runs=strategy)
        # Tests go on from it, each from a copy of its own.
        shutil.copytree(killed, killed.with_name("killed_for_moving"))
        log.seek(0)
        return log.read()


def _kill_one(process, *, rank):
    """Kill one of the processes of a launch, and expect that the launch ends by itself."""
    (lost,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == rank
    ]
    lost.send_signal(signal.SIGKILL)
    assert process.wait(timeout=60) > 0


def steps_in(log):
    return [int(line.split()[1]) for line in log.splitlines() if line.startswith("step ")]


def _weights(folder):
    """Read what a run left beside its record."""
    (path,) = [*folder.glob("model/*.safetensors"), *folder.glob("adapter/*.safetensors")]
    return load_file(path)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_two_processes_train_as_one_with_twice_the_batch(alone, logs, strategy, case):
    expected, found = (alone.found(case, runs=runs) for runs in ("alone", strategy))
    # Thirteen blocks, whose first position is no label; each was read once per epoch.
    n_tokens = expected.settings["n_training_tokens"]
    assert math.ceil(n_tokens / (BLOCK - 1)) == N_BLOCKS
    assert found.curves["tokens"].max() == COMMON["epochs"] * n_tokens
    keys = ["step", "tokens", "split", "language"]
    pd.testing.assert_frame_equal(found.curves[keys], expected.curves[keys])
    # Training losses are summed in float32.
    for split, tolerance in (("train", 1e-6), ("validation", TOLERANCE)):
        ours, theirs = (c[c["split"] == split]["loss"] for c in (found.curves, expected.curves))
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
    assert found.results["step"] == expected.results["step"] > 0
    assert found.results["n_trainable"] == expected.results["n_trainable"]
    if found.is_subnetwork:
        pairs = list(zip(found.rows, expected.rows, strict=True))
    else:
        ours, theirs = (_weights(alone.folder(case, runs=runs)) for runs in (strategy, "alone"))
        assert ours.keys() == theirs.keys()
        pairs = [(ours[name], theirs[name]) for name in ours]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)
    assert found.settings["n_processes"] == found.provenance["n_processes"] == 2
    assert found.provenance["sharded"] == (strategy == "fsdp2")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_results_are_written_once_and_reused(alone, logs, strategy):
    log = logs[strategy]
    # The main process reports each run, the reused one too.
    assert log.count("weights trained") == len(CASES) + 3
    assert log.count("is finished; --overwrite trains again") == 1
    folder = alone.folder("target", runs=strategy)
    left = {path.name for path in folder.iterdir()}
    assert left == {"subnetwork.safetensors", "subnetwork.json", "curves.csv", "tensorboard"}
    assert len(list(folder.glob("tensorboard/events*"))) == 1


@pytest.mark.slow
def test_a_run_in_parts_goes_into_a_whole_model(alone, logs):
    model = load_model(alone.places["float64"].model, device="cpu")
    found = FinetuneRun.load(alone.folder("target", runs="fsdp2"))
    expected = alone.found("target", runs="alone")
    assert all(torch.equal(a, b) for a, b in zip(found.base, expected.base, strict=True))
    before = {name: weight.detach().clone() for name, weight in model.hf.named_parameters()}
    apply_subnetwork(model, found)
    changed = {n: w != before[n] for n, w in model.hf.named_parameters()}
    for layer, chosen in enumerate(found.neurons):
        at = f"model.layers.{layer}.mlp."
        for name, axis in (("gate_proj", 1), ("up_proj", 1), ("down_proj", 0)):
            rows = changed.pop(f"{at}{name}.weight").any(dim=axis).nonzero().flatten()
            assert torch.equal(rows, chosen)
    assert not any(map(torch.any, changed.values()))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ffn_over_processes_leaves_the_rest_alone(alone, logs, strategy):
    before = load_file(alone.places["float64"].model / "model.safetensors")
    after = _weights(alone.folder("ffn", runs=strategy))
    assert after.keys() == before.keys()
    assert {n for n in after if not torch.equal(after[n], before[n])} == {
        name for name in before if ".mlp." in name
    }


@pytest.mark.slow
def test_narrow_weights_have_wide_leaves_in_parts_too(alone, logs):
    runs = {name: alone.found("target", runs=name, dtype="bfloat16") for name in STRATEGIES}
    for ours, theirs in zip(runs["fsdp2"].rows, runs["ddp"].rows, strict=True):
        assert ours.dtype == torch.bfloat16
        assert torch.equal(ours, theirs)
    pd.testing.assert_frame_equal(runs["fsdp2"].curves, runs["ddp"].curves, check_exact=True)
    expected = alone.found("target", runs="alone", dtype="bfloat16").curves["loss"]
    np.testing.assert_allclose(runs["fsdp2"].curves["loss"], expected, rtol=1e-2)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_launch_that_lost_a_process_goes_on_when_repeated(alone, logs, strategy):
    expected = alone.folder("long", runs=strategy)
    whole = FinetuneRun.load(expected)
    kept = {} if whole.is_subnetwork else _weights(expected)
    folder = alone.folder("killed", runs=strategy)
    assert not FinetuneRun.exists(folder)
    done = last_checkpoint(folder)
    assert 0 < done < whole.curves["step"].max()

    command = ["-m", "lse_interp.finetune", *alone.long(strategy, case="killed")]
    process = start(command, launcher=launcher(strategy))
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert min(steps_in(log)) > done
    found = FinetuneRun.load(folder)
    pd.testing.assert_frame_equal(found.curves, whole.curves, check_exact=True)
    for ours, theirs in zip(found.rows or (), whole.rows or (), strict=True):
        assert torch.equal(ours, theirs)
    for name, weight in kept.items():
        assert torch.equal(_weights(folder)[name], weight)
    assert not list(folder.glob("*checkpoints"))


@pytest.mark.slow
def test_a_run_goes_on_whichever_way_the_model_is_held(alone, logs):
    whole = FinetuneRun.load(alone.folder("long", runs="fsdp2"))
    runs, folder = "moved", alone.folder("killed", runs="moved")
    shutil.copytree(alone.folder("killed_for_moving", runs="fsdp2"), folder)
    words = alone.arguments("killed", runs=runs, method="full", **LONG)
    command = ["-m", "lse_interp.finetune", *words]

    process = start(command, launcher=launcher("ddp"))
    wait_for_checkpoint(process, folder, after=last_checkpoint(folder))
    _kill_one(process, rank="1")
    process.communicate()
    done = last_checkpoint(folder)
    assert done < whole.curves["step"].max()

    process = start(command, launcher=launcher("fsdp2"))
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert min(steps_in(log)) > done
    found = FinetuneRun.load(folder)
    np.testing.assert_allclose(found.curves["loss"], whole.curves["loss"], rtol=TOLERANCE)
    expected = _weights(alone.folder("long", runs="fsdp2"))
    for name, weight in _weights(folder).items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=TOLERANCE)


@pytest.mark.slow
def test_a_launch_that_overwrites_goes_on_when_repeated(alone, logs):
    folder = alone.folder("overwritten", runs="ddp")
    shutil.copytree(alone.folder("long", runs="ddp"), folder)
    whole = FinetuneRun.load(folder)
    command = ["-m", "lse_interp.finetune", *alone.long("ddp", case="overwritten"), "--overwrite"]

    process = start(command, launcher=launcher("ddp"))
    wait_for_checkpoint(process, folder)
    _kill_one(process, rank="1")
    process.communicate()
    done = last_checkpoint(folder)
    assert FinetuneRun.load(folder).provenance == whole.provenance

    process = start(command, launcher=launcher("ddp"))
    _, log = process.communicate()
    assert process.returncode == 0, log
    assert min(steps_in(log)) > done > 0
    found = FinetuneRun.load(folder)
    assert found.provenance != whole.provenance
    pd.testing.assert_frame_equal(found.curves, whole.curves, check_exact=True)


@pytest.fixture
def launched_by(monkeypatch):
    """Return a function that sets what a launch sets in the environment of its processes."""

    def setting(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return Launch.find()

    return setting


@pytest.mark.parametrize(
    ("name", "world", "expected"),
    [
        ("ddp_8gpu", 8, Launch()),
        ("fsdp2_8gpu", 8, Launch(sharded=True)),
        ("ddp_2nodes", 16, Launch()),
        ("fsdp2_2nodes", 16, Launch(sharded=True, replicas=2)),
    ],
)
def test_the_configurations_in_docs_mean_what_they_say(launched_by, name, world, expected):
    words = ["--config_file", str(CONFIGS / f"{name}.yaml"), "-m", "lse_interp.finetune"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(words))
    assert arguments.num_processes == world
    assert arguments.num_machines == world // 8
    variables = {
        key: value
        for key, value in prepare_multi_gpu_env(arguments).items()
        if key.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_"))
    }
    found = launched_by(WORLD_SIZE=world, **variables)
    assert found == expected
    assert found.faults(device=None) == []


def test_launch_reads_what_fsdp2_is_to_do(launched_by):
    assert Launch.find() == Launch()
    assert launched_by(RANK=1, WORLD_SIZE=2) == Launch()
    fsdp2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": 2}
    assert launched_by(**fsdp2) == Launch(sharded=True)
    found = launched_by(FSDP_RESHARD_AFTER_FORWARD="false")
    assert (found.reshard_after_forward, found.faults(device="cuda")) == (False, [])
    # One process has nobody to share with, and each of as many replicas as processes is whole.
    assert not launched_by(WORLD_SIZE=1).sharded
    mesh = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": 2}
    assert not launched_by(WORLD_SIZE=2, **mesh).sharded


def test_launch_refuses_what_it_does_not_do_all_at_once(launched_by):
    found = launched_by(
        WORLD_SIZE=8,
        ACCELERATE_MIXED_PRECISION="bf16",
        ACCELERATE_USE_DEEPSPEED="true",
        ACCELERATE_USE_FSDP="true",
        FSDP_VERSION=1,
        FSDP_RESHARD_AFTER_FORWARD="FULL_SHARD",
        FSDP_OFFLOAD_PARAMS="true",
        FSDP_ACTIVATION_CHECKPOINTING="true",
        FSDP_AUTO_WRAP_POLICY="SIZE_BASED_WRAP",
        FSDP_IGNORED_MODULES="lm_head",
        ACCELERATE_USE_PARALLELISM_CONFIG="true",
        PARALLELISM_CONFIG_DP_REPLICATE_SIZE=2,
        PARALLELISM_CONFIG_DP_SHARD_SIZE=3,
        PARALLELISM_CONFIG_TP_SIZE=4,
    )
    expected = (
        "The launch asks for mixed_precision bf16; fine-tuning follows no. The weights decide",
        "The launch asks for use_deepspeed true; fine-tuning follows false. Launch with --multi",
        "The launch asks for fsdp_version 1; fine-tuning follows 2. Launch with --fsdp_version 2.",
        "The launch asks for fsdp_reshard_after_forward full_shard; fine-tuning follows true or",
        "The launch asks for fsdp_offload_params true; fine-tuning follows false. Launch more pro",
        "The launch asks for fsdp_activation_checkpointing true; fine-tuning follows false. Pass",
        "The launch asks for fsdp_auto_wrap_policy size_based_wrap; fine-tuning follows transform",
        "The launch asks for fsdp_ignored_modules lm_head; fine-tuning follows none. Fine-tuning",
        "The launch asks for parallelism_config_tp_size 4; fine-tuning follows 1. Fine-tuning sh",
        "dp_replicate_size x dp_shard_size of parallelism_config must be the number of processes, "
        "8; got 2 x 3.",
        "--device cuda:1 names one device for 8 processes. Leave it out",
    )
    faults = found.faults(device="cuda:1")
    assert len(faults) == len(expected)
    for fault, beginning in zip(faults, expected, strict=True):
        assert fault.startswith(beginning)


def test_stage_refuses_a_launch_before_anything_is_loaded(launched_by):
    launched_by(ACCELERATE_MIXED_PRECISION="bf16")
    with pytest.raises(LseError, match="choose by --dtype"):
        run(Config(lang="mlt"))


def test_launch_gives_the_environment_back(launched_by):
    launch = launched_by(ACCELERATE_USE_FSDP="true", FSDP_VERSION=2)
    with launch.joined(ModelArgs(device="cpu")):
        assert "ACCELERATE_USE_FSDP" not in os.environ
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
