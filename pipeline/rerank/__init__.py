"""Another order of the same images: what the neighbours of a query, and their neighbours, say about it.

::

    query ─▶ first search ─▶ neighbours ─┬─▶ expanded query ─▶ second search     (expansion)
                                         └─▶ their own neighbours ─▶ new order   (the other three)

- ``base``          what a re-ranker may ask of the images searched, and the contract of re-rankers
- ``expansion``     average, decaying, alpha-weighted and recursive query expansion
- ``augmentation``  database-side augmentation: every image moved towards its own neighbours
- ``reciprocal``    k-reciprocal encoding: who counts whom among its nearest
- ``diffusion``     a walk on the graph of the candidates
- ``learned``       expansion with weights that a network gives
- ``method``        which re-ranker a name with settings means

Plain arrays and no library but numpy and scipy: a base may be an index, or all vectors in memory. Re-ranking
helps where several images show the same thing and hurts where a query has one right answer, or its first
neighbour is wrong: ``evaluate reranking`` says which it is before anybody depends on it.
"""
