"""Counting over processes and machines, started as a user starts them; gloo on CPUs."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

from lse_interp.activations import Config, run
from lse_interp.core.cli import CorpusArgs, ModelArgs
from lse_interp.counting.count_settings import CountSettings
from lse_interp.counting.counts import ActivationCounts

pytestmark = pytest.mark.slow

LANGUAGES = ("mlt", "ekk", "isl")
# Shards that the processes here cannot divide evenly.
N_TOKENS, N_SHARDS = 2000, 7
# Launches take seconds; this is for a machine with ten times as much to do. Whoever waits for a
# lost process waits longer.
TIMEOUT = 600


@pytest.fixture(scope="module")
def corpus(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i, language in enumerate(LANGUAGES):
        text = documents[i:] + documents[:i]
        (folder / f"{language}.txt").write_text("\n".join(text * 30), encoding="utf-8")
    return folder / "{lang}.txt"


def count_alone(model_folder, corpus, root):
    """Count in this process; return the counts by language."""
    config = Config(
        model=ModelArgs(model=str(model_folder), device="cpu"),
        text=CorpusArgs(corpus=str(corpus)),
        langs=LANGUAGES,
        counting=CountSettings(n_tokens=N_TOKENS, block_size=16, batch_size=1, n_shards=N_SHARDS),
        root=root,
    )
    before = torch.get_num_threads()
    # As in each process of a launch; the number decides the last bits of a matrix product.
    torch.set_num_threads(1)
    try:
        return {language: ActivationCounts.load(path) for language, path in run(config).items()}
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def alone(model_folder, corpus, tmp_path_factory):
    return count_alone(model_folder, corpus, tmp_path_factory.mktemp("alone"))


def stage(model_folder, corpus, root):
    """Arguments that run the stage as `alone` does."""
    flags = {
        "model": model_folder,
        "device": "cpu",
        "corpus": corpus,
        "n-tokens": N_TOKENS,
        "block-size": 16,
        "batch-size": 1,
        "n-shards": N_SHARDS,
        "root": root,
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    return ["-m", "lse_interp.activations", *words, "--langs", *LANGUAGES]


# The flag's name notwithstanding, `--multi_gpu` starts processes on CPUs as well; port 0 is free.
ACCELERATE = ["-m", "accelerate.commands.accelerate_cli", "launch", "--mixed_precision=no"]
ACCELERATE += ["--dynamo_backend=no"]
ONE_MACHINE = ["--multi_gpu", "--num_machines=1", "--main_process_port=0"]
TORCHRUN = ["-m", "torch.distributed.run", "--standalone"]


class Launch:
    """A command started in `folder`, and the processes that it starts."""

    def __init__(self, launcher, arguments, *, folder, **environment):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.log = folder / f"{self.mark}.log"
        environment = (
            os.environ
            | environment
            | {
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "LSE_TEST_LAUNCH": self.mark,
            }
        )
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, launcher), *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=log,
            )

    def members(self):
        """Return the environment of each process that still runs, by process id."""
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                text = (entry / "environ").read_bytes().decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            values = dict(item.split("=", 1) for item in text.split("\0") if "=" in item)
            if state != "Z" and values.get("LSE_TEST_LAUNCH") == self.mark:
                found[int(entry.name)] = values
        return found

    def kill(self, rank):
        """Kill the process of a rank with SIGKILL."""
        (pid,) = (pid for pid, values in self.members().items() if values.get("RANK") == str(rank))
        os.kill(pid, signal.SIGKILL)

    def finish(self):
        """Wait until the launcher ends; return its status and what it wrote. Nothing stays."""
        try:
            status = self.process.wait(timeout=TIMEOUT)
            deadline = time.monotonic() + 5
            while (left := self.members()) and time.monotonic() < deadline:
                time.sleep(0.1)
            assert not left, "the launcher ended before its processes"
            return status, self.log.read_text()
        finally:
            for pid in self.members():
                os.kill(pid, signal.SIGKILL)
            self.process.wait()


def wait_for(pattern, root, launched):
    """Wait until a file is there while the launch runs."""
    deadline = time.monotonic() + TIMEOUT
    while not any(root.rglob(pattern)):
        assert launched.process.poll() is None, launched.log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_as_alone(root, alone):
    """Check that the counts of all languages are bit for bit those of one process."""
    paths = {path.stem: path for path in root.rglob("counts/*.safetensors")}
    assert sorted(paths) == sorted(LANGUAGES)
    for language, path in paths.items():
        found, expected = ActivationCounts.load(path), alone[language]
        assert found.n_shards == N_SHARDS
        assert torch.equal(found.shard_n_positive, expected.shard_n_positive)
        assert torch.equal(found.shard_activation_sum, expected.shard_activation_sum)
        assert torch.equal(found.shard_n_tokens, expected.shard_n_tokens)
        yield found.provenance
    left = [
        path.name for path in root.rglob("counts/*") if path.suffix not in (".safetensors", ".json")
    ]
    assert not left


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_killed_process_ends_the_run_which_then_resumes(model_folder, corpus, alone, tmp_path):
    """Killed in the middle of a shard; resumed by one process instead of two."""
    root = tmp_path / "runs"
    launched = Launch(
        [*ACCELERATE, *ONE_MACHINE, "--num_processes=2"],
        stage(model_folder, corpus, root),
        folder=tmp_path,
    )
    wait_for("00000.safetensors", root, launched)
    launched.kill(rank=1)
    status, log = launched.finish()
    assert status != 0
    assert "Signal 9 (SIGKILL)" in log
    left = list(root.rglob("0*.safetensors"))
    assert left

    count_alone(model_folder, corpus, root)
    about = list(assert_as_alone(root, alone))
    assert sum(counts["n_shards_reused"] for counts in about) == len(left)


def test_two_machines_resume_a_run_whose_main_process_was_killed(
    model_folder, corpus, alone, tmp_path
):
    """Killed between two languages; resumed by two launchers, with the documented settings."""
    root = tmp_path / "runs"
    command = stage(model_folder, corpus, root)
    launched = Launch([*TORCHRUN, "--nproc-per-node=2"], command, folder=tmp_path)
    wait_for("counts/mlt.safetensors", root, launched)
    launched.kill(rank=0)
    status, log = launched.finish()
    assert status != 0
    assert "Signal 9 (SIGKILL)" in log
    assert len(list(root.rglob("counts/*.safetensors"))) < len(LANGUAGES)

    machines = launch_two_machines(command, folders=[tmp_path, tmp_path])
    statuses, logs = zip(*(machine.finish() for machine in machines), strict=True)
    assert statuses == (0, 0), "\n".join(logs)
    about = list(assert_as_alone(root, alone))
    assert all(counts["n_processes"] == 2 for counts in about)
    (report,) = re.findall("tokens counted now", "".join(logs))
    assert report, "the main process alone reports"


def test_machines_that_see_different_folders_are_refused(model_folder, corpus, tmp_path):
    """Processes without a launcher, told by their environment who they are."""
    port = free_port()
    processes = []
    for rank, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        environment = {
            "RANK": rank,
            "WORLD_SIZE": 2,
            "GROUP_RANK": rank,
            "LOCAL_RANK": 0,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        processes.append(
            Launch(
                [],
                stage(model_folder, corpus, "runs"),
                folder=tmp_path / name,
                **{key: str(value) for key, value in environment.items()},
            )
        )
    for status, log in [process.finish() for process in processes]:
        assert status == 2
        (error,) = re.findall("^error: .*", log, re.MULTILINE)
        assert "All processes must see one folder. Process 0 writes to" in error
        assert "first/runs" in error and "second/runs" in error
        assert "Give them one --root on a shared file system" in error
    assert not list(tmp_path.rglob("*.safetensors"))


def launch_two_machines(command, *, folders):
    """Start one launcher per machine, with one process each."""
    config = Path(__file__).parents[2] / "docs/accelerate/ddp_2nodes.yaml"
    port = free_port()
    return [
        Launch(
            [
                *ACCELERATE,
                f"--config_file={config}",
                "--num_processes=2",
                f"--machine_rank={machine}",
                "--main_process_ip=127.0.0.1",
                f"--main_process_port={port}",
            ],
            command,
            folder=folder,
        )
        for machine, folder in enumerate(folders)
    ]


def test_an_error_in_one_process_ends_all_with_one_message(
    model_folder, corpus, documents, tmp_path
):
    """A word whose embedding is not a number, in one shard: only who counts that one fails."""
    broken = tmp_path / "broken"
    hf = transformers.LlamaForCausalLM.from_pretrained(model_folder)
    word = documents[0].split()[0]
    with torch.no_grad():
        hf.model.embed_tokens.weight[4 + int(word[1:])] = torch.nan
    hf.save_pretrained(broken)
    transformers.AutoTokenizer.from_pretrained(model_folder).save_pretrained(broken)
    harmless = [text for text in documents if word not in text.split()]
    text = tmp_path / "mlt.txt"
    text.write_text("\n".join(harmless * 6 + documents[:1]), encoding="utf-8")
    n_tokens = sum(len(line.split()) for line in text.read_text().splitlines())
    command = stage(broken, text, tmp_path / "runs")
    command[command.index("--n-tokens") + 1] = str(n_tokens)
    launched = Launch(
        [*TORCHRUN, "--nproc-per-node=2"],
        [*command[: -len(LANGUAGES)], "mlt"],
        folder=tmp_path,
    )
    status, log = launched.finish()
    assert status != 0
    (error,) = re.findall("^error: .*", log, re.MULTILINE)
    assert "blocks.0.mlp.hook_act gave values that are not finite" in error
    assert f"on mlt text (shard {N_SHARDS - 1} of {N_SHARDS})" in error
    assert list((tmp_path / "runs").rglob("0*.safetensors")), "finished shards stay"
