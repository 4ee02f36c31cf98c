"""The tables: what they read, average, mark and write."""

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
import torch

from analyses import paper_tables
from analyses.__main__ import main
from analyses.scores import measured_scores, read_scores
from lse_interp.analysis.alignment import AlignmentCurves
from lse_interp.core.errors import ArtifactError, LseError
from lse_interp.models.info import ModelInfo
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable, Measure

# Language, method, seed, row, group, unit, score, stderr.
SCORES = [
    ("mlt", "base", 0, "Translation TG→EN", "target", "BLEU", 10.0, 1.0),
    ("mlt", "base", 0, "Topics", "target", "%", 40.0, 3.0),
    ("mlt", "base", 0, "Topics in English", "general", "%", 50.0, 3.0),
    ("mlt", "base", 0, "Loss in English", "general", "nats", 2.0, 0.1),
    ("mlt", "target", 0, "Translation TG→EN", "target", "BLEU", 14.0, 1.0),
    ("mlt", "target", 0, "Topics", "target", "%", 60.0, 4.0),
    ("mlt", "target", 1, "Topics", "target", "%", 62.0, 2.0),
    ("mlt", "target", 0, "Topics in English", "general", "%", 50.0, 3.0),
    ("mlt", "target", 0, "Loss in English", "general", "nats", 2.5, 0.1),
    ("cym", "base", 0, "Translation TG→EN", "target", "BLEU", 20.0, 2.0),
    ("cym", "base", 0, "Topics in English", "general", "%", 50.0, 3.0),
    ("cym", "base", 0, "Loss in English", "general", "nats", 2.0, 0.1),
    ("cym", "target", 0, "Translation TG→EN", "target", "BLEU", 18.0, 2.0),
    ("cym", "target", 0, "Topics in English", "general", "%", 44.0, 3.0),
    ("cym", "target", 0, "Loss in English", "general", "nats", 1.0, 0.1),
]


def made_up(rows=SCORES):
    frame = pd.DataFrame(
        [
            {
                **{"language": language, "model": f"{method}-{seed}", "method": method},
                **{"seed": seed, "task": row.lower(), "row": row, "group": group, "unit": unit},
                **{"label": row.replace("TG", language).replace("EN", "eng"), "metric": "any"},
                **{"headline": True, "score": score, "stderr": stderr, "n_documents": 9},
            }
            for language, method, seed, row, group, unit, score, stderr in rows
        ]
    )
    return frame.reindex(columns=list(FRAME_COLUMNS))


@pytest.fixture
def evaluation(tmp_path):
    path = tmp_path / "scores.csv"
    other = made_up(SCORES[:1]).assign(headline=False, metric="chrf", score=99.0)
    pd.concat([made_up(), other]).to_csv(path, index=False)
    return path


def section(page, title):
    return page.read_text(encoding="utf-8").split(f"## {title}\n\n")[1].split("\n## ")[0]


def test_table02_averages_of_the_embedded_scores(evaluation, tmp_path, capsys):
    assert main(["table02", str(evaluation), "--figures", str(tmp_path / "figures")]) == 0
    page = tmp_path / "figures" / "table02_scores.md"
    text = page.read_text(encoding="utf-8")
    assert text.startswith(capsys.readouterr().out)
    lines = text.splitlines()
    assert lines[:2] == ["| Metric | Over | Base | Target |", "| --- | ---: | ---: | ---: |"]
    # Means over Maltese and Welsh; errors add in quadrature: sqrt(1 + 4) / 2.
    assert "| Translation TG→EN | 2 | *15.00* ± 1.12 | **16.00** ± 1.12 |" in lines
    # Maltese alone; two seeds are averaged, and their errors too.
    assert "| Topics | 1 | *40.00* ± 3.00 | **61.00** ± 3.00 |" in lines
    # A loss is best when low, and in no average.
    assert "| Loss in English | 2 | *2.00* ± 0.07 | **1.75** ± 0.07 |" in lines
    assert "| Avg. of the rows | 2 | *27.50* ± 1.60 | **38.50** ± 1.60 |" in lines
    # (10 + 40) / 2 and 20; (14 + 61) / 2 and 18.
    assert "| Avg. of the languages | 2 | *22.50* ± 1.27 | **27.75** ± 1.27 |" in lines
    assert "| Avg. of the rows | 1 | **50.00** ± 2.12 | *47.00* ± 2.12 |" in lines
    assert sum(line.startswith("| Avg. of the languages") for line in lines) == 1
    assert "Losses in nats are best when low" in text
    assert "seeds 0, 1" in text


