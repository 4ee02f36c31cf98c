"""The paper's numbers: transcribed as printed, and what follows from them."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses import published, published_numbers
from analyses.paper import checks, transcribe
from analyses.paper.claims import claims
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.core.languages import LANGUAGES, PAPER_REFERENCE, PAPER_TARGETS

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "analyses" / "paper"
FILES = ("table01", "figure11", "table02", "tables03_14", "tables15_26", "tables27_38")
TEXT = Path(os.environ.get("LSE_REFERENCE_DATA", "/nonexistent")).parent / "paper.txt"

METHODS = ["base", "full", "ffn", "lora", "random:size", "target"]
GROUPS = {
    "target": ("Target Language Performance", "Monolingual Capabilities"),
    "general": ("General Capabilities", "General Performance"),
}


def csv(name):
    return pd.read_csv(FOLDER / f"{name}.csv", dtype=str, keep_default_na=False)


def block(head, rows, caption):
    lines = ["\t".join(cells) for cells in [head, *rows]]
    return "\n".join([*lines, "", caption, ""])


def printed_sizes(name, caption):
    rows = [
        [LANGUAGES[row.language].name, row.n_neurons, f"{row.trainable_millions}M", row.percent]
        for row in csv(name).itertuples()
    ]
    return block(["Lang.", "# Neurons", "# Trainable Param-s", "%"], rows, caption)


def printed_scores(frame, caption, *, heading):
    columns = list(dict.fromkeys(frame["column"]))
    rows = []
    for group, part in frame.groupby("group", sort=False):
        rows.append([GROUPS[group][heading], *[""] * len(columns)])
        labels = part.groupby("printed", sort=False)["score"].agg(list)
        rows += [[label, *scores] for label, scores in labels.items()]
    return block(["Metric", *columns], rows, caption)


def paper():
    """The tables of this repository, laid out as in the paper's text."""
    parts = [printed_sizes("table01", "Table 1: Neuron, parameter counts.")]
    parts.append(printed_scores(csv("table02"), "Table 2: Average results.", heading=0))
    parts.append(printed_sizes("figure11", "Figure 11: Neuron and parameter counts."))
    for name, tail in (("tables03_14", " for LLAMA-3.1-8B."), ("tables15_26", ".")):
        for (table, code), frame in csv(name).groupby(["table", "language"], sort=False):
            caption = f"Table {table}: Results across various tasks for {LANGUAGES[code].name}"
            parts.append(printed_scores(frame, caption + tail, heading=1))
    for (table, code), frame in csv("tables27_38").groupby(["table", "language"], sort=False):
        rows = frame.groupby("model", sort=False)["cosine"].agg(list)
        parts.append(
            block(
                ["", "ar", "de", "en", "es", "fr", "it", "ja", "ru", "zh"],
                [[model, *scores] for model, scores in rows.items()],
                f"Table {table}: Cosine (in %) of the target language ({LANGUAGES[code].name}).",
            )
        )
    return "Before.\n\n" + "\n".join(parts) + "\nAfter.\n"


@pytest.mark.skipif(
    not TEXT.is_file(), reason="LSE_REFERENCE_DATA names no folder beside paper.txt"
)
def test_transcribe_gives_the_files_of_this_repository(tmp_path):
    written = transcribe.run(transcribe.Config(text=TEXT, folder=tmp_path))
    assert [path.stem for path in written] == list(FILES)
    for path in written:
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


def test_transcribe_reads_tables_laid_out_as_in_the_paper(tmp_path):
    text = tmp_path / "paper.txt"
    text.write_text(paper(), encoding="utf-8")
    assert transcribe.main(["--text", str(text), "--folder", str(tmp_path / "csv")]) == 0
    for name in FILES:
        path = tmp_path / "csv" / f"{name}.csv"
        assert path.read_bytes() == (FOLDER / path.name).read_bytes()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Table 7:", "Chart 7:", "The text has no Table 7; found Table 1, Table 2"),
        ("\t31.7M\t", "\t", r"Table 1: expected 4 cells in a row, found \['Afrikaans'"),
        ("\t31.7M\t", "\t31.7\t", r"Table 1: '31\.7' is not a number as the paper prints"),
        ("Metric\tBase\tRandom", "Metric\tRandom\tBase", r"Table 15: expected the columns \['Met"),
        ("FLORES afr Latn→en\t45.88", "FLORES cym Latn→en\t45.88", "Table 3: no row of afr is lab"),
        ("SIB200 afr Latn\t35.29", "SIB200 en→afr Latn\t35.29", "Table 3: no row of afr is lab"),
        ("mmlu\t58.07\t27.63", "piqa\t58.07\t27.63", r"Table 3: expected the rows"),
        ("BELEBELE afr Latn\t72.11", "mmlu\t72.11", "Table 3: expected the group of mmlu"),
        ("\t45.88\t", "\t4S.88\t", "Table 3: '4S.88' is not a number as the paper prints them"),
        ("for Welsh for", "of Welsh,", "Table 4 does not say its language"),
        ("Adapter\t84.79", "LoRA\t84.79", r"Table 27: expected the rows \['Baseline'"),
        ("Welsh\t6020", "Maltese\t6020", r"Table 1: expected the languages \['afr', 'cym'"),
    ],
)
def test_transcribe_refuses_what_is_not_as_expected(old, new, message):
    text = paper()
    assert old in text
    with pytest.raises(ArtifactError, match=message):
        transcribe.transcribe(text.replace(old, new, 1))


