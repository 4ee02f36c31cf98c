"""Default names of runs: written, read, and told from names given by hand."""

import pytest

from lse_interp.training.methods import METHODS
from lse_interp.training.run_name import RunName


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("target", "--method target"),
        ("random-size", "--method random --random-match size"),
        (
            "random-layer-20000-seed3",
            "--method random --random-match layer --n-tokens 20000 --seed 3",
        ),
        ("full-authors", "--method full --profile authors"),
        ("lora-authors-5-seed1", "--method lora --profile authors --n-tokens 5 --seed 1"),
    ],
)
def test_parse_reads_what_str_writes(name, flags):
    found = RunName.parse(name)
    assert str(found) == name
    assert found.flags == flags


@pytest.mark.parametrize(
    "name", ["mine", "target-mine", "target-", "random", "target-layer", "target-seed0", "full-5-5"]
)
def test_parse_knows_names_given_by_hand(name):
    assert RunName.parse(name) is None


def test_a_variant_has_a_default():
    assert str(RunName(METHODS["random"])) == "random-size"
