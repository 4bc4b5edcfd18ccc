"""The command tree and what all commands share.

Only what every command needs is imported at the top, here and in the modules of commands: `check`, `plan` and `--help`
answer without a database library.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from models import settings as settings_module
from models.errors import UsageError
from models.settings import Settings, mask_url

if TYPE_CHECKING:
    from models.batch import Decision
    from models.database import Database

app = typer.Typer(
    name="packshot",
    help="Re-shoot a product catalog with words: every paid picture delivered, none paid twice, the budget kept.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The ledger's tables.", no_args_is_help=True, epilog="Example: packshot db upgrade")
app.add_typer(db, name="db")

ManifestArg = Annotated[Path, typer.Argument(metavar="MANIFEST", help="a YAML or CSV file", show_default=False)]
BatchArg = Annotated[str, typer.Argument(metavar="BATCH", help="the manifest's `batch`", show_default=False)]
SetOption = Annotated[
    list[str],
    typer.Option("--set", metavar="KEY=VALUE", help="a top-level or default value, as YAML would say it; repeatable"),
]
JsonOption = Annotated[bool, typer.Option("--json", help="machine-readable result on stdout")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", envvar="PACKSHOT_YES", help="do not ask before spending")]
RehearsalOption = Annotated[
    bool | None, typer.Option("--rehearsal/--real", help="which of the two, where a batch was rehearsed and run")
]
ReasonOption = Annotated[str, typer.Option("--reason", help="why, for the record")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="print the version and leave")] = False,
) -> None:
    if version:
        print(f"packshot {metadata.version('packshot')}")
        raise typer.Exit


def load_settings(manifest: Path | None = None) -> Settings:
    """Settings in force for a command. A misspelt one is told: what it should have limited is not limited."""
    for sentence in settings_module.unknown_names():
        talk(f"warning: {sentence}")
    return settings_module.load(manifest.parent if manifest is not None else None)


def overrides(pairs: list[str]) -> Mapping[str, str]:
    """`--set key=value` pairs. Raises UsageError on what is not one."""
    found: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {pair!r} is not KEY=VALUE; write --set size=1024*1024")
        found[key.strip()] = value
    return found


@contextmanager
def open_ledger(settings: Settings, *, create: bool = False) -> Iterator[Database]:
    """The ledger, checked to be of this version; from here on there may be logs.

    create: make a new SQLite ledger instead of refusing
    Raises UsageError where a new one would forget what the ledger beside the manifest knows to be paid.
    """
    from models import logs
    from models.database import Database

    logs.configure(settings.log_level)
    database = Database(settings.database_url)
    try:
        if settings.ledger_origin not in ("default", "environment"):
            talk(f"ledger: {mask_url(settings.database_url)}")
        if create and database.file is not None and database.revision() is None:
            if other := settings.ledger_of_manifest():
                raise UsageError(
                    f"the manifest's ledger is {other}, and a new one here would buy again what that one knows to be "
                    f"paid; cd {shlex.quote(str(other.parent.parent))} first, or set PACKSHOT_DATABASE_URL to the "
                    "ledger you mean"
                )
            database.upgrade()
        database.ensure_current()
        yield database
    finally:
        database.close()


def decision(what: str, settings: Settings, reason: str) -> Decision:
    """A person's word, to be recorded: who is PACKSHOT_USER, or the login name."""
    from datetime import UTC, datetime
    from getpass import getuser

    from models.batch import Decision

    try:
        who = settings.user or getuser()
    except (KeyError, OSError):  # a container's user without an entry of its own
        who = f"uid {os.getuid()}"
    return Decision(what, who, datetime.now(UTC), reason)


def print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def talk(sentence: str = "") -> None:
    print(sentence, file=sys.stderr)


# Importing the modules adds their commands to the tree, in the order of `--help`.
# isort: off
from scheduler.cli import manifests, runs, batches, decisions, emulators, ledgers, doctor, cluster  # noqa: E402, F401
