"""A real nginx with one site, which writes to no directory but one."""

import os
import shutil
from pathlib import Path
from typing import Final

import pytest

CONFIGURATION: Final = """
daemon off;
pid {path}/nginx.pid;
error_log stderr notice;
events {{ {events} }}
http {{
    access_log off;
    client_body_temp_path {path}/body;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    include {path}/site.conf;
}}
"""

STARTED: Final = "start worker process "
"""Text of the log when the server accepts clients."""


def program() -> str:
    """Return the path of the program; skip the test where nginx is not installed."""
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("nginx is not installed")
    return found


def configure(directory: Path, site: str, events: str = "") -> Path:
    """Write a configuration with the site, and return the path of the configuration."""
    (directory / "site.conf").write_text(site)
    path = directory / "nginx.conf"
    path.write_text(CONFIGURATION.format(path=directory, events=events))
    return path
