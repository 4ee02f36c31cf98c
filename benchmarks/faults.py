"""Kill, crowd, starve and damage: how often a run ends in what an undisturbed one gives.

    python benchmarks/faults.py

Runs the command lines on the embedded model, one after the other:

- kill -9 at random moments of counting and of fine-tuning, some of the resumed runs killed again,
  then resumed to the end and compared bit by bit with a run that was left alone;
- two processes that count the same languages into the same folder at once;
- a disk that is full at a random moment of counting (a small tmpfs, where this process may mount
  one, else a limit on the size of a file), then has room;
- single bits of finished artefacts turned over.

The table replaces the section between the `<!-- faults -->` markers of `docs/reliability.md`.
"""

import contextlib
import dataclasses
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from common import DOCS, machine, write_section

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import main_for
from lse_interp.core.errors import LseError
from lse_interp.core.progress import progress
from lse_interp.counting.counts import ActivationCounts
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun

logger = logging.getLogger(__name__)

MARKER = "<!-- faults -->"
_LANGUAGES = ("mlt", "isl")
_NEURON_LANGUAGES = ("mlt", "isl", "eng", "jpn")
_ROOMY = "512m"


@dataclasses.dataclass(frozen=True)
class Config:
    """Disturb runs and compare what they leave with what an undisturbed run leaves."""

    counting_kills: int = 20
    finetune_kills: int = 5
    kill_again: float = 0.5
    """Chance that a resumed run is killed too."""
    crowds: int = 5
    """Pairs of processes started on the same artefacts."""
    full_disks: int = 10
    bit_flips: int = 300
    """Per kind of artefact."""
    n_tokens: int = 8000
    """Text tokens per language; each run counts two languages."""
    seed: int = 0
    """Of the moments, sizes and bits."""
    out: Path = DOCS.with_name("reliability.md")


@dataclasses.dataclass
class Tally:
    """Tries of one kind, and what became of them."""

    what: str
    tries: int = 0
    survived: int = 0
    notes: dict[str, int] = dataclasses.field(default_factory=dict)

    def add(self, *, survived: bool, note: str = "") -> None:
        """Count one try."""
        self.tries += 1
        self.survived += survived
        if note:
            self.notes[note] = self.notes.get(note, 0) + 1

    def row(self) -> str:
        """Write a line of the table."""
        notes = "; ".join(f"{note}: {n}" for note, n in sorted(self.notes.items()))
        return f"| {self.what} | {self.tries} | {self.survived} | {notes} |"


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, where it works, and how its result is told from another."""

    words: tuple[str, ...]
    begun: str
    """Glob below the root of what shows that its own work has begun."""
    same: Callable[[Path, Path], bool]
    """Whether two roots hold the same result, bit by bit."""

    def start(self, root: Path) -> subprocess.Popen:
        """Start it in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", *self.words, "--root", str(root)],
            env=os.environ | {"OMP_NUM_THREADS": "1", "CI": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, root: Path) -> tuple[int, str]:
        """Run it to its end; return the exit status and what it said."""
        process = self.start(root)
        _, said = process.communicate()
        return process.returncode, said

    def has_begun(self, root: Path) -> bool:
        """Say whether its own work has left something."""
        return any(root.glob(self.begun))


def run(config: Config) -> None:
    """Run all of it and put the table where it belongs.

    Raises:
        LseError: An undisturbed run failed.
    """
    rng = random.Random(config.seed)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        left_alone = folder / "left-alone"
        counting, training = _jobs(config)
        seconds = [_undisturbed(job, left_alone) for job in _preparation(config, counting)]
        tallies = [
            _kills(counting, left_alone, seconds[0], config.counting_kills, config, rng, folder)
        ]
        training_seconds = _undisturbed(training, left_alone)
        tallies += [
            _kills(
                training, left_alone, training_seconds, config.finetune_kills, config, rng, folder
            ),
            _crowds(counting, left_alone, config.crowds, folder),
            _full_disks(counting, left_alone, config.full_disks, rng, folder),
            *_flips(left_alone, config.bit_flips, rng, folder),
        ]
    lines = [
        f"`python benchmarks/faults.py` on {machine('cpu')}, torch {torch.__version__}, seed "
        f"{config.seed}, {(time.monotonic() - began) / 60:.0f} minutes. Survived: the result is "
        "that of a run left alone, bit by bit; of damaged files: refused, or read without a "
        "difference.",
        "",
        "| fault | tries | survived | |",
        "|---|---:|---:|---|",
        *(tally.row() for tally in tallies),
    ]
    logger.info("%s", "\n".join(lines))
    write_section(config.out, "\n".join(lines), marker=MARKER)
    logger.info("wrote %s", config.out)


