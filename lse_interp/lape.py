"""Find the language neurons, by Language Activation Probability Entropy (LAPE) unless told.

With p[k] the share of tokens of language k at which a neuron is active and
q[k] = p[k] / sum over languages of p, a neuron scores LAPE = - sum over k of q[k] log q[k] (nats).
Low entropy means that few languages use the neuron. Chosen are the K percent of all neurons with
the lowest entropy, among those that some language uses often; each goes to every language that
uses it often, so the sets may overlap. `--selector` takes other ways to choose.

Source: paper, section 3.1, and the method's released code where the paper leaves room: both
thresholds are quantiles of all layer x neuron x language probabilities, compared with a strict >.

    python -m lse_interp.lape --model embedded --k 0.05 --parquet

reads the counts that `python -m lse_interp.activations` left in `runs/<model>/counts/`, or those in
the folder `--counts`, and writes
`runs/<model>/neurons/lape.safetensors`. With `--parquet` it also writes
`runs/<model>/neurons/lape-release/`, a parquet table and its dataset card, ready to be published:

    hf upload <user>/<name> runs/embedded/neurons/lape-release --repo-type dataset
"""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lse_interp.artifacts.paths import DEFAULT_SELECTOR, RunPaths
from lse_interp.core.cli import CONFIG_FLAT, ModelArgs, main_for
from lse_interp.core.errors import LseError
from lse_interp.neurons.selectors import FLAGS, SELECTORS

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Config:
    """Find the language neurons of one model from its activation counts."""

    model: CONFIG_FLAT[ModelArgs] = ModelArgs()
    """The model whose counts are read; no model is loaded, so that only `--model` matters here."""
    root: Path = Path("runs")
    """Folder of all runs; this command reads and writes `root/<model>/`."""
    counts: Path | None = None
    """Folder of counts, one file per language; by default `root/<model>/counts`. Files of other
    projects are read too; the language is in their name (`mt.pt`, `activation.mt.train.llama`)."""
    langs: tuple[str, ...] = ()
    """Languages to tell apart; by default every language with counts. LAPE depends on the whole
    set: another language added changes every neuron's entropy."""
    selector: SELECTORS.choice = DEFAULT_SELECTOR  # type: ignore[name-defined]
    """How neurons are chosen. Other packages can add selectors."""
    k: float | None = None
    """Share of all neurons to choose, in (0, 1]. LAPE: 0.05."""
    activity_quantile: float | None = None
    """A neuron is eligible if some language uses it more often than this share of all
    (neuron, language) pairs. LAPE: 0.95."""
    selectivity_quantile: float | None = None
    """A chosen neuron belongs to every language that uses it more often than this share.
    LAPE: 0.95."""
    parameters: tuple[str, ...] = ()
    """Further parameters of the selector, each as name=value. LAPE has none."""
    out: Path | None = None
    """Where to write; by default `root/<model>/neurons/<selector>.safetensors`."""
    parquet: bool = False
    """Also write a folder to publish, with the parquet table and its dataset card: the name of the
    neuron file, with `-release` at the end."""
    license: str | None = None
    """License that the dataset card names, as the hub spells it (`cc-by-4.0`); needs `parquet`.
    Without it the card says `unknown`, for you to fill in."""
    overwrite: bool = False
    """Find the neurons again even if they are finished."""


def run(config: Config) -> Any:
    """Read the counts, find the neurons, write and report them; reuse finished ones.

    Returns:
        The `NeuronSets`.

    Raises:
        LseError: a parameter out of range or unknown, or a `license` that is none or has no card.
        ArtifactError: no counts, or a file that cannot be read.
        MismatchError: finished neurons with other settings, and no `overwrite`.
    """
    from lse_interp.neurons.formats.dataset_card import check_license, write_release
    from lse_interp.neurons.on_disk import CountsOnDisk, identify_on_disk
    from lse_interp.neurons.sizes import size_report

    selector = SELECTORS[config.selector]
    flags = {name: value for name in FLAGS if (value := getattr(config, name)) is not None}
    parameters = flags | selector.read(config.parameters)
    selector.parameters(parameters)
    if config.license is not None:
        if not config.parquet:
            raise LseError("`--license` goes into the dataset card; add --parquet to write one.")
        check_license(config.license)
    paths = RunPaths(config.root, config.model.model)
    out = config.out or paths.neurons_of(config.selector)
    neurons = identify_on_disk(
        CountsOnDisk(paths, config.langs, folder=config.counts),
        out=out,
        selector=config.selector,
        parameters=parameters,
        overwrite=config.overwrite,
        config=config,
    )
    logger.info("%s; in %s", size_report(neurons), out)
    if config.parquet:
        folder = out.with_name(f"{out.stem}-release")
        write_release(folder, neurons, license=config.license)
        logger.info(
            "wrote %s; publish it: hf upload <user>/<name> %s --repo-type dataset", folder, folder
        )
    return neurons


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    return main_for(Config, run, argv, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
