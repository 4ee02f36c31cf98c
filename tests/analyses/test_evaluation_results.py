"""The tables of task scores, collected from artefacts made by hand."""

import pandas as pd
import pytest
import torch

from analyses import evaluation_results
from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError
from lse_interp.tasks.results import FRAME_COLUMNS, EvaluationTable, measures_of
from lse_interp.tasks.task import Task
from tests.subnetworks.making_runs import make_run

TASK = Task("endings", "Endings", "Endings mlt", "target", "completion", "mlt")


def evaluated(language, labels, methods):
    scores = torch.tensor([[0.0, 100.0]] + [[100.0, 100.0]] * (len(labels) - 1)).double()
    found = measures_of(TASK, text="01")
    return EvaluationTable(
        models=labels,
        methods=methods,
        seeds=(0,) * len(labels),
        fingerprints=labels,
        language=language,
        measures=found,
        scores=(scores,) * len(found),
    )


@pytest.fixture
def folder(tmp_path, tiny):
    paths = RunPaths(tmp_path / "runs", "embedded")
    for language in ("mlt", "isl"):
        run = make_run(tiny, language=language)
        run.settings["n_training_tokens"] = 4987
        for name, asked in (("target", None), ("target-5000", 5000)):
            run.settings["tokens"] = asked
            run.save(paths.finetune(language, name))
        labels = ("base", "target", "random-layer")
        table = evaluated(language, labels, ("base", "target", "random:layer"))
        table.save(paths.evaluation(language))
        sizes = evaluated(language, ("base", "target-5000"), ("base", "target"))
        sizes.save(paths.evaluation("").parent / "sizes" / f"{language}.safetensors")
    return tmp_path


@pytest.fixture(scope="module")
def tiny():
    from tests.training.tiny_runs import tiny_model

    return tiny_model()


def config(folder, **changes):
    parts = {
        "results": folder / "evaluation.csv",
        "sizes": folder / "sizes.csv",
        "page": folder / "results.md",
        "root": folder / "runs",
        "collect": True,
    }
    return evaluation_results.Config(**parts | changes)


def test_run_collects_the_scores_of_all_languages(folder):
    (folder / "results.md").write_text("<!-- scores --><!-- /scores -->", encoding="utf-8")
    evaluation_results.run(config(folder))
    table = pd.read_csv(folder / "evaluation.csv")
    assert tuple(table.columns) == FRAME_COLUMNS
    assert set(table["language"]) == {"mlt", "isl"}
    sizes = pd.read_csv(folder / "sizes.csv").set_index("model")["tokens"]
    assert set(sizes["target-5000"]) == {4987}
    assert set(sizes["base"]) == {0}
    page = (folder / "results.md").read_text(encoding="utf-8")
    assert "| Endings | +50.00 ± 0.00 | +50.00 ± 0.00 | +0.00 ± 0.00 |" in page
    assert "form of the paper's Table 2" in page


def test_run_without_scores_says_what_to_do(folder):
    for path in (folder / "runs" / "embedded" / "evaluation").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ArtifactError, match="without --collect makes some"):
        evaluation_results.run(config(folder))
    assert not (folder / "evaluation.csv").exists()
