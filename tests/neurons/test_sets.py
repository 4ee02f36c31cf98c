"""NeuronSets: invariants, set algebra, random controls, and every format it reads and writes."""

import dataclasses
import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lse_interp.core.errors import ArtifactError, LanguageError, LseError, MismatchError
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.controls import draw_control
from lse_interp.neurons.indices import mask_to_indices
from lse_interp.neurons.sets import NeuronSets

FEW = settings(max_examples=25, deadline=None, derandomize=True)
MATCHES = ("size", "layer", "activity")


def model_info(**changes):
    values = {
        "name": "toy",
        "fingerprint": "abc",
        "architecture": "LlamaForCausalLM",
        "n_layers": 3,
        "d_model": 4,
        "d_mlp": 40,
        "n_parameters": 10_000,
    }
    return ModelInfo(**(values | changes))


def layers_of(*lists):
    return tuple(torch.tensor(layer, dtype=torch.int64) for layer in lists)


def hand_made(**changes):
    """Maltese and Slovak share (0, 2); Latvian has no neurons; layer 1 is empty throughout."""
    values = {
        "indices": {
            "mlt": layers_of([0, 2], [], [39]),
            "lvs": layers_of([], [], []),
            "slk": layers_of([2, 5], [], []),
        },
        "model": model_info(),
        "site": "mlp.hook_act",
        "method": "lape",
        "thresholds": {"k": 0.05, "activity": 0.25},
        "scores": torch.rand(3, 40, dtype=torch.float64).where(torch.rand(3, 40) > 0.1, math.inf),
        "score_name": "lape",
        "score_unit": "nats",
        "probability": torch.rand(3, 3, 40, dtype=torch.float64),
        "provenance": {"n_tokens": {"mlt": 10}},
    }
    return NeuronSets(**(values | changes))


def random_sets(seed, *, share=0.2, codes=("mlt", "slk", "slv")):
    rng = np.random.default_rng(seed)
    masks = {code: torch.from_numpy(rng.random((3, 40)) < share) for code in codes}
    return NeuronSets(
        indices={code: mask_to_indices(mask) for code, mask in masks.items()},
        model=model_info(),
        site="mlp.hook_act",
        method="lape",
        probability=torch.from_numpy(rng.random((len(codes), 3, 40))),
    )


def places(mask):
    return set(map(tuple, mask.nonzero().tolist()))


def assert_same(found, expected):
    assert found.languages == expected.languages
    for code in expected:
        for a, b in zip(found[code], expected[code], strict=True):
            assert torch.equal(a, b)
            assert a.dtype == torch.int64


def test_neuron_sets_select_count_and_size_by_code():
    neurons = hand_made()
    assert neurons.languages == ("mlt", "lvs", "slk")
    assert list(neurons) == ["mlt", "lvs", "slk"]
    assert len(neurons) == 3
    assert "slk" in neurons
    assert "deu" not in neurons
    assert [layer.tolist() for layer in neurons["mlt"]] == [[0, 2], [], [39]]
    assert neurons.counts("mlt").tolist() == [2, 0, 1]
    assert [neurons.size(code) for code in neurons] == [3, 0, 2]
    assert places(neurons.mask("mlt")) == {(0, 0), (0, 2), (2, 39)}


def test_n_trainable_counts_three_projections_of_d_model():
    neurons = hand_made()
    assert neurons.n_trainable("mlt") == 3 * 3 * 4
    ungated = dataclasses.replace(neurons, model=dataclasses.replace(neurons.model, gated=False))
    assert ungated.n_trainable("mlt") == 2 * 3 * 4
    assert neurons.n_trainable("lvs") == 0


def test_an_unknown_language_lists_near_misses():
    with pytest.raises(LanguageError, match="No neurons of 'mla' here. Did you mean mlt"):
        hand_made()["mla"]


