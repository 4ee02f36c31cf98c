"""Running counts of every neuron's activations, kept on the devices that the layers run on."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64
from torch import Tensor

from lse_interp.core.errors import ActivationError
from lse_interp.models.hooked import HookedModel
from lse_interp.models.sites import site_name

__all__ = ["NeuronCounter", "add_up"]


class _Counts(NamedTuple):
    """What one device has counted; zero in layers that run on another."""

    n_positive: Int64[Tensor, "layer neuron"]
    activation_sum: Float64[Tensor, "layer neuron"]


class NeuronCounter:
    """Adds up, for one site kind in every layer, how often and how strongly neurons fire.

    Every layer is counted on the device it runs on, and nothing is copied to the host until
    `finish`, so a forward pass never waits for a count.

    Args:
        model: The model to run.
        site: One of `count_settings.NEURON_SITES`.
    """

    def __init__(self, model: HookedModel, site: str) -> None:
        self._model = model
        self._layer_of = {site_name(site, layer): layer for layer in range(model.n_layers)}
        self._hooks = dict.fromkeys(self._layer_of, self._visit)
        self._is_text: Bool[Tensor, " pos"] | None = None
        self._texts: dict[torch.device, Bool[Tensor, " pos"]] = {}
        self._weight = torch.empty(0)
        self._scratch = torch.empty(0)
        self._counts: dict[torch.device, _Counts] = {}
        self._counts_on(model.device)

    def totals(self) -> tuple[Int64[Tensor, "layer neuron"], Float64[Tensor, "layer neuron"]]:
        """Return, so far, the text tokens at which the value was > 0, and the sum of the values.

        Each batch is summed in float32, the batches in float64.
        """
        parts = zip(*self._counts.values(), strict=True)
        # Of each device that layers lie on; a copy, as `finish` sets the parts to zero.
        n_positive, sums = (
            torch.stack([part.to(self._model.device) for part in each]).sum(dim=0) for each in parts
        )
        return n_positive, sums

    def add(self, ids: Int[Tensor, "batch pos"], is_text: Bool[Tensor, "batch pos"]) -> None:
        """Run one batch, without the language-model head, and add its activations.

        Args:
            ids: Token ids without padding.
            is_text: Which positions to count; on the host, so that asking whether all of them
                are text does not wait for the device.
        """
        self._leave_out(is_text)
        self._model.run_with_hooks(ids, self._hooks, stop_after=self._model.n_layers - 1)

    def finish(
        self, *, what: str
    ) -> tuple[Int64[Tensor, "layer neuron"], Float64[Tensor, "layer neuron"]]:
        """Return what was counted, on the host, and start again from zero.

        Args:
            what: The text counted, as it should read in the error.

        Returns:
            `n_positive` and `activation_sum`.

        Raises:
            ActivationError: A layer gave values that are not finite.
        """
        n_positive, sums = (total.cpu() for total in self.totals())
        for counts in self._counts.values():
            counts.n_positive.zero_()
            counts.activation_sum.zero_()
        broken = (~sums.isfinite()).any(dim=1).nonzero().flatten()
        if len(broken):
            site = list(self._layer_of)[int(broken[0])]
            raise ActivationError(
                f"{site} gave values that are not finite (NaN or infinity) on {what}; no layer "
                "before it did. Check the weights of that layer, or run in a wider dtype than "
                f"{self._model.dtype} (dtype='float32')."
            )
        return n_positive, sums

    def _leave_out(self, is_text: Bool[Tensor, "batch pos"]) -> None:
        flat = is_text.flatten()
        self._is_text = None if bool(flat.all()) else flat
        self._texts.clear()
        self._weight = flat.float()

    def _visit(self, activation: Float[Tensor, "batch pos neuron"], site: str) -> None:
        rows = activation.flatten(0, 1)
        layer = self._layer_of[site]
        if rows.device.type == "cpu" and rows.dtype == torch.float32:
            positive, total = self._products(rows)
        else:
            positive, total = add_up(rows, self._text_on(rows.device))
        counts = self._counts_on(rows.device)
        counts.n_positive[layer] += positive
        counts.activation_sum[layer] += total

    def _text_on(self, device: torch.device) -> Bool[Tensor, " pos"] | None:
        if self._is_text is not None and device not in self._texts:
            # Where layers lie on several GPUs, waiting here for one would idle the others.
            self._texts[device] = self._is_text.to(device, non_blocking=device.type == "cuda")
        return self._texts.get(device)

    def _counts_on(self, device: torch.device) -> _Counts:
        if device not in self._counts:
            shape = (self._model.n_layers, self._model.d_mlp)
            self._counts[device] = _Counts(
                torch.zeros(shape, dtype=torch.int64, device=device),
                torch.zeros(shape, dtype=torch.float64, device=device),
            )
        return self._counts[device]

    def _products(
        self, rows: Float32[Tensor, "pos neuron"]
    ) -> tuple[Int64[Tensor, " neuron"], Float32[Tensor, " neuron"]]:
        # On a CPU, comparing into floats and multiplying by the 0/1 weights of the positions is
        # about five times faster than reducing booleans, and leaves out what is not text for
        # free. Whole numbers stay exact in float32 up to 2^24 tokens per batch.
        if self._scratch.shape != rows.shape:
            self._scratch = torch.empty(rows.shape)
        torch.gt(rows, 0, out=self._scratch)
        return (self._weight @ self._scratch).long(), self._weight @ rows


def add_up(
    rows: Float[Tensor, "pos neuron"], text: Bool[Tensor, " pos"] | None
) -> tuple[Int64[Tensor, " neuron"], Float32[Tensor, " neuron"]]:
    """Count positive values and sum all values over tokens, on any device and in any dtype.

    Args:
        rows: Activations of one layer.
        text: Which tokens to count; None counts all.

    Returns:
        The number of tokens with a value > 0, and the sum of the values.
    """
    if text is not None:
        rows = rows * text[:, None]
    return (rows > 0).sum(dim=0), rows.sum(dim=0, dtype=torch.float32)
