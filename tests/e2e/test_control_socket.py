"""The control socket: who is answered, what is refused, and what a killed keeper leaves behind."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from keeper.errors import CheckFailed, ConfigError
from keeper.ops.control import Caller, Control, listening, socket_path
from keeper.ops.redact import Redactor
from keeper.strategy.breakers import Limits
from tests.unit.test_breakers_safety import Desk as Safe

# Real sockets of the file system, so not `unit`; nothing runs in another process.
pytestmark = pytest.mark.e2e

T = TypeVar("T")
SECRET = "a-secret-in-a-url-0123456789"


class Desk:
    """Handlers that remember what they were asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

    def handlers(self) -> dict[str, Any]:
        return {"status": self._status, "resume": self._resume}

    async def _status(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append(request)
        return {"head": 7, "endpoint": f"wss://node.example/{SECRET}"}

    async def _resume(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        raise ConfigError("nothing is called that")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return socket_path(tmp_path / "data", "live")


@pytest.fixture
async def control(path: Path) -> AsyncIterator[Control]:
    async with Control(path, Desk().handlers(), Redactor([SECRET])) as running:
        yield running


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def there(path: Path) -> bool:
    return os.path.lexists(path)


def remove(path: Path) -> None:
    path.unlink()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)


async def call(path: Path, work: Callable[[Caller], T]) -> T:
    """Blocking calls, off the loop that has to answer them."""

    def run() -> T:
        caller = Caller(path, timeout=10)
        try:
            return work(caller)
        finally:
            caller.close()

    return await asyncio.to_thread(run)


async def raw(path: Path, data: bytes) -> list[Any]:
    """Bytes as they are; every line of the answer until the keeper hangs up."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(data)
    writer.write_eof()
    lines = (await reader.read()).splitlines()
    writer.close()
    return [orjson.loads(line) for line in lines]


async def test_only_its_user_can_open_it(control: Control, path: Path) -> None:
    """The socket is 0600 in a folder of 0700, whatever the umask and whatever the folder was before."""
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700


async def test_a_wide_folder_is_closed_and_a_foreign_one_refused(tmp_path: Path) -> None:
    """A folder that others could enter is made ours alone; a link or a file in its place is not used."""
    path = socket_path(tmp_path, "dry")
    path.parent.mkdir(mode=0o777)
    path.parent.chmod(0o777)
    async with Control(path, {}, Redactor()):
        assert mode_of(path.parent) == 0o700
    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not a folder of this user's own"):
        await Control(path, {}, Redactor()).start()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_requests_and_answers_are_lines(control: Control, path: Path) -> None:
    """Several requests on one connection, each answered in order; a refusal is the handler's own sentence."""
    assert (await call(path, lambda caller: [caller.ask("status")["head"] for _ in range(3)])) == [7, 7, 7]
    with pytest.raises(CheckFailed, match="nothing is called that"):
        await call(path, lambda caller: caller.ask("resume"))


async def test_answers_are_redacted(control: Control, path: Path) -> None:
    """What must not be shown is masked here too."""
    assert SECRET not in str(await call(path, lambda caller: caller.ask("status")))


@pytest.mark.parametrize(
    "line", [b"\n", b"pause\n", b"[]\n", b'{"command":"format"}\n', b'{"command":[]}\n', b"\xff\n"]
)
async def test_nonsense_is_answered_and_ends_nothing(control: Control, path: Path, line: bytes) -> None:
    """Whatever a line holds, it gets a refusal, and the next request its answer."""
    answers = await raw(path, line + b'{"command": "status"}\n')
    assert [answer["ok"] for answer in answers] == [False, True]


async def test_a_line_without_end_is_cut_off(control: Control, path: Path) -> None:
    """A request that is too long is refused, one that breaks off is dropped; the keeper answers on."""
    assert [answer["ok"] for answer in await raw(path, b"x" * 200_000)] == [False]
    assert await raw(path, b'{"command": "status"}') == []
    assert (await call(path, lambda caller: caller.ask("status")))["head"] == 7


async def test_another_user_is_not_answered(path: Path) -> None:
    """Who is not the socket's user is told so, and no handler is asked."""
    desk = Desk()
    async with Control(path, desk.handlers(), Redactor(), uid=os.geteuid() + 1):
        with pytest.raises(CheckFailed, match=f"user {os.geteuid()} may not control"):
            await call(path, lambda caller: caller.ask("status"))
    assert desk.asked == []


async def test_too_many_connections_are_refused_and_leave_room_again(control: Control, path: Path) -> None:
    """Sixteen may listen in; the seventeenth is told to wait, and let in once another has gone."""
    held = [await asyncio.open_unix_connection(path) for _ in range(16)]
    await asyncio.sleep(0.1)
    with pytest.raises(CheckFailed, match="too many"):
        await call(path, lambda caller: caller.ask("status"))
    held[0][1].close()
    await asyncio.sleep(0.1)
    assert (await call(path, lambda caller: caller.ask("status")))["head"] == 7
    for _, writer in held[1:]:
        writer.close()


async def test_a_stale_socket_is_taken_over_and_a_live_one_is_not(control: Control, path: Path) -> None:
    """A second keeper is refused and leaves the first alone; what a killed one left behind is replaced."""
    with pytest.raises(ConfigError, match="another keeper already listens"):
        await Control(path, {}, Redactor()).start()
    assert (await call(path, lambda caller: caller.ask("status")))["head"] == 7
    await control.stop()
    assert not there(path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert not listening(path)
    async with Control(path, Desk().handlers(), Redactor()):
        assert (await call(path, lambda caller: caller.ask("status")))["head"] == 7


async def test_a_file_in_its_place_is_left_alone(path: Path) -> None:
    """Only a socket is ever removed."""
    write(path, "mine")
    with pytest.raises(ConfigError, match="is not a socket"):
        await Control(path, {}, Redactor()).start()
    assert not stat.S_ISSOCK(os.lstat(path).st_mode)


async def test_stopping_leaves_another_keepers_socket_alone(control: Control, path: Path) -> None:
    """When the path has become somebody else's in the meantime, it is not removed."""
    remove(path)
    async with Control(path, Desk().handlers(), Redactor()):
        await control.stop()
        assert there(path)


async def test_paths_may_be_long(tmp_path: Path) -> None:
    """A data folder deeper than a socket address can hold works all the same."""
    path = socket_path(tmp_path / ("d" * 120) / ("e" * 120), "live")
    async with Control(path, Desk().handlers(), Redactor()):
        assert (await call(path, lambda caller: caller.ask("status")))["head"] == 7
    assert not there(path)


async def test_the_live_keeper_is_meant_unless_the_dry_one_is_named(tmp_path: Path) -> None:
    """Without a mode the live keeper is called if it runs, else the dry one; nobody there is one sentence."""
    with pytest.raises(CheckFailed, match="no keeper listens"):
        Caller.find(tmp_path)

    def mode_found(mode: str | None) -> str:
        caller = Caller.find(tmp_path, mode)
        try:
            return str(caller.ask("mode")["mode"])
        finally:
            caller.close()

    def says(mode: str) -> Control:
        async def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
            return {"mode": mode}

        return Control(socket_path(tmp_path, mode), {"mode": answer}, Redactor())

    async with says("dry"):
        assert await asyncio.to_thread(mode_found, None) == "dry"
        async with says("live"):
            assert await asyncio.to_thread(mode_found, None) == "live"
            assert await asyncio.to_thread(mode_found, "dry") == "dry"


def hostile(rng: random.Random) -> bytes:
    """A line that nobody should send."""
    texts: list[Any] = ["", "pause", "\u202e\u0000\n\x1b[2J", "x" * 20_000, "'; DROP TABLE pauses; --", "0x" + "0" * 40]
    values = [*texts, None, True, -1, 2**63, 1.5e308, [], {}, ["pause", 7], [["pause"]], texts, {"reason": texts}]
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(1, 300)).replace(b"\n", b"") + b"\n"
        case 1:
            return b"[" * rng.randrange(1, 60_000) + b"\n"
        case 2:
            return b'{"command":"pause","reason":"\\ud800"}\n'
        case 3:
            return orjson.dumps(rng.choice(values), option=orjson.OPT_NON_STR_KEYS) + b"\n"
        case _:
            keys = {"reason": rng.choice(values), "names": rng.choice(values), "more": rng.choice(values)}
            return orjson.dumps({"command": rng.choice(["pause", "resume", "status", *texts])} | keys) + b"\n"


async def test_hostile_lines_leave_a_keeper_that_answers(tmp_path: Path, path: Path) -> None:
    """500 of them to the real commands over a real journal: every one has an answer, and what was true stays true."""
    seed = os.environ.get("KEEPER_SEED", "20261122")
    rng, loop = random.Random(seed), asyncio.get_running_loop()
    troubles: list[Any] = []
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    desk = await Safe(tmp_path / "journal.sqlite3", Limits()).start()
    async with Control(path, desk.safety.handlers(), Redactor([SECRET])):
        for number in range(500):
            line = hostile(rng)
            answers = await raw(path, line + b'{"command":"status"}\n')
            assert len(answers) == 2, f"seed {seed}, line {number}: {line[:200]!r}"
            assert answers[1]["ok"] is True, f"seed {seed}, line {number}: {line[:200]!r}"
        assert (await call(path, lambda caller: caller.ask("resume")))["status"]["paused"] is False
        assert (await call(path, lambda caller: caller.ask("pause", reason="mine")))["paused"] is True
    await desk.restart()
    assert desk.safety.paused
    assert desk.vitals.pause_reason == "mine"
    await desk.journal.close()
    assert not troubles


async def test_who_asks_and_does_not_listen_loses_the_line(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that nobody takes hold a place for a while, not for ever."""
    monkeypatch.setattr("keeper.ops.control._IDLE", 0.3)
    big = {"text": "x" * 60_000}

    async def answer(request: Mapping[str, Any]) -> Mapping[str, Any]:
        return big

    async with Control(path, {"status": answer}, Redactor()) as control:
        deaf = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
        for one in deaf:
            one.setblocking(False)
            one.connect(str(path))
            one.send(b'{"command":"status"}\n' * 500)
        await asyncio.sleep(0.1)
        assert len(control._clients) >= 16
        for _ in range(100):
            if not control._clients:
                break
            await asyncio.sleep(0.1)
        assert not control._clients
        assert (await call(path, lambda caller: caller.ask("status"))) == big
        for one in deaf:
            one.close()
