"""The sieve: bits first, exact distances second, and a measured answer to "how much does that miss?".

::

    EmbeddingParts ─sample─▶ fit ─▶ Encoder ─build─▶ codes · vectors · rows
                                                          │
    query ─▶ hamming: the C nearest codes of the snapshot ─▶ exact: their distances ─▶ the k nearest

- ``arrays``     array types, and the legend of the shape suffixes
- ``sample``     which rows fit the encoder, which ones measure it: decided by id, the same every night
- ``encoder``    float vector to bits
- ``rotation``   random rotations; ``itq`` a learnt one
- ``columns``    lists and codes of many rows, compiled
- ``lists``      the coarse quantiser of the lists form
- ``balance``    whether an encoder still suits the rows
- ``int8``       vectors rounded to 8 bits
- ``mapped``     files that are written in any order of rows
- ``parts``      embedding parts as the build reads them
- ``build``      embedding parts to the files of one index shard
- ``shard``      those files, mapped and checked
- ``order``      (distance, image id): the one order every stage uses, so that sharding never shows
- ``threads``    the pieces of a scan over all cores
- ``probes``     which lists a query looks into
- ``hamming``    first stage, by ``kernel`` (compiled, extra ``kernel``) or ``plain`` (Faiss and numpy)
- ``device``     or by ``cuda``, which compares vectors too, where a device is asked for; imports torch
- ``exact``      exact distances, and brute force search
- ``near_duplicates``  groups of rows whose codes are nearly equal
- ``rough``      where there are 8-bit vectors: which candidates go on to the second stage
- ``rank``       second stage, by ``kernel`` or numpy
- ``sieve``      both stages for a batch of queries
- ``search``     what a caller may ask, and the answer
- ``calibration``  what calibrating found, as the manifest stores it
- ``bootstrap``  the uncertainty of a mean over queries
- ``queries``    which rows or vectors measure the index
- ``levels``     the lists that 1, 2, 3, 4, 6, 8, … probes look into
- ``recall``     recall at every C and every number of probes from one pass over the codes
- ``choose``     the cheapest C and probes that meet the target on one set of queries
- ``calibrate``  the operating point that gives the recall asked for, and the recall published
- ``reduce``     fit and build as stages with receipts: the only file here that knows the object store

The rest knows local files and arrays: no store, no manifest, no Ray. This room is the only door to faiss,
which is imported where it is first used: whoever only embeds does not hold it.
"""
