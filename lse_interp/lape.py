"""Find the language neurons: Language Activation Probability Entropy (LAPE).

With p[k] the share of tokens of language k at which a neuron is active and
q[k] = p[k] / sum over languages of p, a neuron scores LAPE = - sum over k of q[k] log q[k] (nats).
Low entropy means that few languages use the neuron. Chosen are the K percent of all neurons with
the lowest entropy, among those that some language uses often; each goes to every language that
uses it often, so the sets may overlap.

Source: paper, section 3.1, and the method's released code where the paper leaves room: both
thresholds are quantiles of all layer x neuron x language probabilities, compared with a strict >.

    python -m lse_interp.lape --model embedded --k 0.05 --parquet

reads the counts that `python -m lse_interp.activations` left in `runs/<model>/counts/` and writes
`runs/<model>/neurons.safetensors`. With `--parquet` it also writes `runs/<model>/release/`, a
parquet table and its dataset card, ready to be published:

    hf upload <user>/<name> runs/embedded/release --repo-type dataset
"""

import dataclasses
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from lse_interp.core.cli import answer_at_once, main_for, progress


@dataclasses.dataclass(frozen=True)
class Config:
    """Find the language neurons of one model from its activation counts."""

    model: str = "embedded"
    """The model whose counts are read: `embedded`, a local folder, or a hub id."""
    root: Path = Path("runs")
    """Folder of all runs; this stage reads and writes `root/<model>/`."""
    langs: tuple[str, ...] = ()
    """Languages to tell apart; by default every language with counts. LAPE depends on the whole
    set: another language added changes every neuron's entropy."""
    k: float = 0.05
    """Share of all neurons to choose, in (0, 1]."""
    activity_quantile: float = 0.95
    """A neuron is eligible if some language uses it more often than this share of all
    (neuron, language) pairs."""
    selectivity_quantile: float = 0.95
    """A chosen neuron belongs to every language that uses it more often than this share."""
    out: Path | None = None
    """Where to write; by default `root/<model>/neurons.safetensors`."""
    parquet: bool = False
    """Also write a folder to publish: `root/<model>/release/` with the parquet table and its
    dataset card, or `<name of out>-release/` beside `out`."""
    license: str | None = None
    """License that the dataset card names, as the hub spells it (`cc-by-4.0`); needs `parquet`.
    Without it the card says `unknown`, for you to fill in."""
    overwrite: bool = False
    """Do it again even if the neurons are there."""


if __name__ == "__main__":
    # Before the imports below, which take seconds.
    answer_at_once(Config, description=__doc__)


from lse_interp.artifacts.format import read_checksum
from lse_interp.artifacts.paths import RunPaths
from lse_interp.artifacts.provenance import provenance
from lse_interp.artifacts.reuse import reuse_or_make
from lse_interp.core.errors import ArtifactError, LseError, MismatchError
from lse_interp.core.languages import LANGUAGES, lookup
from lse_interp.counting.counts import KIND, ActivationCounts
from lse_interp.neurons.formats.dataset_card import check_license, write_release
from lse_interp.neurons.identify import identify
from lse_interp.neurons.selectors.lape import check_parameters
from lse_interp.neurons.sets import NeuronSets
from lse_interp.neurons.sizes import depth_profile, subnetwork_sizes

__all__ = ["Config", "main", "run"]

logger = logging.getLogger(__name__)


