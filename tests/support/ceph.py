"""Starts a real S3 service for tests: a one-node Ceph with one or more radosgw gateways, on loopback,
without systemd.

Needs the Debian packages ``ceph-mon ceph-osd radosgw ceph-common``. Objects live in memory. Takes 10 to 20 s
to start and about 200 MB. Every child dies with this process.

As a program, for benchmarks: it starts one gateway, makes a bucket, copies the folders it is given into it,
prints how to reach it as ``export`` lines, and serves until Ctrl-C::

    .venv/bin/python -m tests.support.ceph lfw-aligned112
"""

import argparse
import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from types import TracebackType

from boto3.session import Session
from botocore.config import Config

from tests.support.tally import tally

PACKAGES = "ceph-mon ceph-osd radosgw ceph-common"
ACCESS_KEY, SECRET_KEY = "test", "testing"
_PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
_START_S = 90.0

_CONFIG = """\
[global]
fsid = {fsid}
mon host = {monitor}
public network = 127.0.0.0/8
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
osd pool default size = 1
osd pool default min size = 1
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon data avail crit = 1
osd objectstore = {objectstore}
memstore device bytes = 4294967296
bluestore block size = 4294967296
bluestore block preallocate file = false
osd memory target = 1073741824
admin socket =
run dir = {folder}/run
crash dir = {folder}/run
log file = {folder}/log/$name.log
mon cluster log file = {folder}/log/cluster.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
keyring = {folder}/keyring
rgw thread pool size = 64
"""


def missing_programs() -> list[str]:
    """The programs of Ceph that are not installed here."""
    return [program for program in _PROGRAMS if shutil.which(program) is None]


class CephError(RuntimeError):
    """Ceph did not come up; the message ends with the tail of its logs."""