def test_every_spelling_of_a_language_means_the_same_sets():
    own = hand_made()
    spelt = hand_made(
        indices={
            name: own[code] for name, code in (("Maltese", "mlt"), ("lav", "lvs"), ("sk", "slk"))
        }
    )
    assert spelt.languages == own.languages == ("mlt", "lvs", "slk")
    for name in ("mlt", "mt", "maltese", "mlt_Latn", "MLT"):
        assert name in own
        assert torch.equal(own.mask(name), own.mask("mlt"))
        assert (own.size(name), own.counts(name).tolist()) == (3, [2, 0, 1])
        assert torch.equal(own.exclusive(name), own.exclusive("mlt"))
        assert torch.equal(own.union(name, "lav"), own.union("mlt", "lvs"))
    chosen = own.select("Slovak", "mt", "slk")
    assert chosen.languages == ("slk", "mlt")
    assert torch.equal(chosen.probability, own.probability[[2, 0]])
    assert not {"ekk", "law", 3} & set(filter(own.__contains__, ("ekk", "law", 3)))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("mlt", "mt"), r"'mlt' and 'mt' are the same language \(mlt\)\. Give each language once"),
        (("mlt", "toki"), "unknown language 'toki'; .* qaa to qtz"),
    ],
)
def test_a_language_twice_or_an_unknown_label_is_refused(names, message):
    layers = layers_of([], [], [])
    with pytest.raises(LanguageError, match=message):
        hand_made(indices=dict.fromkeys(names, layers), probability=None)


def test_private_codes_name_sets_of_ones_own():
    neurons = hand_made(indices={"qaa": layers_of([1], [], [])}, probability=None)
    assert (neurons.languages, neurons.size("QAA")) == (("qaa",), 1)


def test_set_algebra_of_a_hand_computed_case():
    neurons = hand_made()
    assert places(neurons.union()) == {(0, 0), (0, 2), (0, 5), (2, 39)}
    assert places(neurons.union("lvs", "slk")) == {(0, 2), (0, 5)}
    assert places(neurons.intersection("mlt", "slk")) == {(0, 2)}
    assert places(neurons.intersection()) == set()
    assert places(neurons.exclusive("mlt")) == {(0, 0), (2, 39)}


@FEW
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_set_algebra_agrees_with_python_sets(seed, share):
    neurons = random_sets(seed, share=share)
    a, b, c = (places(neurons.mask(code)) for code in neurons)
    assert places(neurons.union()) == a | b | c
    assert places(neurons.intersection("mlt", "slv")) == a & c
    assert places(neurons.exclusive("slk")) == b - a - c
    assert [neurons.size(code) for code in neurons] == [len(a), len(b), len(c)]


def test_one_language_alone_is_exclusive():
    neurons = random_sets(0, codes=("mlt",))
    assert torch.equal(neurons.exclusive("mlt"), neurons.mask("mlt"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"indices": {}}, LanguageError, "at least one language"),
        (
            {"indices": {"mlt": layers_of([0], [1])}},
            LseError,
            "each of the 3 layers of toy; got 2 layers",
        ),
        (
            {"indices": {"mlt": layers_of([], [7, 40], [])}},
            LseError,
            r"neurons of mlt in layer 1 must be indices in \[0, 40\).*got \[7, 40\]",
        ),
        ({"indices": {"mlt": layers_of([-1], [], [])}}, LseError, r"mlt in layer 0 .* got \[-1\]"),
        (
            {"indices": {"mlt": layers_of([], [], [5, 3])}},
            LseError,
            r"layer 2 .*ascend without repeats; got \[5, 3\]",
        ),
        ({"indices": {"mlt": layers_of([3, 3], [], [])}}, LseError, "ascend without repeats"),
        (
            {"scores": torch.full((3, 40), math.nan).double()},
            LseError,
            "`scores` must hold numbers",
        ),
        ({"probability": -torch.ones(3, 3, 40).double()}, LseError, r"at least 0; found -1\.0"),
        (
            {"probability": torch.ones(2, 3, 40).double()},
            LseError,
            r"`probability` must have shape \(3, 3, 40\); got \(2, 3, 40\)",
        ),
        ({"scores": torch.ones(2, 40).double(), "probability": None}, LseError, r"shape \(3, 40\)"),
    ],
)
def test_neuron_sets_refuse_what_cannot_be(changes, error, message):
    with pytest.raises(error, match=message):
        hand_made(**changes)


