"""Results do not depend on what the clock says, nor on the language of the machine."""

import json
import shutil
import subprocess
import sys

import pytest

from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.artifacts.paths import RunPaths
from lse_interp.counting.counts import ActivationCounts
from lse_interp.data.embedded import documents
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.training.reporting import tensorboard
from tests.training.tiny_runs import same_run
from tests.training.tiny_stage import environment

from .small_artefacts import same

pytestmark = pytest.mark.slow

STAGES = """
import datetime, itertools, json, locale, sys, time, types
start, step = float(sys.argv[1]), float(sys.argv[2])
stages = [[]]
for word in sys.argv[3:]:
    stages.append([]) if word == "then" else stages[-1].append(word)
if start or step:
    ticks = itertools.count()
    time.time = lambda: start + step * next(ticks)
    time.time_ns = lambda: int(1e9 * time.time())
locale.setlocale(locale.LC_ALL, "")
from importlib import import_module
from lse_interp.artifacts import locks, provenance
if start or step:
    now = lambda zone: datetime.datetime.fromtimestamp(time.time(), zone)
    clock = types.SimpleNamespace(datetime=types.SimpleNamespace(now=now), UTC=datetime.UTC)
    provenance.datetime = locks.datetime = clock
for name, *words in stages:
    if status := import_module(f"lse_interp.{name}").main(words):
        raise SystemExit(status)
print(json.dumps([locale.localeconv()["decimal_point"], sys.getfilesystemencoding()]))
"""
LANGUAGES = ("mlt", "kat", "eng")
# Seconds since 1970 at the start and between two looks at the clock; environment.
VARIANTS = {
    "plain": (0, 0, {}),
    "1970, Turkish": (1, 0.001, {"LC_ALL": "tr_TR.UTF-8", "TZ": "Asia/Kathmandu"}),
    "2100, German": (4_102_444_800, 1.0, {"LC_ALL": "de_DE.UTF-8", "TZ": "America/St_Johns"}),
    "backwards, C": (
        2_000_000_000,
        -3600.0,
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"},
    ),
    "standing still, POSIX": (1_000_000_000, 0, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}),
}


@pytest.fixture(scope="module")
def locales(tmp_path_factory):
    """Make the locales of the variants, as far as this machine can; return their folder."""
    folder = tmp_path_factory.mktemp("locales")
    for name in ("tr_TR", "de_DE"):
        if shutil.which("localedef"):
            command = ["localedef", "-i", name, "-f", "UTF-8", folder / f"{name}.UTF-8"]
            subprocess.run(command, capture_output=True, check=False)
    return folder


