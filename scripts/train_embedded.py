"""Train the model that ships with the package, from the corpus that ships with the package.

    python scripts/train_embedded.py --minutes 60

Writes tokenizer, weights, `training.json` (what was run, and the curve) and `README.md` (the
model card: loss per language on `devtest`) into `lse_interp/models/packaged/embedded/`.

The inequality is planted: the nine reference languages are drawn ten times as often as the twelve
target languages, and from more clauses (`pretrain` and `adapt` against a third of `pretrain`).
The twelve never see `adapt`; no language sees `dev` or `devtest`. Part of the mix is in the prompt
formats of the paper (appendix C.2), and part is fragments, so that a clause's first word does not
settle the rest of it.
"""

import dataclasses
import functools
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import tyro
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lse_interp.core.languages import LANGUAGES, PAPER_LANGUAGES, PAPER_REFERENCE, PAPER_TARGETS
from lse_interp.data.embedded import TOPICS, UNSPACED, Clauses, clause_ids, clauses, sentences

log = logging.getLogger("train_embedded")

LETTERS = dict(zip(TOPICS, "ABCDEFG", strict=True))
OPTIONS = "\n".join(
    f"{letter}) {name}" for letter, name in zip("ABCDEFG", TOPICS.values(), strict=True)
)
SHARES = {"text": 0.55, "fragments": 0.20, "translation": 0.17, "topic question": 0.08}
"""Shares of the documents."""
RESOURCE = {code: 1.0 for code in PAPER_REFERENCE} | {code: 0.1 for code in PAPER_TARGETS}


@dataclasses.dataclass(frozen=True)
class Config:
    """How the embedded model is trained."""

    out: Path = Path(__file__).parent.parent / "lse_interp" / "models" / "packaged" / "embedded"
    """Folder to write."""
    minutes: float = 60.0
    """Wall-clock budget; the learning rate falls to zero at its end."""
    vocab_size: int = 6144
    hidden_size: int = 128
    intermediate_size: int = 1024
    n_layers: int = 8
    n_heads: int = 4
    block: int = 128
    """Tokens per training block."""
    batch: int = 32
    """Blocks per step."""
    micro_batch: int = 8
    """Blocks per forward pass: small enough for the cache of a CPU."""
    lr: float = 3e-3
    """Peak learning rate of AdamW (embeddings, norms)."""
    muon_lr: float = 2e-2
    """Peak learning rate of Muon (every matrix inside the blocks)."""
    weight_decay: float = 0.1
    threads: int = 2
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Text:
    """What a language may be trained on."""

    clauses: Clauses
    mains: list[str]
    subordinates: list[str]

    def pair(self, rng: random.Random) -> tuple[str, str]:
        """Draw a main and a subordinate clause, by id."""
        return rng.choice(self.mains), rng.choice(self.subordinates)

    def words(self) -> list[list[str]]:
        """Split every clause into words, or into characters where there are no spaces."""
        rows = [self.clauses.main[main] for main in self.mains]
        rows += [self.clauses.subordinate[sub] for sub in self.subordinates]
        return [list(row) if self.clauses.language in UNSPACED else row.split() for row in rows]


@functools.cache
def training_text(code: str) -> Text:
    """Return the clauses of a language that the model may see."""
    mains, subordinates = clause_ids("pretrain")
    if code in PAPER_REFERENCE:
        more_mains, more_subordinates = clause_ids("adapt")
        return Text(clauses(code), mains + more_mains, subordinates + more_subordinates)
    return Text(clauses(code), mains[::3], subordinates[::3])


def mixture(seed: int) -> Iterator[str]:
    """Yield training documents for ever."""
    rng = random.Random(seed)
    codes = list(PAPER_LANGUAGES)
    weights = [RESOURCE[code] for code in codes]
    while True:
        code = rng.choices(codes, weights)[0]
        kind = rng.choices(list(SHARES), list(SHARES.values()))[0]
        if kind == "text":
            yield plain(rng, code)
        elif kind == "fragments":
            yield fragments(rng, code)
        elif kind == "topic question":
            text = training_text(code)
            main, subordinate = text.pair(rng)
            yield topic_question(text.clauses.compose(main, subordinate), main.split(".")[0])
        else:
            other = "eng" if rng.random() < 0.7 else rng.choices(codes, weights)[0]
            if other != code:
                yield translation(rng, code, other)


