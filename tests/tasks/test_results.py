"""EvaluationTable and the tables made of it: by hand, on disk, and what is refused."""

import dataclasses
import math

import pandas as pd
import pytest
import torch

from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable, Measure
from lse_interp.tasks.tables import (
    AVERAGE,
    average_scores,
    language_report,
    language_scores,
    to_text,
)


def measure(**changes):
    parts = {
        "task": "flores_mlt_eng",
        "row": "FLORES TG→EN",
        "label": "FLORES mlt→eng",
        "group": "target",
        "language": "eng",
        "metric": "bleu",
        "unit": "BLEU",
        "higher_is_better": True,
        "headline": True,
        "text": "01",
    }
    return Measure(**parts | changes)


BLEU = measure()
CHRF = measure(metric="chrf", unit="chrF", headline=False)
TOPICS = measure(task="sib200_mlt", row="SIB200", label="SIB200 mlt", metric="letter_accuracy")
TOPICS = dataclasses.replace(TOPICS, unit="%", language="mlt")
ARC = dataclasses.replace(TOPICS, task="arc_easy", row="ARC EASY", label="arc easy")
ARC = dataclasses.replace(ARC, group="general", language="eng")
LOSS = measure(task="loss_eng", row="Loss", label="Loss eng", group="general", metric="loss")
LOSS = dataclasses.replace(LOSS, unit="nats", higher_is_better=False)


def doubles(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def table(**changes):
    parts = {
        "models": ("base", "target"),
        "methods": ("base", "target"),
        "seeds": (0, 0),
        "fingerprints": ("aa", "bb"),
        "language": "mlt",
        "measures": (BLEU, CHRF, TOPICS, ARC, LOSS),
        "scores": (
            doubles([10, 20, 30, 40], [15, 25, 35, 45]),
            doubles([1, 2, 3, 4], [1, 2, 3, 4]),
            doubles([0, 0, 100, 0, 0, 0], [100, 100, 100, 100, 100, 100]),
            doubles([100, 0], [0, 0]),
            doubles([5, 7], [6, 9]),
        ),
    }
    return EvaluationTable(**parts | changes)


def row(frame, **where):
    for name, value in where.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_to_frame_gives_means_errors_and_changes():
    frame = table().to_frame()
    assert tuple(frame.columns) == FRAME_COLUMNS
    assert len(frame) == 10
    base = row(frame, task="flores_mlt_eng", metric="bleu", model="base")
    assert base["score"] == 25
    assert base["stderr"] == pytest.approx(math.sqrt(500 / 3) / 2)
    assert math.isnan(base["difference"])
    own = row(frame, task="flores_mlt_eng", metric="bleu", model="target")
    assert (own["base"], own["difference"], own["low"], own["high"]) == (25, 5, 5, 5)
    assert own["language"] == "mlt"


def test_to_frame_tests_right_or_wrong_by_mcnemar():
    frame = table().to_frame()
    assert row(frame, task="sib200_mlt", model="target")["p_value"] == pytest.approx(2 / 2**5)
    assert row(frame, task="arc_easy", model="target")["p_value"] == 1


def test_a_proportion_of_few_questions_has_an_interval():
    topics = dataclasses.replace(BLEU, task="topics", label="Topics", metric="accuracy", unit="%")
    none_right = table(measures=(topics,), scores=(doubles([0] * 8, [0] * 8),))
    assert none_right.to_frame()["stderr"].tolist() == pytest.approx([100 / 18] * 2)
    assert "0.00 [0.00, 32.44]" in language_report(none_right)
    no_bleu = table(measures=(BLEU,), scores=(doubles([0] * 8, [0] * 8),))
    for found in (none_right, no_bleu):
        assert "± 0.00" not in language_report(found)


def test_of_selects_and_names_what_there_is():
    assert torch.equal(table().of("arc_easy", "letter_accuracy"), doubles([100, 0], [0, 0]))
    with pytest.raises(LseError, match="No measure 'arc_hard bleu' here"):
        table().of("arc_hard", "bleu")


def test_save_and_load_keep_everything(tmp_path):
    path = table().save(tmp_path / "mlt.safetensors")
    again = EvaluationTable.load(path)
    pd.testing.assert_frame_equal(again.to_frame(), table().to_frame())
    assert again.measures == table().measures
    assert all(torch.equal(a, b) for a, b in zip(again.scores, table().scores, strict=True))


def test_load_names_the_stage_that_writes_it(tmp_path):
    with pytest.raises(ArtifactError, match=r"python -m lse_interp\.evaluation"):
        EvaluationTable.load(tmp_path / "mlt.safetensors")


def test_concat_and_select_are_inverse():
    parts = [table().select([label]) for label in ("base", "target")]
    joined = EvaluationTable.concat(parts)
    assert joined.models == ("base", "target")
    assert all(torch.equal(a, b) for a, b in zip(joined.scores, table().scores, strict=True))
    assert table().select(["target", "base"]).seeds == (0, 0)
    with pytest.raises(LseError, match="No model 'tarjet' here. Did you mean target"):
        table().select(["tarjet"])


def test_concat_refuses_other_questions():
    one, two = table().select(["base"]), table().select(["target"])
    other = (dataclasses.replace(BLEU, text="99"), *two.measures[1:])
    with pytest.raises(MismatchError, match="base and target were not measured alike: measures"):
        EvaluationTable.concat([one, dataclasses.replace(two, measures=other)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ("base",)}, "Each of the 2 models needs"),
        ({"models": ("base", "base")}, "base stands for more than one"),
        ({"measures": (BLEU, BLEU, TOPICS, ARC, LOSS)}, "Measures need labels of their own"),
        ({"measures": (BLEU,)}, "got 1 measures and 5 tensors"),
    ],
)
def test_table_refuses_labels_that_do_not_fit(changes, message):
    with pytest.raises(MismatchError, match=message):
        table(**changes)


