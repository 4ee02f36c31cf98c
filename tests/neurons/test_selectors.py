"""A selector of another package, from its entry point to every place that shows neurons."""

import importlib
import json
import sys

import pandas as pd
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lse_interp import lape
from lse_interp.analysis.weights.compare import weight_deltas
from lse_interp.artifacts.paths import DEFAULT_SELECTOR, RunPaths
from lse_interp.core.errors import LseError
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.hooked import HookedModel
from lse_interp.neurons.identify import identify
from lse_interp.neurons.selectors import FLAGS, SELECTORS, command_flags
from lse_interp.neurons.sets import NeuronSets
from lse_interp.plotting.weight_deltas import neuron_delta_frame, plot_neuron_deltas

TOY = '''
"""Neurons that one language uses more than all others, by a margin."""

import dataclasses

import torch

from lse_interp.neurons.selection import Selection, activation_probabilities
from lse_interp.neurons.selectors import SELECTORS, Selector


@dataclasses.dataclass(frozen=True)
class Parameters:
    least: float = 0.5
    n_best: int = 4
    ties: bool = True


def choose(counts, parameters):
    probability = activation_probabilities(counts)
    first, second = probability.topk(2, dim=0).values
    gap = first - second
    chosen = torch.zeros(gap.numel(), dtype=torch.bool)
    chosen[gap.flatten().topk(parameters.n_best).indices] = True
    member = (probability == first) & chosen.view_as(gap) & (gap > parameters.least)
    return Selection(member=member, scores=gap, thresholds={"median": float(gap.median())})


SELECTORS.register("margin")(
    Selector(
        name="margin",
        title="Difference of the two highest probabilities",
        score_name="margin",
        score_unit="points",
        about="Neurons of one language alone.",
        Parameters=Parameters,
        choose=choose,
        thresholds={"least": "smallest difference", "median": "median of all neurons"},
        citation="@misc{toy}",
    )
)
'''


@pytest.fixture
def margin(tmp_path, monkeypatch):
    """Install a package with the selector `margin`; the command is imported again to see it."""
    folder = tmp_path / "site"
    about = folder / "toy_selector-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-selector\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[lse_interp.selectors]\nmargin = toy_selector\n")
    (folder / "toy_selector.py").write_text(TOY)
    monkeypatch.syspath_prepend(folder)
    importlib.reload(lape)
    yield
    monkeypatch.undo()
    sys.modules.pop("toy_selector", None)
    SELECTORS._known.pop("margin", None)
    importlib.reload(lape)


def tiny(seed):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return HookedModel(LlamaForCausalLM(config).eval(), None, name="toy")


def counts_of(model):
    """Each language alone uses one neuron per layer at every token."""
    counts = {}
    for position, code in enumerate(("mlt", "slk", "slv")):
        n_positive = torch.full((1, 2, 12), 10)
        n_positive[0, :, position] = 100
        counts[code] = ActivationCounts(
            language=code,
            model=model.info,
            site="mlp.hook_act",
            shard_n_positive=n_positive,
            shard_activation_sum=torch.zeros(1, 2, 12, dtype=torch.float64),
            shard_n_tokens=torch.tensor([100]),
        )
    return counts


@pytest.fixture
def paths(tmp_path):
    """A run folder with counts."""
    paths = RunPaths(tmp_path / "runs", "toy")
    for code, counts in counts_of(tiny(0)).items():
        counts.save(paths.counts(code))
    return paths


def run(paths, *words):
    return lape.main(["--model", "toy", "--root", str(paths.root), *words])


def test_a_selector_of_another_package_is_in_the_help(margin, capsys):
    with pytest.raises(SystemExit):
        lape.main(["--help"])
    assert "--selector {lape,margin}" in " ".join(capsys.readouterr().out.split())


