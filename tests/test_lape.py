"""LAPE: the score, the choice, counts of several languages, and the stage on disk."""

import dataclasses
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp import lape
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import ArtifactError, LanguageError, LseError, MismatchError
from lse_interp.core.languages import lookup
from lse_interp.counting.counts import ActivationCounts
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.identify import identify
from lse_interp.neurons.selectors.lape import Parameters, lape_scores
from lse_interp.neurons.selectors.lape import select as select_with
from lse_interp.neurons.sets import NeuronSets
from lse_interp.neurons.sizes import depth_profile, subnetwork_sizes

FEW = settings(max_examples=25, deadline=None, derandomize=True)
CODES = ("afr", "mlt", "slk", "slv", "lit")


def model_info(n_layers=2, d_mlp=10, **changes):
    values = {
        "name": "toy",
        "fingerprint": "abc",
        "architecture": "LlamaForCausalLM",
        "n_layers": n_layers,
        "d_model": 4,
        "d_mlp": d_mlp,
        "n_parameters": 1000,
    }
    return ModelInfo(**(values | changes))


def random_probability(seed, *, n_lang=3, n_layers=2, d_mlp=10, steps=None):
    """Probabilities; with `steps`, on a grid so coarse that ties and zeros are common."""
    rng = np.random.default_rng(seed)
    values = rng.random((n_lang, n_layers, d_mlp))
    if steps:
        values = np.floor(values * (steps + 1)) / steps
    return torch.from_numpy(values)


