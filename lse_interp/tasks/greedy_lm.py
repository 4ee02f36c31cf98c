"""The harness's transformers model, decoding each prompt as if it were alone.

`HFLM` of lm-evaluation-harness 0.4.13 makes greedy outputs depend on the batch in one way: the
repetition penalty of transformers also counts left padding, so that a padding token which is also
the EOS (the usual choice for a tokenizer without a padding token) makes padded prompts end later
than unpadded ones. It is also slow to stop: a batch is generated to the last token unless every row
meets the *same* stop string. `GreedyLM` replaces these two steps and the splitting of tokens
between prompt and option; the harness builds batches, cuts texts at stop strings and computes
log-likelihoods.
"""

import contextlib
import copy
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.generation import StoppingCriteria, StoppingCriteriaList

from lse_interp.core.errors import LseError
from lse_interp.core.progress import Progress
from lse_interp.models.hooked import HookedModel

__all__ = ["GreedyLM", "RepetitionPenalty"]

_log = logging.getLogger(__name__)


class GreedyLM(HFLM):
    """A HookedModel for lm-evaluation-harness.

    Works on a copy of the tokenizer, so that neither its padding side nor its padding token
    change. The generation settings that come with the model (sampling, penalties, beams) are not
    used, its EOS tokens are. Log-probabilities are computed in float32 or wider.

    Args:
        model: The model, with its tokenizer. It is put in evaluation mode.
        batch_size: Prompts per batch.
    """

    cache_hook: Any

    def __init__(self, model: HookedModel, *, batch_size: int) -> None:
        tokenizer = copy.deepcopy(model.tokenizer)
        # HFLM adds a padding token to a tokenizer without one, with an id the model may lack.
        own_pad = tokenizer.pad_token_id
        super().__init__(
            pretrained=model.hf,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=batch_size,
            softmax_dtype=torch.promote_types(model.dtype, torch.float32),
        )
        self.name, self.prefix = model.name, model.prefix
        self.eos_ids = _eos_ids(model)
        # Padding is masked everywhere, so that any id the model knows will do.
        known = range(model.hf.get_input_embeddings().num_embeddings)
        self.pad_id = next((i for i in (own_pad, *self.eos_ids) if i in known), 0)
        if not self.eos_ids:
            _log.warning(
                "%s has no EOS token: its texts end at a stop string or at the token limit.",
                model.name,
            )

    @property
    def prefix_token_id(self) -> int | None:
        """The token before a text without a prompt."""
        return self.prefix[-1] if self.prefix else super().prefix_token_id

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Tokenise a text, after the prefix of the model unless the text begins with it."""
        ids = self.tokenizer.encode(string, add_special_tokens=False)
        before = [] if add_special_tokens is False else [*self.prefix]
        if ids[: len(before)] == before:
            ids = ids[len(before) :]
        room = len(ids) if left_truncate_len is None else max(0, left_truncate_len - len(before))
        return before + ids[max(0, len(ids) - room) :]

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Int64[Tensor, "batch pos"], Int64[Tensor, "batch pos"]]:
        """Return token ids padded on the left, and where they are not padding."""
        rows = [self.tok_encode(text, left_truncate_len=left_truncate_len) for text in strings]
        ids = torch.full((len(rows), max(map(len, rows))), self.pad_id)
        attended = torch.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, ids.shape[1] - len(row) :] = torch.tensor(row)
            attended[at, ids.shape[1] - len(row) :] = 1
        return ids, attended

    def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> str | None:
        """Return the text of token ids; None for None, the EOS of a tokenizer that has none."""
        if tokens is None:
            return None
        return super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise a prompt and what follows it; a prompt too long keeps the prefix and its end."""
        before, after = self._whole_pair(context, continuation)
        n_prefix = len(self.prefix)
        n_cut = len(before) + len(after) - (self.max_length + 1)
        return before[:n_prefix] + before[n_prefix + max(0, n_cut) :], after

    def _whole_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokenise a prompt and what follows it.

        Like the harness, it tokenises both together. If a token reaches across the end of the
        prompt (as in Chinese or Japanese), the harness loses its characters; then the two are
        tokenised one by one.
        """
        prompt = context.rstrip()
        continuation = context[len(prompt) :] + continuation
        before, whole = self.tok_encode(prompt), self.tok_encode(prompt + continuation)
        if whole[: len(before)] == before:
            return before, whole[len(before) :]
        return before, self.tok_encode(continuation, add_special_tokens=False)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate texts, after a warning that names the tasks with prompts too long."""
        room: dict[str, int] = {}
        for request in requests:
            n_new = request.args[1]["max_gen_toks"]
            if n_new >= self.max_length:
                raise LseError(
                    f"{self.name} reads at most {self.max_length} tokens, which leaves no room "
                    f"for a prompt before the {n_new} tokens to generate. Use a model with a "
                    "longer context."
                )
            room[request.args[0]] = self.max_length - n_new
        longer = [
            request
            for request in requests
            if len(self.tok_encode(request.args[0])) > room[request.args[0]]
        ]
        self._warn_truncated(requests, longer, n_tokens=min(room.values(), default=0))
        with self._shown(requests):
            return super().generate_until(requests, disable_tqdm=True)

    def loglikelihood(
        self, requests: list[Any], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Score continuations, after a warning that names the tasks with prompts too long."""
        longer = []
        for request in requests:
            context, continuation = self._whole_pair(*request.args)
            if not 0 < len(continuation) <= self.max_length:
                raise LseError(
                    f"An option of question {request.doc_id + 1} of {request.task_name} has "
                    f"{len(continuation)} tokens of its own after the prompt, where {self.name} "
                    f"can score 1 to {self.max_length}: {request.args[1]!r}."
                )
            if len(context) + len(continuation) > self.max_length + 1:
                longer.append(request)
        self._warn_truncated(requests, longer, n_tokens=self.max_length + 1)
        with self._shown(requests):
            return super().loglikelihood(requests, disable_tqdm=True)

    @contextlib.contextmanager
    def _shown(self, requests: Sequence[Any]) -> Iterator[None]:
        """Show how many answers there are; the harness hands each of them to its cache."""
        names = ", ".join(dict.fromkeys(request.task_name for request in requests))
        hook = self.cache_hook
        with Progress(names, total=len(requests), unit="answer") as bar:
            self.cache_hook = SimpleNamespace(add_partial=lambda *_: bar.advance())
            try:
                yield
            finally:
                self.cache_hook = hook

    def _warn_truncated(
        self, requests: Sequence[Any], longer: Sequence[Any], *, n_tokens: int
    ) -> None:
        questions, cut = defaultdict(set), defaultdict(set)
        for request in requests:
            questions[request.task_name].add(request.doc_id)
        for request in longer:
            cut[request.task_name].add(request.doc_id)
        for name, numbers in cut.items():
            _log.warning(
                "%s: %d of %d questions are longer than the %d tokens that %s has for them "
                "(%s); they are cut on the left, and lose their beginning.",
                name,
                len(numbers),
                len(questions[name]),
                n_tokens,
                self.name,
                longer[0].request_type,
            )

    def _model_generate(
        self,
        context: Int64[Tensor, "batch pos"],
        max_length: int,
        stop: list[str],
        **generation_kwargs: Any,
    ) -> Int64[Tensor, "batch pos_out"]:
        attended = generation_kwargs.pop("attention_mask")
        penalty = float(generation_kwargs.pop("repetition_penalty", 1.0))
        if not generation_kwargs.get("do_sample"):
            generation_kwargs.pop("temperature", None)
        stops = _StopStrings(self.tokenizer, stop, n_prompt=context.shape[1])
        with _without_own_settings(self.model):
            return self.model.generate(
                input_ids=context,
                attention_mask=attended,
                max_length=max_length,
                eos_token_id=list(self.eos_ids) or None,
                pad_token_id=self.pad_id,
                stopping_criteria=StoppingCriteriaList([stops]),
                logits_processor=LogitsProcessorList([RepetitionPenalty(penalty, attended)]),
                use_cache=True,
                **generation_kwargs,
            )


class RepetitionPenalty(LogitsProcessor):
    r"""Divide the scores of tokens already in prompt or output by a penalty $\theta$.

    $$s_i \leftarrow s_i / \theta \text{ if } s_i > 0, \text{ else } s_i \theta$$

    Equal to the penalty of transformers on a prompt without padding; padding is not counted.

    Args:
        penalty: $\theta$, 1 for none.
        attended: 1 at the tokens of the prompts, 0 at padding.

    Source: paper, appendix C.3; the penalty is that of Keskar et al. 2019 (CTRL), section 4.1.
    """

    def __init__(self, penalty: float, attended: Int64[Tensor, "batch pos"]) -> None:
        self.penalty = penalty
        self.is_padding = attended == 0

    def __call__(
        self, input_ids: Int64[Tensor, "batch pos_so_far"], scores: Float[Tensor, "batch vocab"]
    ) -> Float[Tensor, "batch vocab"]:
        """Return the scores, penalised."""
        n_prompt, n_vocab = self.is_padding.shape[1], scores.shape[1]
        # One column more takes padding, and ids that the head does not score.
        ids = input_ids.clone()
        ids[:, :n_prompt].masked_fill_(self.is_padding.to(ids.device), n_vocab)
        seen = torch.zeros(len(ids), n_vocab + 1, dtype=torch.bool, device=scores.device)
        seen = seen.scatter(1, ids.clamp(max=n_vocab), True)[:, :n_vocab]
        penalised = torch.where(scores > 0, scores / self.penalty, scores * self.penalty)
        return torch.where(seen, penalised, scores)


class _StopStrings(StoppingCriteria):
    """End each row at its own stop string; the harness cuts the text there."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], *, n_prompt: int) -> None:
        self.tokenizer = tokenizer
        self.stops = [stop for stop in stops if stop]
        self.n_prompt = n_prompt
        # A token that shows has at least one byte.
        self.n_tail = 2 + max((len(stop.encode()) for stop in self.stops), default=0)

    def __call__(
        self, input_ids: Int64[Tensor, "batch pos"], scores: Any, **_: Any
    ) -> Bool[Tensor, " batch"]:
        start = max(self.n_prompt, input_ids.shape[1] - self.n_tail)
        texts = self.tokenizer.batch_decode(input_ids[:, start:])
        met = [any(stop in text for stop in self.stops) for text in texts]
        return torch.tensor(met, device=input_ids.device)


def _eos_ids(model: HookedModel) -> tuple[int, ...]:
    """Return the EOS of the tokenizer and those of the model's settings; none without the former.

    Source: paper, appendix C.3, `stop_token_ids`.
    """
    own = model.tokenizer.eos_token_id
    if own is None:
        return ()
    others = model.hf.generation_config.eos_token_id
    others = others if isinstance(others, list) else [others]
    return tuple(dict.fromkeys(i for i in (own, *others) if i is not None))


@contextlib.contextmanager
def _without_own_settings(hf: Any) -> Iterator[None]:
    """Set a model's generation settings aside: `generate` takes missing arguments from them."""
    own = hf.generation_config
    hf.generation_config = GenerationConfig()
    try:
        yield
    finally:
        hf.generation_config = own