def _jobs(config: Config) -> tuple[Job, Job]:
    counting = Job(
        words=(
            "lse_interp.activations",
            *("--langs", *_LANGUAGES, "--n-tokens", str(config.n_tokens), "--device", "cpu"),
        ),
        begun="embedded/counts/*.shards",
        same=_same_counts,
    )
    training = Job(
        words=(
            "lse_interp.finetune",
            *("--lang", "mlt", "--n-tokens", "6000", "--validate-every", "4", "--device", "cpu"),
        ),
        begun="embedded/finetune/mlt/*/checkpoints/last.safetensors",
        same=_same_run,
    )
    return counting, training


def _preparation(config: Config, counting: Job) -> list[Job]:
    """Return what makes the undisturbed counts, and neurons to train."""
    more = dataclasses.replace(
        counting,
        words=(
            "lse_interp.activations",
            *("--langs", *_NEURON_LANGUAGES, "--n-tokens", str(config.n_tokens)),
            *("--device", "cpu"),
        ),
    )
    lape = dataclasses.replace(counting, words=("lse_interp.lape",))
    return [counting, more, lape]


def _undisturbed(job: Job, root: Path) -> float:
    began = time.monotonic()
    status, said = job.finish(root)
    if status:
        raise LseError(f"{' '.join(job.words)} failed: {said[-2000:]}")
    return time.monotonic() - began


def _kills(
    job: Job,
    left_alone: Path,
    seconds: float,
    n: int,
    config: Config,
    rng: random.Random,
    folder: Path,
) -> Tally:
    """Kill a command `n` times at moments after its work has begun, and resume it."""
    tally = Tally(f"kill -9 of `{job.words[0].removeprefix('lse_interp.')}`, then resumed")
    for i in progress(range(n), tally.what, unit="kill"):
        root = _fresh(left_alone, folder / f"kill-{i}", job)
        n_killed = 0
        while n_killed == 0 or rng.random() < config.kill_again:
            killed = _kill(job, root, after=rng.uniform(0, 0.5 * seconds))
            n_killed += killed
            if not killed and n_killed == 0:
                # It had ended before its moment came: not a try.
                root = _fresh(left_alone, root, job)
            elif not killed:
                break
        status, said = job.finish(root)
        same = status == 0 and job.same(root, left_alone)
        if not same:
            logger.warning("try %d: status %d, %s", i, status, said[-1000:])
        tally.add(survived=same, note="killed once" if n_killed == 1 else "killed again")
        shutil.rmtree(root)
    return tally


def _kill(job: Job, root: Path, *, after: float) -> bool:
    """Kill a command so long after its work has begun; False if it ended before."""
    process = job.start(root)
    while process.poll() is None and not job.has_begun(root):
        time.sleep(0.005)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def _crowds(job: Job, left_alone: Path, n: int, folder: Path) -> Tally:
    tally = Tally("two processes counting into one folder")
    for i in progress(range(n), tally.what, unit="pair"):
        root = folder / f"crowd-{i}"
        both = [job.start(root) for _ in range(2)]
        said = [process.communicate()[1] for process in both]
        statuses = [process.returncode for process in both]
        same = statuses == [0, 0] and job.same(root, left_alone)
        if not same:
            logger.warning("pair %d: %s, %s", i, statuses, [text[-500:] for text in said])
        waited = any("waiting for" in text for text in said)
        tally.add(survived=same, note="one waited" if waited else "one found the other's result")
        shutil.rmtree(root)
    return tally


def _full_disks(job: Job, left_alone: Path, n: int, rng: random.Random, folder: Path) -> Tally:
    tally = Tally("disk full while counting, then room")
    needed = sum(file.stat().st_size for file in (left_alone / "embedded").rglob("mlt.*"))
    for i in progress(range(n), tally.what, unit="disk"):
        size = rng.randrange(64_000, 3 * needed)
        with _small_disk(folder / f"disk-{i}", size) as (disk, enlarge):
            process = job.start(disk)
            said = process.communicate()[1]
            status = process.returncode
            clean = status == 2 and "error: " in said and "Traceback" not in said
            enlarge()
            again, said_again = job.finish(disk)
            same = again == 0 and job.same(disk, left_alone)
        if not same or not (clean or status == 0):
            logger.warning("disk of %d: %s", size, (status, said[-800:], again, said_again[-800:]))
        if status == 0:
            tally.add(survived=same, note="was large enough")
        else:
            tally.add(survived=same and clean, note="one error line, status 2")
    return tally