def counts_of(language, n_positive, *, n_tokens=100, site="mlp.hook_act", **model_changes):
    n_positive = torch.as_tensor(n_positive, dtype=torch.int64)
    shards = torch.stack([n_positive // 2, n_positive - n_positive // 2])
    return ActivationCounts(
        language=language,
        model=model_info(*n_positive.shape, **model_changes),
        site=site,
        shard_n_positive=shards,
        shard_activation_sum=torch.zeros(shards.shape, dtype=torch.float64),
        shard_n_tokens=torch.tensor([n_tokens // 2, n_tokens - n_tokens // 2]),
    )


def random_counts(seed=0, codes=CODES):
    rng = np.random.default_rng(seed)
    return {code: counts_of(code, rng.integers(0, 101, size=(2, 10))) for code in codes}


def slow_lape(probability):
    """The definition, one neuron at a time."""
    n_lang, n_layers, d_mlp = probability.shape
    scores = np.full((n_layers, d_mlp), np.inf)
    for layer in range(n_layers):
        for neuron in range(d_mlp):
            p = probability[:, layer, neuron]
            if p.sum() > 0:
                shares = [x / p.sum() for x in p if x > 0]
                scores[layer, neuron] = -sum(q * math.log(q) for q in shares)
    return scores


def slow_select(probability, *, k, activity_quantile, selectivity_quantile):
    """The rule, with sorted lists and sets of (layer, neuron) for each language."""
    n_lang, n_layers, d_mlp = probability.shape
    ascending = sorted(probability.ravel())
    activity = ascending[round(activity_quantile * len(ascending)) - 1]
    selectivity = ascending[round(selectivity_quantile * len(ascending)) - 1]
    scores = slow_lape(probability)
    ranked = sorted(
        (round(scores[layer, neuron], 12), layer, neuron)
        for layer in range(n_layers)
        for neuron in range(d_mlp)
        if probability[:, layer, neuron].max() > activity
    )
    chosen = [(layer, neuron) for _, layer, neuron in ranked[: round(k * n_layers * d_mlp)]]
    return [
        {place for place in chosen if probability[(lang, *place)] > selectivity}
        for lang in range(n_lang)
    ]


def select(probability, **parameters):
    return select_with(probability, Parameters(**parameters))


def places(member):
    return [set(map(tuple, mask.nonzero().tolist())) for mask in member]


def test_lape_scores_of_a_hand_computed_case():
    probability = torch.tensor(
        [[[0.5, 0.9, 0.3, 0.0]], [[0.5, 0.0, 0.1, 0.0]]], dtype=torch.float64
    )
    quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = torch.tensor([[math.log(2), 0.0, quarter, math.inf]], dtype=torch.float64)
    torch.testing.assert_close(lape_scores(probability), expected, rtol=0, atol=1e-15)


@FEW
@given(seed=st.integers(0, 10_000), n_lang=st.integers(2, 7), steps=st.sampled_from([None, 4]))
def test_lape_scores_are_bounded_and_agree_with_the_definition(seed, n_lang, steps):
    probability = random_probability(seed, n_lang=n_lang, steps=steps)
    scores = lape_scores(probability)
    fires = probability.sum(dim=0) > 0
    assert (scores[fires] >= 0).all()
    assert (scores[fires] <= math.log(n_lang) + 1e-12).all()
    assert scores[~fires].isposinf().all()
    np.testing.assert_allclose(scores.numpy(), slow_lape(probability.numpy()), atol=1e-12)


@FEW
@given(seed=st.integers(0, 10_000), factor=st.floats(1e-6, 1.0))
def test_lape_scores_ignore_scale_and_the_order_of_languages(seed, factor):
    probability = random_probability(seed, n_lang=4)
    scores = lape_scores(probability)
    torch.testing.assert_close(lape_scores(probability * factor), scores, rtol=0, atol=1e-12)
    torch.testing.assert_close(lape_scores(probability.flip(0)), scores, rtol=0, atol=1e-12)


def test_select_of_a_hand_computed_case():
    # Two languages, one layer, five neurons: N = 10, and rank 6 is 0.5 for a quantile of 0.6.
    probability = torch.tensor(
        [[[0.9, 0.8, 0.1, 0.5, 0.0]], [[0.0, 0.7, 0.6, 0.0, 0.4]]], dtype=torch.float64
    )
    selection = select(probability, k=0.4, activity_quantile=0.6, selectivity_quantile=0.6)
    # Eligible (maximum above 0.5): neurons 0, 1 and 2. Neurons 3 and 4 are pure, but 3 only
    # reaches the threshold and 4 is below it. Lowest entropy of the three: 0, then 2.
    assert selection.thresholds["activity"] == 0.5
    assert selection.member.tolist() == [
        [[True, False, False, False, False]],
        [[False, False, True, False, False]],
    ]


def test_select_lets_a_neuron_belong_to_several_languages():
    probability = torch.tensor([[[0.9, 0.1]], [[0.8, 0.1]], [[0.1, 0.1]]], dtype=torch.float64)
    selection = select(probability, k=0.5, activity_quantile=0.6, selectivity_quantile=0.5)
    assert selection.member[:, 0, 0].tolist() == [True, True, False]


def test_select_breaks_ties_by_layer_then_neuron():
    probability = torch.zeros(2, 2, 4, dtype=torch.float64)
    probability[0, 0, 3] = probability[0, 1, 0] = probability[1, 1, 2] = 0.5
    selection = select(probability, k=0.25, activity_quantile=0.5, selectivity_quantile=0.5)
    assert places(selection.member) == [{(0, 3), (1, 0)}, set()]


def test_select_may_leave_chosen_neurons_without_a_language_under_a_higher_second_bar():
    probability = torch.tensor([[[0.9, 0.5, 0.1, 0.1]], [[0.1, 0.1, 0.1, 0.1]]]).double()
    selection = select(probability, k=0.5, activity_quantile=0.7, selectivity_quantile=0.875)
    assert places(selection.member) == [{(0, 0)}, set()]


@FEW
@given(
    seed=st.integers(0, 10_000),
    n_lang=st.integers(2, 5),
    steps=st.sampled_from([None, 20]),
    k=st.sampled_from([0.05, 0.1, 0.15]),
    quantiles=st.tuples(*[st.sampled_from([0.5, 0.7, 0.8])] * 2),
)
def test_select_agrees_with_a_slow_reference(seed, n_lang, steps, k, quantiles):
    probability = random_probability(seed, n_lang=n_lang, d_mlp=20, steps=steps)
    probability[:, 1, 5:9] = probability[:, 0, 2:6]  # exact copies: ties across layers
    rule = dict(zip(("activity_quantile", "selectivity_quantile"), quantiles, strict=True))
    selection = select(probability, k=k, **rule)
    assert places(selection.member) == slow_select(probability.numpy(), k=k, **rule)


@FEW
@given(
    seed=st.integers(0, 10_000),
    n_lang=st.integers(2, 6),
    k=st.floats(0.02, 0.2),
    bars=st.tuples(st.floats(0.3, 0.7), st.floats(0.3, 0.7)).map(sorted),
)
def test_select_gives_every_chosen_neuron_to_some_language(seed, n_lang, k, bars):
    probability = random_probability(seed, n_lang=n_lang, n_layers=3, d_mlp=17)
    selection = select(probability, k=k, selectivity_quantile=bars[0], activity_quantile=bars[1])
    assert int(selection.member.any(dim=0).sum()) == round(k * 3 * 17)


@FEW
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_select_follows_a_permutation_of_languages(seed, order):
    probability = random_probability(seed, n_lang=4)
    rule = {"k": 0.2, "activity_quantile": 0.6, "selectivity_quantile": 0.6}
    permuted = select(probability[list(order)], **rule)
    assert torch.equal(permuted.member, select(probability, **rule).member[list(order)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 5.0}, r"`k` must be in \(0, 1\]; got 5\.0\. Pass a fraction, e\.g\. 0\.05\."),
        ({"k": 0.0}, r"`k` must be in \(0, 1\]; got 0\.0"),
        ({"k": math.nan}, r"`k` must be in \(0, 1\]; got nan"),
        ({"k": 0.001}, r"less than one neuron. Pass at least 0\.05"),
        ({"activity_quantile": 95.0}, r"`activity_quantile` must be in \(0, 1\); got 95\.0"),
        ({"selectivity_quantile": 1.0}, r"`selectivity_quantile` must be in \(0, 1\); got 1\.0"),
    ],
)
def test_select_refuses_parameters_out_of_range(change, message):
    with pytest.raises(LseError, match=message):
        select(random_probability(0), **change)


def test_select_names_the_largest_possible_k():
    probability = torch.zeros(2, 2, 10, dtype=torch.float64)
    probability[0, 0, :4] = probability[1, 0, 2:6] = 0.5  # 8 of 40 values, 6 of 20 neurons
    rule = {"activity_quantile": 0.8, "selectivity_quantile": 0.8}
    message = r"`k` = 0\.5 asks for 10 of 20 neurons, but only 6 \(0\.3000\) are eligible.*is 0\.3;"
    with pytest.raises(LseError, match=message):
        select(probability, k=0.5, **rule)
    assert int(select(probability, k=0.3, **rule).member.any(dim=0).sum()) == 6


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.5])
def test_select_refuses_what_is_not_a_probability(value):
    probability = random_probability(0)
    probability[1, 1, 1] = value
    with pytest.raises(LseError, match=r"A probability must be in \[0, 1\]"):
        select(probability)


