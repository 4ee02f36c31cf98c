"""The errors and the hint they end with."""

import pytest

from lse_interp.core import errors
from lse_interp.core.errors import LanguageError, LseError, near_misses


def test_every_error_is_an_lse_error():
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(kinds) == 8
    assert all(issubclass(kind, LseError) for kind in kinds)


def test_a_language_error_is_a_lookup_error_and_shows_its_text_unquoted():
    assert issubclass(LanguageError, LookupError)
    assert str(LanguageError("no such language")) == "no such language"


@pytest.mark.parametrize(
    ("name", "choices", "hint"),
    [
        ("mtl", ["mlt", "deu"], "Did you mean mlt?"),
        ("zzz", ["mlt", "deu", "mlt"], "Known: deu, mlt."),
        ("zzz", [], "Known: (none)."),
        ("zzz", [f"a{i:02d}" for i in range(31)], "..."),
    ],
)
def test_near_misses_name_close_choices_or_list_them_all(name, choices, hint):
    assert hint in near_misses(name, choices)


def test_near_misses_show_at_most_n():
    assert near_misses("abc", ["abd", "abe", "abf"], n=2).count(",") == 1
