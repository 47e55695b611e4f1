"""``headway tenants``: keys for tenants, and whose a key is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from cli.missing import fail

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def key(
    name: Annotated[str, typer.Argument(help="The tenant, as `tenants` in the configuration calls it.")],
) -> None:
    """Make an API key. It is shown this once; the configuration gets only the other line, its salted hash."""
    import secrets

    from controller.configuration.credentials import RANDOM_BYTES, StoredKey

    if _NAME.fullmatch(name) is None:
        raise fail(f"{escape(repr(name))} is no tenant's name; write letters, digits and . _ - (64 at most)")
    shown, stored = StoredKey.issue(secrets.token_bytes(RANDOM_BYTES))
    typer.echo(f"key: {shown}  # for {name}; not kept anywhere")
    typer.echo(f'hash: "{stored}"  # for tenants, {name}, keys')


def check(config: Annotated[Path, typer.Option(help="The gateway's YAML file.", show_default=False)]) -> None:
    """Read a key from standard input and say whose it is; exit code 1 if it is nobody's."""
    import os
    import sys

    from controller.configuration import load
    from controller.configuration.credentials import Credential
    from controller.errors import ConfigurationError

    try:
        configuration = load(config, os.environ)
    except ConfigurationError as error:
        raise fail(f"the configuration cannot be used\n{escape(str(error))}") from error
    credential = Credential.parse(sys.stdin.readline().strip())
    if credential is None:
        raise fail("no key on standard input; write one line like hw1_ID_SECRET, as `headway tenants key` printed it")
    holders = {
        stored.id: (f"tenant {one.name}", stored) for one in configuration.tenants for stored in one.stored_keys()
    }
    holders |= {stored.id: ("an operator", stored) for stored in configuration.auth.stored_keys()}
    if credential.id not in holders:
        raise fail(f"nobody's: no key of {escape(str(config))} has the id {credential.id}", 1)
    holder, stored = holders[credential.id]
    if not stored.matches(credential.secret):
        raise fail(f"nobody's: {holder} has a key of the id {credential.id}, with another secret", 1)
    typer.echo(f"{holder} (key {credential.id})")
