"""Secrets cannot be logged: not by name, not by accident, not in a traceback, not through somebody else's logger."""

from __future__ import annotations

import copy
import io
import json
import logging as stdlib_logging
import os
import pickle
import random
import string
import time
import traceback
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import structlog

from keeper.config import Config, Secret, load
from keeper.config.describe import describe
from keeper.errors import ConfigError
from keeper.ops import logging
from keeper.ops.redact import Redactor

pytestmark = pytest.mark.property

SEED = int(os.environ.get("KEEPER_SEED", "20261122"))
CASES = 60

TEMPLATE = """
[chain]
id = 1
endpoints = ["wss://{user}:{password}@node.example/v2/{path}?token={query}#{fragment}", "https://b.example/{path}"]
[tokens]
wrapped_native = "0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
[markets.aave]
protocol = "aave_v3"
address = "0x2f39d218133AFaB8F2B819B1066c7E434Ad94E9e"
start_block = 1
[signer]
{signer}
"""


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Undo what `configure` does to the process."""
    root = stdlib_logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    stdlib_logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def canary(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(length))


class World:
    """A configuration with a random secret in every place that can hold one."""

    def __init__(self, rng: random.Random, folder: Path) -> None:
        word = string.ascii_letters + string.digits
        self.user = canary(rng, word, rng.randint(8, 24))
        self.url_password = canary(rng, word + "-._~", rng.randint(8, 24))
        self.path = canary(rng, word + "-_", rng.randint(12, 40))
        self.query = canary(rng, word, rng.randint(8, 32))
        self.fragment = canary(rng, word, rng.randint(8, 32))
        self.password = canary(rng, word + "!\"\\'é€$%&/ {}[]", rng.randint(6, 30)).strip() + "Z9"
        self.key = "0x" + canary(rng, "0123456789abcdef", 64)
        environ: dict[str, str] = {}
        if rng.random() < 0.5:
            signer = 'keystore = "k"'
            if rng.random() < 0.5:
                environ["KEEPER__SIGNER__PASSWORD"] = self.password
            else:
                (folder / "password").write_text(self.password + "\n")
                signer += '\npassword_file = "password"'
            self.secrets = [self.password]
        else:
            signer = ""
            if rng.random() < 0.5:
                environ["KEEPER__SIGNER__PRIVATE_KEY"] = self.key
            else:
                (folder / "key").write_text(self.key)
                signer = 'private_key_file = "key"'
            self.secrets = [self.key, self.key[2:]]
        self.secrets += [self.user, self.url_password, self.path, self.query, self.fragment]
        file = folder / "keeper.toml"
        file.write_text(
            TEMPLATE.format(
                user=self.user,
                password=self.url_password,
                path=self.path,
                query=self.query,
                fragment=self.fragment,
                signer=signer,
            )
        )
        self.config = load(file, environ)

    def leaks(self, text: str) -> list[str]:
        low = text.lower()
        return [
            secret
            for secret in self.secrets
            for form in {secret, json.dumps(secret)[1:-1], repr(secret)[1:-1], quote(secret)}
            if form.lower() in low
        ]


@pytest.fixture(params=range(CASES), ids=lambda case: f"KEEPER_SEED={SEED}-{case}")
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(random.Random(f"{SEED}/{request.param}"), tmp_path)


def test_a_configuration_never_shows_its_secrets(world: World) -> None:
    """repr, str, format, JSON, `describe` and every dump of a configuration are free of all of them."""
    config = world.config
    assert world.leaks(config.chain.endpoints[0].reveal())
    shown = [
        repr(config),
        str(config),
        f"{config}",
        config.model_dump_json(),
        str(config.model_dump()),
        str(config.model_dump(mode="json")),
        str(dict(config)),
        str(vars(config.signer)),
        repr(config.chain.endpoints),
        str(describe(config)),
        str(copy.deepcopy(config)),
        str(config.model_copy(update={})),
        str([hash(secret) for secret in (config.signer.password, config.signer.private_key) if secret is not None]),
    ]
    for text in shown:
        assert not world.leaks(text)


def test_logs_never_show_secrets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """However a secret gets into a log call, JSON or pretty, ours or a library's, it does not come out."""
    config = world.config
    for style in ("json", "pretty"):
        out = io.StringIO()
        log = logging.configure(Redactor(config.secrets()), level="debug", style=style, stream=out)
        foreign = stdlib_logging.getLogger("web3.providers")
        structlog.contextvars.bind_contextvars(endpoint=config.chain.endpoints[0].reveal())
        for secret in world.secrets:
            event = f"event {secret}"
            log.info(event, value=secret, nested={"a": [secret, (secret,)], secret: 1}, raw=secret.encode())
            log.warning("positional %s", secret)
            log.info(
                "encoded", quoted=quote(secret, safe=""), b64=b64encode(secret.encode()).decode(), upper=secret.upper()
            )
            foreign.error("library says %s", {"args": secret})
            try:
                raise ValueError(f"bad {secret}") from KeyError(secret)
            except ValueError as error:
                log.exception("failed", error=error)
                log.error("with info", exc_info=error)
                foreign.exception("library failed")
        log.info("whole", config=config, key=int(world.key, 16), header={"Authorization": f"Bearer {world.secrets[0]}"})
        stdlib_logging.getLogger("asyncio").error("task", exc_info=ConfigError(world.secrets[0]))
        written = out.getvalue()
        assert written.count("\n") >= 10 * len(world.secrets) // 2
        assert not world.leaks(written)
        if world.key in world.secrets:
            assert str(int(world.key, 16)) not in written
        structlog.contextvars.clear_contextvars()