def test_table_refuses_scores_that_are_no_numbers():
    bad = doubles([1, math.nan], [1, 2])
    with pytest.raises(MismatchError, match=r"flores_mlt_eng \(bleu\) should be finite"):
        table(measures=(BLEU,), scores=(bad,))
    with pytest.raises(MismatchError, match="got 0 questions"):
        table(measures=(BLEU,), scores=(torch.zeros(2, 0, dtype=torch.float64),))


def test_language_scores_average_percent_and_bleu_but_not_losses():
    rows = language_scores(table().to_frame())
    assert CHRF.metric not in set(rows["metric"])
    target = row(rows, group="target", label=AVERAGE, model="target")
    assert target["score"] == pytest.approx((30 + 100) / 2)
    assert target["difference"] == pytest.approx((5 + 100 - 100 / 6) / 2)
    general = row(rows, group="general", label=AVERAGE, model="target")
    assert general["score"] == 0
    assert row(rows, label="Loss eng", model="target")["difference"] == 1.5


def test_language_scores_are_of_one_language():
    frame = table().to_frame()
    two = pd.concat([frame, frame.assign(language="isl")])
    with pytest.raises(LseError, match="table of one language; got 2"):
        language_scores(two)


def test_average_scores_say_over_how_many_languages():
    first = table().to_frame()
    second = table(language="isl").to_frame()
    second = second[second["task"] != "sib200_mlt"].copy()
    second.loc[second["model"] == "target", "score"] += 2
    rows = average_scores(pd.concat([first, second]))
    flores = row(rows, row="FLORES TG→EN", method="target")
    assert (flores["score"], flores["n_languages"]) == (31, 2)
    assert row(rows, row="SIB200", method="target")["n_languages"] == 1
    assert row(rows, group="target", row=AVERAGE, method="target")["score"] == (31 + 100) / 2


def test_average_scores_average_seeds_before_languages():
    frame = table().to_frame()
    seeds = [frame.assign(seed=seed, score=frame["score"] + 3 * seed) for seed in (0, 1, 2)]
    other = table(language="isl").to_frame()
    rows = average_scores(pd.concat([*seeds, other]))
    assert row(rows, row="FLORES TG→EN", method="target")["score"] == ((30 + 33 + 36) / 3 + 30) / 2


def test_average_scores_refuse_two_models_of_one_method_and_seed():
    frame = table().to_frame()
    again = frame[frame["model"] == "target"].assign(model="target-5000")
    with pytest.raises(LseError, match="mlt has two models of method target.*target-5000"):
        average_scores(pd.concat([frame, again]))


def test_to_text_prints_tasks_by_models():
    text = to_text(language_scores(table().to_frame()), name="label", column="model")
    assert text.splitlines()[0].split() == ["model", "base", "target"]
    assert "30.00 ± 6.45*" in text
    averages = to_text(average_scores(table().to_frame()), name="row", column="method")
    assert "65.00" in averages


def test_scores_without_the_columns_name_them():
    with pytest.raises(LseError, match="headline missing"):
        language_scores(table().to_frame().drop(columns="headline"))
    with pytest.raises(LseError, match="no rows"):
        average_scores(table().to_frame().iloc[:0])
