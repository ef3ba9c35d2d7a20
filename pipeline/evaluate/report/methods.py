"""What every report ends with: what was judged, by what software, and how sure its figures are."""

from collections.abc import Mapping

from pipeline.evaluate.report.document import Fact
from pipeline.evaluate.report.words import count

TWO_SIDED = "Two-sided 95\u00a0% percentile bootstrap"


def bootstrap(of: str, n_resamples: int, seed: int, n: int | None = None) -> Fact:
    """How intervals were found: of what, such as `the mean over queries`, of which there are ``n``."""
    shown = (
        ""
        if n is None
        else (
            f"; never narrower than what {count(n)} of these can show where all are right or all wrong "
            "(.025 to the power 1/n)"
        )
    )
    return Fact(
        term="Interval", text=f"{TWO_SIDED} of {of}, {count(n_resamples)} resamples, seed {seed}{shown}."
    )


def provenance(
    model_id: str, snapshot: int | None, digest: str, software: Mapping[str, str]
) -> tuple[Fact, ...]:
    """Which model, which snapshot, which versions."""
    facts = [Fact(term="Model", text="", code=model_id)] if model_id else []
    if digest:
        number = "" if snapshot is None else f"{snapshot}, digest"
        facts.append(Fact(term="Snapshot", text=number, code=digest))
    if software:
        versions = ", ".join(f"{name} {version}" for name, version in sorted(software.items()))
        facts.append(Fact(term="Software", text=versions))
    return tuple(facts)
