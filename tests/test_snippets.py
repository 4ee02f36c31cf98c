"""Python in README and docs runs as it is written, page by page, each in a folder of its own."""

import re
import shlex
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import lse_interp as lse
from lse_interp.__main__ import main
from lse_interp.artifacts.paths import RunPaths
from lse_interp.training.hyperparameters import Hyperparameters

ROOT = Path(__file__).parents[1]
LANGUAGES = ("mlt", "ita", "eng")


def snippets(page, kind="python"):
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def run_page(page):
    names = {"__name__": "page"}
    blocks = snippets(page)
    assert blocks
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Neuron sets and a short training run of the embedded model, where the pages look for them."""
    folder = tmp_path_factory.mktemp("snippets")
    paths = RunPaths(folder / "runs", "embedded")
    model = lse.load_model("embedded")
    counts = {
        lang: lse.count_activations(
            model, lse.load_corpus("embedded", language=lang), language=lang, n_tokens=1000
        )
        for lang in LANGUAGES
    }
    neurons = lse.identify(counts, k=0.05)
    neurons.save(paths.neurons)
    run = lse.finetune_language(
        model,
        lse.load_corpus("embedded", language="mlt", split="adapt"),
        language="mlt",
        validation=lse.load_parallel("embedded", languages=("mlt",), split="dev").sentences,
        neurons=neurons,
        n_tokens=300,
        options=Hyperparameters(validate_every=50),
    )
    run.save(folder / "runs" / "embedded" / "finetune" / "mlt" / "target")
    return folder


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_use_and_share(finished, monkeypatch):
    monkeypatch.chdir(finished)
    names = run_page("docs/use_and_share.md")
    assert names["run"].is_subnetwork
    assert (finished / "out" / "maltese" / "model.safetensors").stat().st_mode & 0o777 == 0o644


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_own_neurons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    neurons = run_page("docs/own_neurons.md")["neurons"]
    assert [neurons.size(code) for code in neurons] == [200, 200, 200]
    (commands,) = snippets("docs/own_neurons.md", kind="bash")
    for line in commands.splitlines():
        assert main(shlex.split(line)[1:]) == 0, line
    run = lse.FinetuneRun.load("difference/embedded/finetune/mlt/target-500")
    assert run.results["n_trainable"] == neurons.n_trainable("mlt")


def test_figures(finished, monkeypatch):
    monkeypatch.chdir(finished)
    with plt.rc_context():
        names = run_page("docs/figures.md")
    plt.close("all")
    assert names["ax"].get_title(loc="left") == "Who shares neurons with Maltese?"
    assert [label.get_text() for label in names["ax"].get_xticklabels()] == ["mlt", "eng", "ita"]
    assert names["ax"].title.get_fontsize() > 18
    assert len(names["left"].lines) == 2
    assert (finished / "layers.pdf").exists()


@pytest.mark.slow
def test_readme(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page("README.md")
    assert set(names["neurons"]) == {"mlt", "ita", "arb", "eng"}
