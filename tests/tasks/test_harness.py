import logging
import math
import sys

import pytest
import torch

pytest.importorskip("lm_eval")
pytest.importorskip("sacrebleu")

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers import RepetitionPenaltyLogitsProcessor as PenaltyOfTransformers

from lse_interp.analysis.losses import sentence_losses
from lse_interp.core.errors import CorpusError, LseError
from lse_interp.core.progress import Progress
from lse_interp.models.defaults import ModelDefaults
from lse_interp.models.hooked import HookedModel
from lse_interp.tasks.greedy_lm import GreedyLM, RepetitionPenalty
from lse_interp.tasks.harness import as_lm, require_harness, run_tasks
from lse_interp.tasks.kinds import Outcome
from lse_interp.tasks.task import Document, Task

TRANSLATION = Task("to_english", "row", "label", "target", "translation", "eng")
CHOICE = Task("letters", "row", "label", "target", "choice", "eng")
COMPLETION = Task("endings", "row", "label", "target", "completion", "eng")

# What follows each word, with its logit; every other word has logit 0. EOS follows the rest.
SCRIPT = {
    "to1:": {"the": 20.0},
    "the": {"cat": 20.0},
    "cat": {"sat": 20.0},
    "sat": {"down": 20.0},
    "to2:": {"\n": 20.0},
    "to3:": {"Q:": 20.0},
    "to4:": {"a": 20.0},
    "a": {"b": 20.0},
    "b": {"c": 20.0},
    "c": {"d": 20.0},
    "d": {"\n": 20.0},
    "\n": {"never": 20.0},
    "answer1:": {"B": 20.0, "A": 10.0},
    "answer2:": {"Banana": 20.0, "A": 10.0},
    "answer3:": {"</s>": 20.0, "C": 10.0, "B": 5.0},
    "answer4:": {"C": 20.0},
    "story1": {"x": 6.0, "yy": 5.0},
    "yy": {"zzzzzz": 8.0},
}
TRANSLATIONS = [
    Document(prompt="say this in english : to1:", reference="the cat sat down"),
    Document(prompt="to2:", reference="never"),
    Document(prompt="say to3:", reference="never"),
    Document(prompt="say this to4:", reference="a b c e"),
]
LETTERS = [
    Document(prompt="say this in english : answer1:", choices=("x", "yy"), answer=1),
    Document(prompt="answer2:", choices=("x", "yy"), answer=0),
    Document(prompt="say answer3:", choices=("x", "yy", "a"), answer=1),
    Document(prompt="say this answer4:", choices=("x", "yy", "a"), answer=1),
]
# log p("x") = 6 - z1, log p("yy zzzzzz") = 5 - z1 + 8 - z2 with z the logs of the sums: "x" is
# likelier as a whole, the longer option per byte.
STORIES = [
    Document(prompt="say this story1", choices=(" x", " yy zzzzzz"), answer=0),
    Document(prompt="say story1", choices=(" yy zzzzzz", " x"), answer=0),
    Document(prompt="story1", choices=(" yy zzzzzz", " x"), answer=0),
]


def _tokenizer(words, **special):
    vocabulary = {word: at for at, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(" "), behavior="removed")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _scripted(script=SCRIPT, *, special=("eos", "pad"), context=256, ending=15.0):
    """A Llama whose layers add nothing: the next token depends on the last one alone."""
    words = ["<pad>", "</s>", "[unk]", "say", "this", "in", "english", ":", "never", *script]
    words += [word for row in script.values() for word in row]
    words = list(dict.fromkeys(words))
    words += ["filler"] * (len(words) % 2)
    model = _llama(len(words), width=len(words), context=context, layers=1)
    eye = torch.eye(len(words))
    table = torch.zeros(len(words), len(words))
    for at, word in enumerate(words):
        if word not in script:
            table[1, at] = ending
        for following, logit in script.get(word, {}).items():
            table[words.index(following), at] = logit
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(eye)
        # The norm scales a vector of length 1 to one of length sqrt(width).
        model.lm_head.weight.copy_(table / math.sqrt(len(words)))
    names = {"eos": "</s>", "pad": "<pad>"}
    tokenizer = _tokenizer(words, **{f"{key}_token": names[key] for key in special})
    return HookedModel(model, tokenizer, name="scripted")