def test_select_needs_two_languages():
    with pytest.raises(LseError, match="needs at least 2; got 1"):
        select(random_probability(0, n_lang=1))


def test_identify_gives_the_choice_of_select_by_language():
    counts = random_counts()
    rule = {"k": 0.2, "activity_quantile": 0.8, "selectivity_quantile": 0.7}
    neurons = identify(counts, **rule)
    probability = torch.stack([found.probability for found in counts.values()])
    selection = select(probability, **rule)
    assert neurons.languages == CODES
    assert all(
        torch.equal(neurons.mask(code), member)
        for code, member in zip(CODES, selection.member, strict=True)
    )
    assert torch.equal(neurons.probability, probability)
    assert torch.equal(neurons.lape, lape_scores(probability))
    assert (neurons.method, neurons.site) == ("lape", "mlp.hook_act")
    assert neurons.thresholds["k"] == 0.2
    assert neurons.provenance["n_tokens"]["mlt"] == 100


def test_identify_takes_counts_under_any_spelling():
    counts, rule = random_counts(), {"k": 0.2, "activity_quantile": 0.8}
    spelt = {lookup(code).name.upper(): found for code, found in counts.items()}
    assert identify(spelt, **rule).to_frame().equals(identify(counts, **rule).to_frame())
    with pytest.raises(LanguageError, match=r"'mlt' and 'Maltese' are the same language"):
        identify(counts | {"Maltese": counts["mlt"]}, **rule)


