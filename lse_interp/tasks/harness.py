"""Running tasks on a model through lm-evaluation-harness."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lse_interp.core.cli import quiet
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.tokenization import require_tokenizer
from lse_interp.tasks.kinds import Outcome, continuations, kind_of, require_documents
from lse_interp.tasks.task import Document, Task

__all__ = ["as_lm", "require_harness", "run_tasks"]


def as_lm(model: HookedModel, *, batch_size: int = 8) -> Any:
    """Wrap a model for lm-evaluation-harness; see `greedy_lm.GreedyLM`.

    Text ends at the EOS of the tokenizer, at a stop string or at the token limit; a tokenizer
    without EOS leaves the latter two, and a warning says so. Prompts longer than the model's
    context, less the tokens to generate, are cut on the left by the harness, and a warning names
    the task and how many.

    Args:
        model: The model, with its tokenizer. It is put in evaluation mode.
        batch_size: Prompts per batch, at least 1; changes results only by rounding.

    Returns:
        An `lm_eval` language model that shares the weights.

    Raises:
        LseError: No tokenizer, a batch size below 1, or lm-evaluation-harness is not installed.
    """
    require_harness()
    require_tokenizer(model)
    if batch_size < 1:
        raise LseError(f"`batch_size` must be at least 1; got {batch_size}.")
    # This package's own logs say what a user must know.
    with quiet("lm_eval", level=logging.ERROR):
        from lse_interp.tasks.greedy_lm import GreedyLM

        return GreedyLM(model, batch_size=batch_size)


def run_tasks(lm: Any, tasks: Mapping[Task, Sequence[Document]]) -> dict[str, list[Outcome]]:
    """Have a model answer the documents of tasks, and score its answers.

    All tasks go through the model together: one pass over the texts to generate, one over the
    log-likelihoods.

    Args:
        lm: A model from `as_lm`, or another language model of lm-evaluation-harness (vLLM, ...).
        tasks: The documents of each task.

    Returns:
        The outcomes by the name of the task, in the order of its documents.

    Raises:
        CorpusError: A task without documents, or with a document of another kind or with an empty
            prompt or option.
        LseError: Two tasks of one name, a context too short to generate in, or
            lm-evaluation-harness is not installed.
    """
    require_harness()
    _check(tasks)
    if not tasks:
        return {}
    from lm_eval.evaluator import evaluate

    from lse_interp.tasks.harness_task import DocumentTask

    # This package's own logs say what a user must know.
    with quiet("lm_eval", level=logging.ERROR):
        results = evaluate(
            lm=lm,
            task_dict={
                "tasks": {task.name: DocumentTask(task, tasks[task]) for task in tasks},
                "groups": {},
                "group_map": {},
            },
            bootstrap_iters=0,
        )
    if results is None:
        raise LseError("Results are gathered on the first process alone; run on one process.")
    return {task.name: _outcomes(task, results["samples"][task.name]) for task in tasks}


def require_harness() -> None:
    """Refuse to run without the packages that evaluation needs.

    Raises:
        LseError: names the package and the command that installs it.
    """
    for package in ("lm_eval", "sacrebleu"):
        try:
            __import__(package)
        except ImportError as error:
            raise LseError(
                f"Evaluation needs the package {package}, which cannot be imported ({error}). "
                "Install it with `pip install 'lse-interp[eval]'`."
            ) from error


def _check(tasks: Mapping[Task, Sequence[Document]]) -> None:
    for name, n in Counter(task.name for task in tasks).items():
        if n > 1:
            raise LseError(f"{n} tasks are named {name}; give each a name of its own.")
    for task, documents in tasks.items():
        require_documents(task, documents)
        for at, document in enumerate(documents, start=1):
            texts = (document.prompt, *continuations(task, document))
            if not all(text.strip() for text in texts):
                raise CorpusError(
                    f"Question {at} of {task.name} has an empty prompt or option. Remove it."
                )


def _outcomes(task: Task, samples: Sequence[Mapping[str, Any]]) -> list[Outcome]:
    return [
        Outcome(
            output=sample["filtered_resps"][0] if kind_of(task).text else None,
            scores={name: sample[name] for name in sample["metrics"]},
        )
        for sample in sorted(samples, key=lambda sample: sample["doc_id"])
    ]
