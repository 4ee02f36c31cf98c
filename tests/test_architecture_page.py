"""Every recipe of docs/architecture.md, run as another package would add it."""

import re
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import lse_interp as lse
from analyses.__main__ import main as draw
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.selectors import SELECTORS
from lse_interp.tasks.benchmarks import BENCHMARKS, Reading, load_documents, tasks_of
from lse_interp.training.methods import METHODS, method_looks

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^### (.+?)\n.*?```python\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a recipe as a package with an entry point."""
    added = []

    def add(recipe, *, group, name):
        folder = tmp_path / "site"
        about = folder / f"recipe_{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: recipe-{name}\nVersion: 1.0\n"
        )
        (about / "entry_points.txt").write_text(f"[{group}]\n{name} = recipe_{name}\n")
        (folder / f"recipe_{name}.py").write_text(RECIPES[recipe], encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        added.append(name)

    yield add
    for name in added:
        sys.modules.pop(f"recipe_{name}", None)
        for kinds in (SELECTORS, METHODS, BENCHMARKS):
            kinds._known.pop(name, None)


def sets_of(model):
    """The first neuron of layer 0 and the second of layer 1, for Maltese and English."""
    mask = torch.zeros(model.n_layers, model.d_mlp, dtype=torch.bool)
    mask[0, 0] = mask[1, 1] = True
    indices = mask_to_indices(mask)
    return lse.NeuronSets(
        indices={"mlt": indices, "eng": indices}, model=model, site=None, method="hand"
    )


def test_every_recipe_has_a_test():
    assert set(RECIPES) == {
        "A selector",
        "An architecture",
        "A fine-tuning method",
        "A task",
        "A figure",
    }


def test_every_path_of_the_page_exists():
    paths = re.findall(r"\]\((\.\./[^)]+|[a-z]+\.md)\)", PAGE)
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / "docs" / path).exists(), path
    tree = PAGE.partition("## The tree")[2].partition("```")[2].partition("```")[0]
    for folder in re.findall(r"^  (\w+)/", tree, re.MULTILINE):
        assert (ROOT / "lse_interp" / folder).is_dir(), folder


def test_a_selector(install):
    install("A selector", group="lse_interp.selectors", name="margin")
    model = ModelInfo("toy", None, "LlamaForCausalLM", 2, 4, 6, 1000)
    counts = {}
    for position, code in enumerate(("mlt", "eng")):
        n_positive = torch.ones(1, 2, 6, dtype=torch.int64)
        n_positive[0, :, position] = 9
        counts[code] = lse.ActivationCounts(
            language=code,
            model=model,
            site="mlp.hook_act",
            shard_n_positive=n_positive,
            shard_activation_sum=torch.zeros(1, 2, 6, dtype=torch.float64),
            shard_n_tokens=torch.tensor([10]),
        )
    neurons = lse.identify(counts, selector="margin")
    assert [[layer.tolist() for layer in neurons[code]] for code in neurons] == [
        [[0], [0]],
        [[1], [1]],
    ]
    assert (neurons.method, neurons.score_name) == ("margin", "margin")


def test_an_architecture(tmp_path):
    from tests.models.test_architectures import W123Config, W123ForCausalLM
    from tests.tiny_models import tiny_tokenizer

    config = W123Config(
        vocab_size=40,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    W123ForCausalLM(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    found = {"FOLDER": tmp_path}
    exec(RECIPES["An architecture"], found)
    assert (found["model"].d_mlp, found["model"].gated) == (24, True)


def test_a_fine_tuning_method(install):
    install("A fine-tuning method", group="lse_interp.methods", name="upper")
    from tests.tiny_models import tiny_tokenizer

    config = LlamaConfig(
        vocab_size=40,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = lse.HookedModel(LlamaForCausalLM(config), tiny_tokenizer())
    run = lse.finetune_language(
        model,
        ["a b c d e f g h"] * 4,
        language="mlt",
        validation={"mlt": ["b d f h a c e g"]},
        method="upper",
        neurons=sets_of(model.info),
        options=lse.Hyperparameters(block_size=8),
    )
    assert (run.method, [rows.shape[1] for rows in run.rows]) == ("upper", [0, 1])
    assert method_looks()["upper"].label == "Target (upper half)"


def test_a_task(install, tmp_path):
    install("A task", group="lse_interp.tasks", name="colours")
    (task,) = tasks_of("mlt", ["colours"])
    folder = tmp_path / "data" / "colours"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"colour": "white", "label": 0}\n')
    (question,) = load_documents(task, reading=Reading(data_dir=tmp_path / "data"))
    assert question.prompt.startswith("What is white?")
    assert question.answer == 0


def test_a_figure(install, tmp_path):
    install("A figure", group="lse_interp.figures", name="fig_sizes")
    model = ModelInfo("toy", None, "LlamaForCausalLM", 2, 4, 6, 1000)
    path = sets_of(model).save(tmp_path / "neurons.safetensors")
    out = tmp_path / "figures"
    assert draw(["fig_sizes", str(path), "--figures", str(out)]) == 0
    assert {file.suffix for file in out.glob("fig_sizes*")} == {".png", ".pdf", ".csv"}
