"""Fits the bag of visual words of ``sift``: the words by k-means, and the directions of their counts.

1. Rooted descriptors of every image; some of each image's are drawn by the seed.
2. Words: centres of k-means over those.
3. Rooted counts of words of every image. They are not weighted by rarity: on a dense grid every image has
   nearly every word, and rare ones are noise (grocery photos: success at 1 of .49 with weights, .58 without).
4. The leading singular directions of the counts, each divided by the root of its strength (Jegou and Chum
   2012 whiten to the same end), without the first, which is what all images have in common.

Legend: N images, P places, K words, D dimensions.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.errors import UsageError
from pipeline.model.session import EmbeddingSession
from pipeline.model.sift import (
    DESCRIPTOR,
    Floats,
    build_count_model,
    build_descriptor_model,
    build_sift_model,
)

_PER_IMAGE = 300
_AT_ONCE = 16

Pixels = npt.NDArray[np.uint8]


def fit_sift(images: Sequence[Pixels], *, n_words: int, dim: int, seed: int, threads: int = 1) -> bytes:
    """The embedding model fitted on prepared images, uint8 [3, S, S] each; the same for a seed.

    Raises:
        UsageError: the images are too few, or show too little, for so many words or dimensions.
    """
    if dim >= min(n_words, len(images)):
        raise UsageError(
            f"{len(images)} images and {n_words} words cannot give {dim} dimensions",
            fix="take more --images and --words than --dim",
        )
    size_px = images[0].shape[-1]
    words_KD = _words(images, build_descriptor_model(size_px), n_words, seed, threads)
    counts_NK = np.concatenate(list(_vectors(images, build_count_model(size_px, words_KD), threads)))
    projection_KD = _projection(counts_NK.astype(np.float64), dim)
    about = f"{len(images)} images of the catalog: {n_words} visual words, no labels; seed {seed}"
    return build_sift_model(size_px, words_KD, projection_KD, about)


def _words(images: Sequence[Pixels], model: bytes, n_words: int, seed: int, threads: int) -> Floats:
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    drawn = []
    for block_ND in _vectors(images, model, threads):
        for flat_D in block_ND:
            of_image_PD = flat_D.reshape(-1, DESCRIPTOR)
            textured = np.flatnonzero(of_image_PD.any(axis=1))
            some = generator.permutation(textured)[:_PER_IMAGE]
            drawn.append(of_image_PD[some])
    descriptors_MD = np.concatenate(drawn)
    if len(descriptors_MD) < 10 * n_words:
        raise UsageError(
            f"{len(images)} images have {len(descriptors_MD):,} places with texture, too few for {n_words} "
            "words",
            fix="take more --images or fewer --words",
        )
    means = MiniBatchKMeans(n_words, random_state=seed, batch_size=8192, n_init=1, max_iter=30)
    centres_KD: Floats = means.fit(descriptors_MD).cluster_centers_.astype(np.float32)
    return centres_KD


def _projection(counts_NK: npt.NDArray[np.float64], dim: int) -> Floats:
    """Directions of the counts, [K, D]."""
    unit_NK = counts_NK / np.maximum(np.linalg.norm(counts_NK, axis=1, keepdims=True), 1e-12)
    squared_K, directions_KK = np.linalg.eigh(unit_NK.T @ unit_NK)  # squared strengths, ascending
    chosen = slice(-2, -2 - dim, -1)
    strength_D = np.sqrt(np.maximum(squared_K[chosen] / squared_K[-2], 1e-12))
    directions_KD = directions_KK[:, chosen]
    sign_D = np.sign(directions_KD[np.abs(directions_KD).argmax(axis=0), np.arange(dim)])
    projection_KD: Floats = (directions_KD * sign_D / np.sqrt(strength_D)).astype(np.float32)
    return projection_KD


def _vectors(images: Sequence[Pixels], model: bytes, threads: int) -> Iterator[Floats]:
    with EmbeddingSession(model, threads=threads, where="sift") as session:
        for start in range(0, len(images), _AT_ONCE):
            yield session.run_raw(np.stack(images[start : start + _AT_ONCE]))
