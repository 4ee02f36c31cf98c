"""Default names of runs, and the flags that an error suggests for them."""

import pytest

from lse_interp.artifacts.paths import RunPaths
from lse_interp.core.errors import ArtifactError
from lse_interp.subnetworks.find import default_name, find_run


@pytest.mark.parametrize(
    ("name", "method", "profile", "n_tokens", "seed"),
    [
        ("target", "target", "fixed", None, 0),
        ("random-layer-20000-seed3", "random:layer", "fixed", 20000, 3),
        ("lora-authors-5", "lora", "authors", 5, 0),
    ],
)
def test_default_name_says_what_was_trained_and_how(name, method, profile, n_tokens, seed):
    assert default_name(method, profile=profile, n_tokens=n_tokens, seed=seed) == name


@pytest.mark.parametrize(
    ("name", "flags"),
    [("random-layer-5", " --method random --random-match layer`"), ("mine", "--lang mlt`")],
)
def test_find_run_says_how_to_make_a_run(tmp_path, name, flags):
    with pytest.raises(ArtifactError, match="There is no run yet.*" + flags):
        find_run(RunPaths(tmp_path, "embedded"), "mlt", name)
