"""Counts that other projects saved, in each of their layouts, from the file to the figures."""

import logging
import os
import pickle

import numpy as np
import pytest
import torch

from lse_interp import lape, overlap
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError, LanguageError, MismatchError
from lse_interp.counting.counts import ActivationCounts, merge
from lse_interp.counting.foreign_counts import count_files
from lse_interp.models.info import ModelInfo
from lse_interp.neurons.identify import identify
from lse_interp.neurons.on_disk import CountsOnDisk
from lse_interp.neurons.sets import NeuronSets
from tests.tiny_models import D_MLP, N_LAYERS, folders  # noqa: F401

N_TOKENS = 4096
CODES = {"mlt": "mt", "slk": "sk", "lvs": "lv"}
INFO = ModelInfo(
    name="tiny",
    fingerprint=None,
    architecture="LlamaForCausalLM",
    n_layers=N_LAYERS,
    d_model=16,
    d_mlp=D_MLP,
    n_parameters=1,
)


def drawn(seed, *, most=N_TOKENS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(most + 1, (N_LAYERS, D_MLP), generator=generator)


def rucaibox(counts):
    return "activation.{}.train.llama-7b", {"n": N_TOKENS, "over_zero": counts.int()}


def gurgurov(counts):
    averages = {"average_activations": torch.rand(counts.shape), "activation_counts": counts}
    return "activation.{}.train.llama-3", rucaibox(counts)[1] | averages


def njunlp(counts):
    return "activation.{}.Mistral-1.pt", {"total_tokens": N_TOKENS + 10, "over_zero": counts + 3}


def kinit(counts):
    rates = counts.float() / torch.tensor(float(N_TOKENS))
    about = {"n": N_TOKENS // 512, "recording_strategy": "act", "components": ["mlp"]}
    return "{}_act.pt", about | {"mlp_over_threshold_rate": rates}


LAYOUTS = [rucaibox, gurgurov, njunlp, kinit]


def write(folder, layout):
    folder.mkdir(exist_ok=True)
    for seed, short in enumerate(CODES.values()):
        name, content = layout(drawn(seed))
        torch.save(content, folder / name.format(short))
        if layout is njunlp:
            prefix = {"total_tokens": 10, "over_zero": torch.full((N_LAYERS, D_MLP), 3)}
            torch.save(prefix, folder / f"prefix.{name.format(short)}")
    (folder / "README.md").write_text("counts")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_folder_of_another_project_becomes_neurons(layout, folders, tmp_path):  # noqa: F811
    write(tmp_path / "theirs", layout)
    where = ["--model", str(folders("llama")), "--root", str(tmp_path)]
    words = [*where, "--counts", str(tmp_path / "theirs"), "--k", "0.1", "--parquet"]
    assert lape.main(words) == 0
    path = next(tmp_path.rglob("lape.safetensors"))
    found = NeuronSets.load(path)
    model = ModelInfo.from_config(folders("llama"))
    ours = {
        code: ActivationCounts(
            language=code,
            model=model,
            site="mlp.hook_act",
            shard_n_positive=drawn(seed)[None],
            shard_n_tokens=torch.tensor([N_TOKENS]),
        )
        for seed, code in enumerate(CODES)
    }
    expected = identify(ours, k=0.1)
    assert set(found) == set(CODES)
    for code in CODES:
        assert torch.equal(found.mask(code), expected.mask(code))
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-6, atol=0)
    assert overlap.main([*where, "--neurons", str(path)]) == 0
    card = (path.parent / "lape-release" / "README.md").read_text().replace(" \\\n   ", "")
    assert f"--counts {tmp_path / 'theirs'}" in card
    assert "lse_interp.activations" not in card
    again = NeuronSets.from_parquet(path.parent / "lape-release" / "neurons.parquet")
    assert torch.equal(again.mask("mlt"), expected.mask("mlt"))


def read(source, **changes):
    return ActivationCounts.from_counts(source, **{"language": "mt", "model": INFO} | changes)


def test_from_counts_keeps_what_is_known_and_invents_nothing(tmp_path):
    found = read(gurgurov(drawn(0))[1])
    assert (found.language, found.n_tokens, found.n_shards) == ("mlt", N_TOKENS, 1)
    assert found.shard_n_positive.dtype == torch.int64
    assert torch.equal(found.n_positive, drawn(0))
    assert found.activation_sum is None
    assert found.to_frame()["mean"].isna().all()
    with pytest.raises(MismatchError, match="counts of mlt hold no sums of activations"):
        _ = found.mean
    again = ActivationCounts.load(found.save(tmp_path / "mlt.safetensors"), totals=True)
    assert again.activation_sum is None and torch.equal(again.n_positive, found.n_positive)
    assert merge(found, again).activation_sum is None


@pytest.mark.parametrize(
    "counts",
    [
        drawn(0).tolist(),
        drawn(0).numpy(),
        drawn(0).float(),
        drawn(0).T,
        list(drawn(0)),
        drawn(0).to_sparse(),
        drawn(0).numpy().astype(">i4"),
    ],
)
def test_from_counts_reads_lists_arrays_floats_and_neurons_by_layers(counts):
    found = read({"n": torch.tensor(N_TOKENS), "over_zero": counts})
    assert torch.equal(found.n_positive, drawn(0))


def test_from_counts_reads_numpy(tmp_path):
    counts = drawn(0).numpy()
    np.savez(tmp_path / "mt.npz", n=N_TOKENS, over_zero=counts)
    torch.save({"n": np.int64(N_TOKENS), "over_zero": counts}, tmp_path / "mt.pt")
    for name in ("mt.npz", "mt.pt"):
        assert torch.equal(read(tmp_path / name).n_positive, drawn(0))


def test_prompts_are_taken_off():
    prompts = {"total_tokens": 40, "over_zero": drawn(1, most=40)}
    whole = {"total_tokens": 100, "over_zero": prompts["over_zero"] + drawn(0, most=60)}
    found = read(whole, prefix=prompts)
    assert found.n_tokens == 60
    assert torch.equal(found.n_positive, drawn(0, most=60))


def test_neurons_that_lose_more_than_they_have_are_reported(caplog):
    grid = torch.zeros(N_LAYERS, D_MLP, dtype=torch.int64)
    prompts = grid.clone()
    prompts[1, 2] = 4
    found = read(
        {"total_tokens": 100, "over_zero": grid}, prefix={"total_tokens": 40, "over_zero": prompts}
    )
    assert found.n_positive.sum() == 0
    assert "1 neurons were active more often on the prompts alone" in caplog.text


@pytest.mark.parametrize("n_tokens", [512 * 7, 2048 * 33, 4096 * 2000])
def test_rates_give_the_counts_back(n_tokens):
    counts = drawn(2, most=n_tokens // 8)
    rates = counts.float() / torch.tensor(n_tokens).float()
    length = {512 * 7: 512, 2048 * 33: 2048, 4096 * 2000: 4096}[n_tokens]
    found = read({"n": n_tokens // length, "mlp_over_threshold_rate": rates})
    assert found.n_tokens == n_tokens
    torch.testing.assert_close(found.n_positive, counts, rtol=1e-6, atol=0)


def odd(**changes):
    return {"n": N_TOKENS, "over_zero": drawn(0)} | changes


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ({}, MismatchError, "no activation counts that are known here: .* found dict"),
        ({"n": 3, "over": 1}, MismatchError, "expected the keys .*; found n, over"),
        (
            odd(over_zero=drawn(0) - 9000),
            MismatchError,
            "72 counts of mlt are negative; the first is -",
        ),
        (odd(n=4000), MismatchError, "are larger than the number of tokens; the first is"),
        (odd(n=0), MismatchError, "text in each; got"),
        (
            odd(n=torch.tensor([1, 2])),
            MismatchError,
            "`n` of the counts must be one number; found 2",
        ),
        (odd(n="100"), ArtifactError, "`n` of the counts must be numbers"),
        (odd(n=None), ArtifactError, "`n` of the counts must be numbers"),
        (odd(over_zero=[[1, 2], [3]]), ArtifactError, "`over_zero` of the counts must be numbers"),
        (odd(over_zero={0: [1]}), ArtifactError, "`over_zero` of the counts must be numbers"),
        (odd(over_zero=drawn(0) > 9), MismatchError, "must be whole numbers; found torch.bool"),
        (odd(n=1.5), MismatchError, "`n` of the counts must be whole numbers; 1 are not, e.g. 1.5"),
        (
            odd(over_zero=drawn(0) / 7),
            MismatchError,
            "are not, e.g. .* Multiply rates by the number",
        ),
        (odd(over_zero=drawn(0) * torch.nan), MismatchError, "must be whole numbers"),
        (
            odd(over_zero=drawn(0)[:, :-1]),
            MismatchError,
            r"\[layer neuron\] = \[3, 24\] for tiny; found \[3, 23\]",
        ),
        (odd(over_zero=drawn(0).flatten()), MismatchError, rf"found \[{N_LAYERS * D_MLP}\]"),
        (kinit(drawn(0))[1] | {"recording_strategy": "grad_act"}, MismatchError, "'grad_act', not"),
        (
            {"n": 3, "mlp_over_threshold_rate": torch.rand(N_LAYERS, D_MLP)},
            MismatchError,
            "no whole number of tokens in 3 sequences",
        ),
        (
            {"n": 3, "mlp_over_threshold_rate": torch.full((N_LAYERS, D_MLP), torch.nan)},
            MismatchError,
            r"must be in \[0, 1\]; 72 are not",
        ),
    ],
)
def test_from_counts_refuses(source, error, message):
    with pytest.raises(error, match=message):
        read(source)


def test_from_counts_names_an_unknown_language():
    with pytest.raises(LanguageError, match="unknown language 'xqz'"):
        read(odd(), language="xqz")


class Bomb:
    def __reduce__(self):
        return os.system, ("exit 1",)


@pytest.mark.parametrize("content", [Bomb(), [1, 2], {"mt": odd()}])
def test_files_that_hold_something_else_are_refused(tmp_path, content):
    path = tmp_path / "mt.pt"
    torch.save(content, path)
    with pytest.raises(
        (ArtifactError, MismatchError), match="mt.pt (cannot be read|holds no)"
    ) as e:
        read(path)
    assert "elete" not in str(e.value) and "weights_only" not in str(e.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = tmp_path / "mt.pt"
    torch.save(odd(), path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="cannot be read as activation counts. It is truncated"):
        read(path)
    with pytest.raises(ArtifactError, match="absent is not a file of activation counts"):
        read(tmp_path / "absent")


def test_a_foreign_file_is_not_called_damaged(tmp_path):
    path = tmp_path / "mt.pt"
    torch.save(odd(), path)
    for bytes_ in (path.read_bytes(), pickle.dumps([1] * 9)):
        path.write_bytes(bytes_)
        with pytest.raises(ArtifactError, match="another program wrote it") as e:
            ActivationCounts.load(path)
        assert "elete" not in str(e.value)


def test_count_files_reads_languages_from_names(tmp_path):
    names = {
        "activation.id.train.llama-7b": "ind",
        "activation.en.Mistral-de76.pt": "eng",
        "mt.pt": "mlt",
        "Welsh.pth": "cym",
        "sk_grad_act.pt": "slk",
        "grad_act_lv.pt": "lvs",
        "srp-Latn.npz": "srp-Latn",
        "kat_Geor.safetensors": "kat",
        "llama.is.pt": "isl",
        "opt_af.pt": "afr",
        "dev.mk.pt": "mkd",
        "counts_kas_Deva.pt": "kas-Deva",
    }
    for name in (
        *names,
        "prefix.activation.bn.pt",
        "README.md",
        ".mlt.pt",
        "lvs.json",
        "activation.pt",
    ):
        (tmp_path / name).touch()
    found = count_files(tmp_path)
    assert {path.name: code for code, path in found.items()} == names
    (tmp_path / "mlt.safetensors").touch()
    with pytest.raises(MismatchError, match=r"mlt.safetensors and mt.pt in .* both counts of mlt"):
        count_files(tmp_path)


def test_lape_names_what_a_folder_lacks(tmp_path, capsys):
    write(tmp_path / "theirs", rucaibox)
    where = ["--root", str(tmp_path), "--counts", str(tmp_path / "theirs")]
    assert lape.main([*where, "--langs", "mlt", "deu"]) == 2
    error = capsys.readouterr().err
    assert "No activation counts of deu in" in error and "Found: lvs mlt slk" in error
    paths = RunPaths(tmp_path, "embedded")
    with pytest.raises(MismatchError, match=r"\[8, 1024\] for embedded; found \[3, 24\]"):
        CountsOnDisk(paths, folder=tmp_path / "theirs")["mlt"]
    assert lape.main([*where[:-1], str(tmp_path / "absent")]) == 2
    assert "of any language in" in capsys.readouterr().err


def test_counts_in_a_folder_of_artefacts_are_read(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    for seed, code in enumerate(CODES):
        read(odd(over_zero=drawn(seed)), language=code).save(tmp_path / f"{code}.safetensors")
    where = ["--root", str(tmp_path / "runs"), "--counts", str(tmp_path), "--k", "0.1"]
    assert lape.main(where) == 0
    assert lape.main(where) == 0
    assert "is finished; reusing it" in caplog.text
