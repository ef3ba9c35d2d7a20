"""``bitsieve evaluate enrolment``: who is this, from one image each, and is it anybody we know?"""

from typing import Annotated

import typer

from jobs.evaluate.page import Page, write_page
from jobs.evaluate.subject import label_column, labelled_vectors
from jobs.output import AsJson, print_result
from jobs.place import Collection, Config, SnapshotNumber, Store, find_place
from jobs.run import software_versions
from pipeline.errors import UsageError
from pipeline.evaluate.enrolment import FALSE_ALARM_RATES, EnrolmentReport, Rate, evaluate_enrolment
from pipeline.evaluate.report.enrolment_page import enrolment_document


def command(
    store: Store,
    label: Annotated[str | None, typer.Option(help="Attribute that says who is the same.")] = None,
    false_alarms: Annotated[
        list[float] | None, typer.Option(help="Rate of strangers taken for somebody; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of who is enrolled, with which image.")] = 0,
    collection: Collection = None,
    config: Config = None,
    sequence: SnapshotNumber = None,
    output: Page = None,
    as_json: AsJson = False,
) -> None:
    """Enrols one image per identity and asks who all others are, strangers among them.

    Example: bitsieve evaluate enrolment --store index/ --label identity --false-alarms 0.01
    """
    rates = tuple(false_alarms or FALSE_ALARM_RATES)
    wrong = [rate for rate in rates if not 0 <= rate <= 1]
    if wrong:
        raise UsageError(f"a false-alarm rate is between 0 and 1, got {wrong[0]}")
    snapshot = find_place(store, collection, config).snapshot(sequence)
    base = labelled_vectors(snapshot, label_column(snapshot, label))
    report = evaluate_enrolment(base, false_alarm_rates=rates, seed=seed)
    model_id, digest = snapshot.content.model.id, snapshot.manifest.digest
    result = {
        **report.to_json(),
        "snapshot": snapshot.manifest.sequence,
        "digest": digest,
        "model_id": model_id,
    }
    if output is not None:
        document = enrolment_document(
            report,
            model_id=model_id,
            snapshot=snapshot.manifest.sequence,
            digest=digest,
            software=software_versions(),
        )
        write_page(output, document, result, snapshot)
    print_result(result, _in_words(report), as_json=as_json)


def _in_words(report: EnrolmentReport) -> str:
    return "\n".join(
        [
            f"{report.n_enrolled:,} enrolled with one image each; asked: {report.n_mated:,} other images of "
            f"theirs, {report.n_unknown:,} images of strangers",
            f"  rank 1                     {_said(report.rank_1)}",
            *(
                f"  found at {rate:>6} false alarms {_said(found)}"
                for rate, found in report.detection_rate.items()
            ),
        ]
    )


def _said(rate: Rate) -> str:
    if rate.value is None or rate.low is None or rate.high is None:
        return f"not shown: {rate.reason}"
    below = "" if rate.threshold is None else f"; D < {rate.threshold:.4f}"
    return f"{rate.value:.4f}  (95 % interval {rate.low:.4f} to {rate.high:.4f}{below})"