def test_to_frame_gives_each_neuron_its_evidence():
    neurons = hand_made()
    frame = neurons.to_frame()
    assert frame[["language", "layer", "neuron"]].values.tolist() == [
        ["mlt", 0, 0],
        ["mlt", 0, 2],
        ["mlt", 2, 39],
        ["slk", 0, 2],
        ["slk", 0, 5],
    ]
    assert frame["lape"][4] == neurons.lape[0, 5]
    assert frame["probability"][3] == neurons.probability[2, 0, 2]
    assert frame["probability"][1] == neurons.probability[0, 0, 2]


def test_to_frame_marks_unknown_evidence():
    frame = hand_made(scores=None, probability=None).to_frame()
    assert list(frame.columns) == ["language", "layer", "neuron", "lape", "probability"]
    assert frame[["lape", "probability"]].isna().all(axis=None)


def test_to_frame_of_empty_sets_keeps_its_columns():
    frame = hand_made(indices={"lvs": layers_of([], [], [])}, probability=None).to_frame()
    assert len(frame) == 0
    assert list(frame.columns) == ["language", "layer", "neuron", "lape", "probability"]


@pytest.mark.parametrize("known", [True, False])
def test_save_and_load_round_trip(tmp_path, known):
    neurons = hand_made() if known else hand_made(scores=None, probability=None, site=None)
    loaded = NeuronSets.load(neurons.save(tmp_path / "neurons.safetensors"))
    assert_same(loaded, neurons)
    for field in (
        "model",
        "site",
        "method",
        "thresholds",
        "score_name",
        "score_unit",
        "provenance",
    ):
        assert getattr(loaded, field) == getattr(neurons, field)
    if known:
        assert torch.equal(loaded.scores, neurons.scores)
        assert torch.equal(loaded.probability, neurons.probability)
    else:
        assert loaded.scores is None
        assert loaded.probability is None


def test_save_and_load_of_sets_without_any_neuron(tmp_path):
    neurons = hand_made(indices={"lvs": layers_of([], [], [])}, probability=None)
    assert_same(NeuronSets.load(neurons.save(tmp_path / "n.safetensors")), neurons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 4}, r"neurons\.safetensors belongs to another model: expected n_layers 4"),
        ({"d_mlp": 64}, r"expected d_mlp 64 \(toy\), found d_mlp 40"),
        ({"fingerprint": "xyz"}, "expected fingerprint xyz .*found abc"),
    ],
)
def test_load_refuses_neurons_of_another_model(tmp_path, changes, message):
    path = hand_made().save(tmp_path / "neurons.safetensors")
    NeuronSets.load(path, model=model_info())
    with pytest.raises(MismatchError, match=message):
        NeuronSets.load(path, model=model_info(**changes))


