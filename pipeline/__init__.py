"""bitsieve's library: from a catalog of images to a published, calibrated, searchable snapshot.

::

    catalog source ─list─▶ Catalog ─diff─▶ ImageShards ─embed (Ray actors, ONNX)─▶ EmbeddingParts + rejects
                                                                                  │ seeded sample
                                                                                  ▼
     snapshots/<n+1> ◀─publish─ gates ◀─ calibrate (C) ◀─ IndexShards ◀─reduce─ Encoder (fit: bits, rotation)
            │
            ├─▶ Searcher ─▶ SearchResult          └─▶ Evaluation ─▶ EvaluationReport (HTML + JSON)

The rooms, in the order data flows through them; each opens with what it does:

- ``storage``   objects under keys, on a local folder or S3; receipts; every key spelled in ``layout``
- ``catalog``   what images there are (folder, tars, Parquet), what changed, which shards to embed
- ``images``    bytes to pixels: decode, preprocess, degrade, thumbnails (the only door to Pillow)
- ``model``     the ONNX file and the card that says how it wants its input (the only door to onnx)
- ``embed``     one image shard in, one embedding part and its rejects out
- ``index``     the sieve: encoder, Hamming first stage, exact second stage, calibration (door to faiss)
- ``snapshot``  the manifest, the gates, publication and rollback
- ``evaluate``  retrieval metrics and the report
- ``cluster``   where tasks run (the only door to ray)

``values`` and ``errors`` are shared by all; ``fingerprint`` names derived things; ``telemetry`` records.
"""