def test_identify_does_not_depend_on_the_amount_of_text():
    few = {code: counts_of(code, c.n_positive) for code, c in random_counts().items()}
    many = {
        code: counts_of(code, c.n_positive * 7, n_tokens=700) for code, c in random_counts().items()
    }
    rule = {"k": 0.2, "activity_quantile": 0.8}
    assert identify(few, **rule).to_frame().equals(identify(many, **rule).to_frame())


@pytest.mark.parametrize(
    ("odd", "error", "message"),
    [
        ({"site": "mlp.hook_post"}, MismatchError, "different sites .* afr at mlp.hook_act, mlt"),
        ({"fingerprint": "xyz"}, MismatchError, "Counts of mlt belongs to other weights"),
        ({"d_model": 8}, MismatchError, "Counts of mlt belongs to another model.*d_model 4"),
    ],
)
def test_identify_refuses_counts_that_do_not_belong_together(odd, error, message):
    counts = random_counts() | {"mlt": counts_of("mlt", torch.ones(2, 10), **odd)}
    with pytest.raises(error, match=message):
        identify(counts)


def test_identify_refuses_counts_of_a_model_with_other_layers():
    counts = random_counts() | {"mlt": counts_of("mlt", torch.ones(3, 10))}
    with pytest.raises(MismatchError, match="expected n_layers 2 .*found n_layers 3"):
        identify(counts)


def test_identify_refuses_counts_filed_under_another_language():
    counts = {"afr": random_counts()["afr"], "deu": random_counts()["mlt"]}
    with pytest.raises(MismatchError, match="filed under deu are of mlt"):
        identify(counts)


@pytest.mark.parametrize("codes", [(), ("mlt",)])
def test_identify_needs_two_languages(codes):
    with pytest.raises(LseError, match=f"needs at least 2; got {len(codes)}"):
        identify(random_counts(codes=codes))


def test_table_counts_neurons_weights_and_percent():
    indices = {
        "mlt": (torch.tensor([1, 3]), torch.tensor([0])),
        "slk": (torch.tensor([], dtype=torch.int64),) * 2,
    }
    neurons = NeuronSets(indices=indices, model=model_info(), site=None, method="hand")
    expected = pd.DataFrame(
        {
            "language": ["mlt", "slk"],
            "name": ["Maltese", "Slovak"],
            "n_neurons": [3, 0],
            "n_trainable": [36, 0],
            "percent": [3.6, 0.0],
        }
    )
    pd.testing.assert_frame_equal(subnetwork_sizes(neurons), expected)
    ungated = dataclasses.replace(neurons, model=dataclasses.replace(neurons.model, gated=False))
    assert subnetwork_sizes(ungated)["n_trainable"].tolist() == [24, 0]


def test_depth_gives_thirds_and_the_median_layer():
    none = torch.tensor([], dtype=torch.int64)
    indices = {"mlt": (torch.tensor([1]), none, torch.tensor([0, 1, 2])), "slk": (none,) * 3}
    model = model_info(n_layers=3)
    frame = depth_profile(NeuronSets(indices=indices, model=model, site=None, method="hand"))
    assert frame.iloc[0].tolist() == ["mlt", 25.0, 0.0, 75.0, 2.0]
    assert frame.iloc[1, 1:].isna().all()


