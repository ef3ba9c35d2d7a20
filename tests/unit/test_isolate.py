"""Decoding in a child that may die: same pixels, and each way to die becomes a reason."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import ImageRejected
from pipeline.images.isolate import IsolatedLoader
from pipeline.images.preprocess import load_pixels
from pipeline.values import DecodeLimits, Preprocess, RejectReason
from tests.support.pictures import jpeg

SPEC = Preprocess(
    size=(32, 32), resize="squash", crop="none", scale=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
)


def test_isolated_loader_good_image_gives_the_same_pixels():
    data = jpeg(40, 30, seed=1)
    here = load_pixels(data, SPEC, DecodeLimits())
    with IsolatedLoader(SPEC, DecodeLimits()) as loader:
        there = loader.load(data)
        again = loader.load(data)
    assert np.array_equal(here.pixels, there.pixels)
    assert np.array_equal(here.pixels, again.pixels)
    assert (there.width_px, there.height_px) == (40, 30)


def test_isolated_loader_bad_image_has_the_usual_reason_and_the_child_lives_on():
    with IsolatedLoader(SPEC, DecodeLimits()) as loader:
        with pytest.raises(ImageRejected) as caught:
            loader.load(b"")
        pid = loader.pid
        loader.load(jpeg(8, 8, seed=2))
        assert loader.pid == pid
    assert caught.value.reason is RejectReason.EMPTY


def test_isolated_loader_child_killed_is_a_decoder_crash_and_the_next_image_works():
    with IsolatedLoader(SPEC, DecodeLimits()) as loader:
        loader.load(jpeg(8, 8, seed=3))
        os.kill(loader.pid, signal.SIGSEGV)
        with pytest.raises(ImageRejected) as caught:
            loader.load(jpeg(8, 8, seed=4))
        assert loader.load(jpeg(8, 8, seed=5)).width_px == 8
    assert caught.value.reason is RejectReason.DECODER_CRASH


def test_isolated_loader_child_frozen_is_a_timeout():
    with IsolatedLoader(SPEC, DecodeLimits(max_seconds=0.5)) as loader:
        loader.load(jpeg(8, 8, seed=3))
        os.kill(loader.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(ImageRejected) as caught:
            loader.load(jpeg(8, 8, seed=4))
        assert time.monotonic() - started >= 0.5
        assert loader.load(jpeg(8, 8, seed=5)).width_px == 8
    assert caught.value.reason is RejectReason.DECODE_TIMEOUT


def test_isolated_loader_image_beyond_the_memory_limit_is_decode_memory(tmp_path):
    path = tmp_path / "large.png"
    Image.new("RGB", (8000, 8000)).save(path)
    with IsolatedLoader(SPEC, DecodeLimits(max_memory_bytes=300 << 20)) as loader:
        with pytest.raises(ImageRejected) as caught:
            loader.load(path.read_bytes())
        assert loader.load(jpeg(8, 8, seed=5)).width_px == 8
    assert caught.value.reason is RejectReason.DECODE_MEMORY