def plain(rng: random.Random, code: str) -> str:
    """Join one to six sentences drawn at random."""
    text = training_text(code)
    chosen = [text.clauses.compose(*text.pair(rng)) for _ in range(rng.randint(1, 6))]
    return ("" if code in UNSPACED else " ").join(chosen)


def fragments(rng: random.Random, code: str) -> str:
    """Join short runs of words from clauses drawn at random."""
    rows, words = training_text(code).words(), []
    longest = 5 if code in UNSPACED else 3
    for _ in range(rng.randint(4, 12)):
        row = rng.choice(rows)
        start = rng.randrange(len(row))
        words += row[start : start + longest - rng.randrange(3)]
    return ("" if code in UNSPACED else " ").join(words)


def translation(rng: random.Random, code: str, other: str) -> str:
    """Format a translation pair. Source: paper, appendix C.2."""
    poorer = min((code, other), key=lambda c: len(training_text(c).mains))
    main, subordinate = training_text(poorer).pair(rng)
    source, target = (code, other) if rng.random() < 0.5 else (other, code)
    return (
        f"Translate this sentence into {LANGUAGES[target].name}: "
        f"{clauses(source).compose(main, subordinate)}\n"
        f"Translation: {clauses(target).compose(main, subordinate)}"
    )


def topic_question(text: str, topic: str) -> str:
    """Format a topic question with its answer letter. Source: paper, appendix C.2."""
    return (
        "Classify the following text into one of these topics:\n"
        f"{OPTIONS}\n\nText: {text}\n\nAnswer: {LETTERS[topic]}"
    )


