"""Which tokens a neuron promotes and demotes when it is active.

An active neuron adds its column of the down projection to the residual stream. The scores of all
tokens along that direction alone are

    score = W_U (norm(column) - norm(0))

with the final norm and the unembedding W_U of the model. In models that put a norm after the MLP
(Gemma 2 and 3, OLMo 2), the column goes through that norm first. Norms divide by the length of what
they are given, so scores compare directions, not how strongly neurons write. This is the direct
path only: what later layers make of the column is left out.

Any column has some tokens at the top. So each neuron has a control: another neuron of the layer,
drawn at random.

Source: nostalgebraist, "interpreting GPT: the logit lens", 2020; Geva et al., "Transformer
Feed-Forward Layers Build Predictions by Promoting Concepts in the Vocabulary Space", 2022 (arXiv
2203.14680).
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from fontTools import unicodedata
from jaxtyping import Float
from torch import Tensor, nn

from lse_interp.core.errors import ActivationError, LseError, UnsupportedModelError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.mlp_weights import read_rows
from lse_interp.models.tokenization import require_tokenizer

__all__ = ["promoted_tokens", "script_of"]

_NO_SCRIPT = ("Zyyy", "Zinh", "Zzzz")
_POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm")
_CHUNK = 16_384


@torch.no_grad()
def promoted_tokens(
    model: HookedModel, layer: int, neurons: Sequence[int], *, k: int = 10, seed: int = 0
) -> pd.DataFrame:
    """List the tokens that neurons promote and demote most, with those of a control.

    Shares of scripts: `frame.groupby(["neuron", "control", "direction"])["script"].value_counts()`.

    Args:
        model: The model, with its tokenizer.
        layer: From 0 at the input.
        neurons: Neurons of that layer.
        k: Tokens in each direction.
        seed: Of the draw of the controls.

    Returns:
        Columns: neuron; control (whether the tokens are the control's); source (whose column it
        is, the neuron or another); direction (promoted, demoted); rank, from 1; token (its id);
        text; script (ISO 15924, see `script_of`); score.

    Raises:
        ActivationError: No such layer or neuron, or none given.
        LseError: `k` out of range, or no tokenizer.
        UnsupportedModelError: Between the residual stream and the unembedding is more than a norm.
    """
    tokenizer = require_tokenizer(model)
    if not len(neurons):
        raise ActivationError("`neurons` must name one neuron or more; got none.")
    unembedding = _unembedding(model)
    if not 1 <= k <= len(unembedding):
        raise LseError(f"`k` must be in 1 to {len(unembedding)}, the tokens; got {k}.")
    own = torch.tensor(neurons)
    columns = read_rows(model, layer, own)[-1]
    shift = torch.randint(
        1, model.d_mlp, (len(neurons),), generator=torch.Generator().manual_seed(seed)
    )
    others = (own + shift) % model.d_mlp
    sources = torch.cat([own, others])
    columns = torch.cat([columns, read_rows(model, layer, others)[-1]])
    directions = _directions(model, layer, columns)
    found = []
    for direction, sign in (("promoted", 1), ("demoted", -1)):
        scores, tokens = _largest(sign * directions, unembedding, k=k)
        found.append(
            pd.DataFrame(
                {
                    "neuron": np.repeat(np.tile(own.numpy(), 2), k),
                    "control": np.repeat([False, True], len(own) * k),
                    "source": np.repeat(sources.numpy(), k),
                    "direction": direction,
                    "rank": np.tile(np.arange(1, k + 1), len(sources)),
                    "token": tokens.flatten().cpu().numpy(),
                    "score": sign * scores.flatten().double().cpu().numpy(),
                }
            )
        )
    frame = pd.concat(found, ignore_index=True)
    texts = {token: tokenizer.decode([token]) for token in frame["token"].unique().tolist()}
    frame.insert(6, "text", frame["token"].map(texts))
    frame.insert(7, "script", frame["text"].map(script_of))
    return frame


def script_of(text: str) -> str:
    """Return the script of most characters, in ISO 15924; `Zyyy` where none belongs to a script.

    >>> script_of(" ħobż"), script_of("«წვიმა»"), script_of("12"), script_of("是")
    ('Latn', 'Geor', 'Zyyy', 'Hani')
    """
    found = Counter(map(unicodedata.script, text))
    for script, _ in found.most_common():
        if script not in _NO_SCRIPT:
            return script
    return "Zyyy"


def _unembedding(model: HookedModel) -> Float[Tensor, "vocab d_model"]:
    """Return the rows of the tokens that the tokenizer has; a matrix may be padded."""
    head = model.hf.get_output_embeddings()
    weight = getattr(head, "weight", None)
    if weight is None or weight.shape[1] != model.d_model or model.layout.stream is not None:
        raise UnsupportedModelError(
            f"{model.name}: expected an unembedding [vocab d_model = {model.d_model}] right after "
            f"the final norm; found {None if weight is None else list(weight.shape)} of "
            f"{type(head).__name__}. Tokens that neurons promote cannot be read from this model."
        )
    return weight.detach()[: len(model.tokenizer)]


def _directions(
    model: HookedModel, layer: int, columns: Float[Tensor, "index d_model"]
) -> Float[Tensor, "index d_model"]:
    """Send columns through the norm after the MLP, if there is one, and the final norm."""
    path = model.layout.blocks[layer].block
    block = model.hf.get_submodule(path)
    decoder = model.hf.get_submodule(path.rpartition(".")[0].rpartition(".")[0])
    after = [norm for name in _POST_NORMS if (norm := getattr(block, name, None)) is not None]
    # The last norm next to the blocks; some models have one of the embeddings, too.
    final = [child for child in decoder.children() if "norm" in type(child).__name__.lower()][-1:]
    norm = nn.Sequential(*after, *final)
    return norm(columns) - norm(torch.zeros_like(columns))


def _largest(
    directions: Float[Tensor, "index d_model"],
    unembedding: Float[Tensor, "vocab d_model"],
    *,
    k: int,
) -> tuple[Tensor, Tensor]:
    """Return the k largest scores and their tokens [index k], one part of the tokens at a time."""
    dtype = torch.promote_types(directions.dtype, torch.float32)
    directions = directions.to(unembedding.device, dtype)
    scores = directions.new_empty(len(directions), 0)
    tokens = scores.long()
    for start in range(0, len(unembedding), _CHUNK):
        part = directions @ unembedding[start : start + _CHUNK].to(dtype).T
        new = (torch.arange(part.shape[1], device=part.device) + start).expand_as(part)
        scores, tokens = torch.cat([scores, part], dim=1), torch.cat([tokens, new], dim=1)
        scores, at = scores.topk(min(k, scores.shape[1]), dim=1)
        tokens = tokens.gather(1, at)
    return scores, tokens