def test_errors_about_a_configuration_never_show_values(world: World, tmp_path: Path) -> None:
    """With a secret in every key, right place or wrong, the error and its traceback repeat none of them."""
    schema = Config.model_json_schema()
    secret = world.secrets[0]
    environ = {f"KEEPER__{name.upper()}__NOSUCHKEY": secret for name in schema["properties"]}
    for section, entry in schema["$defs"].items():
        for key in entry["properties"]:
            name = section.lower()
            place = f"{name}s__x" if name in ("market", "venue") else name
            environ[f"KEEPER__{place.upper()}__{key.upper()}"] = secret
    with pytest.raises(ConfigError) as caught:
        load(None, environ)
    text = str(caught.value) + "".join(traceback.format_exception(caught.value))
    assert "nosuchkey" in text
    assert not world.leaks(text)
    broken = tmp_path / "broken.toml"
    broken.write_text(f"[signer]\nprivate_key = {secret}\nnot toml {secret}")
    with pytest.raises(ConfigError) as caught:
        load(broken, {})
    assert not world.leaks(str(caught.value) + "".join(traceback.format_exception(caught.value)))


def test_secrets_cannot_be_pickled_or_serialised_by_accident() -> None:
    """pickle and plain JSON refuse a secret; equality and hash work without giving it away."""
    secret = Secret("hunter2hunter2")
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        orjson.dumps(secret)
    with pytest.raises(TypeError):
        json.dumps(secret)
    assert secret == Secret("hunter2hunter2")
    assert secret != Secret("other")
    assert secret != "hunter2hunter2"
    assert hash(secret) == hash(Secret("other"))
    assert f"{secret:>12}" == "    ********"
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET https://u:p@rpc.example/v3/k?x=1 failed", "GET https://***@rpc.example/*** failed"),
        ("serving http://127.0.0.1:9464/metrics.", "serving http://127.0.0.1:9464/metrics."),
        ("'wss://rpc.example:8546'", "'wss://rpc.example:8546'"),
        ("password=abc, next", "password=********, next"),
        ('{"private_key": "0xabc"}', '{"private_key": "********"}'),
        ("Authorization: Bearer abcdef", "Authorization: Bearer ********"),
        ("password_file is missing", "password_file is missing"),
        ("profit 12 of 0x" + "ab" * 32, "profit 12 of 0x" + "ab" * 32),
    ],
)
def test_what_secrets_look_like(text: str, shown: str) -> None:
    """URLs are cut to the host and said passwords masked, without any of them being known; hashes stay."""
    assert Redactor().text(text) == shown


def test_keys_that_hold_secrets() -> None:
    """Under a telling key any value is masked, and 32 bytes of hex under a suspicious one; a hash stays."""
    word = "0x" + "cd" * 32
    value: dict[str, Any] = {
        "password": "x",
        "API_KEY": 5,
        "mnemonic": ["a", "b"],
        "signer_seed": word,
        "tx_hash": word,
        "token": "0x" + "12" * 20,
        "count": 3,
        "open": True,
    }
    assert Redactor().value(value) == {
        "password": "********",
        "API_KEY": "********",
        "mnemonic": "********",
        "signer_seed": "********",
        "tx_hash": word,
        "token": "0x" + "12" * 20,
        "count": 3,
        "open": True,
    }


def test_short_secrets_are_masked_where_they_stand_alone() -> None:
    """A short password goes as a word of its own, and leaves other words readable."""
    redactor = Redactor(["ab"])
    assert redactor.text("the password is ab.") == "the password is ********."
    assert redactor.text("about") == "about"


def test_secrets_learnt_later_are_masked_too() -> None:
    """`add` makes a running redactor know another secret, as a number as well."""
    redactor = Redactor()
    key = "11" * 32
    redactor.add(key)
    assert redactor.value({"a": int(key, 16), "b": f"x{key.upper()}y", "c": bytes.fromhex(key)}) == {
        "a": "********",
        "b": "x********y",
        "c": "0x********",
    }


@pytest.mark.parametrize(
    "text", ["x" * 400_000, "a-" * 200_000, "http://" * 50_000, "password " * 50_000, ":" * 400_000]
)
def test_long_texts_take_a_moment_and_not_a_minute(text: str) -> None:
    """Whatever somebody makes us write down, the loop goes on: time grows with the length, not with its square."""
    redactor = Redactor(["a-secret-of-ours"])
    began = time.process_time()
    redactor.text(text)
    assert time.process_time() - began < 5
