"""The model that ships: ``builtin``, a small network that ``jobs.demo_model`` trained on a generated shop."""

from pathlib import Path

BUILTIN_FILE = Path(__file__).with_name("builtin.onnx")