@pytest.fixture
def runs(tmp_path):
    """A run folder with counts of five languages, and beside them an unfinished one."""
    paths = RunPaths(tmp_path, "toy")
    for code, counts in random_counts().items():
        counts.save(paths.counts(code))
    paths.counts("eng").with_suffix(".partial").write_bytes(b"")
    return paths


def config_of(paths, **changes):
    changes = {"k": 0.2, "activity_quantile": 0.8, "selectivity_quantile": 0.7} | changes
    return lape.Config(model=ModelArgs("toy"), root=paths.root, **changes)


def test_run_writes_what_identify_finds(runs):
    neurons = lape.run(config_of(runs))
    loaded = NeuronSets.load(runs.neurons)
    expected = identify(random_counts(), k=0.2, activity_quantile=0.8, selectivity_quantile=0.7)
    assert set(loaded.languages) == set(CODES)
    for code in CODES:
        assert torch.equal(loaded.mask(code), expected.mask(code))
        assert torch.equal(loaded.mask(code), neurons.mask(code))
    assert loaded.provenance["config"]["k"] == 0.2
    assert loaded.provenance["n_tokens"] == dict.fromkeys(neurons.languages, 100)


@pytest.mark.parametrize("factor", [1, 7])
def test_run_says_that_languages_were_counted_on_unequal_text(runs, caplog, factor):
    counts = ActivationCounts.load(runs.counts("mlt"))
    more = {name: factor * getattr(counts, name) for name in ("shard_n_tokens", "shard_n_positive")}
    dataclasses.replace(counts, **more).save(runs.counts("mlt"))
    lape.run(config_of(runs))
    assert ("counted on unequal text" in caplog.text) is (factor > 1)


def test_run_takes_the_languages_asked_for_in_any_spelling(runs):
    assert lape.run(config_of(runs, langs=("mt", "slk_Latn", "afr"))).languages == (
        "mlt",
        "slk",
        "afr",
    )


def test_run_reuses_finished_neurons(runs):
    lape.run(config_of(runs))
    before = runs.neurons.stat().st_ino
    lape.run(config_of(runs))
    assert runs.neurons.stat().st_ino == before
    lape.run(config_of(runs, overwrite=True))
    assert runs.neurons.stat().st_ino != before


def test_run_reuses_finished_neurons_whatever_the_order_of_languages(runs):
    first = lape.run(config_of(runs))
    again = lape.run(config_of(runs, langs=tuple(reversed(first.languages))))
    assert again.languages == first.languages


def test_run_refuses_parameters_out_of_range_first(runs):
    lape.run(config_of(runs))
    with pytest.raises(LseError, match=r"`k` must be in \(0, 1\]; got 5"):
        lape.run(config_of(runs, k=5.0))


def test_run_refuses_to_replace_neurons_made_with_other_settings(runs):
    lape.run(config_of(runs))
    with pytest.raises(MismatchError, match=r"k was 0\.2, now 0\.1\. Pass --overwrite"):
        lape.run(config_of(runs, k=0.1))
    with pytest.raises(MismatchError, match="languages was .*, now mlt slk"):
        lape.run(config_of(runs, langs=("mlt", "slk")))
    assert lape.run(config_of(runs, k=0.1, overwrite=True)).thresholds["k"] == 0.1


@pytest.mark.parametrize("date", [0, 2**31])
def test_run_follows_other_counts_whatever_their_date(runs, date):
    before = lape.run(config_of(runs))
    for code, counts in random_counts(seed=1).items():
        os.utime(counts.save(runs.counts(code)), (date, date))
    after = lape.run(config_of(runs))
    assert not after.to_frame().equals(before.to_frame())
    written = runs.neurons.stat().st_mtime_ns
    for code in after:
        os.utime(runs.counts(code), (2 * date + 1, 2 * date + 1))
    lape.run(config_of(runs))
    assert runs.neurons.stat().st_mtime_ns == written


