"""Every key of a bitsieve store, spelled once (DESIGN.md section 3)."""

LAYOUT_VERSION = 1
FORMAT = "format.json"
RECEIPTS = "receipts/"
PROBES = "probe/"
RUNS = "runs/"
PROGRESS = "/progress.json"
CONDEMNED = "condemned/"
PREDICTIONS = "predictions/"
ADAPTERS = "adapters/"


def probe(probe_id: str) -> str:
    """The prefix of the objects of one store probe, which deletes them again."""
    return f"{PROBES}{probe_id}/"


def model(model_id: str) -> str:
    """The ONNX file of a model, card included."""
    return f"models/{model_id}.onnx"


def adapter(digest: str) -> str:
    """A map from the vectors of one model into the space of another, named by what it holds."""
    return f"{ADAPTERS}{digest}.json"


def receipt(stage: str, key: str) -> str:
    """The proof that a task is done, and the names of its files."""
    return f"{RECEIPTS}{stage}/{key}.json"


def receipt_names(name: str) -> tuple[str, str] | None:
    """Stage and key of the receipt under this name; None if it is none."""
    stage, slash, key = name.removeprefix(RECEIPTS).removesuffix(".json").partition("/")
    return (stage, key) if slash and "/" not in key and name == receipt(stage, key) else None


def data_file(folder: str, key: str, attempt: str, suffix: str) -> str:
    """A data file of one attempt at a task; the name is used once and never written again."""
    return f"{folder}/{key[:2]}/{key}-{attempt}{suffix}"


def listing_hint(of_file: str) -> str:
    """Which task has listed a tar or Parquet file whole; never trusted."""
    return f"hints/{of_file}"


def object_list(digest: str) -> str:
    """A second-level object that holds a large part of a manifest, named by what it holds."""
    return f"lists/{digest}.json"


def snapshots(collection: str) -> str:
    """The prefix under which a collection's snapshots lie."""
    return f"collections/{collection}/snapshots/"


def snapshot(collection: str, sequence: int) -> str:
    """A snapshot's manifest; its creation is the commit."""
    return f"{snapshots(collection)}{sequence:020d}.json"


def expirations(collection: str) -> str:
    """The prefix under which a collection's expired snapshots are recorded."""
    return f"collections/{collection}/expired/"


def expiration(collection: str, sequence: int) -> str:
    """The record that a snapshot is no longer retained: its files may be gone."""
    return f"{expirations(collection)}{sequence:020d}.json"


def purged(collection: str, digest: str) -> str:
    """The memory of one purged image, by the sha256 of its id."""
    return f"collections/{collection}/purged/{digest}.json"


def condemned(run_id: str) -> str:
    """Files that nobody reaches any more, written down a day before they are deleted."""
    return f"{CONDEMNED}{run_id}.json"


def latest(collection: str) -> str:
    """A hint where to begin looking for the newest snapshot; never trusted."""
    return f"collections/{collection}/LATEST"


def candidates(collection: str) -> str:
    """The prefix of the finished runs that were not published, or not at once."""
    return f"collections/{collection}/candidates/"


def candidate(collection: str, run_id: str) -> str:
    """One of them."""
    return f"{candidates(collection)}{run_id}.json"


def requeues(collection: str) -> str:
    """The prefix of requests to try refused images again."""
    return f"collections/{collection}/redo/"


def requeue(collection: str, name: str) -> str:
    """One such request; its name says all of it."""
    return f"{requeues(collection)}{name}.json"


def run_plan(run_id: str) -> str:
    """What a run set out to do, with its resolved configuration."""
    return f"{RUNS}{run_id}/plan.json"


def runs_since(instant: str) -> str:
    """What sorts just before the objects of runs that began at ``instant`` (YYYYMMDDTHHMMSSZ) or later."""
    return f"{RUNS}{instant}"


def run_progress(run_id: str) -> str:
    """How far a run is; overwritten while it lives."""
    return f"{RUNS}{run_id}{PROGRESS}"


def prediction(work: str) -> str:
    """How fast somebody predicted this work to be; the newest prediction counts."""
    return f"{PREDICTIONS}{work}.json"


def events_of(run_id: str) -> str:
    """The prefix of a run's events."""
    return f"{RUNS}{run_id}/events/"


def run_events(run_id: str, number: int) -> str:
    """A batch of a run's events, JSON lines."""
    return f"{RUNS}{run_id}/events/{number:06d}.jsonl"


def trainings(begins: str) -> str:
    """What the names of all trainings begin with whose key begins so."""
    return f"trainings/{begins}"


def training(key: str) -> str:
    """The prefix of everything that a training leaves, by its key."""
    return f"{trainings(key)}/"


def training_checkpoint(key: str, step: int) -> str:
    """All that a training needs to go on after this step."""
    return f"{training(key)}checkpoints/{step:09d}.pt"


def training_file(key: str, name: str) -> str:
    """A small document of a training: its plan, progress, curves, result."""
    return f"{training(key)}{name}.json"


def training_trunk(key: str) -> str:
    """The frozen ONNX trunk that a training began with."""
    return f"{training(key)}trunk.onnx"
