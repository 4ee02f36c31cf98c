import pytest
from hypothesis import given
from hypothesis import strategies as st

from lse_interp.core.errors import ActivationError
from lse_interp.models.sites import SITES, parse_site, site_name


@given(st.sampled_from(SITES), st.integers(0, 200))
def test_parse_site_inverts_site_name(kind, layer):
    assert parse_site(site_name(kind, layer)) == (kind, layer)


def test_site_name_spells_transformer_lens_names():
    assert site_name("hook_resid_post", 0) == "blocks.0.hook_resid_post"
    assert site_name("mlp.hook_post", 11) == "blocks.11.mlp.hook_post"


def test_site_name_unknown_kind_suggests_near_ones():
    with pytest.raises(ActivationError, match=r"'mlp.hook_gate'.*Did you mean .*mlp\.hook_"):
        site_name("mlp.hook_gate", 0)


def test_site_name_negative_layer_is_refused():
    with pytest.raises(ActivationError, match="counted from 0 at the input; got -1"):
        site_name("mlp.hook_act", -1)


@pytest.mark.parametrize("name", ["mlp.hook_act", "blocks.x.mlp.hook_act", "blocks.0", ""])
def test_parse_site_malformed_name_is_refused(name):
    with pytest.raises(ActivationError, match=r"written blocks\.\{layer\}\.\{kind\}"):
        parse_site(name)
