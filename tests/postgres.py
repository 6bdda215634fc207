"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, started once, gone at the end."""

import atexit
import glob
import os
import shutil
import subprocess
import tempfile
import uuid
from functools import cache
from pathlib import Path

import psycopg
import pytest

from chatwright.console.launch import free_port


def postgres_url() -> str:
    """A fresh database; skips the test where PostgreSQL's server is not installed."""
    port = cluster()
    if port is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    name = f"t{uuid.uuid4().hex}"
    with psycopg.connect(f"postgresql://chat@127.0.0.1:{port}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://chat@127.0.0.1:{port}/{name}"


@cache
def cluster() -> int | None:
    """The port of a running server, None where there is none to run."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin")) or [str(Path(shutil.which("initdb") or "").parent)]
    binaries = Path(found[-1])
    if not (binaries / "initdb").exists():
        return None
    folder = Path(tempfile.mkdtemp(prefix="chatwright-pg-"))
    # The server refuses to be run by root.
    user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"] if os.geteuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    port = free_port()

    def call(*command: str) -> None:
        subprocess.run([*user, *command], check=True, cwd=folder, stdout=subprocess.DEVNULL)

    data = str(folder / "data")
    call(str(binaries / "initdb"), "-D", data, "-U", "chat", "-A", "trust", "-E", "UTF8", "--no-sync")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c max_connections=40"
    control = str(binaries / "pg_ctl")
    call(control, "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")

    def stop() -> None:
        subprocess.run([*user, control, "-D", data, "-m", "immediate", "stop"], stdout=subprocess.DEVNULL)
        shutil.rmtree(folder, ignore_errors=True)

    atexit.register(stop)
    return port