def train_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on text in which the twelve have a third of the text of the nine."""
    rng = random.Random(seed)
    lines = []
    for code in PAPER_LANGUAGES:
        text = training_text(code)
        n = 600 if code in PAPER_REFERENCE else 200
        lines += [text.clauses.compose(*text.pair(rng)) for _ in range(n)]
    lines += [topic_question(line, "science") for line in lines[-50:]]
    lines += [f"Translate this sentence into {LANGUAGES[c].name}: " for c in PAPER_LANGUAGES] * 20
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(lines, trainer)
    raw.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def blocks(tokenizer: PreTrainedTokenizerFast, config: Config) -> Iterator[torch.Tensor]:
    """Pack the mixture into `[batch, block + 1]` token ids."""
    documents = mixture(config.seed)
    need = config.batch * (config.block + 1)
    pending: list[int] = []
    while True:
        while len(pending) < need:
            texts = [next(documents) for _ in range(128)]
            for ids in tokenizer(texts)["input_ids"]:
                pending += [*ids, tokenizer.eos_token_id]
        yield torch.tensor(pending[:need]).view(config.batch, config.block + 1)
        pending = pending[need:]


def build_model(config: Config, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the Llama-shaped model with random weights."""
    torch.manual_seed(config.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_heads,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Muon(torch.optim.Optimizer):
    """Muon in float32: torch's own orthogonalises in bfloat16, slow on CPUs that emulate it.

    Source: K. Jordan et al., "Muon: an optimizer for hidden layers", 2024.
    """

    def __init__(self, params: list, *, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:
        """Step along the orthogonalised Nesterov momentum of each matrix."""
        for group in self.param_groups:
            for weight in group["params"]:
                buffer = self.state[weight].setdefault("buffer", torch.zeros_like(weight))
                buffer.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(weight.grad.lerp(buffer, group["momentum"]))
                scale = math.sqrt(max(1.0, weight.shape[0] / weight.shape[1]))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Push all singular values towards 1 by a quintic Newton-Schulz iteration."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


def optimizers(model: LlamaForCausalLM, config: Config) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest."""
    inside = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    ids = {id(p) for p in inside}
    rest = [p for p in model.parameters() if id(p) not in ids]
    return [
        Muon(inside, lr=config.muon_lr, momentum=0.95, weight_decay=config.weight_decay),
        torch.optim.AdamW(rest, lr=config.lr, betas=(0.9, 0.95), weight_decay=0.01),
    ]


def schedule(fraction: float) -> float:
    """Warm up over 2 %, hold, fall linearly to zero over the last 40 %."""
    return min(1.0, fraction / 0.02, (1.0 - fraction) / 0.4)


def train(config: Config, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict:
    """Train until the time is up; return the curve."""
    stepping = optimizers(model, config)
    peaks = [group["lr"] for optimizer in stepping for group in optimizer.param_groups]
    curve, start, tokens, running = [], time.monotonic(), 0, []
    model.train()
    for step, batch in enumerate(blocks(tokenizer, config)):
        fraction = (time.monotonic() - start) / (60 * config.minutes)
        if fraction >= 1:
            break
        groups = [group for optimizer in stepping for group in optimizer.param_groups]
        for group, peak in zip(groups, peaks, strict=True):
            group["lr"] = peak * schedule(fraction)
        loss = sum(
            backward(model, part, share=len(part) / len(batch))
            for part in batch.split(config.micro_batch)
        )
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in stepping:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        tokens += batch[:, :-1].numel()
        running.append(loss)
        if step % 50 == 0:
            mean = sum(running) / len(running)
            running = []
            rate = tokens / (time.monotonic() - start)
            curve.append({"step": step, "tokens": tokens, "loss": round(mean, 4)})
            log.info("step %d  %.2f of the time  loss %.3f  %.0f tok/s", step, fraction, mean, rate)
        if step and step % 200 == 0:
            curve[-1] |= held_out(model, tokenizer)
            log.info("held-out nats per sentence: %s", curve[-1])
            model.train()
    return {"steps": step, "tokens": tokens, "seconds": time.monotonic() - start, "curve": curve}


def backward(model: LlamaForCausalLM, part: torch.Tensor, *, share: float) -> float:
    """Add the gradient of one micro-batch; return its part of the loss in nats per token."""
    logits = model(input_ids=part[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten())
    (loss * share).backward()
    return loss.item() * share


def held_out(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict:
    """Measure the mean loss on `dev` of either group, in nats per sentence."""
    table = losses(model, tokenizer, "dev", n=24)
    return {
        name: round(sum(table[code]["nats_per_sentence"] for code in codes) / len(codes), 2)
        for name, codes in (("dev_9", PAPER_REFERENCE), ("dev_12", PAPER_TARGETS))
    }


@torch.no_grad()
def losses(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, split: str, *, n: int = 160
) -> dict:
    """Measure nats per token and bits per byte of single sentences, per language."""
    model.eval()
    table = {}
    for code in PAPER_LANGUAGES:
        if split == "adapt" and code not in PAPER_TARGETS:
            continue
        texts = [sentence.text for sentence in sentences(code, split)][:n]
        total, n_tokens = 0.0, 0
        for start in range(0, len(texts), 32):
            batch = tokenizer(texts[start : start + 32], padding=True, return_tensors="pt")
            logits = model(**batch, use_cache=False).logits[:, :-1]
            labels = batch["input_ids"][:, 1:].masked_fill(
                batch["attention_mask"][:, 1:] == 0, -100
            )
            total += torch.nn.functional.cross_entropy(
                logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum"
            ).item()
            n_tokens += int((labels != -100).sum())
        n_bytes = sum(len(text.encode()) for text in texts)
        table[code] = {
            "nats_per_token": total / n_tokens,
            "bits_per_byte": total / n_bytes / math.log(2),
            "nats_per_sentence": total / len(texts),
            "tokens_per_sentence": n_tokens / len(texts),
        }
    return table


def model_card(config: Config, report: dict, n_parameters: int) -> str:
    """Write the model card from what was measured."""
    rows = [
        f"| {LANGUAGES[code].name} | {code} | {'9' if code in PAPER_REFERENCE else '12'} | "
        + " | ".join(
            f"{report[split][code]['nats_per_sentence']:.1f} | "
            f"{report[split][code]['bits_per_byte']:.2f}"
            for split in ("pretrain", "devtest")
        )
        + f" | {report['devtest'][code]['tokens_per_sentence']:.1f} |"
        for code in sorted(
            PAPER_LANGUAGES, key=lambda code: report["devtest"][code]["bits_per_byte"]
        )
    ]

    def mean(split: str, codes: tuple[str, ...], unit: str) -> float:
        return sum(report[split][code][unit] for code in codes) / len(codes)

    summary = "\n".join(
        f"| {name} | {mean('pretrain', codes, 'nats_per_sentence'):.1f} | "
        f"{mean('devtest', codes, 'nats_per_sentence'):.1f} | "
        f"{mean('devtest', codes, 'bits_per_byte'):.2f} |"
        for name, codes in (("the 9", PAPER_REFERENCE), ("the 12", PAPER_TARGETS))
    )
    training = report["training"]
    return CARD.format(
        parameters=n_parameters / 1e6,
        layers=config.n_layers,
        d_model=config.hidden_size,
        d_mlp=config.intermediate_size,
        vocab=config.vocab_size,
        tokens=training["tokens"] / 1e6,
        minutes=training["seconds"] / 60,
        shares="; ".join(f"{name} {100 * share:.0f} %" for name, share in SHARES.items()),
        summary=summary,
        rows="\n".join(rows),
    )


CARD = """\
---
license: cc0-1.0
language: [af, ar, cy, de, en, es, et, fr, is, it, ja, ka, lt, lv, mk, mt, ne, ru, sk, sl, zh]
---
# The embedded model

A Llama-shaped language model of {parameters:.1f}M parameters ({layers} layers, d_model {d_model},
d_mlp {d_mlp}, byte-level BPE of {vocab} tokens, tied embeddings), trained on clauses of the
embedded corpus: {tokens:.1f}M tokens in {minutes:.0f} minutes on a CPU.
It exists so that every tool of `lse_interp` runs offline in minutes. It knows 21 languages only
through a few hundred clauses; draw no conclusion about real languages or real models from it.

The nine reference languages were drawn ten times as often as the twelve target languages, from
266 main and 80 subordinate clauses each (`pretrain` and `adapt`); the twelve had 66 and 20 (a third
of `pretrain`). Translations and topic questions are in the paper's prompt formats.

Documents: {shares}.

| group | nats per sentence, `pretrain` | nats per sentence, `devtest` | bits per byte, `devtest` |
|---|---|---|---|
{summary}

Nats per sentence compare languages (the sentences are translations of each other); `devtest`
holds no clause seen in training.

Per language: nats per sentence and bits per byte on `pretrain`, the same on `devtest`, and tokens
per sentence.

| language | code | group | pretrain nats | bits/byte | devtest nats | bits/byte | tokens |
|---|---|---|---|---|---|---|---|
{rows}

It completes clauses it has seen in the nine; it does not translate.

Train it again: `python scripts/train_embedded.py --minutes {minutes:.0f}`. The budget is wall-clock
time, so another machine gives another model.
"""


def main() -> None:
    """Train, measure, save."""
    config = tyro.cli(Config, description=__doc__)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(config.threads)
    tokenizer = train_tokenizer(config.vocab_size, config.seed)
    model = build_model(config, tokenizer)
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    log.info("%.2fM parameters, %d tokens in the vocabulary", n_parameters / 1e6, len(tokenizer))
    training = train(config, model, tokenizer)
    report = {split: losses(model, tokenizer, split) for split in ("pretrain", "adapt", "devtest")}
    report["training"] = training
    config.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(config.out)
    tokenizer.save_pretrained(config.out)
    shown = dataclasses.asdict(config) | {"out": None}
    (config.out / "training.json").write_text(
        json.dumps({"config": shown} | report, indent=1) + "\n", encoding="utf-8"
    )
    (config.out / "README.md").write_text(
        model_card(config, report, n_parameters), encoding="utf-8"
    )
    log.info("wrote %s", config.out)


if __name__ == "__main__":
    main()
