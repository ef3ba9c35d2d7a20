"""The sieve: bits first, exact distances second, and a measured answer to "how much does that miss?".

::

    EmbeddingParts ─sample─▶ fit ─▶ Encoder ─build─▶ codes · vectors · rows
                                                          │
    query ─▶ hamming: the C nearest codes of the snapshot ─▶ exact: their distances ─▶ the k nearest

- ``arrays``     array types, and the legend of the shape suffixes
- ``sample``     which rows fit the encoder, which ones measure it: decided by id, the same every night
- ``encoder``    float vector to bits
- ``build``      embedding parts to the three files of one index shard
- ``shard``      those three files, mapped and checked
- ``order``      (distance, image id): the one order every stage uses, so that sharding never shows
- ``threads``    the pieces of a scan over all cores
- ``hamming``    first stage
- ``exact``      exact distances, and brute force search
- ``search``     both stages as one call
- ``calibration``  what calibrating found, as the manifest stores it
- ``bootstrap``  the uncertainty of a mean over queries
- ``recall``     recall at every C from one pass over the codes
- ``calibrate``  the C that gives the recall asked for, and the recall published
- ``reduce``     fit and build as stages with receipts: the only file here that knows the object store

The rest knows local files and arrays: no store, no manifest, no Ray. This room is the only door to faiss.
"""
