"""Makes a model from labelled images: networks, losses, miners, the loop, and the export to ONNX.

::

    catalog ─▶ pack ─▶ plan of batches (P x K) ─▶ network ─▶ loss over mined pairs ─▶ checkpoints ─▶ ONNX file

The only room that knows torch. Nothing else of ``pipeline`` imports it, and ``jobs`` only in a command that
trains.
"""