def test_run_names_a_missing_text(tmp_path):
    with pytest.raises(ArtifactError, match=r"no.txt does not exist; give the paper as text"):
        transcribe.run(transcribe.Config(text=tmp_path / "no.txt", folder=tmp_path))


@pytest.mark.parametrize(
    ("model", "methods"), [("llama", METHODS), ("nemo", METHODS[::4] + ["target"])]
)
def test_downstream_has_every_language_method_and_row(model, methods):
    frame = published.downstream(model)
    methods = list(dict.fromkeys(methods))
    assert list(dict.fromkeys(frame["language"])) == list(PAPER_TARGETS)
    assert list(dict.fromkeys(frame["method"])) == methods
    # Twelve rows and two averages; Belebele has no Welsh.
    assert len(frame) == len(methods) * (12 * 14 - 1)
    assert not frame.duplicated(["language", "method", "group", "row"]).any()
    rows = (
        frame[~frame["is_average"]]
        .groupby("language")["row"]
        .agg(lambda row: list(dict.fromkeys(row)))
    )
    for code, found in rows.items():
        expected = [row for row in published.ROWS if code != "cym" or row != "BELEBELE"]
        assert found == expected
    first = 3 if model == "llama" else 15
    assert frame["table"].tolist() == [
        first + PAPER_TARGETS.index(code) for code in frame["language"]
    ]
    assert frame["score"].between(0, 100).all()


def test_averages_has_every_method_and_row():
    frame = published.averages()
    assert list(dict.fromkeys(frame["method"])) == METHODS
    assert tuple(dict.fromkeys(frame.loc[~frame["is_average"], "row"])) == published.ROWS
    assert len(frame) == 6 * 14
    assert set(frame["table"]) == {2}


def test_alignment_averages_have_every_pair_and_the_mean_the_paper_states():
    frame = published.alignment_averages()
    assert len(frame) == 12 * 6 * 9
    assert set(frame["language"]) == set(PAPER_TARGETS)
    assert set(frame["against"]) == set(PAPER_REFERENCE)
    assert not frame.duplicated(["language", "model", "against"]).any()
    # Paper, section 6.2.
    assert round(frame.loc[frame["model"] == "Target", "cosine"].mean(), 2) == 90.47


@pytest.mark.parametrize(
    ("printed", "recomputed", "unit", "expected"),
    [
        (38.01, 38.0033, 0.01, False),
        (38.00, 38.0033, 0.01, True),
        (31.37, 31.365, 0.01, True),
        (31.36, 31.365, 0.01, True),
        (31.1, 31.15008, 0.1, False),
    ],
)
def test_agrees_allows_half_a_digit(printed, recomputed, unit, expected):
    found = checks.agrees(pd.Series([printed]), pd.Series([recomputed]), unit=unit)
    assert found.tolist() == [expected]


def test_summary_rows_of_the_target_language_are_means_of_the_tables():
    found = checks.summary_rows()
    target = found[found["group"] == "target"]
    assert len(target) == 36
    assert target["agrees"].all()
    assert set(target.loc[target["row"] == "BELEBELE", "n"]) == {11}
    assert set(target.loc[target["row"] != "BELEBELE", "n"]) == {12}


def test_summary_rows_of_general_capabilities_differ_by_a_quarter_point():
    general = checks.summary_rows().query("group == 'general'")
    assert int((~general["agrees"]).sum()) == 27
    difference = (general["printed"] - general["recomputed"]).abs()
    assert round(difference.max(), 3) == 0.247
    at = general.loc[difference.idxmax()]
    assert (at["row"], at["method"]) == ("ARC EASY", "ffn")


def test_summary_rows_keep_the_order_of_methods():
    found = checks.summary_rows()
    ranks = found.groupby(["group", "row"])[["printed", "recomputed"]].rank()
    assert (ranks["printed"] == ranks["recomputed"]).all()


def test_summary_averages_are_means_over_languages_for_the_target_language():
    found = checks.summary_averages()
    target, general = (found[found["group"] == group] for group in ("target", "general"))
    assert checks.agrees(target["printed"], target["of_languages"]).all()
    assert not checks.agrees(target["printed"], target["of_rows"]).any()
    assert checks.agrees(general["printed"], general["of_rows"]).all()