def test_run_writes_a_folder_to_publish(runs):
    neurons = lape.run(config_of(runs, parquet=True, license="cc-by-4.0"))
    assert sorted(path.name for path in runs.neurons.with_name("lape-release").iterdir()) == [
        "README.md",
        "neurons.parquet",
    ]
    released = pd.read_parquet(runs.neurons.with_name("lape-release") / "neurons.parquet")
    pd.testing.assert_frame_equal(released, neurons.to_frame())
    read = NeuronSets.from_parquet(
        runs.neurons.with_name("lape-release") / "neurons.parquet", model=neurons.model
    )
    assert read.thresholds == neurons.thresholds
    assert read.provenance["config"]["license"] == "cc-by-4.0"
    card = (runs.neurons.with_name("lape-release") / "README.md").read_text()
    assert "\nlicense: cc-by-4.0\n" in card
    commands = " ".join(card.replace("\\\n", "").split())
    assert "--k 0.2 --activity-quantile 0.8 --selectivity-quantile 0.7 --parquet" in commands


def test_run_releases_finished_neurons_too_and_beside_out_where_one_was_given(runs):
    lape.run(config_of(runs))
    before = runs.neurons.stat().st_ino
    lape.run(config_of(runs, parquet=True))
    assert runs.neurons.stat().st_ino == before
    assert (runs.neurons.with_name("lape-release") / "README.md").is_file()
    lape.run(config_of(runs, parquet=True, out=runs.root / "other.safetensors"))
    assert (runs.root / "other-release" / "neurons.parquet").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"license": "cc-by-4.0"}, "`--license` goes into the dataset card; add --parquet"),
        ({"license": "CC BY", "parquet": True}, "must be an identifier of the hub .* got 'CC BY'"),
    ],
)
def test_run_refuses_a_license_without_a_card_or_that_cannot_be(runs, changes, message):
    with pytest.raises(LseError, match=message):
        lape.run(config_of(runs, **changes))
    assert not runs.neurons.exists()


def test_run_records_the_corpus_of_every_language(runs):
    told = dataclasses.replace(
        random_counts()["mlt"], provenance={"settings": {"corpus": "glotcc"}}
    )
    told.save(runs.counts("mlt"))
    neurons = lape.run(config_of(runs))
    expected = {code: "glotcc" if code == "mlt" else None for code in neurons.languages}
    assert neurons.provenance["corpora"] == expected


def test_run_without_counts_says_which_stage_makes_them(runs):
    nowhere = runs.root / "elsewhere"
    with pytest.raises(ArtifactError, match=r"of any language in .*lse_interp\.activations"):
        lape.run(lape.Config(model=ModelArgs("toy"), root=nowhere))
    with pytest.raises(ArtifactError, match="counts of deu eng in .*Found: afr lit mlt slk slv"):
        lape.run(config_of(runs, langs=("mlt", "deu", "eng")))
    with pytest.raises(LanguageError, match="unknown language .nlt.*Did you mean .*mlt"):
        lape.run(config_of(runs, langs=("nlt", "slk")))


def test_main_takes_the_model_flags_of_the_other_commands(runs):
    words = ["--model", "toy", "--dtype", "bfloat16", "--device", "cuda", "--backend", "lens"]
    assert lape.main([*words, "--root", str(runs.root)]) == 0


def test_main_reports_bad_input_in_one_line_and_status_2(runs, capsys):
    status = lape.main(["--model", "toy", "--root", str(runs.root), "--k", "5"])
    assert status == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "error: `k` must be in (0, 1]; got 5.0. Pass a fraction, e.g. 0.05."
    )