def run(config: Config) -> NeuronSets:
    """Read the counts, find the neurons, write and report them; reuse them where they are there.

    Raises:
        LseError: a parameter out of range, or a `license` that cannot be or has no card.
        ArtifactError: no counts, or a file that cannot be read.
        MismatchError: finished neurons with other settings, and no `overwrite`.
    """
    check_parameters(
        k=config.k,
        activity_quantile=config.activity_quantile,
        selectivity_quantile=config.selectivity_quantile,
    )
    _check_license(config)
    paths = RunPaths(config.root, config.model)
    out = config.out or paths.neurons
    languages = _languages(config, paths)

    def matches(neurons: NeuronSets) -> bool:
        return _matches(neurons, config, out=out, paths=paths, languages=languages)

    def make() -> NeuronSets:
        neurons = identify(
            _CountsOnDisk(paths, languages),
            k=config.k,
            activity_quantile=config.activity_quantile,
            selectivity_quantile=config.selectivity_quantile,
        )
        about = dict(neurons.provenance) | {
            "config": provenance(config)["config"],
            "counts": _checksums(paths, languages),
        }
        neurons = dataclasses.replace(neurons, provenance=about)
        neurons.save(out)
        _warn_of_unequal_text(neurons)
        return neurons

    neurons = reuse_or_make(
        out,
        what="the neuron sets",
        load=NeuronSets.load,
        matches=matches,
        make=make,
        overwrite=config.overwrite,
    )
    _report(neurons, out)
    if config.parquet:
        folder = out.with_name(f"{out.stem}-release") if config.out else paths.release
        write_release(folder, neurons, license=config.license)
        logger.info(
            "wrote %s; publish it: hf upload <user>/<name> %s --repo-type dataset", folder, folder
        )
    return neurons


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage from the command line."""
    return main_for(Config, run, argv, description=__doc__)


class _CountsOnDisk(Mapping[str, ActivationCounts]):
    """Counts by language, loaded when asked for and not kept."""

    def __init__(self, paths: RunPaths, languages: Sequence[str]):
        self._paths, self._languages = paths, languages

    def __getitem__(self, language: str) -> ActivationCounts:
        return ActivationCounts.load(self._paths.counts(language), totals=True)

    def __iter__(self) -> Iterator[str]:
        return iter(progress(self._languages, desc="counts", unit="language"))

    def __len__(self) -> int:
        return len(self._languages)


def _languages(config: Config, paths: RunPaths) -> tuple[str, ...]:
    # By file name: what else lies in the folder (unfinished counts) is not a language.
    found = tuple(code for code in LANGUAGES if paths.counts(code).exists())
    asked = tuple(dict.fromkeys(lookup(code).code for code in config.langs)) or found
    missing = [code for code in asked if code not in found]
    if missing or not found:
        raise ArtifactError(
            f"No activation counts of {' '.join(missing) or 'any language'} in "
            f"{paths.counts('*').parent}. Run `python -m lse_interp.activations --model "
            f"{config.model}` for them first. There: {' '.join(found) or '(none)'}."
        )
    return asked


def _check_license(config: Config) -> None:
    if config.license is None:
        return
    if not config.parquet:
        raise LseError("`--license` is written into the dataset card; add --parquet to write one.")
    check_license(config.license)


def _matches(
    neurons: NeuronSets, config: Config, *, out: Path, paths: RunPaths, languages: Iterable[str]
) -> bool:
    asked = {
        # The order of the languages changes nothing but the order of the output.
        "languages": tuple(sorted(languages)),
        **{key: getattr(config, key) for key in ("k", "activity_quantile", "selectivity_quantile")},
    }
    found = {"languages": tuple(sorted(neurons.languages)), **neurons.thresholds}
    for name, value in asked.items():
        if found.get(name) != value:
            raise MismatchError(
                f"{out} was made with {name} {_spell(found.get(name))}; asked for {_spell(value)}. "
                "Pass --overwrite to make it again, or --out to write elsewhere."
            )
    if neurons.provenance.get("counts") != _checksums(paths, languages):
        logger.info("%s was made from other counts; making it again", out)
        return False
    logger.info("%s is finished; reusing it (--overwrite to make it again)", out)
    return True


def _checksums(paths: RunPaths, languages: Iterable[str]) -> dict[str, str]:
    """Return what tells counts from others, whatever the dates of their files."""
    return {code: read_checksum(paths.counts(code), kind=KIND) for code in languages}


def _spell(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _report(neurons: NeuronSets, out: Path) -> None:
    summary = subnetwork_sizes(neurons).merge(depth_profile(neurons), on="language")
    summary = summary.rename(
        columns={
            "n_neurons": "neurons",
            "n_trainable": "trainable",
            "percent": "% of model",
            "lower": "% lower",
            "middle": "% middle",
            "upper": "% upper third",
            "median_layer": "median layer",
        }
    )
    formats = {"% of model": "{:.2f}".format} | dict.fromkeys(
        ["% lower", "% middle", "% upper third"], "{:.0f}".format
    )
    n_all = neurons.model.n_layers * neurons.model.d_mlp
    n_union = int(neurons.union().sum())
    logger.info("%s", summary.to_string(index=False, formatters=formats))
    logger.info(
        "%s: %d of %d neurons (%.2f %%) belong to at least one of %d languages; in %s",
        neurons.model.name,
        n_union,
        n_all,
        100 * n_union / n_all,
        len(neurons),
        out,
    )


def _warn_of_unequal_text(neurons: NeuronSets) -> None:
    n_tokens = neurons.provenance["n_tokens"]
    fewest, most = (choose(n_tokens, key=n_tokens.get) for choose in (min, max))
    if n_tokens[fewest] < n_tokens[most]:
        logger.warning(
            "the languages were counted on unequal text, from %s tokens (%s) to %s (%s): the less "
            "text, the more chance there is in a language's probabilities",
            f"{n_tokens[fewest]:,}",
            fewest,
            f"{n_tokens[most]:,}",
            most,
        )


if __name__ == "__main__":
    raise SystemExit(main())
