"""What the paper's text says about its tables, compared with the tables.

Every number and every verdict is computed from the csv of this folder; the text is quoted.
"""

import dataclasses
from collections.abc import Callable, Iterable

import pandas as pd

from analyses import published
from analyses.paper.checks import MODEL_INFOS, gains, lora_parameters
from lse_interp.core.languages import PAPER_TARGETS
from lse_interp.plotting.style import language_label

__all__ = ["Claim", "claims"]

_RANDOM = "random:size"


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the text about numbers."""

    place: str
    """Section of the paper."""
    text: str
    """The statement, quoted or close to it."""
    found: str
    """What the tables give."""
    verdict: str
    """`agrees`, `in part` or `differs`."""


def claims() -> list[Claim]:
    """Check the statements, in the order of the paper."""
    return [check() for check in _CHECKS]


def _largest_gains() -> Claim:
    rows = _summary("target")
    best = rows.idxmax(axis=1)
    others = [
        f"{row}: {method} {rows.at[row, method]:.2f}, target {rows.at[row, 'target']:.2f}"
        for row, method in best.items()
        if method != "target"
    ]
    parts, missed = [], len(others)
    for model, name in published.MODELS.items():
        averages = _averages(model)
        first = averages.idxmax(axis=1)
        rest = [f"{code} {method}" for code, method in first.items() if method != "target"]
        ahead = int((averages["target"] > averages[_RANDOM]).sum())
        missed += len(rest)
        parts.append(
            f"{name}: best average of a language in {len(first) - len(rest)} of {len(first)} "
            f"(else {', '.join(rest)}), ahead of random:size in {ahead}"
        )
    found = f"Table 2: best in {len(best) - len(others)} of {len(best)} rows ({'; '.join(others)})"
    return Claim(
        "Abstract, 5.2.1",
        "the target subnetwork “consistently” outperforms the other methods on target-language "
        "tasks",
        ". ".join([found, *parts]),
        "in part" if missed else "agrees",
    )


def _flores() -> Claim:
    rows = _summary("target")
    change = (rows["target"] - rows["base"]).filter(like="FLORES")
    return Claim(
        "5.2.1",
        "“on FLORES, targeted subnetworks achieve average improvements of up to 5 points”",
        f"Table 2: {_listed(change)}",
        "agrees" if round(change.max()) == 5 else "differs",
    )


def _preserved() -> Claim:
    rows = _summary("general")
    change = rows["target"] - rows["base"]
    nemo = gains("nemo", over="general").mean()
    up = change[["MMLU", "WINOGRANDE"]] >= 0
    return Claim(
        "5.2.1",
        "“preserving or slightly improving performance on general benchmarks such as MMLU and "
        "WINOGRANDE”",
        f"Table 2: {_listed(change)}; average {_signed(change.mean())}. "
        f"{published.MODELS['nemo']}: average {_signed(nemo)}",
        "agrees" if up.all() else "in part",
    )


def _whole_matrices() -> Claim:
    return _against_base(
        "full-model and FFN-only fine-tuning “fail to improve target-language performance”",
        methods=("full", "ffn"),
        expected=lambda change: bool((change < 0).all()),
    )


def _modest_gains() -> Claim:
    return _against_base(
        "the random and LoRA baselines show “modest target-language gains”",
        methods=(_RANDOM, "lora"),
        expected=lambda change: bool((change > 0).all()),
    )


def _against_base(
    text: str, *, methods: tuple[str, ...], expected: Callable[[pd.Series], bool]
) -> Claim:
    """Check the direction of averages, and name the rows of Table 2 with the other direction."""
    rows, changes, exceptions = _summary("target"), {}, []
    summary = published.averages().query("group == 'target' and is_average")
    averages = summary.set_index("method")["score"]
    for method in methods:
        changes[method] = averages[method] - averages["base"]
        change = rows[method] - rows["base"]
        other = change[(change > 0) != (changes[method] > 0)]
        exceptions += [f"{method} {row} {_signed(value)}" for row, value in other.items()]
    whole = pd.Series(changes)
    found = f"Table 2: average {_listed(whole)}"
    if exceptions:
        found += f"; the other way in single rows: {', '.join(exceptions)}"
    verdict = "agrees" if expected(whole) else "in part"
    return Claim("5.2.1", text, found, verdict)


def _three_languages() -> Claim:
    codes = ["afr", "mlt", "cym"]
    found = {name: gains(model)[codes] for model, name in published.MODELS.items()}
    found["mean of both"] = sum(found.values()) / 2
    everything = (gains("llama", over="all") + gains("nemo", over="all"))[codes] / 2
    parts = [f"{name}: {_listed(change)}" for name, change in found.items()]
    parts.append(f"mean of both over all 12 rows: {_listed(everything)}")
    above = [bool((change > 5).all()) for change in [*found.values(), everything]]
    return Claim(
        "5.2.2",
        "Afrikaans, Maltese and Welsh show “average gains exceeding 5 points across all tasks”",
        f"Gain of the target-language average. {'; '.join(parts)}",
        "agrees" if any(above) else "in part" if found["mean of both"].max() > 5 else "differs",
    )


def _marginal() -> Claim:
    change = gains("llama").sort_values()
    places = {code: place for place, code in enumerate(change.index, start=1)}
    nemo = gains("nemo")
    text = ", ".join(
        f"{language_label(code)} {_signed(change[code])} (place {places[code]} of 12 from below; "
        f"{published.MODELS['nemo']} {_signed(nemo[code])})"
        for code in ("lvs", "mkd")
    )
    smallest = max(places["lvs"], places["mkd"]) <= 3
    return Claim(
        "5.2.2",
        "Latvian and Macedonian “see only marginal improvements”",
        f"{published.MODELS['llama']}: {text}",
        "agrees" if smallest else "in part",
    )


def _decreases() -> Claim:
    expected = {"llama": {"kat"}, "nemo": {"slv", "npi"}}
    parts, agreed = [], True
    for over, what in (("target", "target-language average"), ("all", "mean of all 12 rows")):
        for model, name in published.MODELS.items():
            change = gains(model, over=over)
            fallen = change[change.round(2) < 0]
            parts.append(f"{name}, {what}: {_listed(fallen)}")
            agreed &= over == "all" or set(fallen.index) == expected[model]
    return Claim(
        "5.2.2",
        "“the only decreases we observe are for Georgian with LLAMA and Slovenian and Nepali with "
        "MISTRAL”",
        "; ".join(parts),
        "agrees" if agreed else "in part",
    )


def _other_model() -> Claim:
    llama, nemo = gains("llama")[["slv", "npi"]], gains("nemo")[["kat"]]
    return Claim(
        "5.2.2",
        "both models improve on these languages overall: MISTRAL on Georgian, LLAMA on Slovenian "
        "and Nepali",
        f"{published.MODELS['nemo']}: {_listed(nemo)}; {published.MODELS['llama']}: "
        f"{_listed(llama)}",
        "agrees" if min(llama.min(), nemo.min()) > 0 else "differs",
    )


def _data_size() -> Claim:
    return Claim(
        "5.2.4, Figure 5",
        "training size was varied for “a subset of seven languages”",
        "The caption of Figure 5 says “a subset of 5 languages”; no table holds its numbers",
        "differs",
    )


def _mean_cosine() -> Claim:
    means = published.alignment_averages().groupby("model")["cosine"].mean().sort_values()
    return Claim(
        "6.2",
        "the target subnetwork reaches “an average cosine similarity of 90.47”",
        f"Tables 27 to 38: {_listed(means[::-1], sign='')}",
        "agrees" if round(means["Target"], 2) == 90.47 else "differs",
    )


def _strongest() -> Claim:
    frame = published.alignment_averages()
    wide = frame.pivot(index=["language", "against"], columns="model", values="cosine")
    best = (wide["Target"] == wide.max(axis=1)).sum()
    above = (wide["Target"] > wide["Baseline"]).sum()
    means = frame.groupby(["language", "model"])["cosine"].mean().unstack()
    languages = (means.idxmax(axis=1) == "Target").sum()
    return Claim(
        "6.2",
        "“a consistent increase in similarity for all languages”, the strongest of all methods",
        f"Above the base model in {above} of {len(wide)} pairs of languages, highest of all "
        f"methods in {best} of {len(wide)} pairs and in {languages} of {len(means)} means of a "
        "language",
        "agrees" if above == len(wide) and languages == len(means) else "in part",
    )


def _shares() -> Claim:
    shares = {name: published.subnetworks(model) for model, name in published.MODELS.items()}
    parts = [
        f"{name}: {frame['percent'].min():.2f} to {frame['percent'].max():.2f} %"
        for name, frame in shares.items()
    ]
    highest = max(frame["percent"].max() for frame in shares.values())
    return Claim(
        "Abstract, 5.1",
        "subnetworks are “up to 1%” of the model, “roughly 0.2% to 1%”",
        "; ".join(parts),
        "agrees" if round(highest, 1) <= 1.0 else "differs",
    )


def _large_and_small() -> Claim:
    share = published.subnetworks("llama").set_index("language")["percent"]
    large, small = share[share > 0.7], share[share < 0.3]
    holds = {"cym", "npi"} <= set(large.index) and {"kat", "mkd"} <= set(small.index)
    return Claim(
        "5.1",
        "Welsh and Nepali subnetworks cover over 0.7 % of the model, Georgian and Macedonian less "
        "than 0.3 %",
        f"Table 1: above 0.7 %: {_listed(large, sign='')}; below 0.3 %: {_listed(small, sign='')}",
        "agrees" if holds else "differs",
    )


def _lora() -> Claim:
    n, total = lora_parameters("llama", rank=62, n_matrices=2), MODEL_INFOS["llama"].n_parameters
    return Claim(
        "4.3",
        "LoRA on gate and up with rank 62 has “57M trainable parameters (0.7%)”",
        f"{n / 1e6:.1f}M ({100 * n / total:.2f} %); see below",
        "agrees" if round(n / 1e6) == 57 else "differs",
    )


def _matched() -> Claim:
    millions = published.subnetworks("llama")["trainable_millions"]
    return Claim(
        "4.3",
        "LoRA is “configured to match the average parameter count used for most languages”",
        f"Table 1: mean {millions.mean():.1f}M, median {millions.median():.1f}M, largest "
        f"{millions.max():.1f}M",
        "agrees" if abs(millions.mean() - 57) < 5 else "differs",
    )


_CHECKS: tuple[Callable[[], Claim], ...] = (
    *(_shares, _lora, _matched, _large_and_small, _largest_gains, _flores, _preserved),
    *(_whole_matrices, _modest_gains, _three_languages, _marginal, _decreases, _other_model),
    *(_data_size, _mean_cosine, _strongest),
)


def _summary(group: str) -> pd.DataFrame:
    """Return the rows of Table 2: row x method."""
    frame = published.averages()
    frame = frame[(frame["group"] == group) & ~frame["is_average"]]
    return frame.pivot(index="row", columns="method", values="score").loc[
        list(dict.fromkeys(frame["row"]))
    ]


def _averages(model: published.Model) -> pd.DataFrame:
    """Return the printed target-language averages: language x method."""
    frame = published.downstream(model)
    frame = frame[frame["is_average"] & (frame["group"] == "target")]
    return frame.pivot(index="language", columns="method", values="score").loc[list(PAPER_TARGETS)]


def _listed(values: pd.Series, *, sign: str = "+") -> str:
    items: Iterable[tuple[str, float]] = values.items()
    return ", ".join(f"{label} {_signed(value, sign=sign)}" for label, value in items)


def _signed(value: float, *, sign: str = "+") -> str:
    return f"{value:{sign}.2f}".replace("-", "\N{MINUS SIGN}")
