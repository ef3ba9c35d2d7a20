"""Tells others that something was published or refused: a command, a URL, or both.

A hook comes after the fact. Whatever it does, the publication stands and the exit code stays; a hook that
fails is said on standard error.
"""

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.output import say
from pipeline.config import HooksConfig

PUBLISHED = "published"
REFUSED = "refused"
_TOKEN = "BITSIEVE_HOOK_TOKEN"  # noqa: S105 the name of a variable


def announce(hooks: HooksConfig, event: str, result: Mapping[str, Any]) -> None:
    """Gives ``result``, with ``event`` beside it, to the hooks of ``event``; never raises."""
    is_published = event == PUBLISHED
    command = hooks.on_publish if is_published else hooks.on_refusal
    url = hooks.publish_url if is_published else hooks.refusal_url
    body = json.dumps({"event": event, **result}).encode()
    if command:
        failure = _run(command, body, hooks.timeout_s)
        if failure:
            say(f"bitsieve: the hook {command[0]} failed: {failure}; nothing is undone")
    if url is not None:
        failure = _post(url.get_secret_value(), body, hooks.timeout_s)
        if failure:
            say(f"bitsieve: the webhook failed: {failure}; nothing is undone")


def _run(command: Sequence[str], body: bytes, timeout_s: float) -> str:
    """Why the command failed, empty if it did not. It and its children have ``timeout_s``, in a group."""
    try:
        process = subprocess.Popen(  # noqa: S603 the operator configured it
            command, stdin=subprocess.PIPE, stdout=2, start_new_session=True
        )
    except OSError as exc:
        return exc.strerror or type(exc).__name__
    try:
        process.communicate(body, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"not done after {timeout_s:g} s"
    return f"exit code {process.returncode}" if process.returncode else ""


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it would carry the token to another host."""

    def redirect_request(self, *_: Any) -> None:
        """Refuses."""


def _post(url: str, body: bytes, timeout_s: float) -> str:
    """Why the POST failed, empty if it did not; the URL is not repeated, it may hold a secret."""
    headers = {"Content-Type": "application/json"}
    if token := os.environ.get(_TOKEN):
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 http or https by config
    try:
        urllib.request.build_opener(_Stay).open(request, timeout=timeout_s).close()
    except urllib.error.HTTPError as exc:
        exc.close()
        return f"status {exc.code}"
    except (OSError, ValueError) as exc:
        return type(exc).__name__
    return ""
