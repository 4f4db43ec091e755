"""Checks of files: configuration, socket, models, conversations, disk."""

from __future__ import annotations

import contextlib
import difflib
import os
import sqlite3
import stat
import time
from collections import Counter
from pathlib import Path

from mlxd.daemon.cli.doctor.check import Finding, Machine
from mlxd.daemon.cli.units import size
from mlxd.daemon.config import SETTINGS
from mlxd.daemon.conversations.schema import MIGRATIONS
from mlxd.daemon.models.catalog import Catalog
from mlxd.daemon.models.files import identity
from mlxd.daemon.models.other_tools import find_models, known_roots
from mlxd.safesocket.folder import problem

LITTLE_SPACE = 5 * 10**9
NO_SPACE = 500 * 10**6

KNOWN_VARIABLES = frozenset(
    {
        *(entry.variable for entry in SETTINGS.values()),
        "MLXD_SOCKET",
        "MLXD_CONFIG_DIR",
        "MLXD_STATE_DIR",
        "MLXD_DATA_DIR",
        "MLXD_CACHE_DIR",
        "MLXD_LOG_DIR",
        "MLXD_AUTOSTART",
        "MLXD_READY_FD",
    }
)
_RECENT_S = 86_400.0


def configuration(machine: Machine) -> Finding:
    """Are the configuration and the MLXD_* variables valid?"""
    if machine.config_error is not None:
        return Finding(
            "configuration", "fail", machine.config_error.message, machine.config_error.hint
        )
    ours = [name for name in machine.environ if name.startswith("MLXD_")]
    if strange := sorted(set(ours) - KNOWN_VARIABLES):
        near = difflib.get_close_matches(strange[0], sorted(KNOWN_VARIABLES), n=1)
        step = f"Did you mean {near[0]}?" if near else f"unset {strange[0]}"
        return Finding("configuration", "warn", f"Unknown variable {strange[0]}", step)
    file = machine.paths.config_file
    said = str(file) if file.exists() else f"defaults ({file} does not exist)"
    return Finding("configuration", "ok", said)


def socket_folder(machine: Machine) -> Finding:
    """Is the socket's folder private?"""
    path = machine.paths.socket
    try:
        unsafe = problem(path.parent, machine.uid)
    except FileNotFoundError:
        return Finding("socket", "ok", f"{path} (its folder is created at the first start)")
    if unsafe is not None:
        return Finding("socket", "fail", unsafe.message.rstrip("."), unsafe.hint.rstrip("."))
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Finding("socket", "warn", f"{path} is open to others", f"chmod 600 {path}")
    return Finding("socket", "ok", str(path))


def default_model(machine: Machine) -> Finding:
    """Is the default model available?"""
    ref = Catalog(machine.config, machine.environ).resolve()
    return Finding(
        "default model", "ok", f"{ref.name}, {ref.path}", summary=f"default model {ref.name}"
    )


def models(machine: Machine) -> Finding:
    """How many models are on this machine, and is any incomplete?"""
    catalog = Catalog(machine.config, machine.environ, own_dir=machine.paths.models_dir)
    records = catalog.list()
    total = size(sum(record.bytes for record in records))
    detail = f"{len(records)} in {catalog.cache_dir} and elsewhere, {total}"
    broken = [record for record in records if record.problem]
    if broken:
        first = broken[0]
        detail = f"{detail}; {len(broken)} incomplete: {first.name} ({first.problem})"
        step = f"mlx models pull {first.name}, or remove it: mlx models rm {first.name}"
        return Finding("models", "warn", detail, step)
    return Finding("models", "ok", detail)


def other_tools(machine: Machine) -> Finding:
    """Have other tools downloaded MLX models that mlxd could use?"""
    catalog = Catalog(machine.config, machine.environ, own_dir=machine.paths.models_dir)
    known = {identity(record.path) for record in catalog.list()}
    home = Path(machine.environ.get("HOME") or Path.home())
    counts = Counter(
        root.tool
        for root in known_roots(home)
        for one in find_models(root.path)
        if one.problem is None and identity(one.path) not in known
    )
    if not counts:
        return Finding("other tools", "ok", "no models to import")
    detail = "MLX models of " + ", ".join(f"{tool}: {n}" for tool, n in counts.items())
    return Finding(
        "other tools", "ok", detail, "mlx models import", summary=f"{detail} (mlx models import)"
    )


def conversations(machine: Machine) -> Finding:
    """Are the stored conversations intact and private?"""
    if not machine.config.conversations:
        return Finding("conversations", "ok", "not stored (conversations = false)")
    file = machine.paths.conversations_db
    if not file.exists():
        return Finding("conversations", "ok", f"none yet ({file})")
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        return Finding("conversations", "warn", f"{file} is open to others", f"chmod 600 {file}")
    try:
        count, version = _stored(file)
    except sqlite3.Error as exc:
        step = "Restart the daemon. It keeps the file under another name: mlxd restart"
        return Finding("conversations", "fail", f"{file} cannot be read: {exc}", step)
    if version > len(MIGRATIONS):
        step = "Upgrade mlxd, or set conversations = false in config.toml"
        return Finding("conversations", "fail", f"{file} was written by a newer mlxd", step)
    damaged = sorted(file.parent.glob(f"{file.name}.damaged-*"))
    if damaged:
        step = f"Recover what you need (sqlite3 {damaged[0]} .recover), then delete it"
        return Finding("conversations", "warn", f"{damaged[0]} is a damaged database", step)
    return Finding("conversations", "ok", f"{count} in {file}")


def _stored(file: Path) -> tuple[int, int]:
    """Return the number of conversations in a database, and its version."""
    with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        tables = database.execute("SELECT 1 FROM sqlite_master WHERE name = 'conversations'")
        if tables.fetchone() is None:
            return 0, version
        (count,) = database.execute("SELECT count(*) FROM conversations").fetchone()
    return count, version


def disk(machine: Machine) -> Finding:
    """Is there enough free space, and can mlxd write its files?"""
    cache = Catalog(machine.config, machine.environ).cache_dir
    places = (cache, machine.paths.state_dir, machine.paths.cache_dir, machine.paths.log_dir)
    free = {place: machine.free_bytes(_existing(place)) for place in places}
    place = min(free, key=lambda key: free[key])
    detail = f"{free[place] / 1e9:.1f} GB free at {place}"
    if free[place] < NO_SPACE:
        return Finding("disk", "fail", detail, "Remove models: mlx models list, mlx models rm")
    if free[place] < LITTLE_SPACE:
        return Finding(
            "disk",
            "warn",
            detail,
            "Most models need more. Remove some: mlx models list, mlx models rm",
        )
    unwritable = [p for p in places[1:] if not os.access(_existing(p), os.W_OK)]
    if unwritable:
        return Finding(
            "disk",
            "fail",
            f"{unwritable[0]} is not writable",
            f"See its owner: ls -ld {unwritable[0]}",
        )
    return Finding("disk", "ok", detail)


def _existing(path: Path) -> Path:
    return next(place for place in (path, *path.absolute().parents) if place.exists())


def crashes(machine: Machine) -> Finding:
    """Did the daemon write to its crash log in the last 24 hours?"""
    file = machine.paths.log_dir / "mlxd.err"
    try:
        about = file.stat()
    except OSError:
        return Finding("crashes", "ok", "none")
    if about.st_size and time.time() - about.st_mtime < _RECENT_S:
        return Finding("crashes", "warn", f"{file} was written to today", f"Read it: tail {file}")
    return Finding("crashes", "ok", "none today")
