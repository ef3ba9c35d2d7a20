"""The miners that are raced find the same triplets."""

import pytest

from jobs.bench.peers import miners


def test_our_miner_and_the_librarys_find_the_same_semi_hard_triplets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(miners, "_peak_bytes", iter([5, 9] * 3).__next__)
    monkeypatch.setattr("jobs.bench.peers.miners.time.process_time", iter(range(100)).__next__)
    monkeypatch.setattr(miners, "_SECONDS", 0.5)
    ours, one, theirs = (miners.measure(who, 256) for who in (miners.OURS, miners.OURS_ONE, miners.THEIRS))
    assert ours == theirs
    assert (ours["cpu_s"], ours["grown_bytes"]) == (1, 4)
    assert 0 < one["triplets"] < ours["triplets"]