def _llama(n_words, *, width=16, context=256, layers=2, dtype=torch.float32):
    config = LlamaConfig(
        vocab_size=n_words,
        hidden_size=width,
        intermediate_size=8,
        num_hidden_layers=layers,
        num_attention_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def _random(*, special=("eos",), n_words=40):
    words = ["</s>", "\n", *(f"w{at}" for at in range(n_words))]
    tokenizer = _tokenizer(words, **{f"{key}_token": "</s>" for key in special})
    model = _llama(len(words), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.7)
    return HookedModel(model, tokenizer, name="random")


def _prompts(n, *, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (n,), generator=drawn).tolist()
    return [
        " ".join(f"w{at}" for at in torch.randint(0, 40, (length,), generator=drawn).tolist())
        for length in lengths
    ]


def _mean(outcomes, metric):
    return sum(outcome.scores[metric] for outcome in outcomes) / len(outcomes)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("special", [("eos", "pad"), ("eos",)])
def test_run_tasks_gives_a_scripted_model_the_scores_it_was_written_for(batch_size, special):
    lm = as_lm(_scripted(special=special), batch_size=batch_size)
    outcomes = run_tasks(lm, {TRANSLATION: TRANSLATIONS, CHOICE: LETTERS, COMPLETION: STORIES})

    texts = [outcome.output.strip() for outcome in outcomes["to_english"]]
    assert texts == ["the cat sat down", "", "", "a b c d"]
    # Precisions 3/4, 2/3, 1/2, and half a match for the one 4-gram that does not match.
    by_hand = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** (1 / 4)
    assert [outcome.scores["bleu"] for outcome in outcomes["to_english"]] == pytest.approx(
        [100, 0, 0, by_hand]
    )
    assert _mean(outcomes["to_english"], "format_failure") == 50

    assert [outcome.output.strip() for outcome in outcomes["letters"]] == ["B", "Banana", "", "C"]
    assert [outcome.scores for outcome in outcomes["letters"]] == [
        {"letter_accuracy": 100, "loglikelihood_accuracy": 100, "format_failure": 0},
        {"letter_accuracy": 0, "loglikelihood_accuracy": 100, "format_failure": 100},
        {"letter_accuracy": 0, "loglikelihood_accuracy": 0, "format_failure": 100},
        {"letter_accuracy": 0, "loglikelihood_accuracy": 0, "format_failure": 0},
    ]

    assert [outcome.output for outcome in outcomes["endings"]] == [None] * 3
    assert _mean(outcomes["endings"], "loglikelihood_accuracy") == pytest.approx(100 / 3)
    assert _mean(outcomes["endings"], "normalised_accuracy") == pytest.approx(200 / 3)


class _Echo(LM):
    """A language model that is no transformers model: it answers with the last word."""

    def generate_until(self, requests):
        return [request.args[0].split()[-1] for request in requests]

    def loglikelihood(self, requests):
        return [
            (-float(len(option)), False) for _, option in (request.args for request in requests)
        ]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError


def test_run_tasks_takes_any_language_model_of_the_harness():
    documents = [
        Document(prompt="say B", choices=("x", "y"), answer=1),
        Document(prompt="say A", choices=("x", "y"), answer=1),
        Document(prompt="say it", choices=("x", "y"), answer=0),
    ]
    endings = [Document(prompt="say", choices=(" long", " s"), answer=at) for at in (0, 1)]
    outcomes = run_tasks(_Echo(), {CHOICE: documents, COMPLETION: endings})
    assert [outcome.output for outcome in outcomes["letters"]] == ["B", "A", "it"]
    assert _mean(outcomes["letters"], "letter_accuracy") == pytest.approx(100 / 3)
    assert _mean(outcomes["letters"], "format_failure") == pytest.approx(100 / 3)
    # Equally likely letters: the first is taken.
    assert _mean(outcomes["letters"], "loglikelihood_accuracy") == pytest.approx(100 / 3)
    assert _mean(outcomes["endings"], "loglikelihood_accuracy") == 50


def test_prompts_begin_with_the_prefix_of_the_model_and_end_in_text():
    """Not with what the tokenizer puts there, nor in the EOS that it appends."""
    plain = _random(special=("eos", "unk"))
    plain.tokenizer._tokenizer.model.unk_token = "w9"
    plain.tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="\n $A </s>", special_tokens=[("\n", 1), ("</s>", 0)]
    )
    assert plain.tokenizer("w0")["input_ids"] == [1, 2, 0]
    for bos, prefix in (("auto", [1]), ("none", []), ("0", [0]), ("3,1", [3, 1])):
        model = HookedModel(plain.hf, plain.tokenizer, defaults=ModelDefaults(bos=bos))
        lm = as_lm(model)
        n = len(prefix)
        assert lm.tok_encode("w5 w6 w7") == [*prefix, 7, 8, 9]
        assert lm.tok_encode("w5 w6 w7", left_truncate_len=n + 2) == [*prefix, 8, 9]
        assert lm._encode_pair("w5 w6", " w7") == ([*prefix, 7, 8], [9])
        ids, attended = lm.tok_batch_encode(["w5 w6", "w7"])
        assert ids[attended.bool()].tolist() == [*prefix, 7, 8, *prefix, 9]
        request = Instance("loglikelihood", {}, ("w5 w6", " w7"), 0, metadata=("task", 0, 1))
        ((found, _),) = lm.loglikelihood([request])
        nats = sentence_losses(model, ["w5 w6 w7"]) - sentence_losses(model, ["w5 w6"])
        assert found == pytest.approx(-float(nats))
        # Of a prompt that is too long, the prefix stays.
        lm._max_length = n + 2
        request = Instance("loglikelihood", {}, ("w3 w4 w5 w6", " w7"), 0, metadata=("task", 0, 1))
        ((cut, _),) = lm.loglikelihood([request])
        assert cut == pytest.approx(found)
    # A text that holds the prefix itself, as chat templates write it, has it once.
    assert as_lm(HookedModel(plain.hf, plain.tokenizer)).tok_encode("\n w5") == [1, 7]


