"""128 languages from text to release.

The test on real text needs the environment variable LSE_REFERENCE_DATA: a folder with `ntrex/`.
"""

import itertools
import os
from pathlib import Path

import pytest
import torch

from lse_interp.analysis.overlap import measure_overlap, related_summary
from lse_interp.core.languages import LANGUAGES, lookup
from lse_interp.counting.count import count_activations
from lse_interp.counting.counts import ActivationCounts
from lse_interp.data.parallel import load_parallel
from lse_interp.models.info import ModelInfo
from lse_interp.models.loading import load_model
from lse_interp.neurons.formats.dataset_card import write_release
from lse_interp.neurons.identify import identify
from lse_interp.neurons.sets import NeuronSets
from lse_interp.neurons.sizes import depth_profile, subnetwork_sizes

CODES = tuple(itertools.islice(LANGUAGES, 128))


def synthetic_counts(codes, *, n_layers=4, d_mlp=200, n_tokens=1000):
    """Rarely active neurons, but for a few of each language's own."""
    generator = torch.Generator().manual_seed(0)
    model = ModelInfo("toy", "abc", "LlamaForCausalLM", n_layers, 8, d_mlp, 100_000)
    counts = {}
    for position, code in enumerate(codes):
        p = 0.1 * torch.rand(1, n_layers, d_mlp, generator=generator)
        p.view(-1)[6 * position : 6 * position + 6] = 0.9
        counts[code] = ActivationCounts(
            language=code,
            model=model,
            site="mlp.hook_act",
            shard_n_positive=(p * n_tokens).long(),
            shard_activation_sum=torch.zeros(1, n_layers, d_mlp, dtype=torch.float64),
            shard_n_tokens=torch.tensor([n_tokens]),
        )
    return counts


def check_release(neurons, folder):
    read = NeuronSets.from_parquet(write_release(folder, neurons) / "neurons.parquet")
    assert read.languages == neurons.languages
    for code in neurons:
        assert torch.equal(read.mask(code), neurons.mask(code))


def test_128_languages_get_their_own_neurons_and_a_release(tmp_path):
    bar = {"activity_quantile": 0.99, "selectivity_quantile": 0.99}
    neurons = identify(synthetic_counts(CODES), k=768 / 800, **bar)
    for position, code in enumerate(CODES):
        own = neurons.mask(code).flatten().nonzero().flatten().tolist()
        assert own == list(range(6 * position, 6 * position + 6))
    assert len(subnetwork_sizes(neurons)) == len(depth_profile(neurons)) == 128
    overlap = measure_overlap(neurons)
    assert set(overlap.languages) == set(CODES)
    assert torch.equal(overlap.intersection, 6 * torch.eye(128, dtype=torch.int64))
    check_release(neurons, tmp_path / "release")


def test_all_languages_of_ntrex_run_from_text_to_release(tmp_path):
    folder = Path(os.environ.get("LSE_REFERENCE_DATA", "/nonexistent")) / "ntrex"
    if not folder.is_dir():
        pytest.skip("LSE_REFERENCE_DATA names no folder with ntrex/")
    for path in folder.glob("newstest2019-*.txt"):
        with path.open(encoding="utf-8") as lines:
            (tmp_path / path.name).write_text("".join(itertools.islice(lines, 20)))
    model, counts = load_model("embedded", device="cpu"), {}
    names = {path.name.split(".")[1] for path in folder.glob("newstest2019-*.txt")}
    for code in sorted(lookup(name).code for name in names):
        text = load_parallel(f"ntrex:{tmp_path}", languages=[code])
        counts[code] = count_activations(
            model, text.sentences[code], language=code, n_tokens=60, block_size=64, n_shards=1
        )
    assert len(counts) == 128
    neurons = identify(counts, k=0.05)
    assert int(neurons.union().sum()) == round(0.05 * 8 * 1024)
    overlap = measure_overlap(neurons)
    # One script each that no other language has.
    assert overlap.at("kat", "hye")["jaccard"] < overlap.at("bod", "dzo")["jaccard"]
    assert related_summary(overlap, n_permutations=100).n_related > 300
    check_release(neurons, tmp_path / "release")
