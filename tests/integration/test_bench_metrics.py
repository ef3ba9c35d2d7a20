"""``bitsieve bench metrics`` on a small scale: a peer that is installed gives the same values."""

import pytest

from tests.support.command import Command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


def test_measures_equal_those_of_the_peers(command: Command) -> None:
    found = command.json("bench", "metrics", "--queries", 300, "--depth", 40, "--peer-queries", 200)
    assert found["ours"]["queries_per_s"] > 0
    trec = found["peers"]["ir-measures"]
    assert {"map", "ndcg@10", "r_precision", "recall@10", "success@1"} <= set(trec["equal"])
    assert trec["largest_difference"] < 1e-6
    calculator = found["peers"]["pytorch-metric-learning"]
    assert calculator.get("skipped") or {"map", "map_at_r", "mrr"} <= set(calculator["equal"])


def test_exact_search_over_a_file_holds_less_than_the_file(command: Command) -> None:
    """What is allocated while ranking grows with the ids, not with the vectors."""
    found = command.json("bench", "exact", "--rows", 60_000, "--queries", 8)
    assert (found["queries"], found["vectors_bytes"]) == (8, 60_000 * 128 * 4)
    assert found["success@1"] > 0.5
    assert found["anonymous_peak_bytes"] - found["ids_and_labels_bytes"] < found["vectors_bytes"]
