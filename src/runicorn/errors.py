"""The error tree of runicorn.

Every class answers three questions: which exit code a command ends with, whether doing the same
again can help, and what the user should do.

::

    RunicornError                      1
    |- UsageError                      2  the command line or an argument is wrong
    |- PublishError                    1  the generator cannot read its root or write its output
    |  |- GeneratorBusy                1  another generator works on the same root
    |  '- RootGone                     1  the root is not where it was when work began
    |- ServiceError                    1  a unit of the service manager cannot be written or removed
    |- TransportError                  4  the connection failed
    |  |- ConnectError                 4  no connection or no login
    |  |  '- LoginError                4  the login was refused
    |  |- HostKeyError                 5  the server is not the one that is known
    |  |- StallError                   4  the server answered nothing in time
    |  |- ProtocolError                4  the peer does not speak SFTP
    |  '- RequestError                 1  the server answered one request with an error
    |- NoSuchRootError                 6  the remote root does not exist
    |- NoManifestError                 1  the server publishes no manifest
    |- StaleError                     10  what is published is older than allowed
    |- NoJournalError                  1  the server has no journal that leads on from here
    |- DamagedError                    7  torn, unreadable or unknown data from the server
    |  '- UnsupportedVersionError      7  a format of an unknown major version
    |- UnsafeError                     7  data from the server that would harm this machine
    |- ChangedError                    3  a file changed while it was fetched
    |- MirrorError                     1  the mirror cannot be used
    |  |- MirrorBusyError              8  another sync works on the same mirror
    |  |- MirrorGoneError              1  the mirror was moved or removed while it was worked on
    |  '- DiskFullError                9  no space left for the mirror
    '- CancelledError                130  stopped by the user
"""

from __future__ import annotations


class RunicornError(Exception):
    """Base of all errors of runicorn.

    Attributes:
        exit_code: what a command ends with.
        retryable: whether the same action can succeed when it is done again.
        hint: what the user should do, or an empty string.
        path: the path it is about, or an empty string. It may come from a server:
            escape it before it is shown.
    """

    exit_code: int = 1
    retryable: bool = False
    default_hint: str = ""

    def __init__(self, message: str, *, hint: str = "", path: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.default_hint
        self.path = path


class UsageError(RunicornError):
    """The command line or an argument is wrong."""

    exit_code = 2


class PublishError(RunicornError):
    """The generator cannot read its root or write its output."""


class GeneratorBusy(PublishError):  # noqa: N818 - a state, not a fault
    """Another generator works on the same root."""

    retryable = True
    default_hint = "wait until it has ended, or raise the waiting time"


class RootGone(PublishError):  # noqa: N818 - a state, not a fault
    """The root is not where it was when work began."""

    retryable = True
    default_hint = "mount it again; a generator that watches goes on by itself"


class ServiceError(RunicornError):
    """A unit of the service manager cannot be written or removed."""


class TransportError(RunicornError):
    """The connection to the server failed."""

    exit_code = 4
    retryable = True


class ConnectError(TransportError):
    """No connection to the server, or no login."""

    default_hint = "check that `ssh HOST` works with the same options"


class LoginError(ConnectError):
    """The login or the sftp subsystem was refused, or there is no program to log in with."""

    retryable = False


class HostKeyError(TransportError):
    """The server's host key is unknown or has changed."""

    exit_code = 5
    retryable = False
    default_hint = "log in once with `ssh HOST` and compare the key's fingerprint"


class StallError(TransportError):
    """The server answered nothing within the time allowed."""


class ProtocolError(TransportError):
    """What the peer sent is not SFTP."""

    retryable = False


class RequestError(TransportError):
    """The server answered one request with an error.

    Attributes:
        code: the SSH_FX code of the answer (draft-ietf-secsh-filexfer-02, section 7).
    """

    exit_code = 1

    def __init__(self, message: str, *, code: int, path: str = "") -> None:
        super().__init__(message, path=path)
        self.code = code


class NoSuchRootError(RunicornError):
    """The root does not exist on the server, or is not a folder."""

    exit_code = 6
    default_hint = "check the path; the root of a server is written HOST:PATH"


class NoManifestError(RunicornError):
    """The server publishes no manifest."""

    default_hint = "run `runicorn generate-manifest` on the server"


class StaleError(RunicornError):
    """What is published is older than allowed."""

    exit_code = 10
    retryable = True
    default_hint = "the generator does not run, or cannot reach the root: look at its service or timer"


class NoJournalError(RunicornError):
    """The server has no journal, or none that leads on from where the client is."""

    default_hint = "run `runicorn generate-manifest` on the server, without --no-journal"


class DamagedError(RunicornError):
    """Torn, unreadable or unknown data from the server."""

    exit_code = 7
    retryable = True


class UnsupportedVersionError(DamagedError):
    """A format of a major version that this program does not know."""

    retryable = False
    default_hint = "update runicorn on this machine"


class UnsafeError(RunicornError):
    """Data from the server that would harm this machine: refused whole."""

    exit_code = 7
    default_hint = "nothing was written; ask the server's administrator"


class ChangedError(RunicornError):
    """A file changed while it was fetched; the next sync tries again."""

    exit_code = 3
    retryable = True


class MirrorError(RunicornError):
    """The mirror cannot be used."""


class MirrorBusyError(MirrorError):
    """Another sync works on the same mirror."""

    exit_code = 8
    retryable = True
    default_hint = "wait until it has ended, or raise --lock-timeout"


class MirrorGoneError(MirrorError):
    """The mirror was moved or removed while it was worked on."""

    retryable = True
    default_hint = "the next sync makes it anew"


class DiskFullError(MirrorError):
    """No space left for the mirror."""

    exit_code = 9
    default_hint = "free some space; the next sync goes on where this one stopped"


class CancelledError(RunicornError):
    """Stopped by the user."""

    exit_code = 130
