"""Documents as a task of lm-evaluation-harness, in memory."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean
from lm_eval.api.task import Task as HarnessTask
from lm_eval.config.task import TaskConfig

from lse_interp.tasks.generation import generation_settings
from lse_interp.tasks.kinds import continuations, kind_of, score
from lse_interp.tasks.task import Document, Task

__all__ = ["DocumentTask"]


class DocumentTask(HarnessTask):
    """A task whose requests are those of its documents.

    One task asks for both the text and the log-likelihoods of an option letter, which a YAML task
    of the harness cannot: it has one type of output.

    Args:
        task: What the task is.
        documents: Its questions.
    """

    VERSION = 1

    def __init__(self, task: Task, documents: Sequence[Document]) -> None:
        self.task, self.kind = task, kind_of(task)
        self.documents = list(documents)
        super().__init__()
        self._config = TaskConfig(
            task=task.name,
            output_type="generate_until" if self.kind.text else "multiple_choice",
            generation_kwargs=generation_settings() if self.kind.text else None,
            num_fewshot=0,
        )

    def download(self, *_: Any, **__: Any) -> None:
        """Do nothing: the documents were given."""

    def has_training_docs(self) -> bool:
        """Return False."""
        return False

    def has_validation_docs(self) -> bool:
        """Return False."""
        return False

    def has_test_docs(self) -> bool:
        """Return True."""
        return True

    def test_docs(self) -> list[dict[str, Any]]:
        """Return the documents as mappings."""
        return [dataclasses.asdict(document) for document in self.documents]

    def doc_to_text(self, doc: dict[str, Any]) -> str:
        """Return the prompt."""
        return doc["prompt"]

    def doc_to_target(self, doc: dict[str, Any]) -> str | int:
        """Return the reference, or the position of the right option."""
        return doc["answer"] if doc["reference"] is None else doc["reference"]

    def build_all_requests(self, *, limit: int | None = None, **_: Any) -> None:
        """Build the requests of all documents, without few-shot examples or a chat template."""
        self._instances = [
            instance
            for at, doc in enumerate(self.test_docs()[:limit])
            for instance in self.construct_requests(
                doc, doc["prompt"], metadata=(self.task.name, at, 1)
            )
        ]

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        """Return the request for a text, if any, and then those for log-likelihoods."""
        texts = [(ctx, generation_settings())] if self.kind.text else []
        pairs = [(ctx, option) for option in continuations(self.task, Document(**doc))]
        types = ["generate_until"] * len(texts) + ["loglikelihood"] * len(pairs)
        return [
            Instance(request_type=kind, doc=doc, arguments=arguments, idx=at, **kwargs)
            for at, (kind, arguments) in enumerate(zip(types, [*texts, *pairs], strict=True))
        ]

    def process_results(self, doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
        """Score the answers to a document."""
        output = results[0] if self.kind.text else None
        pairs = results[1:] if self.kind.text else results
        outcome = score(
            self.task,
            Document(**doc),
            output=output,
            loglikelihoods=[value for value, _ in pairs] or None,
        )
        return dict(outcome.scores)

    def aggregation(self) -> dict[str, Any]:
        """Return the mean for every metric."""
        return dict.fromkeys(self.kind.metrics, mean)

    def higher_is_better(self) -> dict[str, bool]:
        """Return whether higher is better, by metric."""
        metrics = self.kind.metrics.items()
        return {name: metric.higher_is_better for name, metric in metrics}