def test_a_selector_of_another_package_has_its_own_file_table_card_and_axis(margin, paths):
    assert run(paths, "--k", "0.1", "--activity-quantile", "0.5") == 0
    assert run(paths, "--selector", "margin", "--parameters", "n-best=6", "--parquet") == 0
    neurons = NeuronSets.load(paths.neurons_of("margin"))
    assert NeuronSets.load(paths.neurons).method == "lape"
    assert [neurons.mask(code).nonzero().tolist() for code in neurons] == [
        [[0, position], [1, position]] for position in range(3)
    ]
    assert neurons.lape is None
    assert neurons.thresholds == {"least": 0.5, "n_best": 6, "ties": True, "median": 0.0}
    columns = ["language", "layer", "neuron", "margin", "probability"]
    assert list(neurons.to_frame().columns) == columns
    assert neurons.to_frame()["margin"].tolist() == [0.9] * 6
    release = paths.neurons_of("margin").with_name("margin-release")
    assert list(pd.read_parquet(release / "neurons.parquet").columns) == columns
    read = NeuronSets.from_parquet(release / "neurons.parquet")
    assert (read.score_name, read.score_unit) == ("margin", "points")
    card = (release / "README.md").read_text()
    for text in (
        "- margin\n",
        "Neurons of one language alone.",
        "| `least` | 0.5 | smallest difference |",
        "| `margin` | Difference of the two highest probabilities of the neuron over all languages"
        ", in points |",
        "@misc{toy}",
    ):
        assert text in card
    command = " ".join(card.replace("\\\n", "").split())
    assert "--selector margin --parameters least=0.5 n_best=6 ties=True --parquet" in command
    deltas = weight_deltas(tiny(0), tiny(1), neurons=neurons)
    frame = neuron_delta_frame(deltas)
    assert "margin" in frame
    assert plot_neuron_deltas(frame).get_xlabel() == "margin (points)"


def test_a_finished_file_of_other_parameters_is_refused(margin, paths, capsys):
    assert run(paths, "--selector", "margin") == 0
    assert run(paths, "--selector", "margin", "--parameters", "n_best=5") == 2
    assert "n_best was 4, now 5. Pass --overwrite" in capsys.readouterr().err
    out = str(paths.neurons_of("margin"))
    assert run(paths, "--activity-quantile", "0.5", "--k", "0.1", "--out", out) == 2
    assert "selector was margin, now lape" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--selector", "margin", "--k", "0.1"], "has no parameter 'k'.*least (0.5), n_best (4)"),
        (["--parameters", "margin=1"], "The selector 'lape' has no parameter 'margin'"),
        (["--selector", "margin", "--parameters", "least"], "name=value; got 'least'"),
        (["--selector", "margin", "--parameters", "n_best=a"], "`n_best` must be of type int"),
        (["--selector", "margin", "--parameters", "ties=2"], "`ties` must be of type bool"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_is_read(margin, tmp_path, words, message):
    with pytest.raises(LseError) as refused:
        raise_of(tmp_path, words)
    for part in message.split(".*"):
        assert part in str(refused.value)


def raise_of(root, words):
    import tyro

    lape.run(tyro.cli(lape.Config, args=["--root", str(root), *words]))


def test_identify_refuses_an_unknown_selector_and_lists_the_known():
    with pytest.raises(LseError, match="There is no selector 'lap'. Did you mean lape"):
        identify({}, selector="lap")
    with pytest.raises(LseError, match="has no parameter 'kk'. Did you mean k"):
        identify({}, kk=0.1)


def test_the_flags_of_the_command_are_parameters_of_the_default_selector(capsys):
    defaults = SELECTORS[DEFAULT_SELECTOR].defaults
    assert tuple(defaults) == FLAGS
    assert command_flags(defaults) == (
        "--k 0.05 --activity-quantile 0.95 --selectivity-quantile 0.95"
    )
    with pytest.raises(SystemExit):
        lape.main(["--help"])
    shown = capsys.readouterr().out
    assert [shown.count(f"LAPE: {value}.") for value in (0.05, 0.95)] == [1, 2]


def test_the_description_of_a_file_names_the_score(paths):
    assert run(paths, "--k", "0.1", "--activity-quantile", "0.5") == 0
    meta = json.loads(paths.neurons.with_suffix(".json").read_text())["meta"]
    assert (meta["score_name"], meta["score_unit"]) == ("lape", "nats")