def test_run_tasks_of_nothing_is_nothing():
    assert run_tasks(_Echo(), {}) == {}


def test_run_tasks_says_how_many_answers_there_are_and_counts_them(caplog, monkeypatch):
    counted = []
    monkeypatch.setattr(Progress, "advance", lambda bar, n=1: counted.append(str(bar)))
    caplog.set_level("INFO")
    translations = [Document(prompt=prompt, reference="w1") for prompt in _prompts(3)]
    endings = [Document(prompt=p, choices=(" w1", " w3"), answer=0) for p in _prompts(2)]
    run_tasks(as_lm(_random(), batch_size=2), {TRANSLATION: translations, COMPLETION: endings})
    assert {"to_english: 3 answers", "endings: 4 answers"} <= {*caplog.messages}
    assert [text.partition(":")[0] for text in counted].count("to_english") == 3
    assert [text.partition(":")[0] for text in counted].count("endings") == 4


def test_run_tasks_gives_the_same_outcomes_in_any_batch():
    """Left padding, a repetition penalty, and a padding token that is the EOS."""
    model, prompts = _random(), _prompts(10)
    translations = [Document(prompt=prompt, reference="w1 w2") for prompt in prompts]
    endings = [Document(prompt=prompt, choices=(" w1 w2", " w3"), answer=0) for prompt in prompts]
    tasks = {TRANSLATION: translations, COMPLETION: endings}
    alone, together = (
        run_tasks(as_lm(model, batch_size=batch_size), tasks) for batch_size in (1, 4)
    )
    assert alone == together
    # The prompts were answered one way each, so that equal outcomes say something.
    assert len({outcome.output for outcome in alone["to_english"]}) == 10
    assert 0 < _mean(alone["endings"], "loglikelihood_accuracy") < 100


