"""The stage on a folder model and on files: arguments, processes, limits."""

import os
import signal
import subprocess
import sys
import time

from lse_interp.artifacts.format import read_meta
from lse_interp.artifacts.paths import RunPaths
from tests.tiny_models import tiny_tokenizer

from .tiny_runs import counting, neuron_sets, noise, tiny_model


class Place:
    """A folder with a model, text, neurons, and the runs made of them."""

    def __init__(self, root, *, model=None):
        model = model or tiny_model()
        self.root = root
        self.model = root / "model"
        model.hf.save_pretrained(self.model)
        tiny_tokenizer().save_pretrained(self.model)
        self.write("train", mlt=counting(range(24)))
        self.write("valid", mlt=counting(range(24, 30)), eng=noise(4))
        self.neurons = root / "neurons.safetensors"
        neuron_sets(model).save(self.neurons)

    def write(self, name, **texts):
        for code, documents in texts.items():
            path = self.root / f"{name}.{code}.jsonl"
            lines = [f'{{"text": "{document}"}}' for document in documents]
            path.write_text("\n".join(lines), encoding="utf-8")

    def run(self, name, *, runs="runs"):
        return RunPaths(self.root / runs, str(self.model)).finetune("mlt", name)

    def arguments(self, *words, runs="runs", **flags):
        """Words of a command line; `flag=None` leaves one out."""
        given = {
            "lang": "mlt",
            "model": self.model,
            "device": "cpu",
            "corpus": self.root / "train.{lang}.jsonl",
            "validation": self.root / "valid.{lang}.jsonl",
            "neurons": self.neurons,
            "lr": 0.01,
            "block-size": 16,
            "validate-every": 2,
            "root": self.root / runs,
        }
        given |= {name.replace("_", "-"): value for name, value in flags.items()}
        pairs = [(f"--{name}", str(value)) for name, value in given.items() if value is not None]
        return [*(word for pair in pairs for word in pair), *words]


def environment():
    return os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def start(arguments, *, launcher=("-m", "lse_interp.finetune"), log=subprocess.PIPE):
    return subprocess.Popen(
        [sys.executable, *launcher, *map(str, arguments)],
        env=environment(),
        stderr=log,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def last_checkpoint(folder):
    """Return the step of the last checkpoint of a run in a folder; 0 if there is none."""
    for path in folder.glob("*checkpoints/last.safetensors"):
        return read_meta(path, kind="training_checkpoint", version=1)["state"]["step"]
    return 0


def wait_for_checkpoint(process, folder, *, after=0):
    """Return once a run in a folder has a checkpoint of a later step."""
    while process.poll() is None and last_checkpoint(folder) <= after:
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()[1]


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