def words(root, corpus, plain):
    """Return the words of several command lines, with `then` between them."""
    where = ["--root", str(root)]
    text = ["--corpus", str(corpus)]
    figures = ["--figures", str(root / "figures")]
    training = ["--batch-size", "8", "--validate-every", "1", "--lr", "1e-3"]
    stages = [
        ["activations", *where, *text, "--langs", *LANGUAGES, "--n-tokens", "300"],
        ["lape", *where, "--parquet"],
        ["alignment", *where, *figures, "--lang", "mlt", "--against", "kat", "--n-sentences", "4"],
        # TensorBoard writes to no other letters under an ASCII locale.
        [
            "finetune",
            "--root",
            str(plain),
            "--neurons",
            str(root / "embedded/neurons/lape.safetensors"),
        ]
        + [*text, "--lang", "mlt", "--n-tokens", "600", "--block-size", "32"]
        + ["--validation", "embedded", *training],
    ]
    return [word for stage in stages for word in ("then", *stage)][1:]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, locales):
    """Run the stages in every variant, all of them in folders with spaces and other letters."""
    base = tmp_path_factory.mktemp("runs") / "ħobż biż-żejt ĳ ქართული"
    ascii_ = tmp_path_factory.mktemp("runs")
    corpus = base / "{lang}.txt"
    base.mkdir()
    for code in LANGUAGES:
        split = "adapt" if code != "eng" else "pretrain"
        lines = list(documents(code, split))[:400]
        (base / f"{code}.txt").write_text("\n".join(lines), encoding="utf-8")
    started = {}
    for name, (start, step, changes) in VARIANTS.items():
        wanted = changes.get("LC_ALL", "").partition(".")[0]
        if "_" in wanted and not (locales / f"{wanted}.UTF-8").exists():
            continue
        variables = environment() | {"LOCPATH": str(locales)} | changes
        started[name] = subprocess.Popen(
            [
                sys.executable,
                "-c",
                STAGES,
                str(start),
                str(step),
                *words(base / name, corpus, ascii_ / name),
            ],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finished = {name: process.communicate() for name, process in started.items()}
    paths = {}
    for name, (out, log) in finished.items():
        assert started[name].returncode == 0, (name, log.decode(errors="replace")[-3000:])
        places = RunPaths(base / name, "embedded"), RunPaths(ascii_ / name, "embedded")
        paths[name] = (*places, json.loads(out))
    return paths


@pytest.fixture(params=[name for name in VARIANTS if name != "plain"])
def variant(request, runs):
    if request.param not in runs:
        pytest.skip("this locale cannot be made here")
    return runs[request.param]


@pytest.mark.slow
def test_the_variants_are_what_they_say(runs):
    found = {name: variant[-1] for name, variant in runs.items()}
    assert found["plain"] == [".", "utf-8"]
    assert found["backwards, C"] == found["standing still, POSIX"] == [".", "ascii"]
    assert found.get("2100, German", [","])[0] == ","
    years = {
        name: NeuronSets.load(paths.neurons).provenance["created"][:4]
        for name, (paths, *_) in runs.items()
    }
    assert years.get("1970, Turkish", "1970") == "1970"
    assert years.get("2100, German", "2100") == "2100"


@pytest.mark.slow
def test_counts_and_neurons_are_the_same(runs, variant):
    plain, paths = runs["plain"][0], variant[0]
    for language in LANGUAGES:
        found, expected = (ActivationCounts.load(p.counts(language)) for p in (paths, plain))
        for name in ("shard_n_positive", "shard_activation_sum", "shard_n_tokens"):
            assert same(getattr(found, name), getattr(expected, name))
        assert 0 <= found.provenance["seconds"] < 600
    found, expected = (NeuronSets.load(p.neurons) for p in (paths, plain))
    for name in ("indices", "thresholds", "scores", "probability"):
        assert same(getattr(found, name), getattr(expected, name))
    table, expected = (
        NeuronSets.from_parquet(p.neurons.with_name("lape-release") / "neurons.parquet").to_frame()
        for p in (paths, plain)
    )
    assert table.equals(expected)


@pytest.mark.slow
def test_alignment_and_its_table_are_the_same(runs, variant):
    plain, paths = runs["plain"][0], variant[0]
    found, expected = (AlignmentCurves.load(p.alignment("mlt")) for p in (paths, plain))
    for name in ("estimate", "low", "high", "n_sinks"):
        assert same(getattr(found, name), getattr(expected, name))
    tables = [(p.root / "figures" / "table_alignment_mlt.csv").read_bytes() for p in (paths, plain)]
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_a_fine_tuning_is_the_same(runs, variant):
    plain, paths = runs["plain"][1], variant[1]
    found, expected = (FinetuneRun.load(p.finetune("mlt", "target-600")) for p in (paths, plain))
    same_run(found, expected)
    assert 0 < found.results["tokens_per_second"] < 1e6
    csv = [(run.folder / "curves.csv").read_bytes() for run in (found, expected)]
    assert csv[0] == csv[1]


def test_tensorboard_writes_into_a_folder_that_the_locale_cannot_spell(tmp_path):
    folder = tmp_path / "\udcc4\udca7obz"
    with tensorboard(folder) as write:
        write({"loss": 1.0}, 1)
    (file,) = (tmp_path / "ħobz").iterdir()
    assert file.stat().st_size > 0
