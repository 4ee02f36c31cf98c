"""What an ablation matrix says, as plain text."""

from lse_interp.core.ablations import AblationMatrix

__all__ = ["ablation_report"]


def ablation_report(matrix: AblationMatrix) -> str:
    """Write who is hurt without the neurons of a language: the table, then counts and means."""
    table = matrix.selectivity()
    found = table[table["n_neurons"] > 0]
    first = int((found["rank"] == 1).sum())
    lines = [
        "Rise in loss without the neurons of a language, in nats per sentence "
        f"({matrix.intact.shape[-1]} sentences, {len(matrix.measured)} languages measured; own "
        "against the mean of the others):",
        table.to_string(index=False, float_format="{:.3f}".format, na_rep="-"),
        f"Own language hurt most in {first} of {len(found)}; mean rise "
        f"{found['own'].mean():.3f} in itself, {found['others'].mean():.3f} in the others",
    ]
    if matrix.control is not None:
        more = int((found["own"] > found["control_own"]).sum())
        lines.append(
            f"Own language hurt more than by random neurons in {more} of {len(found)}; these: "
            f"mean rise {found['control_own'].mean():.3f}"
        )
    return "\n".join(lines)