def test_table02_averages_shows_published_and_recomputed(draw):
    page, csv, *_ = draw("table02", source="published")
    text = page.read_text(encoding="utf-8")
    assert "| BELEBELE | 11 | *66.52* | 21.22 | 38.35 | 56.61 | 59.82 | **66.84** |\n" in text
    assert "| ARC EASY | 12 | **85.79** | 23.86 | 46.77 (47.02) |" in text
    assert "| Avg., as printed |  | 29.56 | 11.88 | 21.81 | 28.41 | *29.89* | **33.02** |\n" in text
    assert "| Avg. of the rows | 6 | 30.13 |" in text
    assert "| Avg. of the languages | 12 | 29.56 | 11.88 | 21.81 | 28.41 |" in text
    frame = pd.read_csv(csv)
    assert len(frame) == 6 * (12 + 2 * 3)
    row = frame.query("label == 'ARC EASY' and method == 'ffn'").iloc[0]
    assert (row["score"], row["recomputed"], row["rank"]) == (46.77, 47.0167, 5)


def test_table02_averages_makes_the_table_of_the_second_model(draw):
    *_, page, _ = draw("table02", source="published")
    assert page.name == "table02_published_nemo.md"
    text = page.read_text(encoding="utf-8")
    # What the paper would have printed: the means of twelve printed averages, the last 29.715.
    assert "| Avg. of the languages | 12 | 26.18 | *29.04* | **29.7" in text
    assert "as printed" not in text
    assert "table02 --source published" in text


def test_tables03_14_languages_of_the_embedded_scores(evaluation, draw):
    page, csv = draw("tables03_14", evaluation)
    assert page.name == "tables03_14_scores.md"
    welsh, maltese = section(page, "Welsh"), section(page, "Maltese")
    assert page.read_text(encoding="utf-8").index("## Welsh") < page.read_text().index("## Maltese")
    assert "| Topics | – | – |\n" in welsh
    assert "| Avg. of 1 | **20.00** ± 2.00 | *18.00* ± 2.00 |\n" in welsh
    assert "| Translation mlt→eng | *10.00* ± 1.00 | **14.00** ± 1.00 |\n" in maltese
    assert "| Avg. of 2 | *25.00* ± 1.58 | **37.50** ± 1.58 |\n" in maltese
    # Equal scores are both best.
    assert "| Topics in English | **50.00** ± 3.00 | **50.00** ± 3.00 |\n" in maltese
    assert "| Loss in English | **2.00** ± 0.10 | *2.50* ± 0.10 |\n" in maltese
    frame = pd.read_csv(csv)
    assert frame.query("label == 'Topics' and language == 'cym'")["score"].isna().all()
    # Four rows and two averages, of two methods in two languages.
    assert len(frame) == 2 * 2 * 6


def test_tables03_14_languages_as_published(draw):
    page, _ = draw("tables03_14", source="published")
    afrikaans, welsh = section(page, "Afrikaans (Table 3)"), section(page, "Welsh (Table 4)")
    expected = "| FLORES afr→eng | 45.88 | 17.35 | 45.58 | 48.16 | *49.34* | **49.43** |\n"
    assert expected in afrikaans
    assert "| Avg. of 6 | 38.01 (38.00) | 18.47 |" in afrikaans
    assert "| BELEBELE | – | – | – | – | – | – |\n" in welsh
    assert "| Avg. of 5 | 25.43 | 17.95 | 27.00 | **31.33** |" in welsh
    assert page.read_text(encoding="utf-8").count("\n## ") == 12