def test_run_tasks_keeps_the_order_of_documents_and_tasks():
    model, prompts = _random(), _prompts(6)
    documents = [Document(prompt=prompt, reference="w1") for prompt in prompts]
    forwards = run_tasks(as_lm(model, batch_size=4), {TRANSLATION: documents})
    backwards = run_tasks(as_lm(model, batch_size=4), {TRANSLATION: documents[::-1]})
    assert forwards["to_english"] == backwards["to_english"][::-1]


def test_run_tasks_generates_what_a_loop_over_tokens_does():
    model, prompts = _random(), _prompts(4, seed=1)
    outcomes = run_tasks(
        as_lm(model, batch_size=4),
        {TRANSLATION: [Document(prompt=prompt, reference="w1") for prompt in prompts]},
    )
    for prompt, outcome in zip(prompts, outcomes["to_english"], strict=True):
        ids = model.tokenizer(prompt)["input_ids"]
        output = []
        while len(output) < 128:
            with torch.no_grad():
                scores = model.hf(torch.tensor([ids + output])).logits[0, -1]
            for at in set(ids + output):
                scores[at] = scores[at] / 1.1 if scores[at] > 0 else scores[at] * 1.1
            output.append(int(scores.argmax()))
            if output[-1] in (0, 1):
                break
        text = model.tokenizer.decode(output, skip_special_tokens=True)
        assert outcome.output == text.split("\n")[0]


def test_an_eos_that_pads_is_not_penalised():
    # The EOS would lose to `never` if the padding of the shorter prompt counted: 15 / 1.1 < 14.5.
    script = {"go": {"</s>": 15.0, "never": 14.5}}
    documents = [Document(prompt=prompt, reference="x") for prompt in ("go", "say this in go")]
    lm = as_lm(_scripted(script, special=("eos",)), batch_size=2)
    assert [o.output for o in run_tasks(lm, {TRANSLATION: documents})["to_english"]] == ["", ""]


def test_each_row_stops_at_its_own_stop_string():
    script = {"go1": {"\n": 20.0}, "go2": {"Q:": 20.0}, "\n": {"in": 20.0}, "Q:": {"in": 20.0}}
    script["in"] = {"in": 30.0}
    model = _scripted(script)
    passes = []
    model.hf.register_forward_hook(lambda *_: passes.append(1))
    documents = [Document(prompt=prompt, reference="x") for prompt in ("go1", "go2")]
    run_tasks(as_lm(model, batch_size=2), {TRANSLATION: documents})
    assert len(passes) == 1


def test_texts_end_after_128_tokens():
    model = _scripted({"go": {"in": 20.0}, "in": {"in": 30.0}})
    (outcome,) = run_tasks(as_lm(model), {TRANSLATION: [Document(prompt="go", reference="x")]})[
        "to_english"
    ]
    assert outcome.output.split() == ["in"] * 128


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_model_without_eos_is_told_so_and_stops_at_stop_strings(batch_size, caplog):
    model = _scripted(special=())
    assert model.tokenizer.eos_token_id is None
    with caplog.at_level(logging.WARNING):
        lm = as_lm(model, batch_size=batch_size)
    assert "scripted has no EOS token: its texts end at a stop string" in caplog.text
    outcomes = run_tasks(lm, {TRANSLATION: TRANSLATIONS, CHOICE: LETTERS})
    assert outcomes["to_english"][3].output.strip() == "a b c d"
    assert outcomes["to_english"][1].scores == {"bleu": 0, "chrf": 0, "format_failure": 100}
    # Its `</s>` is a word like any other here, and a stop string of the paper.
    assert [outcome.output.strip() for outcome in outcomes["letters"]] == ["B", "Banana", "", "C"]