def test_table_averages_differ_in_two_cells():
    found = checks.table_averages("llama")
    differing = found[~found["agrees"]]
    assert list(differing[["table", "method", "group"]].itertuples(index=False, name=None)) == [
        (3, "base", "target"),
        (8, "target", "general"),
    ]
    assert differing["printed"].tolist() == [38.01, 63.58]
    np.testing.assert_allclose(differing["recomputed"], [38.00333, 63.57333], atol=1e-5)
    assert checks.table_averages("nemo")["agrees"].all()
    assert found.loc[found["language"] == "cym", "n"].tolist() == [5] * 6 + [6] * 6


def test_sizes_follow_from_the_number_of_neurons():
    assert checks.sizes("llama")["agrees"].all()
    nemo = checks.sizes("nemo")
    assert nemo.loc[~nemo["agrees"], "language"].tolist() == ["kat"]
    row = nemo.set_index("language").loc["kat"]
    assert (row["n_trainable"], row["trainable_millions"]) == (31_150_080, 31.1)


def test_lora_parameters_are_not_those_the_text_states():
    # gate and up map 4096 to 14336 in each of 32 layers.
    assert checks.lora_parameters("llama", rank=62, n_matrices=2) == 32 * 2 * (
        62 * 4096 + 14336 * 62
    )
    assert round(checks.lora_parameters("llama", rank=62, n_matrices=2) / 1e6, 1) == 73.1
    assert round(checks.lora_parameters("llama", rank=32, n_matrices=3) / 1e6) == 57


@pytest.mark.parametrize("model", published.MODELS)
def test_fractions_of_the_questions_are_all_that_is_printed(model):
    found = checks.fractions(model)
    assert (found["n_fitting"] == found["n_printed"]).all()
    assert (found["chance"] < 0.2).all()


def test_fractions_tell_other_splits_apart(monkeypatch):
    monkeypatch.setattr(checks, "N_QUESTIONS", {"ARC CHALLENGE": ("test", 1172)})
    found = checks.fractions("llama").iloc[0]
    assert (found["n_printed"], found["n_fitting"]) == (72, 15)


def test_base_scores_lists_what_varies():
    llama, nemo = checks.base_scores("llama"), checks.base_scores("nemo")
    assert set(llama["row"]) == {"WINOGRANDE"}
    assert llama["score"].tolist() == [51.38, 51.46, 51.54, 51.62]
    assert nemo["score"].tolist() == [40.85, 40.86]
    assert nemo["languages"].iloc[0] == "lit"


def test_shared_cells_are_few():
    for model, most in (("llama", 3), ("nemo", 2)):
        found = checks.shared_cells(model)
        assert len(found) == 66
        assert found["n_shared"].max() == most


def test_gains_are_differences_of_printed_averages():
    assert checks.gains("llama")["afr"] == pytest.approx(42.99 - 38.01)
    assert checks.gains("llama", method="lora")["cym"] == pytest.approx(31.33 - 25.43)
    assert checks.gains("nemo", over="general")["slv"] == pytest.approx(63.58 - 67.81)
    every = published.downstream("nemo").query("language == 'cym' and not is_average")
    means = every.groupby("method")["score"].agg(["mean", "size"])
    assert means["size"].tolist() == [11] * 3
    expected = means.at["target", "mean"] - means.at["base", "mean"]
    assert checks.gains("nemo", over="all")["cym"] == pytest.approx(expected)
    with pytest.raises(LseError, match="No mean over 'targt'. Did you mean target"):
        checks.gains("llama", over="targt")


def test_claims_say_what_was_found():
    found = {(claim.place, claim.verdict): claim.found for claim in claims()}
    assert len(claims()) == 16
    assert found["4.3", "differs"].startswith("Table 1: mean 38.4M")
    verdicts = [claim.verdict for claim in claims()]
    assert {word: verdicts.count(word) for word in set(verdicts)} == {
        "agrees": 7,
        "in part": 6,
        "differs": 3,
    }
    texts = " ".join(claim.found for claim in claims())
    for number in (
        "73.1M (0.91 %)",
        "FLORES EN→TG +4.95",
        "lvs −0.16",
        "Target 90.47",
        "99 of 108",
    ):
        assert number in texts


def test_page_holds_the_numbers_computed(tmp_path):
    page = REPOSITORY / "docs" / "published_numbers.md"
    text = page.read_text(encoding="utf-8")
    copy = tmp_path / "page.md"
    copy.write_text(text, encoding="utf-8")
    assert published_numbers.main(["--page", str(copy)]) == 0
    assert copy.read_text(encoding="utf-8") == text


def test_run_names_what_the_page_lacks(tmp_path):
    page = tmp_path / "page.md"
    with pytest.raises(ArtifactError, match=r"page.md does not exist; give the page to fill"):
        published_numbers.run(published_numbers.Config(page=page))
    page.write_text("<!-- claims --><!-- /claims -->", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"lacks the markers <!-- lora --> and <!-- /lora -->"):
        published_numbers.run(published_numbers.Config(page=page))
    assert page.read_text(encoding="utf-8") == "<!-- claims --><!-- /claims -->"