def test_tables15_26_languages_as_published(tmp_path):
    assert main(["tables15_26", "--figures", str(tmp_path)]) == 0
    slovenian = section(tmp_path / "tables15_26_published.md", "Slovenian (Table 26)")
    assert "| Metric | Base | Random (size) | Target |\n" in slovenian
    assert "| Avg. of 6 | **27.36** | *26.64* | 24.93 |\n" in slovenian


def make_table(language, *, methods=("base", "target")):
    n = len(methods)
    measure = Measure(
        task=f"topics_{language}",
        row="Topics",
        label=f"Topics {language}",
        group="target",
        language=language,
        metric="letter_accuracy",
        unit="%",
        higher_is_better=True,
        headline=True,
        text="abc",
    )
    right = torch.tensor([[100.0, 0, 0, 0], [100, 100, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    return EvaluationTable(
        models=methods,
        methods=methods,
        seeds=(0,) * n,
        fingerprints=methods,
        language=language,
        measures=(measure,),
        scores=(right[:n],),
    )


def test_read_scores_of_a_folder_of_evaluations(draw, tmp_path):
    folder = tmp_path / "my-model" / "evaluation"
    for language in ("mlt", "cym"):
        make_table(language).save(folder / f"{language}.safetensors")
    page, _ = draw("tables15_26", folder)
    assert page.name == "tables15_26_my-model.md"
    # Half of Wilson's interval, z = 1: sqrt(p (1 - p) / 4 + 1 / 64) / (1 + 1 / 4).
    assert "| Topics mlt | *25.00* ± 20.00 | **50.00** ± 22.36 |\n" in section(page, "Maltese")
    one = read_scores(folder / "mlt.safetensors")
    assert (one.name, set(one.frame["language"])) == ("my-model_mlt", {"mlt"})


def test_measured_scores_reads_a_repeated_base_once_and_refuses_other_repeats(tmp_path):
    make_table("mlt").save(tmp_path / "one.safetensors")
    make_table("mlt", methods=("base", "full")).save(tmp_path / "two.safetensors")
    frame = measured_scores(tmp_path)
    assert frame["method"].tolist() == ["base", "target", "full"]
    rows = [*SCORES, SCORES[0][:6] + (11.0, 1.0)]
    made_up(rows).to_csv(tmp_path / "twice.csv", index=False)
    with pytest.raises(LseError, match=r"two scores of mlt, base, 0, Translation TG→EN; keep one"):
        measured_scores(tmp_path / "twice.csv")


def test_read_scores_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ArtifactError,
        match=r"docs/evaluation.csv does not exist. `python -m analyses.evaluation_results` writes",
    ):
        read_scores()
    with pytest.raises(ArtifactError, match=r"runs/x/evaluation does not exist"):
        read_scores(Path("runs/x/evaluation"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"empty holds no evaluation"):
        read_scores(Path("empty"))
    made_up().drop(columns=["stderr", "unit"]).to_csv("short.csv", index=False)
    with pytest.raises(LseError, match=r"needs the columns language, .*; unit, stderr missing"):
        read_scores(Path("short.csv"))
    made_up().assign(headline=False).to_csv("none.csv", index=False)
    with pytest.raises(LseError, match=r"none.csv has no headline score"):
        read_scores(Path("none.csv"))
    made_up().assign(method="targt").to_csv("typo.csv", index=False)
    with pytest.raises(
        LseError, match=r"There is no fine-tuning method 'targt'. Did you mean target"
    ):
        read_scores(Path("typo.csv"))


def test_main_ends_a_missing_source_in_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["table02"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: docs/evaluation.csv does not exist. `python -m analyses.")
    assert error.count("\n") == 1


def test_scores_markdown_counts_in_the_cells_where_methods_differ(evaluation):
    scores = read_scores(evaluation)
    lacking = scores.frame.query("method == 'base' or language == 'mlt'")
    fewer = dataclasses.replace(scores, frame=lacking)
    cells = paper_tables.ranked(paper_tables.summary_cells(fewer))
    text = paper_tables.scores_markdown(cells, counted="over")
    assert "| Translation TG→EN |  | **15.00** ± 1.12 [2] | *14.00* ± 1.00 [1] |\n" in text


def test_ranked_is_at_the_printed_precision():
    cells = pd.DataFrame(
        {
            "group": "target",
            "label": ["a"] * 3 + ["loss"] * 2,
            "method": ["base", "full", "target", "base", "target"],
            "unit": ["%"] * 3 + ["nats"] * 2,
            "score": [10.001, 10.004, math.nan, 3.0, 2.0],
        }
    )
    ranks = paper_tables.ranked(cells)["rank"]
    assert ranks.isna().tolist() == [False, False, True, False, False]
    assert ranks.dropna().tolist() == [1, 1, 2, 1]


def test_tables27_38_alignment_as_published(draw):
    page, csv = draw("tables27_38", source="published")
    icelandic = section(page, "Icelandic (Table 30)")
    assert "| German | 88.54 | 90.85 | 90.20 | **93.79** | 91.14 | *93.44* |\n" in icelandic
    assert "| Mean of 9 | 85.80 | *90.08* | 86.05 | 89.61 | 89.40 | **92.54** |\n" in icelandic
    everything = section(page, "All languages (Figure 7c)")
    assert "| Mean of 12 | 85.56 | 87.31 | 85.89 | 87.45 | *87.69* | **90.47** |\n" in everything
    assert len(pd.read_csv(csv)) == 12 * 6 * 10 + 6 * 13


def make_curves(language):
    infos = [ModelInfo("embedded", name, "LlamaForCausalLM", 2, 4, 8, 100) for name in "ab"]
    raw = torch.tensor([[[0.4, 0.6]], [[0.5, 0.9]]], dtype=torch.float64)
    cosine = torch.stack([raw / 2, raw], dim=1)
    estimate = torch.stack([cosine, cosine - 0.3, cosine * 0 + 0.3, cosine / 2], dim=2)
    return AlignmentCurves(
        models=("base", "target"),
        infos=tuple(infos),
        language=language,
        against=("eng",),
        site="hook_resid_post",
        pooling="mean",
        sinks="drop",
        n_sentences=7,
        text="abc",
        n_bootstrap=10,
        seed=0,
        estimate=estimate,
        low=estimate - 0.02,
        high=estimate + 0.03,
        n_sinks=torch.zeros(2, 1, 2, dtype=torch.int64),
    )


def test_tables27_38_alignment_of_artefacts(draw, tmp_path):
    folder = tmp_path / "runs" / "embedded" / "alignment"
    for language in ("slk", "mlt"):
        make_curves(language).save(folder / f"{language}.safetensors")
    page, csv = draw("tables27_38", root=tmp_path / "runs")
    assert page.name == "tables27_38_embedded.md"
    assert "| English | 25.00 (50.00) | 35.00 (70.00) |\n" in section(page, "Slovak")
    assert "| Maltese with | base | target |\n" in section(page, "Maltese")
    frame = pd.read_csv(csv)
    assert frame["cosine"].round(6).tolist() == [25, 50, 35, 70] * 2
    one = folder / "slk.safetensors"
    assert draw("tables27_38", one)[0].name == "tables27_38_slk.md"
    (folder / "mlt.safetensors").unlink()
    with pytest.raises(ArtifactError, match="alignment in slk alone, whose table is written with"):
        draw("tables27_38", root=tmp_path / "runs")


def test_tables27_38_alignment_names_what_writes_a_missing_artefact(draw, tmp_path):
    with pytest.raises(ArtifactError, match=r"alignment/mlt.safetensors does not exist. `make dem"):
        draw("tables27_38", root=tmp_path)
