"""A damaged file is refused with a message, or read as if nothing had happened; nothing between.

Not read at all, and so free to be damaged: the `.json` twins, `curves.csv`, figures and logs.
"""

import dataclasses
import random

import pytest

from lse_interp.artifacts.format import read_meta
from lse_interp.core.errors import ArtifactError, MismatchError
from lse_interp.counting.shard_store import ShardStore
from lse_interp.neurons.sets import NeuronSets
from lse_interp.subnetworks.finetune_run import FinetuneRun
from lse_interp.subnetworks.load_tuned import load_tuned
from lse_interp.training.finetune_language import finetune_language
from tests.training.tiny_runs import OPTIONS, TRAINING, VALIDATION, stopped_at, tiny_model, tune

from .small_artefacts import INFO, KINDS, SETTINGS, load, neurons, same, saved

N_FLIPS, N_LENGTHS = 120, 30


def flipped(whole, bit):
    octets = bytearray(whole)
    octets[bit // 8] ^= 1 << (bit % 8)
    return bytes(octets)


def damages(whole, *, seed, n_flips=N_FLIPS, n_lengths=N_LENGTHS):
    """Yield the content of a file with one bit flipped, or cut short."""
    chosen = random.Random(seed)
    # Headers are short and matter most.
    n_bits = 8 * len(whole)
    bits = [*chosen.sample(range(min(64, n_bits)), 8), *chosen.sample(range(n_bits), n_flips)]
    for bit in bits:
        yield flipped(whole, bit)
    for length in sorted({0, 1, 7, 8, 9, *chosen.sample(range(len(whole)), n_lengths)}):
        yield whole[:length]


@pytest.mark.parametrize("kind", KINDS)
def test_artefacts_are_refused_after_any_damage(tmp_path, kind):
    path = saved(kind, tmp_path)
    assert same(load(kind, path), load(kind, path))
    whole = path.read_bytes()
    for damaged in damages(whole, seed=kind):
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load(kind, path)


@pytest.mark.parametrize("kind", KINDS)
def test_artefacts_do_without_their_twin(tmp_path, kind):
    path = saved(kind, tmp_path)
    expected = load(kind, path)
    for left in tmp_path.rglob("*.json"):
        left.write_bytes(b"\x00")
    assert same(load(kind, path), expected)


def test_read_meta_finds_damage_of_what_it_reads(tmp_path):
    """Nothing but a checksum tells one fingerprint from another."""
    path = saved("counts", tmp_path)
    whole = path.read_bytes()
    expected = read_meta(path, kind="activation_counts", version=1)
    n_header = int.from_bytes(whole[:8], "little")
    for bit in random.Random(0).sample(range(8 * (8 + n_header)), 500):
        path.write_bytes(flipped(whole, bit))
        try:
            found = read_meta(path, kind="activation_counts", version=1)
        except ArtifactError:
            continue
        assert found == expected


def test_artefacts_from_before_the_second_checksum_are_read(tmp_path):
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = saved("counts", tmp_path)
    expected = load("counts", path)
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    del header["sha256_description"]
    # Beside it: what was loaded may still be a view of the file.
    save_file(tensors, tmp_path / "older", metadata=header)
    (tmp_path / "older").replace(path)
    assert same(load("counts", path), expected)


def test_shards_that_changed_places_are_refused(tmp_path):
    path = saved("counting shard", tmp_path)
    moved = path.with_name("00004.safetensors")
    path.rename(moved)
    store = ShardStore(tmp_path, SETTINGS)
    message = "00004.safetensors holds shard 3; it was renamed. Delete it"
    with pytest.raises(ArtifactError, match=message):
        store.load(4)
    with pytest.raises(ArtifactError, match=message):
        store.indices()


def without_provenance(sets):
    return dataclasses.replace(sets, provenance={})


@pytest.mark.parametrize("form", ["parquet", "masks"])
def test_foreign_forms_are_read_whole_or_refused(tmp_path, form):
    if form == "parquet":
        path = neurons().to_parquet(tmp_path / "neurons.parquet")
    else:
        path = neurons().to_masks(tmp_path / "neurons.pth")

    def read():
        if form == "parquet":
            return without_provenance(NeuronSets.from_parquet(path))
        masks = NeuronSets.from_masks(path, languages=("mlt", "eng"), model=INFO)
        return without_provenance(masks)

    expected = read()
    whole = path.read_bytes()
    n_refused = 0
    for damaged in damages(whole, seed=form, n_flips=250):
        path.write_bytes(damaged)
        try:
            found = read()
        except (ArtifactError, MismatchError):
            n_refused += 1
            continue
        assert same(found, expected)
    assert n_refused > 60


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that was stopped behind a checkpoint, and how it ends."""
    folder = tmp_path_factory.mktemp("stopped")
    model = tiny_model()
    with stopped_at(model, 3):
        tune(model, folder=folder)
    return folder


def test_damaged_checkpoints_are_refused(stopped):
    path = stopped / "checkpoints" / "last.safetensors"
    whole = path.read_bytes()
    for damaged in damages(whole, seed=path.name, n_flips=8, n_lengths=4):
        if damaged == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match="Pass --overwrite to train from the beginning"):
            tune(tiny_model(), folder=stopped)
    path.write_bytes(whole)
    tune(tiny_model(), folder=stopped)


@pytest.mark.parametrize(("method", "file"), [("full", "model"), ("lora", "adapter")])
def test_damaged_weights_of_a_finished_run_are_refused(tmp_path, method, file):
    model = tiny_model()
    finetune_language(
        model,
        TRAINING,
        language="mlt",
        validation=VALIDATION,
        method=method,
        options=dataclasses.replace(OPTIONS, epochs=1),
        folder=tmp_path,
    )
    assert FinetuneRun.exists(tmp_path)
    for path in (tmp_path / file).glob("*.safetensors"):
        whole = path.read_bytes()
        for damaged in damages(whole, seed=0, n_flips=3, n_lengths=3):
            path.write_bytes(damaged)
            with pytest.raises(ArtifactError, match=rf"{file}.*was altered after it was written"):
                load_tuned(tmp_path)
        path.write_bytes(whole)
