"""Neurons of other projects and of one's own, from files and from memory, to the commands."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from lse_interp import ablation, finetune, overlap
from lse_interp.core.errors import ArtifactError, LanguageError, LseError, MismatchError
from lse_interp.core.languages import RELEASED_LANGUAGES
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.formats.masks_pth import model_of_masks
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from tests.training.tiny_stage import Place

INFO = ModelInfo(
    name="toy",
    fingerprint=None,
    architecture="LlamaForCausalLM",
    n_layers=3,
    d_model=4,
    d_mlp=40,
    n_parameters=10_000,
)
LISTS = {"mlt": [[0, 2], [], [39]], "slk": [[5, 2], [7], []]}


def grid(layers):
    mask = torch.zeros(3, 40, dtype=torch.bool)
    for layer, neurons in enumerate(layers):
        mask[layer, neurons] = True
    return mask


def tensors(layers, dtype=torch.int64):
    return [torch.tensor(neurons, dtype=dtype) for neurons in layers]


def same(found, expected=LISTS):
    assert list(found) == list(expected)
    for code, layers in expected.items():
        assert torch.equal(found.mask(code), grid(layers))


MASKS = {code: grid(layers) for code, layers in LISTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        [tensors(layers) for layers in LISTS.values()],
        [tensors(layers, torch.int32) for layers in LISTS.values()],
        list(LISTS.values()),
        list(MASKS.values()),
        torch.stack(list(MASKS.values())),
        [list(mask) for mask in MASKS.values()],
        torch.stack(list(MASKS.values())).float(),
        torch.stack(list(MASKS.values())).to_sparse(),
        torch.stack(list(MASKS.values())).numpy(),
        [[np.array(neurons, np.int64) for neurons in layers] for layers in LISTS.values()],
    ],
)
def test_lists_over_languages_take_their_names(tmp_path, content):
    torch.save(content, tmp_path / "masks.pth")
    same(NeuronSets.from_masks(tmp_path / "masks.pth", languages=["mt", "slovak"], model=INFO))
    with pytest.raises(MismatchError, match="holds 2 languages without .* with --mask-languages"):
        NeuronSets.from_masks(tmp_path / "masks.pth", model=INFO)


@pytest.mark.parametrize(
    "content",
    [
        {"mt": tensors(LISTS["mlt"]), "sk": tensors(LISTS["slk"])},
        {"mt": MASKS["mlt"], "Slovak": MASKS["slk"]},
        {"mlt": {0: [0, 2], 2: [39]}, "slk": {1: [7], 0: [5, 2]}},
        {
            "languages": ["mt", "sk"],
            "results": {
                "mlp_over_threshold_rate": {"selected_mask": torch.stack(list(MASKS.values()))},
                "attn_q_proj_over_threshold_rate": {"selected_mask": torch.ones(2, 3, 9) > 0},
            },
        },
    ],
)
def test_dicts_name_their_languages(tmp_path, content):
    path = tmp_path / "masks.pth"
    torch.save(content, path)
    same(NeuronSets.from_masks(path, model=INFO))
    some = NeuronSets.from_masks(path, languages=["slovak"], model=INFO)
    same(some, {"slk": LISTS["slk"]})
    with pytest.raises(LanguageError, match="holds no neurons of deu. Known: mlt, slk"):
        NeuronSets.from_masks(path, languages=["deu"], model=INFO)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({0: LISTS["mlt"]}, LanguageError, "unknown language '0'"),
        ({"languages": ["mt"], "results": {"attn": {}}}, ArtifactError, "for a component `mlp`"),
        ({"languages": ["mt"], "results": [1]}, ArtifactError, "a `selected_mask` of each of its"),
        (torch.tensor(3), ArtifactError, "masks.pth must hold a list .* found Tensor"),
    ],
)
def test_files_that_hold_no_masks_are_refused(tmp_path, content, error, message):
    torch.save(content, tmp_path / "masks.pth")
    with pytest.raises(error, match=message):
        NeuronSets.from_masks(tmp_path / "masks.pth", model=INFO)


def test_twelve_languages_without_names_are_the_released_ones(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    torch.save([LISTS["mlt"]] * 12, tmp_path / "masks.pth")
    found = NeuronSets.from_masks(tmp_path / "masks.pth", model=INFO)
    assert found.languages == RELEASED_LANGUAGES
    assert "names no languages; its 12 entries are taken to be those of the paper's" in caplog.text


def test_the_model_of_masks_is_named_or_known_by_its_file():
    assert model_of_masks("a/llama-3.1-5").name == "meta-llama/Llama-3.1-8B"
    assert model_of_masks("mine", "mistralai/Mistral-Nemo-Base-2407").n_layers == 40
    assert model_of_masks("mine", default="embedded").d_mlp == 1024
    assert model_of_masks("llama-3.1-5", "embedded").d_mlp == 1024
    with pytest.raises(MismatchError, match="Nothing says which model mine points into"):
        model_of_masks("mine")


def test_own_neurons_in_any_form():
    lists = {"welsh": [[7, 3], [], [12]], "mt": [[], [39, 0], []]}
    expected = {"cym": [[3, 7], [], [12]], "mlt": [[], [0, 39], []]}
    same(NeuronSets.from_indices(lists, model=INFO), expected)
    by_layer = {"cy": {0: np.array([7, 3]), 2: (12,)}, "mlt": {1: [39, 0]}}
    same(NeuronSets.from_indices(by_layer, model=INFO), expected)
    same(NeuronSets.from_mask({c: grid(x) for c, x in lists.items()}, model=INFO), expected)
    rows = [("cy", 0, 7), ("cy", 2, 12), ("mt", 1, 39), ("cy", 0, 3), ("mt", 1, 0)]
    frame = pd.DataFrame(rows, columns=["language", "layer", "neuron"]).assign(score=1.0)
    found = NeuronSets.from_frame(frame, model=INFO, method="difference", site="mlp.hook_act")
    same(found, expected)
    assert (found.method, found.site) == ("difference", "mlp.hook_act")
    same(NeuronSets.from_frame(found.to_frame(), model=INFO), expected)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ({}, LanguageError, "at least one language"),
        ({"xqz": [[], [], []]}, LanguageError, "unknown language 'xqz'"),
        ({"mt": [[], [], []], "mlt": [[], [], []]}, LanguageError, "are the same language .mlt."),
        ({"mt": [[1], []]}, LseError, "each of the 3 layers of toy; got 2"),
        ({"mt": [[1, 1], [], []]}, LseError, "without repeats"),
        ({"mt": [[40], [], []]}, LseError, r"indices in \[0, 40\)"),
        ({"mt": [[0.5], [], []]}, ArtifactError, "in layer 0 must be whole numbers"),
        ({"mt": [[[1], [2, 3]], [], []]}, ArtifactError, "in layer 0 must be numbers, in rows of"),
        ({"mt": [["a"], [], []]}, ArtifactError, "in layer 0 must be numbers, in rows of one"),
        ({"mt": [None, [], []]}, ArtifactError, "in layer 0 must be numbers, in rows of one"),
        ({"mt": {3: [1]}}, LseError, "name layer 3; toy has 3"),
        ({"mt": 7}, ArtifactError, "list over layers of indices, or a mask .* found int"),
        ({"mt": torch.ones(3, 41) > 0}, ArtifactError, r"or a mask of 40; found torch.bool \[41\]"),
    ],
)
def test_own_neurons_that_do_not_fit_are_refused(indices, error, message):
    with pytest.raises(error, match=message):
        NeuronSets.from_indices(indices, model=INFO)


def test_a_table_without_its_columns_is_refused():
    frame = pd.DataFrame({"lang": ["mt"], "layer": [0], "neuron": [1]})
    with pytest.raises(LseError, match="needs the columns language, layer, neuron; language miss"):
        NeuronSets.from_frame(frame, model=INFO)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("stage"))
    torch.save([tensors([[0, 5], [1], []]), tensors([[2], [3], []])], place.root / "theirs.pth")
    return place


def flags(place, *languages):
    return ["--masks", str(place.root / "theirs.pth"), "--mask-languages", *languages]


def test_masks_are_trained_and_compared(place):
    words = place.arguments(*flags(place, "mlt", "eng"), neurons=None, runs="masks", n_tokens=150)
    assert finetune.main(words) == 0
    run = FinetuneRun.load(next((place.root / "masks").rglob("subnetwork.safetensors")).parent)
    assert [layer.tolist() for layer in run.neurons] == [[0, 5], [1], []]
    model = ["--mask-model", str(place.model), "--root", str(place.root)]
    assert overlap.main([*flags(place, "mlt", "eng"), *model]) == 0


def test_masks_are_switched_off(place, tmp_path):
    for code in ("mlt", "eng"):
        (tmp_path / f"{code}.txt").write_text("w1 w2 w3\nw4 w5\n")
    where = ["--model", str(place.model), "--root", str(tmp_path / "runs"), "--device", "cpu"]
    words = [*where, "--parallel", str(tmp_path), "--control", "None", *flags(place, "mt", "en")]
    assert ablation.main(words) == 0
    assert next(tmp_path.rglob("ablation.safetensors")).is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask-languages", "mlt"], "describe `--masks`; add it"),
        (["--mask-model", "embedded"], "describe `--masks`; add it"),
        (["--masks", "theirs.pth", "--neurons", "a"], "give one of them"),
        (["--masks", "theirs.pth"], "holds 2 languages without their names"),
        (
            ["--masks", "theirs.pth", "--mask-languages", "mlt", "eng"],
            "--mask-model names the model of the masks, here embedded",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(place, words, message, capsys, monkeypatch):
    monkeypatch.chdir(place.root)
    assert overlap.main(words) == 2
    assert message in capsys.readouterr().err