def _flips(left_alone: Path, n: int, rng: random.Random, folder: Path) -> list[Tally]:
    paths = RunPaths(left_alone, "embedded")
    trained = next(paths.finetune("mlt", "").glob("*/subnetwork.safetensors"))
    kinds = {
        "counts": (paths.counts("mlt"), ActivationCounts.load, _counts_of),
        "neurons": (paths.neurons, NeuronSets.load, _neurons_of),
        "fine-tuning run": (trained, FinetuneRun.load, _run_of),
    }
    tallies = []
    for kind, (path, load, values) in kinds.items():
        tally = Tally(f"one bit of the {kind} file turned over")
        expected, content = values(load(path)), path.read_bytes()
        damaged = folder / "damaged" / path.name
        damaged.parent.mkdir(exist_ok=True)
        # A run is read with its curves.
        for beside in path.parent.glob("*.csv"):
            shutil.copy(beside, damaged.parent)
        for _ in progress(range(n), tally.what, unit="bit"):
            # As often in the header, where a bit means most, as in the values.
            header = 8 + int.from_bytes(content[:8], "little")
            place = rng.randrange(header if rng.random() < 0.5 else len(content))
            changed = bytearray(content)
            changed[place] ^= 1 << rng.randrange(8)
            damaged.write_bytes(changed)
            try:
                found = values(load(damaged))
            except LseError:
                tally.add(survived=True, note="refused")
            except Exception as error:
                logger.warning("byte %d of %s: %r", place, path.name, error)
                tally.add(survived=False, note=f"raised {type(error).__name__}")
            else:
                same = _equal(found, expected)
                tally.add(survived=same, note="read alike" if same else "read differently")
        tallies.append(tally)
    return tallies


def _fresh(left_alone: Path, root: Path, job: Job) -> Path:
    """Empty a root; fine-tuning finds its neurons there."""
    shutil.rmtree(root, ignore_errors=True)
    neurons = RunPaths(root, "embedded").neurons
    neurons.parent.mkdir(parents=True)
    found = RunPaths(left_alone, "embedded").neurons
    if found.exists():
        shutil.copy(found, neurons)
    return root


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Give a folder with room for so many bytes, and what makes room."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            yield (
                folder,
                lambda: subprocess.run(
                    ["mount", "-o", f"remount,size={_ROOMY}", str(folder)], check=True
                ),
            )
        finally:
            subprocess.run(["umount", str(folder)], check=True)
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A write beyond the limit fails, rather than end the process; both are inherited.
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield folder, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def _same_counts(a: Path, b: Path) -> bool:
    pairs = [
        [ActivationCounts.load(RunPaths(root, "embedded").counts(language)) for root in (a, b)]
        for language in _LANGUAGES
    ]
    left = list(RunPaths(a, "embedded").folder.glob("counts/*.shards"))
    return not left and all(_equal(_counts_of(x), _counts_of(y)) for x, y in pairs)


def _same_run(a: Path, b: Path) -> bool:
    folders = [RunPaths(root, "embedded").finetune("mlt", "") for root in (a, b)]
    first, second = (FinetuneRun.load(next(folder.glob("*"))) for folder in folders)
    return _equal(_run_of(first), _run_of(second)) and first.curves.equals(second.curves)


def _counts_of(counts: ActivationCounts) -> Sequence[object]:
    return (
        counts.language,
        counts.model,
        counts.site,
        counts.shard_n_positive,
        counts.shard_activation_sum,
        counts.shard_n_tokens,
    )


def _neurons_of(neurons: NeuronSets) -> Sequence[object]:
    flat = [layer for language in neurons for layer in neurons[language]]
    return (
        tuple(neurons),
        neurons.model,
        neurons.site,
        neurons.method,
        dict(neurons.thresholds),
        *flat,
        neurons.scores,
        neurons.probability,
    )


def _run_of(found: FinetuneRun) -> Sequence[object]:
    return (
        found.language,
        found.method,
        found.model,
        dict(found.settings),
        found.results["step"],
        dict(found.results["validation_loss"]),
        *found.neurons,
        *found.rows,
        *found.base,
    )


def _equal(found: Sequence[object], expected: Sequence[object]) -> bool:
    def alike(a: object, b: object) -> bool:
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            # As bytes: neurons outside every set have a score of NaN.
            return a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
        return type(a) is type(b) and a == b

    return len(found) == len(expected) and all(map(alike, found, expected))


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


if __name__ == "__main__":
    raise SystemExit(main_for(Config, run, description=__doc__))