def test_as_lm_leaves_model_and_tokenizer_as_they_were():
    model = _scripted(special=("eos",))
    model.hf.generation_config.repetition_penalty = 5.0
    before = (model.info, model.hf.generation_config.to_dict(), model.tokenizer.padding_side)
    run_tasks(as_lm(model), {TRANSLATION: TRANSLATIONS, CHOICE: LETTERS})
    after = (model.info, model.hf.generation_config.to_dict(), model.tokenizer.padding_side)
    assert after == before
    assert model.tokenizer.pad_token is None


def test_as_lm_ignores_the_generation_settings_that_come_with_a_model():
    model = _random()
    tasks = {TRANSLATION: [Document(prompt=prompt, reference="w1") for prompt in _prompts(3)]}
    expected = run_tasks(as_lm(model), tasks)
    model.hf.generation_config.no_repeat_ngram_size = 1
    model.hf.generation_config.repetition_penalty = 5.0
    assert run_tasks(as_lm(model), tasks) == expected


def test_as_lm_stops_at_every_eos_of_the_model():
    script = {"go": {"in": 20.0}, "in": {"never": 20.0}, "never": {"in": 20.0}}
    model = _scripted(script)
    model.hf.generation_config.eos_token_id = [model.tokenizer.convert_tokens_to_ids("never")]
    tasks = {TRANSLATION: [Document(prompt="go", reference="x")]}
    assert run_tasks(as_lm(model), tasks)["to_english"][0].output.split() == ["in", "never"]


def test_prompts_longer_than_the_context_are_cut_with_a_warning(caplog):
    model = _scripted(context=140)
    documents = [
        Document(prompt="say " * 20 + "to1:", reference="the cat sat down"),
        Document(prompt="to1:", reference="the cat sat down"),
    ]
    endings = [
        Document(prompt="say " * 200 + "story1", choices=(" x", " yy"), answer=0),
        Document(prompt="story1", choices=(" x", " yy"), answer=0),
    ]
    with caplog.at_level(logging.WARNING):
        outcomes = run_tasks(
            as_lm(model, batch_size=2), {TRANSLATION: documents, COMPLETION: endings}
        )
    assert "to_english: 1 of 2 questions are longer than the 12 tokens" in caplog.text
    assert "endings: 1 of 2 questions are longer than the 141 tokens" in caplog.text
    assert {record.name.split(".")[0] for record in caplog.records} == {"lse_interp"}
    # Cut on the left, so that the end of the prompt is still there.
    assert [o.output.strip() for o in outcomes["to_english"]] == ["the cat sat down"] * 2


def test_prompts_that_fit_are_not_warned_about(caplog):
    model = _scripted(context=140)
    documents = [Document(prompt="say " * 11 + "to1:", reference="the cat sat down")]
    endings = [Document(prompt="say " * 139 + "story1", choices=(" x", " yy"), answer=0)]
    with caplog.at_level(logging.WARNING):
        run_tasks(as_lm(model), {TRANSLATION: documents, COMPLETION: endings})
    assert not caplog.records


def test_a_context_without_room_for_the_answer_is_refused():
    tasks = {TRANSLATION: TRANSLATIONS}
    with pytest.raises(LseError, match="at most 128 tokens, which leaves no room for a prompt"):
        run_tasks(as_lm(_scripted(context=128)), tasks)


