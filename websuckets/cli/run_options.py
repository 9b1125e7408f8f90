"""Options of ``websuckets run``, as the command line reads them and each process receives them."""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final, Literal

from websuckets.exc import ConfigurationError

__all__ = ["RunOptions"]

PASSWORD: Final = "WEBSUCKETS_SSL_PASSWORD"  # the name, not a password
"""Environment variable with the password of the key; an argument would stand in lists of processes.
"""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Options of a server that a process serves; all of them can be written as JSON.

    The password of a key is not among them: see `PASSWORD`.
    """

    target: str | None
    factory: bool = False
    app_dir: str | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    """Path of a Unix socket to listen on, instead of host and port."""
    backend: Literal["asyncio", "trio"] = "asyncio"
    loop: Literal["auto", "asyncio", "uvloop"] = "auto"
    """Event loop for asyncio; ``auto`` is uvloop where it is installed."""
    log_level: str | None = None
    log_config: str | None = None
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_ca_certs: str | None = None
    """Authorities that have signed the certificates of clients, who then need a certificate."""
    drain_timeout: float | None = None
    """Seconds for commands that run when the server stops, instead of `Limits.drain_timeout`."""

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the context for TLS; ``None`` where no certificate is given.

        Raises `ConfigurationError` for files that cannot be read or used.
        """
        if self.ssl_certfile is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with _naming(self.ssl_certfile, self.ssl_keyfile) as password:
            context.load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        if self.ssl_ca_certs is not None:
            with _naming(self.ssl_ca_certs):
                context.load_verify_locations(self.ssl_ca_certs)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def event_loop(self) -> dict[str, Any]:
        """Return the arguments for ``anyio.run`` that choose the event loop."""
        if self.backend == "trio":
            return {"backend": "trio"}
        use_uvloop = self.loop == "uvloop" or (self.loop == "auto" and _has_uvloop())
        return {"backend": "asyncio", "backend_options": {"use_uvloop": use_uvloop}}

    def missing_package(self) -> str | None:
        """Return the package that the event loop needs and that is not installed, if any."""
        if self.backend == "trio" and find_spec("trio") is None:
            return "trio"
        if self.backend == "asyncio" and self.loop == "uvloop" and not _has_uvloop():
            return "uvloop"
        return None


@contextmanager
def _naming(*files: str | None) -> Iterator[Callable[[], str]]:
    """Return a context whose errors name the files, which errors of ``ssl`` do not.

    The context has a function that returns the password of a key; without a function, OpenSSL would
    ask on the terminal.
    """
    asked = False

    def password() -> str:
        nonlocal asked
        asked = True
        return os.environ.get(PASSWORD, "")

    names = [file for file in files if file is not None]
    try:
        for name in names:
            with open(name, "rb"):
                pass
        yield password
    except ssl.SSLError as error:
        why = f"cannot be used: {error.reason or error}"
        if asked:
            why = f"the key needs a password, and {PASSWORD} does not have the right one"
        raise ConfigurationError(f"{', '.join(names)}: {why}") from error
    except OSError as error:
        raise ConfigurationError(str(error)) from error


def _has_uvloop() -> bool:
    return find_spec("uvloop") is not None
