"""Overlap of neuron sets: counts, expectations, relatives, and the stage on disk."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp import overlap as stage
from lse_interp.analysis.overlap import OverlapMatrix, measure_overlap, related_summary
from lse_interp.analysis.relatedness import compare_relatives, relation
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, LanguageError, LseError, MismatchError
from lse_interp.core.languages import RELEASED_LANGUAGES
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.sets import NeuronSets

FEW = settings(max_examples=15, deadline=None, derandomize=True)
CODES = ("slv", "mlt", "lvs", "slk", "lit")


def model_info(n_layers=2, d_mlp=10, name="toy"):
    return ModelInfo(name, "abc", "LlamaForCausalLM", n_layers, 4, d_mlp, 1000)


def sets_of(lists, *, d_mlp=10):
    """Neuron sets from language -> layer -> list of indices."""
    indices = {
        code: tuple(torch.tensor(layer, dtype=torch.int64) for layer in layers)
        for code, layers in lists.items()
    }
    n_layers = len(next(iter(lists.values())))
    return NeuronSets(indices=indices, model=model_info(n_layers, d_mlp), site=None, method="hand")


def random_sets(seed, codes=CODES, *, share=0.3):
    rng = np.random.default_rng(seed)
    masks = {code: torch.from_numpy(rng.random((3, 20)) < share) for code in codes}
    indices = {code: mask_to_indices(mask) for code, mask in masks.items()}
    return NeuronSets(indices=indices, model=model_info(3, 20), site=None, method="hand")


def test_measure_overlap_of_a_hand_computed_case():
    overlap = measure_overlap(
        sets_of({"slv": [[0, 1, 2], [5]], "mlt": [[], [9]], "slk": [[1, 2], [5, 6]]})
    )
    assert overlap.languages == ("mlt", "slk", "slv")
    assert overlap.intersection.tolist() == [[1, 0, 0], [0, 4, 3], [0, 3, 4]]
    assert overlap.layer_intersection[1, 2].tolist() == [2, 1]
    pair = overlap.at("slv", "slk")
    assert (pair["language"], pair["other"], pair["relation"]) == ("slk", "slv", "branch")
    assert (pair["n_language"], pair["n_other"], pair["union"]) == (4, 4, 5)
    assert pair["jaccard"] == 3 / 5
    assert pair["expected"] == 4 * 4 / 20
    assert pair["ratio"] == 3 / (4 * 4 / 20)
    assert pair["expected_by_layer"] == pytest.approx((2 * 3 + 2 * 1) / 10)
    assert pair["ratio_by_layer"] == pytest.approx(3 / 0.8)


@FEW
@given(seed=st.integers(0, 10_000), share=st.floats(0.05, 0.9))
def test_measure_overlap_agrees_with_python_sets(seed, share):
    neurons = random_sets(seed, share=share)
    overlap = measure_overlap(neurons)
    places = {code: set(map(tuple, neurons.mask(code).nonzero().tolist())) for code in neurons}
    for (i, a), (j, b) in itertools.product(enumerate(overlap.languages), repeat=2):
        both, either = places[a] & places[b], places[a] | places[b]
        assert overlap.intersection[i, j] == len(both)
        assert overlap.union[i, j] == len(either)
        if either:
            assert overlap.jaccard[i, j] == len(both) / len(either)
        for layer in range(3):
            found = overlap.layer_intersection[i, j, layer]
            assert found == sum(place[0] == layer for place in both)


@FEW
@given(seed=st.integers(0, 10_000), order=st.permutations(CODES))
def test_measure_overlap_is_symmetric_bounded_and_blind_to_order(seed, order):
    neurons = random_sets(seed)
    overlap = measure_overlap(neurons)
    shuffled = sets_of({code: [n.tolist() for n in neurons[code]] for code in order}, d_mlp=20)
    assert torch.equal(measure_overlap(shuffled).layer_intersection, overlap.layer_intersection)
    assert torch.equal(overlap.jaccard, overlap.jaccard.T)
    assert ((overlap.jaccard >= 0) & (overlap.jaccard <= 1)).all()
    assert torch.equal(overlap.jaccard.diagonal(), torch.ones(5, dtype=torch.float64))


def test_expectations_are_the_means_of_random_sets():
    # Crowded in layer 0, so the two expectations differ.
    sizes = {"mlt": (8, 1), "slk": (12, 2)}
    overlap = measure_overlap(
        sets_of(
            {code: [list(range(n)) for n in layers] for code, layers in sizes.items()}, d_mlp=40
        )
    )
    rng = np.random.default_rng(0)
    anywhere, in_layers = [], []
    for _ in range(3000):
        mlt, slk = (rng.choice(80, size=sum(n), replace=False) for n in sizes.values())
        anywhere.append(len(np.intersect1d(mlt, slk)))
        layers = [[rng.choice(40, size=n, replace=False) for n in sizes[code]] for code in sizes]
        in_layers.append(sum(len(np.intersect1d(a, b)) for a, b in zip(*layers, strict=True)))
    pair = overlap.at("mlt", "slk")
    assert pair["expected"] == pytest.approx(np.mean(anywhere), rel=0.05)
    assert pair["expected_by_layer"] == pytest.approx(np.mean(in_layers), rel=0.05)


def test_empty_sets_share_nothing_and_are_not_compared():
    overlap = measure_overlap(sets_of({"mlt": [[], []], "slk": [[], []], "slv": [[1], []]}))
    assert overlap.at("mlt", "slv")["jaccard"] == 0
    assert np.isnan(overlap.at("mlt", "slk")["jaccard"])
    assert np.isnan(overlap.at("mlt", "slv")["ratio"])


def test_to_frame_lists_every_pair_once_in_order():
    frame = measure_overlap(random_sets(0)).to_frame()
    pairs = list(zip(frame["language"], frame["other"], strict=True))
    assert pairs == list(itertools.combinations(("mlt", "lvs", "lit", "slk", "slv"), 2))
    relations = dict(zip(pairs, frame["relation"], strict=True))
    assert relations["lvs", "lit"] == relations["slk", "slv"] == "branch"
    assert relations["lit", "slk"] == "family"
    assert relations["mlt", "slk"] == "none"


def test_at_takes_any_spelling():
    overlap = measure_overlap(random_sets(0))
    assert overlap.at("Maltese", "lav").equals(overlap.at("mlt", "lvs"))


def test_relation_without_a_family_is_unknown():
    assert relation("mlt", "xxx") == relation("tlh", "mlt") == relation("qaa", "qab") == "unknown"
    assert relation("Slovak", "sl") == "branch"


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("mlt", "kat"), "No neurons of 'kat' here"),
        (("mlt", "Maltese"), "needs two languages"),
        (("mlt", "toki"), "unknown language 'toki'"),
    ],
)
def test_at_refuses_what_is_not_a_pair(pair, message):
    with pytest.raises(LanguageError, match=message):
        measure_overlap(random_sets(0)).at(*pair)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[[1, 1], [1, 0]], [[0, 1], [1, 1]]], "symmetric"),
        ([[[1, 1], [2, 0]], [[2, 0], [1, 1]]], "between 0 and the smaller"),
        ([[[1, 1], [-1, 0]], [[-1, 0], [1, 1]]], "between 0 and the smaller"),
        ([[[1, 11], [0, 0]], [[0, 0], [1, 1]]], "no set larger than 10"),
        ([[[1], [1]], [[1], [1]]], r"shape \(2, 2, 2\); got \(2, 2, 1\)"),
    ],
)
def test_overlap_matrix_refuses_impossible_counts(counts, message):
    with pytest.raises(MismatchError, match=message):
        OverlapMatrix(
            languages=("mlt", "slk"),
            layer_intersection=torch.tensor(counts),
            model=model_info(),
            site=None,
            method="hand",
        )


def test_related_summary_of_a_hand_computed_case():
    # slk and slv share all their neurons; nobody else shares any.
    neurons = sets_of({"slk": [[0, 1]], "slv": [[0, 1]], "mlt": [[2]], "ekk": [[3]], "kat": [[4]]})
    summary = related_summary(measure_overlap(neurons), n_permutations=2000)
    assert (summary.mean_related, summary.mean_other) == (1.0, 0.0)
    assert (summary.n_related, summary.n_other) == (1, 9)
    # One of the 10 pairs is the related one, so one permutation in ten reaches the statistic.
    assert summary.p_value == pytest.approx(0.1, abs=0.02)


def test_related_summary_leaves_empty_languages_out():
    lists = {"slk": [[0, 1]], "slv": [[0, 1]], "mlt": [[2]], "ekk": [[3]]}
    full = related_summary(measure_overlap(sets_of(lists)), n_permutations=50)
    empty = sets_of(lists | {"kat": [[]], "mkd": [[]]})
    assert related_summary(measure_overlap(empty), n_permutations=50) == full


def test_related_summary_leaves_unknown_families_out():
    lists = {"slk": [[0, 1]], "slv": [[0, 1]], "mlt": [[2]], "ekk": [[3]]}
    full = related_summary(measure_overlap(sets_of(lists)), n_permutations=50)
    unknown = measure_overlap(sets_of({"tlh": [[0, 1]]} | lists | {"qaa": [[0, 1]]}))
    assert related_summary(unknown, n_permutations=50) == full


def test_compare_relatives_finds_nothing_in_equal_similarities():
    similarity = torch.full((5, 5), 0.3, dtype=torch.float64)
    summary = compare_relatives(similarity, languages=CODES, n_permutations=100)
    assert summary.p_value == 1.0
    assert summary.mean_related == pytest.approx(summary.mean_other)


def test_compare_relatives_agrees_with_all_permutations():
    rng = np.random.default_rng(3)
    values = rng.random((5, 5))
    values = values + values.T
    branch = {"slv": 0, "slk": 0, "lvs": 1, "lit": 1, "mlt": 2}

    def statistic(order):
        related, other = [], []
        for i, j in itertools.combinations(range(5), 2):
            same = branch[CODES[i]] == branch[CODES[j]]
            (related if same else other).append(values[order[i], order[j]])
        return np.mean(related) - np.mean(other)

    exact = np.mean(
        [statistic(o) >= statistic(range(5)) - 1e-12 for o in itertools.permutations(range(5))]
    )
    summary = compare_relatives(torch.from_numpy(values), languages=CODES, n_permutations=4000)
    assert summary.mean_related - summary.mean_other == pytest.approx(statistic(range(5)))
    assert summary.p_value == pytest.approx(exact, abs=0.03)


def test_compare_relatives_is_reproducible_by_seed():
    similarity = measure_overlap(random_sets(5)).jaccard
    codes = ("mlt", "lvs", "lit", "slk", "slv")
    results = [
        compare_relatives(similarity, languages=codes, n_permutations=99, seed=seed).p_value
        for seed in (1, 1, 2)
    ]
    assert results[0] == results[1] != results[2]


def test_related_summary_needs_relatives_and_others():
    with pytest.raises(LseError, match=r"got 0 and 1 \(mlt slk\)"):
        related_summary(measure_overlap(random_sets(0, codes=("mlt", "slk"))))
    with pytest.raises(LanguageError, match="unknown language 'xxx'"):
        related_summary(measure_overlap(random_sets(0, codes=("mlt", "xxx"))))


def test_overlap_survives_a_round_trip(tmp_path):
    overlap = measure_overlap(random_sets(0))
    loaded = OverlapMatrix.load(overlap.save(tmp_path / "overlap.safetensors"))
    assert torch.equal(loaded.layer_intersection, overlap.layer_intersection)
    assert loaded.to_frame().equals(overlap.to_frame())
    assert (loaded.languages, loaded.model) == (overlap.languages, overlap.model)


def test_run_reads_the_run_folder_and_writes_beside_it(tmp_path):
    paths = RunPaths(tmp_path, "toy")
    neurons = random_sets(0)
    neurons.save(paths.neurons)
    written = stage.run(stage.Config(model=ModelArgs("toy"), root=tmp_path))
    assert torch.equal(OverlapMatrix.load(paths.overlap).jaccard, written.jaccard)
    assert torch.equal(written.jaccard, measure_overlap(neurons).jaccard)


def test_run_reads_a_named_neuron_file(tmp_path):
    path = random_sets(0).save(tmp_path / "elsewhere.safetensors")
    out = tmp_path / "out.safetensors"
    stage.run(stage.Config(neurons=path, root=tmp_path, out=out))
    assert OverlapMatrix.load(out).languages[0] == "mlt"


def test_run_reports_without_relatives(tmp_path, caplog):
    path = random_sets(0, codes=("mlt", "slk")).save(tmp_path / "two.safetensors")
    with caplog.at_level("INFO"):
        stage.run(stage.Config(neurons=path, root=tmp_path))
    assert "Comparing relatives with others needs" in caplog.text


def test_run_reads_released_masks_by_file_name(tmp_path):
    rows = [[torch.tensor([position])] * 32 for position, _ in enumerate(RELEASED_LANGUAGES)]
    torch.save(rows, tmp_path / "llama-3.1-5")
    overlap = stage.run(stage.Config(masks=tmp_path / "llama-3.1-5", root=tmp_path))
    assert overlap.model.name == "meta-llama/Llama-3.1-8B"
    assert (overlap.intersection == 32 * torch.eye(12, dtype=torch.int64)).all()
    assert RunPaths(tmp_path, overlap.model.name).overlap.exists()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({}, ArtifactError, "neurons/lape.safetensors does not exist"),
        ({"masks": "nemo-6"}, ArtifactError, "nemo-6 is not a file of neuron masks"),
        ({"masks": "a", "neurons": "b"}, LseError, "give one of them"),
    ],
)
def test_run_refuses_bad_input(tmp_path, config, error, message):
    paths = {name: tmp_path / file for name, file in config.items()}
    with pytest.raises(error, match=message):
        stage.run(stage.Config(root=tmp_path, **paths))
