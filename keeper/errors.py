"""The errors of the keeper, named by what must happen next.

    KeeperError
    ├── ConfigError   the operator must change something; the process stops (exit code 10)
    ├── CheckFailed   a doctor check said no; the process stops before it sends (exit code 11)
    ├── Unreachable   no endpoint answers; the process stops or waits, by command (exit code 12)
    ├── Transient     the same request may succeed later; retry
    ├── BadData       what was read cannot be trusted; drop this market until it is resynced
    └── Halt          stop sending until a person has looked (exit code 13)

Messages are one sentence: what happened, where, and what to do. They never contain a secret.
"""


class KeeperError(Exception):
    """Base of everything the keeper raises on purpose."""

    exit_code = 1


class ConfigError(KeeperError):
    """The configuration or the machine must be changed before another try."""

    exit_code = 10


class CheckFailed(KeeperError):
    """A named start-up check failed."""

    exit_code = 11


class Unreachable(KeeperError):
    """No configured endpoint gave a usable answer."""

    exit_code = 12


class Halt(KeeperError):
    """Sending must stop until a person has looked."""

    exit_code = 13


class Transient(KeeperError):
    """The same request may succeed later: a timeout, a rate limit, a closed socket, a stale node."""

    exit_code = 12


class BadData(KeeperError):
    """An answer or a log cannot be decoded or contradicts what is known: the market it concerns is unknown."""

    exit_code = 12