def test_loglikelihood_is_that_of_one_prompt_at_a_time():
    model = _random()
    lm = as_lm(model, batch_size=4)
    pairs = [(prompt, option) for prompt in _prompts(5) for option in (" w1", " w2 w3 w4", " w5")]
    requests = [Instance("loglikelihood", {}, pair, 0, ("task", 0, 1)) for pair in pairs]
    for (prompt, option), (value, _) in zip(pairs, lm.loglikelihood(requests), strict=True):
        ids = model.tokenizer(prompt + option)["input_ids"]
        with torch.no_grad():
            logs = model.hf(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        n_option = len(option.split())
        expected = sum(float(logs[at - 1, ids[at]]) for at in range(len(ids) - n_option, len(ids)))
        assert value == pytest.approx(expected, abs=1e-12)


def test_a_token_across_the_end_of_the_prompt_is_not_used():
    """As in scripts without spaces: `cab` is `c ab`, but after the prompt `ca` it is `c a b`."""
    inner = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "c": 3}, merges=[("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    lm = as_lm(HookedModel(_llama(4), tokenizer, name="bpe"))
    assert tokenizer("cab")["input_ids"] == [3, 2]
    assert lm._encode_pair("ca", "b") == ([3, 0], [1])
    assert lm._encode_pair("c", "ab") == ([3], [2])


def test_not_a_number_is_refused():
    model = _scripted()
    with torch.no_grad():
        model.hf.lm_head.weight[:] = math.nan
    with pytest.raises(LseError, match="A log-likelihood in endings is not a number"):
        run_tasks(as_lm(model), {COMPLETION: STORIES})


def test_repetition_penalty_is_that_of_transformers_without_padding():
    ids = torch.randint(0, 30, (3, 7))
    scores = torch.randn(3, 30)
    ours = RepetitionPenalty(1.3, torch.ones(3, 5, dtype=torch.int64))
    assert torch.equal(ours(ids, scores), PenaltyOfTransformers(1.3)(ids, scores.clone()))


def test_repetition_penalty_does_not_see_padding():
    ids = torch.tensor([[0, 0, 4, 2, 3]])
    attended = torch.tensor([[0, 0, 1, 1]])
    scores = torch.tensor([[2.2, 2.2, 2.2, -1.0, 2.2, -1.0]])
    expected = torch.tensor([[2.2, 2.2, 2.0, -1.1, 2.0, -1.0]])
    torch.testing.assert_close(RepetitionPenalty(1.1, attended)(ids, scores), expected)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({TRANSLATION: []}, "to_english has no question"),
        ({TRANSLATION: LETTERS}, "Question 1 of to_english"),
        (
            {COMPLETION: [STORIES[0], Document(prompt="say", choices=(" x", ""), answer=0)]},
            "Question 2 of endings has an empty prompt or option",
        ),
        ({CHOICE: [Document(prompt=" ", choices=("x", "y"), answer=0)]}, "Question 1 of letters"),
    ],
)
def test_run_tasks_refuses_documents_that_cannot_be_asked(tasks, message):
    with pytest.raises(CorpusError, match=message):
        run_tasks(_Echo(), tasks)


def test_run_tasks_refuses_two_tasks_of_one_name():
    other = Task("letters", "row", "another label", "target", "choice", "eng")
    with pytest.raises(LseError, match="2 tasks are named letters"):
        run_tasks(_Echo(), {CHOICE: LETTERS, other: LETTERS})


def test_as_lm_refuses_what_it_cannot_wrap():
    model = _scripted()
    with pytest.raises(LseError, match="`batch_size` must be at least 1; got 0"):
        as_lm(model, batch_size=0)
    with pytest.raises(LseError, match="scripted has no tokenizer"):
        as_lm(HookedModel(model.hf, name="scripted"))
    assert isinstance(as_lm(model), GreedyLM)


@pytest.mark.parametrize("package", ["lm_eval", "sacrebleu"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LseError, match=rf"needs the package {package}.*lse-interp\[eval\]"):
        require_harness()
    with pytest.raises(LseError, match=rf"needs the package {package}"):
        run_tasks(_Echo(), {CHOICE: LETTERS})


def test_outcome_refuses_scores_that_are_no_percentages():
    with pytest.raises(LseError, match="from 0 to 100; got bleu = 101"):
        Outcome(output="x", scores={"bleu": 101.0})