class CephCluster:
    """A running cluster; a context manager. All of its gateways serve the same objects.

    They live in memory, or ``on_disk``, in a file that grows with them; starting then takes longer.
    """

    def __init__(self, folder: Path, gateways: int = 2, *, on_disk: bool = False) -> None:
        self.folder = folder.resolve()
        self._objectstore = "bluestore" if on_disk else "memstore"
        self.gateways: list[Gateway] = []
        self._children: list[subprocess.Popen[bytes]] = []
        atexit.register(self.stop)
        try:
            self._start(gateways)
        except BaseException as exc:
            self.stop()
            if isinstance(exc, Exception):
                raise CephError(f"Ceph did not start: {exc}\n{self._log_tail()}") from exc
            raise

    @property
    def endpoints(self) -> list[str]:
        """The URLs of the gateways."""
        return [gateway.endpoint for gateway in self.gateways]

    def __enter__(self) -> "CephCluster":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every child; may be called twice."""
        atexit.unregister(self.stop)
        for child in reversed(self._children):
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)  # there is nothing on disk to save
                child.wait()
        self._children.clear()

    def add_gateway(self) -> "Gateway":
        """One more gateway, for a test to break."""
        self._start_gateway(len(self.gateways), *_free_ports(1))
        return self.gateways.pop()

    def add_user(self, name: str, secret: str) -> None:
        """A user whose access key is its name; it owns nothing and may do nothing yet."""
        self._admin(
            "user", "create", f"--uid={name}", f"--display-name={name}",
            f"--access-key={name}", f"--secret-key={secret}",
        )  # fmt: skip

    def freeze_disk(self) -> None:
        """Gateways accept requests, and whatever needs an object waits."""
        self._osd.send_signal(signal.SIGSTOP)
        tally.faults["ceph-osd frozen"] += 1

    def wake_disk(self) -> None:
        """It goes on where it stood."""
        self._osd.send_signal(signal.SIGCONT)

    def kill_disk(self) -> None:
        """With SIGKILL, and starts it again: it has what it had acknowledged, if it has it ``on_disk``."""
        self.kill(self._osd)
        tally.faults["ceph-osd killed"] += 1
        self._osd = self._daemon("ceph-osd", "-i", "0")

    def _start(self, gateways: int) -> None:
        for name in ("mon", "osd", "rgw", "run", "log"):
            (self.folder / name).mkdir(parents=True)
        ports = _free_ports(2 + gateways)
        self._start_monitor(f"[v2:127.0.0.1:{ports[0]},v1:127.0.0.1:{ports[1]}]")
        self._start_osd()
        for number, port in enumerate(ports[2:]):
            self._start_gateway(number, port)
        self.add_user(ACCESS_KEY, SECRET_KEY)

    def _start_monitor(self, monitor: str) -> None:
        fsid = str(uuid.uuid4())
        config = _CONFIG.format(fsid=fsid, monitor=monitor, folder=self.folder, objectstore=self._objectstore)
        self._config.write_text(config)
        keyring, monmap = str(self._keyring), str(self.folder / "monmap")
        allow = ["--cap", "mon", "allow *"]
        self._tool("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", *allow)
        more = ["--cap", "osd", "allow *", "--cap", "mgr", "allow *"]
        self._tool("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *allow, *more)
        self._tool("monmaptool", "--create", "--addv", "a", monitor, "--fsid", fsid, monmap, "--clobber")
        self._tool(
            "ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring, *self._with_config
        )
        self._daemon("ceph-mon", "-i", "a")

    def _start_osd(self) -> None:
        osd_id = str(uuid.uuid4())
        self._ceph("osd", "new", osd_id)
        self._add_key("osd.0", "mon", "allow profile osd", "osd", "allow *", "mgr", "allow profile osd")
        self._tool("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_id, *self._with_config)
        self._osd = self._daemon("ceph-osd", "-i", "0")

    def _start_gateway(self, number: int, port: int) -> None:
        name = f"client.rgw.g{number}"
        self._add_key(name, "mon", "allow rw", "osd", "allow rwx")
        gateway = Gateway(self, name, port)
        gateway.start()
        self.gateways.append(gateway)

    def serve(self, name: str, port: int) -> "subprocess.Popen[bytes]":
        """Starts the gateway ``name`` and waits until it answers."""
        frontend = f"beast endpoint=127.0.0.1:{port} tcp_nodelay=1"  # without it every small GET takes 40 ms
        child = self._daemon("radosgw", "-n", name, "--rgw-frontends", frontend)
        self._wait_for(f"http://127.0.0.1:{port}")
        return child

    def kill(self, child: "subprocess.Popen[bytes]") -> None:
        """Ends one of the children without a chance to clean up."""
        self._children.remove(child)
        child.kill()
        child.wait()

    def _wait_for(self, endpoint: str) -> None:
        give_up_s = time.monotonic() + _START_S
        while True:
            try:
                with urllib.request.urlopen(endpoint, timeout=5):
                    return
            except (urllib.error.URLError, OSError) as exc:
                if time.monotonic() > give_up_s or any(child.poll() is not None for child in self._children):
                    raise CephError(f"no answer at {endpoint}") from exc
            time.sleep(0.1)

    def _add_key(self, name: str, *capabilities: str) -> None:
        made = self._ceph("auth", "get-or-create", name, *capabilities)
        with self._keyring.open("ab") as keyring:
            keyring.write(made)

    def _ceph(self, *arguments: str) -> bytes:
        program = shutil.which("ceph") or "ceph"  # a script of the system's Python
        return self._tool(
            "/usr/bin/python3", program, *self._with_config, "--connect-timeout", "30", *arguments
        )

    def _admin(self, *arguments: str) -> None:
        self._tool("radosgw-admin", *self._with_config, *arguments)

    def _tool(self, *command: str) -> bytes:
        done = subprocess.run(command, capture_output=True, timeout=_START_S, check=False, env=_environment())
        if done.returncode:
            raise CephError(
                f"{command[0]} exited with {done.returncode}: {done.stderr.decode(errors='replace')}"
            )
        return done.stdout

    def _daemon(self, program: str, *arguments: str) -> "subprocess.Popen[bytes]":
        with (self.folder / "log" / f"{program}.{len(self._children)}.out").open("wb") as out:
            command = ["setpriv", "--pdeathsig", "KILL", program, "-f", *self._with_config, *arguments]
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=_environment()
            )
        self._children.append(child)
        return child

    def _log_tail(self) -> str:
        tails = []
        for log in sorted((self.folder / "log").glob("*")):
            lines = log.read_text(errors="replace").splitlines()[-8:]
            tails.append("\n".join([f"--- {log.name}", *lines]))
        return "\n".join(tails)

    @property
    def _config(self) -> Path:
        return self.folder / "ceph.conf"

    @property
    def _keyring(self) -> Path:
        return self.folder / "keyring"

    @property
    def _with_config(self) -> tuple[str, str]:
        return "-c", str(self._config)


class Gateway:
    """A radosgw of a cluster; it can be killed and started again, frozen and woken."""

    def __init__(self, cluster: CephCluster, name: str, port: int) -> None:
        self._cluster, self._name, self._port = cluster, name, port
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Until it answers."""
        self._child = self._cluster.serve(self._name, self._port)

    def kill(self) -> None:
        """With SIGKILL; what it was doing is lost."""
        self._cluster.kill(self._process)
        tally.faults["radosgw killed"] += 1

    def freeze(self) -> None:
        """It accepts connections and answers nothing any more."""
        self._process.send_signal(signal.SIGSTOP)
        tally.faults["radosgw frozen"] += 1

    def wake(self) -> None:
        """It goes on where it stood."""
        self._process.send_signal(signal.SIGCONT)

    @property
    def _process(self) -> "subprocess.Popen[bytes]":
        assert self._child is not None
        return self._child


def _environment() -> dict[str, str]:
    """The environment without what would lead the system's Python to another one's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CEPH_"))}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(sock.getsockname()[1]) for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


def main() -> None:
    """Serves a bucket until Ctrl-C; see the top of this file."""
    parser = argparse.ArgumentParser(description="A radosgw on this machine, its objects in memory.")
    parser.add_argument("folders", nargs="*", type=Path, help="copied to s3://BUCKET/FOLDER'S NAME")
    parser.add_argument("--bucket", default="bench")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="ceph-") as folder, CephCluster(Path(folder) / "c", 1) as cluster:
        client = Session(ACCESS_KEY, SECRET_KEY, region_name="us-east-1").client(
            "s3", endpoint_url=cluster.endpoints[0], config=Config(s3={"addressing_style": "path"})
        )
        client.create_bucket(Bucket=asked.bucket)
        for source in asked.folders:
            for path in sorted(one for one in source.rglob("*") if one.is_file()):
                key = f"{source.resolve().name}/{path.relative_to(source)}"
                client.upload_file(str(path), asked.bucket, key)
            print(f"# copied to s3://{asked.bucket}/{source.resolve().name}", file=sys.stderr)
        for name, value in {
            "AWS_ENDPOINT_URL": cluster.endpoints[0],
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }.items():
            print(f"export {name}={value}")
        print(f"# s3://{asked.bucket} is there; Ctrl-C ends it", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