def test_load_refuses_a_truncated_file(tmp_path):
    path = hand_made().save(tmp_path / "neurons.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="truncated"):
        NeuronSets.load(path)


def test_to_parquet_writes_the_frame_and_says_what_it_is(tmp_path):
    neurons = hand_made()
    path = neurons.to_parquet(tmp_path / "neurons.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(path), neurons.to_frame())
    about = json.loads(pq.read_schema(path).metadata[b"lse_interp"])
    assert about["model"]["fingerprint"] == "abc"
    assert about["site"] == "mlp.hook_act"
    assert about["thresholds"] == {"k": 0.05, "activity": 0.25}
    assert about["n_neurons"] == {"mlt": 3, "lvs": 0, "slk": 2}


@pytest.mark.parametrize("known", [True, False])
def test_from_parquet_reads_what_to_parquet_wrote(tmp_path, known):
    neurons = hand_made() if known else hand_made(scores=None, probability=None, site=None)
    path = neurons.to_parquet(tmp_path / "neurons.parquet")
    read = NeuronSets.from_parquet(path, model=model_info())
    assert_same(read, neurons)
    for field in (
        "model",
        "site",
        "method",
        "thresholds",
        "score_name",
        "score_unit",
        "provenance",
    ):
        assert getattr(read, field) == getattr(neurons, field)
    pd.testing.assert_frame_equal(read.to_frame(), neurons.to_frame())
    again = read.to_parquet(tmp_path / "again.parquet")
    assert again.read_bytes() == path.read_bytes()


def test_load_reads_a_release_too_and_checks_the_model_it_is_for(tmp_path):
    @dataclasses.dataclass
    class Model:
        info: ModelInfo

    sets = hand_made()
    path = sets.to_parquet(tmp_path / "neurons.parquet")
    other = dataclasses.replace(model_info(), fingerprint="other")
    for model in (None, model_info(), Model(model_info())):
        read = NeuronSets.load(path, model=model)
        pd.testing.assert_frame_equal(read.to_frame(), sets.to_frame())
    for model in (other, Model(other)):
        with pytest.raises(MismatchError, match="belongs to other weights"):
            NeuronSets.load(path, model=model)


def test_from_parquet_knows_the_evidence_of_listed_neurons_alone(tmp_path):
    neurons = hand_made()
    read = NeuronSets.from_parquet(neurons.to_parquet(tmp_path / "neurons.parquet"))
    listed = neurons.union()
    assert torch.equal(read.lape[listed], neurons.lape[listed])
    assert torch.equal(read.lape.isnan(), ~listed)
    for position, code in enumerate(neurons):
        own = neurons.mask(code)
        assert torch.equal(read.probability[position][own], neurons.probability[position][own])
        assert torch.equal(read.probability[position].isnan(), ~own)
    only = hand_made(scores=None).to_parquet(tmp_path / "only.parquet")
    assert NeuronSets.from_parquet(only).lape is None
    assert NeuronSets.from_parquet(only).probability is not None


@FEW
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_from_parquet_round_trips_any_sets(tmp_path_factory, seed, share):
    neurons = random_sets(seed, share=share)
    path = neurons.to_parquet(tmp_path_factory.mktemp("release") / "neurons.parquet")
    read = NeuronSets.from_parquet(path)
    assert_same(read, neurons)
    pd.testing.assert_frame_equal(read.to_frame(), neurons.to_frame())


def test_sets_read_from_parquet_save_select_and_control(tmp_path):
    neurons = hand_made()
    read = NeuronSets.from_parquet(neurons.to_parquet(tmp_path / "neurons.parquet"))
    saved = NeuronSets.load(read.save(tmp_path / "neurons.safetensors"))
    torch.testing.assert_close(saved.probability, read.probability, rtol=0, atol=0, equal_nan=True)
    assert_same(read.select("slk"), neurons.select("slk"))
    assert_same(read.random_like(seed=0), neurons.random_like(seed=0))
    with pytest.raises(LseError, match="of all neurons; only some are known for"):
        read.random_like(seed=0, match="activity")


def test_neuron_sets_may_not_know_the_evidence_of_other_neurons_alone():
    neurons = hand_made()
    unknown = neurons.probability.clone()
    unknown[:, 1] = math.nan
    hand_made(probability=unknown)
    for name, place in (("probability", (2, 0, 5)), ("scores", (2, 39))):
        values = getattr(neurons, name).clone()
        values[place] = math.nan
        with pytest.raises(LseError, match=f"`{name}` must hold numbers for the neurons of the"):
            hand_made(**{name: values})
    unknown[0, 0, 1] = -1
    with pytest.raises(LseError, match=r"at least 0; found -1\.0"):
        hand_made(probability=unknown)


def test_from_parquet_refuses_every_single_byte_that_was_changed_and_matters(tmp_path):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    whole, expected = path.read_bytes(), NeuronSets.from_parquet(path)
    n_refused = 0
    for at in np.random.default_rng(0).choice(len(whole), 300, replace=False):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        path.write_bytes(bytes(changed))
        try:
            read = NeuronSets.from_parquet(path)
        except ArtifactError:
            n_refused += 1
            continue
        # Parquet keeps copies and statistics that nobody reads.
        assert_same(read, expected)
        pd.testing.assert_frame_equal(read.to_frame(), expected.to_frame())
        assert (read.model, read.thresholds) == (expected.model, expected.thresholds)
    assert n_refused > 100


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neuron": 40}, r"was altered after it was written.* Take the original file"),
        ({"lape": 7.5}, "was altered"),
        ({"language": "slv"}, "was altered"),
        ({"layer": 3.0}, "was altered"),
    ],
)
def test_from_parquet_refuses_rows_that_were_edited(tmp_path, changes, message):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    table = pq.read_table(path)
    frame = table.to_pandas()
    for column, value in changes.items():
        frame[column] = frame[column].astype(object)
        frame.loc[0, column] = value
        frame[column] = frame[column].infer_objects()
    edited = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(edited.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(ArtifactError, match=message):
        NeuronSets.from_parquet(path)


@pytest.mark.parametrize("rows", [[0, 1, 3, 4], [0, 0, 1, 2, 3, 4], [1, 0, 2, 3, 4]])
def test_from_parquet_refuses_rows_lost_doubled_or_moved(tmp_path, rows):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    pq.write_table(pq.read_table(path).take(rows), path)
    with pytest.raises(ArtifactError, match="was altered"):
        NeuronSets.from_parquet(path)


def test_from_parquet_refuses_an_edited_description(tmp_path):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    table = pq.read_table(path)
    about = table.schema.metadata[b"lse_interp"].replace(b'"k": 0.05', b'"k": 0.01')
    assert about != table.schema.metadata[b"lse_interp"]
    pq.write_table(
        table.replace_schema_metadata(table.schema.metadata | {b"lse_interp": about}), path
    )
    with pytest.raises(ArtifactError, match="its rows or its description"):
        NeuronSets.from_parquet(path)


def test_from_parquet_refuses_files_that_are_no_release_table(tmp_path):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(ArtifactError, match="cannot be read as a release table; it is truncated"):
        NeuronSets.from_parquet(path)
    path.write_bytes(whole)
    frame = pd.read_parquet(path)
    frame.to_parquet(path)
    with pytest.raises(ArtifactError, match=r"\(no metadata under `lse_interp`\).*original file"):
        NeuronSets.from_parquet(path)
    frame.drop(columns="neuron").to_parquet(path)
    with pytest.raises(ArtifactError, match=r"not a release table .*no column neuron"):
        NeuronSets.from_parquet(path)
    with pytest.raises(ArtifactError, match="absent is not a file. Give the neurons.parquet that"):
        NeuronSets.from_parquet(tmp_path / "absent")


def test_from_parquet_refuses_neurons_of_another_model(tmp_path):
    path = hand_made().to_parquet(tmp_path / "neurons.parquet")
    with pytest.raises(MismatchError, match="expected fingerprint xyz .*found abc"):
        NeuronSets.from_parquet(path, model=model_info(fingerprint="xyz"))


def test_masks_round_trip(tmp_path):
    neurons = hand_made()
    path = neurons.to_masks(tmp_path / "masks.pth")
    read = NeuronSets.from_masks(path, languages=["mlt", "lvs", "slk"], model=model_info())
    assert_same(read, neurons)
    assert read.method == "masks"
    again = read.to_masks(tmp_path / "again.pth")
    for first, second in zip(torch.load(path), torch.load(again), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_from_masks_accepts_any_spelling_and_any_order_of_indices(tmp_path):
    torch.save([[torch.tensor([5, 2]), torch.tensor([0])]], tmp_path / "masks.pth")
    model = model_info(n_layers=2)
    neurons = NeuronSets.from_masks(tmp_path / "masks.pth", languages=["mt"], model=model)
    assert_same(
        neurons,
        hand_made(
            indices={"mlt": layers_of([2, 5], [0])}, model=model, scores=None, probability=None
        ),
    )


@pytest.mark.parametrize(
    ("masks", "languages", "error", "message"),
    [
        (
            [[[0], [], []]] * 2,
            ["mlt"],
            MismatchError,
            "holds 2 languages without their names; named were mlt",
        ),
        (
            [[[0], []]],
            ["mlt"],
            MismatchError,
            "mlt must be listed for each of the 3 layers .*got 2",
        ),
        ([[[0], [40], []]], ["mlt"], MismatchError, r"mlt in layer 1 .* in \[0, 40\) .*got \[40\]"),
        ([[[0], [-2], []]], ["mlt"], MismatchError, r"got \[-2\]"),
        ([[[0], [3, 3], []]], ["mlt"], MismatchError, r"layer 1 .*without repeats; got \[3, 3\]"),
        (
            [[[0], [0.5], []]],
            ["mlt"],
            ArtifactError,
            r"whole numbers along one axis, or a mask of 40; found torch\.float32",
        ),
        ([[[0], [], []]] * 2, ["mlt", "mt"], LanguageError, "Name each language once; got mlt"),
        ([[[0], [], []]], ["nlt"], LanguageError, "unknown language 'nlt'"),
        ([], ["mlt"], ArtifactError, "must hold a list"),
    ],
)
def test_from_masks_refuses_files_that_do_not_fit(tmp_path, masks, languages, error, message):
    path = tmp_path / "masks.pth"
    # An empty list would become float32.
    tensors = [[torch.tensor(t) if t else layers_of([])[0] for t in layers] for layers in masks]
    torch.save(tensors, path)
    with pytest.raises(error, match=message):
        NeuronSets.from_masks(path, languages=languages, model=model_info())


def test_from_masks_refuses_what_it_cannot_read(tmp_path):
    def read(path):
        return NeuronSets.from_masks(path, languages=["mlt"], model=model_info())

    with pytest.raises(ArtifactError, match="absent is not a file of neuron masks"):
        read(tmp_path / "absent")
    (tmp_path / "nemo").touch()
    with pytest.raises(ArtifactError, match="is a folder; give one of its files: nemo"):
        read(tmp_path)
    whole = hand_made().to_masks(tmp_path / "whole")
    (tmp_path / "half").write_bytes(whole.read_bytes()[:200])
    with pytest.raises(ArtifactError, match="is truncated, .* or holds more than tensors"):
        read(tmp_path / "half")
    torch.save([model_info()], tmp_path / "object")
    with pytest.raises(ArtifactError, match="holds more than tensors"):
        read(tmp_path / "object")
    torch.save({"mlt": 1}, tmp_path / "dict")
    with pytest.raises(ArtifactError, match="mlt must be a list over layers of .* found int"):
        read(tmp_path / "dict")


@FEW
@given(seed=st.integers(0, 10_000), match=st.sampled_from(MATCHES), share=st.floats(0, 0.3))
def test_random_like_keeps_the_size_and_avoids_the_original(seed, match, share):
    neurons = random_sets(seed, share=share)
    control = neurons.random_like(seed=seed, match=match)
    assert control.method == f"random:{match}"
    for code in neurons:
        assert control.size(code) == neurons.size(code)
        assert not (control.mask(code) & neurons.mask(code)).any()
        if match != "size":
            assert torch.equal(control.counts(code), neurons.counts(code))


@pytest.mark.parametrize("match", MATCHES)
def test_random_like_depends_on_seed_and_language_alone(match):
    neurons = random_sets(0)
    control = neurons.random_like(seed=1, match=match)
    assert_same(neurons.random_like(seed=1, match=match), control)
    reordered = dataclasses.replace(
        neurons,
        indices={code: neurons[code] for code in ("slv", "mlt")},
        probability=neurons.probability[[2, 0]],
    )
    other = reordered.random_like(seed=1, match=match)
    assert all(torch.equal(other.mask(code), control.mask(code)) for code in other)
    another_seed = neurons.random_like(seed=2, match=match)
    assert not torch.equal(another_seed.mask("mlt"), control.mask("mlt"))


def test_random_like_draws_differently_for_equal_sets():
    same = random_sets(0)["mlt"]
    neurons = hand_made(indices={"mlt": same, "slk": same}, probability=None)
    control = neurons.random_like(seed=0)
    assert not torch.equal(control.mask("mlt"), control.mask("slk"))


def test_random_like_by_size_is_uniform_over_what_remains():
    neurons = hand_made(indices={"mlt": layers_of(range(20), [], [])}, probability=None)
    drawn = torch.stack(
        [neurons.random_like(seed=seed).counts("mlt") for seed in range(200)]
    ).double()
    # 20 of the 100 remaining: a fifth of the 20 left in layer 0, of 40 in the others.
    torch.testing.assert_close(
        drawn.mean(dim=0), torch.tensor([4.0, 8.0, 8.0]).double(), atol=0.6, rtol=0
    )


def test_random_like_by_activity_resembles_the_original_more_than_by_layer():
    rng = np.random.default_rng(0)
    probability = torch.from_numpy(rng.random((1, 2, 500)))
    # The most active tenth, as LAPE would choose: half of all such neurons.
    mask = (probability[0] > 0.8) & torch.from_numpy(rng.random((2, 500)) < 0.5)
    neurons = NeuronSets(
        indices={"mlt": mask_to_indices(mask)},
        model=model_info(n_layers=2, d_mlp=500),
        site="mlp.hook_act",
        method="lape",
        probability=probability,
    )

    def mean_activity(sets):
        return float(sets.to_frame()["probability"].mean())

    found = mean_activity(neurons)
    by_activity = [mean_activity(neurons.random_like(seed=s, match="activity")) for s in range(5)]
    by_layer = [mean_activity(neurons.random_like(seed=s, match="layer")) for s in range(5)]
    assert max(abs(found - value) for value in by_activity) < 0.1
    assert min(abs(found - value) for value in by_layer) > 0.4


def test_random_like_by_activity_does_not_prefer_low_indices_among_ties():
    neurons = hand_made(
        indices={"mlt": layers_of([0, 1], [], [])},
        model=model_info(d_mlp=400),
        scores=None,
        probability=torch.zeros(1, 3, 400, dtype=torch.float64),
    )
    drawn = [neurons.random_like(seed=s, match="activity")["mlt"][0] for s in range(100)]
    assert 160 < torch.cat(drawn).double().mean() < 240


def test_random_like_by_activity_prefers_exact_ties_to_neighbours():
    probability = torch.zeros(1, 3, 400, dtype=torch.float64)
    probability[..., 200:] = 0.5
    neurons = hand_made(
        indices={"mlt": layers_of(range(200, 210), [], [])},
        model=model_info(d_mlp=400),
        scores=None,
        probability=probability,
    )
    drawn = [neurons.random_like(seed=s, match="activity").to_frame() for s in range(20)]
    assert pd.concat(drawn)["probability"].mean() > 0.45


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": 0, "match": "layer"}, "mlt in layer 0 needs 25 .* only 15 of 40 remain"),
        ({"seed": 0, "match": "activity"}, "mlt in layer 0 needs 25 .* only 15 of 40 remain"),
        ({"seed": -1}, "`seed` must be at least 0; got -1"),
    ],
)
def test_random_like_refuses_what_it_cannot_draw(arguments, message):
    probability = torch.rand(1, 3, 40, dtype=torch.float64)
    neurons = hand_made(indices={"mlt": layers_of(range(25), [], [])}, probability=probability)
    assert neurons.random_like(seed=0).size("mlt") == 25
    with pytest.raises(LseError, match=message):
        neurons.random_like(**arguments)


def test_random_like_by_size_needs_as_many_outside_as_inside():
    neurons = hand_made(indices={"mlt": layers_of(range(40), range(30), [])}, probability=None)
    with pytest.raises(LseError, match="mlt over all layers needs 70 .* only 50 of 120 remain"):
        neurons.random_like(seed=0)


def test_random_like_by_activity_needs_probabilities():
    with pytest.raises(LseError, match=r"probabilities of all neurons; none are known for"):
        hand_made(probability=None).random_like(seed=0, match="activity")


def test_draw_control_lists_the_ways_to_match():
    mask = torch.zeros(2, 4, dtype=torch.bool)
    with pytest.raises(LseError, match="Unknown match 'layers'. Did you mean layer"):
        draw_control(mask, language="mlt", seed=0, match="layers")
