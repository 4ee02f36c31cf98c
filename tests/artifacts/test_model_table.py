"""ModelTable: models of a result are picked, renamed, joined and found by their weights."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from lse_interp.artifacts.model_table import (
    ModelTable,
    find_by_weights,
    of_same_base,
    require_distinct,
    union,
)
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError, MismatchError


@dataclasses.dataclass(frozen=True, eq=False)
class Table(ModelTable):
    LABELS = ("models", "fingerprints")
    VALUES = ("one", "several")
    SETUP = ("text",)

    models: tuple[str, ...]
    fingerprints: tuple[str, ...]
    one: Tensor
    several: tuple[Tensor, ...]
    text: str = "a"
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.check_models()


@dataclasses.dataclass(frozen=True)
class Config:
    model: ModelArgs = ModelArgs()


def table(*models: str, **changes: Any) -> Table:
    """Build a table in which the numbers of a model tell its label's first letter."""
    numbers = torch.tensor([[float(ord(label[0]))] for label in models])
    fields: dict[str, Any] = {
        "models": models,
        "fingerprints": tuple(label.upper() for label in models),
        "one": numbers,
        "several": (numbers, torch.cat([numbers, -numbers], dim=1)),
    }
    return Table(**fields | changes)


def letters(result: Table) -> str:
    assert torch.equal(result.one, result.several[0])
    assert torch.equal(result.several[1], torch.cat([result.one, -result.one], dim=1))
    return "".join(chr(int(number)) for number in result.one[:, 0])


def test_select_keeps_labels_and_values_together():
    found = table("base", "lora", "target").select(["target", "base"])
    assert found.models == ("target", "base")
    assert found.fingerprints == ("TARGET", "BASE")
    assert letters(found) == "tb"
    with pytest.raises(LseError, match="No model 'tarjet' here. Did you mean target"):
        table("target").select(["tarjet"])


def test_concat_joins_what_select_took_apart():
    whole = table("base", "lora", "target")
    again = Table.concat([whole.select([label]) for label in whole.models])
    assert (again.models, again.fingerprints) == (whole.models, whole.fingerprints)
    assert letters(again) == "blt"


def test_measured_follows_the_labels():
    about = {"created": "today", "measured": {"base": 1, "lora": 2}}
    whole = table("base", "lora", provenance=about)
    assert whole.select(["lora"]).provenance == {"created": "today", "measured": {"lora": 2}}
    assert whole.named(("b", "l")).provenance["measured"] == {"b": 1, "l": 2}
    other = table("target", provenance={"measured": {"target": 3}})
    joined = Table.concat([whole, other])
    assert joined.provenance["measured"] == {"base": 1, "lora": 2, "target": 3}
    assert table("base").select(["base"]).provenance == {}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "Nothing to put together"),
        ([table("a"), table("a")], "a stands for more than one"),
        ([table("a"), table("b", text="other")], "a and b were not measured alike: text was a"),
        ([table("a"), table("b", one=torch.zeros(1, 2))], r"`one` of shapes \[1\] and \[2\]"),
    ],
)
def test_concat_refuses(parts, message):
    with pytest.raises(LseError, match=message):
        Table.concat(parts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprints": ("A",)}, "Each of the 2 models .* got 1 of fingerprints"),
        ({"one": torch.zeros(3, 1)}, "got 3 of one"),
        ({"models": ("a", "a")}, "a stands for more than one"),
    ],
)
def test_check_models_refuses(changes, message):
    with pytest.raises(MismatchError, match=message):
        table("a", "b", **changes)


def test_require_distinct_says_how_to_name_models():
    require_distinct(["a", "b"])
    with pytest.raises(MismatchError, match="Name them as label=path"):
        require_distinct(["a", "b", "a"])


def test_find_by_weights_gives_the_label_asked_for():
    earlier = table("embedded", "lora")
    found = find_by_weights(earlier, "EMBEDDED", label="base")
    assert found is not None
    assert (found.models, letters(found)) == (("base",), "e")
    assert find_by_weights(earlier, "OTHER", label="base") is None
    assert find_by_weights(None, "EMBEDDED", label="base") is None


def test_union_keeps_models_not_asked_for_and_replaces_the_others():
    earlier = table("base", "lora", "target")
    both = union(earlier, table("base", "target", "full", fingerprints=("BASE", "NEW", "FULL")))
    assert both.models == ("base", "lora", "target", "full")
    assert both.fingerprints == ("BASE", "LORA", "NEW", "FULL")
    assert letters(both) == "bltf"


def test_union_of_all_models_has_the_order_asked_for():
    asked = table("base", "target", "lora")
    assert union(table("base", "lora", "target"), asked) is asked
    assert union(None, asked) is asked


def test_union_calls_the_base_alone_base_again():
    assert union(table("base", "lora"), table("embedded")).models == ("base", "lora")


def test_of_same_base_drops_results_of_retrained_weights(tmp_path):
    about = {"config": {"model": {"model": "embedded"}}}
    earlier = table("base", "lora", provenance=about)
    assert of_same_base(earlier, "BASE", path=tmp_path, config=Config()) is earlier
    assert of_same_base(earlier, "OTHER", path=tmp_path, config=Config()) is None
    assert of_same_base(None, "OTHER", path=tmp_path, config=Config()) is None
    with pytest.raises(MismatchError, match="model was embedded, now other. Pass --overwrite"):
        of_same_base(earlier, "OTHER", path=tmp_path, config=Config(ModelArgs(model="other")))


def test_of_same_base_refuses_results_of_another_prefix(tmp_path):
    earlier = table("base", provenance={"config": {"model": {"model": "embedded", "bos": None}}})
    assert of_same_base(earlier, "BASE", path=tmp_path, config=Config()) is earlier
    with pytest.raises(MismatchError, match="bos was None, now none. Pass --overwrite"):
        of_same_base(earlier, "BASE", path=tmp_path, config=Config(ModelArgs(bos="none")))
