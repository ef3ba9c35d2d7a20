"""``bitsieve evaluate``: offline reports about a published snapshot."""

import typer

from jobs.evaluate import compare, enrolment, history, index, reranking, retrieval, robustness, verification

app = typer.Typer(help="Offline evaluation reports.", no_args_is_help=True)
app.command("retrieval")(retrieval.command)
app.command("verification")(verification.command)
app.command("enrolment")(enrolment.command)
app.command("index")(index.command)
app.command("compare")(compare.command)
app.command("robustness")(robustness.command)
app.command("history")(history.command)
app.command("reranking")(reranking.command)
