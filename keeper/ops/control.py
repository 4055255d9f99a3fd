"""The running daemon's ear: line-delimited JSON over a unix socket that only its own user can open.

    → {"command": "pause", "reason": "node upgrade"}
    ← {"ok": true, "result": {…}}   or   {"ok": false, "error": "one sentence"}

Who may ask is decided three times: the folder is 0700, the socket 0600, and the asker's uid must be ours.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

from keeper.errors import CheckFailed, ConfigError, KeeperError
from keeper.ops.redact import Redactor

Handler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]

MODES = ("live", "dry")
_MOST_BYTES = 64 * 1024  # of one line
_MOST_CLIENTS = 16
_IDLE = 60.0  # seconds
_HEARING = 2.0  # seconds for a request that is going to be refused
_LONGEST_PATH = 100  # bytes; sockaddr_un holds 104 to 108, by system


def socket_path(data_dir: Path, mode: str) -> Path:
    """Where the keeper of one chain and mode listens; dry and live runs may stand side by side."""
    return data_dir / "control" / f"{mode}.sock"


class Control:
    """Serves `handlers` between `start` and `stop`; also an async context manager."""

    def __init__(
        self, path: Path, handlers: Mapping[str, Handler], redactor: Redactor, *, uid: int | None = None
    ) -> None:
        """`uid` is the only user that is answered; None: the one this process runs as."""
        self._path = path
        self._handlers = handlers
        self._redactor = redactor
        self._uid = os.geteuid() if uid is None else uid
        self._server: asyncio.Server | None = None
        self._identity: tuple[int, int] | None = None  # device and inode of our socket
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises ConfigError when another keeper does, or the folder is not ours alone."""
        _own_folder(self._path.parent)
        _remove_stale(self._path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._path) as address:
                listener.bind(address)
            self._path.chmod(0o600)
            found = self._path.lstat()
            self._identity = (found.st_dev, found.st_ino)
            listener.setblocking(False)  # noqa: FBT003 - the standard library's own signature
            self._server = await asyncio.start_unix_server(self._greet, sock=listener, limit=_MOST_BYTES)
        except OSError as error:
            listener.close()
            raise ConfigError(
                f"the control socket {self._path} cannot be made ({error.strerror or error}): "
                "choose a data.dir this user can write to"
            ) from error

    async def stop(self) -> None:
        """Close, and remove the socket if it is still ours; idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        await server.wait_closed()
        with suppress(OSError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            peer = _peer_uid(writer.get_extra_info("socket"))
            if peer is not None and peer != self._uid:
                await self._refuse(reader, writer, f"user {peer} may not control the keeper of user {self._uid}")
            elif len(self._clients) > _MOST_CLIENTS:
                await self._refuse(reader, writer, "too many connections: close one")
            else:
                await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.CancelledError):
            writer.transport.abort()  # the client has gone or does not listen, or we go: nothing is waited for
        finally:
            self._clients.discard(task)
            writer.close()

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reason: str) -> None:
        """Hear the request first: who finds the door shut while still speaking does not hear why."""
        with suppress(ValueError):
            async with asyncio.timeout(_HEARING):
                await reader.readline()
        await self._say(writer, _no(reason))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                async with asyncio.timeout(_IDLE):
                    line = await reader.readline()
            except ValueError:  # longer than the limit: what follows would not be a line
                await self._say(writer, _no(f"a request is one line of at most {_MOST_BYTES} bytes"))
                return
            if not line.endswith(b"\n"):
                return
            await self._say(writer, await self._answer(line))

    async def _answer(self, line: bytes) -> Mapping[str, Any]:
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            return _no("a request is one line of JSON")
        handler = self._handlers.get(str(request.get("command"))) if isinstance(request, dict) else None
        if handler is None:
            return _no(f"a request is an object whose command is one of {', '.join(self._handlers)}")
        try:
            return {"ok": True, "result": await handler(request)}
        except KeeperError as error:
            return _no(str(error))

    async def _say(self, writer: asyncio.StreamWriter, answer: Mapping[str, Any]) -> None:
        writer.write(orjson.dumps(self._redactor.value(dict(answer)), option=orjson.OPT_APPEND_NEWLINE))
        async with asyncio.timeout(_IDLE):  # who asks and does not listen must not hold a place for ever
            await writer.drain()


class Caller:
    """A connection to the running keeper, for commands. Blocking; `timeout` in seconds."""

    def __init__(self, path: Path, timeout: float = 60.0) -> None:
        """Raises CheckFailed when nobody listens there, or nobody who would let us in."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            with _short(path) as address:
                self._socket.connect(address)
        except PermissionError as error:
            self._socket.close()
            raise CheckFailed(f"{path} belongs to another user: run this as the user the keeper runs as") from error
        except OSError as error:
            self._socket.close()
            raise CheckFailed(f"no keeper listens on {path}: is it running, and on this data.dir?") from error
        self._stream = self._socket.makefile("rb")

    @classmethod
    def find(cls, data_dir: Path, mode: str | None = None) -> Caller:
        """The keeper of `mode`; without one the live keeper if it runs, else the dry one. Raises CheckFailed."""
        if mode is not None:
            return cls(socket_path(data_dir, mode))
        paths = [socket_path(data_dir, one) for one in MODES]
        running = [path for path in paths if listening(path)]
        if running:
            return cls(running[0])
        folder = paths[0].parent
        if folder.is_dir() and not os.access(folder, os.X_OK):
            return cls(paths[0])  # to hear why not
        raise CheckFailed(f"no keeper listens in {folder}: is it running, and on this data.dir?")

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The result of one command; raises CheckFailed with the keeper's own sentence when it refuses."""
        try:
            self._socket.sendall(orjson.dumps({"command": command, **arguments}, option=orjson.OPT_APPEND_NEWLINE))
            line = self._stream.readline()
        except OSError as error:
            raise CheckFailed(f"the keeper on {self._path} does not answer ({error}): look at its log") from error
        if not line:
            raise CheckFailed(f"the keeper on {self._path} has hung up: it is stopping, or has stopped")
        try:
            answer = orjson.loads(line)
            if not answer["ok"]:
                raise CheckFailed(str(answer["error"]))
            result: dict[str, Any] = answer["result"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckFailed(f"something else than a keeper answers on {self._path}") from error
        return result

    def close(self) -> None:
        """Hang up."""
        self._stream.close()
        self._socket.close()


def listening(path: Path) -> bool:
    """Somebody accepts connections on the socket."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
        probe.settimeout(5.0)
        try:
            with _short(path) as address:
                probe.connect(address)
        except OSError:
            return False
        return True


def _no(reason: str) -> dict[str, Any]:
    return {"ok": False, "error": reason}


def _own_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise ConfigError(f"{folder} is not a folder of this user's own: remove it, so that the keeper can make it")
        if stat.S_IMODE(found.st_mode) != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made ({error.strerror}): choose a data.dir this user can write to"
        ) from error


def _remove_stale(path: Path) -> None:
    """A killed keeper leaves its socket behind; one that somebody listens on is another keeper's."""
    if listening(path):
        raise ConfigError(f"another keeper already listens on {path}: stop it first")
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise ConfigError(f"{path} is not a socket: move it away")
        path.unlink()
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(f"the old socket {path} cannot be removed ({error.strerror}): remove it") from error


@contextmanager
def _short(path: Path) -> Iterator[str]:
    """A path of any length as an address: a socket's must be short, and a folder can be named by its descriptor."""
    if len(os.fsencode(path)) <= _LONGEST_PATH:
        yield str(path)
        return
    if not Path("/proc/self/fd").is_dir():
        raise OSError(f"the path {path} is too long for a socket")
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _peer_uid(peer: Any) -> int | None:
    """Who is at the other end; None where the platform does not say."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return int(uid)
