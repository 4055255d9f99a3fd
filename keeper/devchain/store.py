"""What took long to make is kept under the user's cache, keyed by everything it was made from."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keeper.errors import ConfigError


def cache_root() -> Path:
    """``$KEEPER_CACHE`` or ``~/.cache/keeper``."""
    named = os.environ.get("KEEPER_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "keeper"


def digest(value: Any) -> str:
    """A short key of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:20]


def stored(name: str, build: Callable[[Path], None]) -> Path:
    """The directory ``<cache>/<name>``, filled by `build` on first use.

    Processes that want the same thing wait for the one that builds it. A build that fails or is killed leaves
    nothing behind that a later one would mistake for a finished directory. Raises ConfigError when the cache cannot be
    written.
    """
    target = cache_root() / name
    if target.is_dir():
        return target
    with _locked(target):
        if not target.is_dir():  # another process may have built it while this one waited
            scratch = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
            try:
                build(scratch)
                scratch.rename(target)
            except BaseException:
                shutil.rmtree(scratch, ignore_errors=True)
                raise
    return target


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle = target.with_name(target.name + ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"the cache {target.parent} cannot be written ({error.strerror}): set KEEPER_CACHE to a directory that can"
        ) from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
