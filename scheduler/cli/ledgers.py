"""Commands about the installation: db upgrade, settings."""

from __future__ import annotations

from models.settings import mask_url
from scheduler.cli.app import JsonOption, app, db, load_settings, print_json
from scheduler.cli.show import SETUP, print_table


@db.command("upgrade", epilog="Example: packshot db upgrade")
def db_upgrade() -> None:
    """Create the ledger's tables, or bring them to this version."""
    from models.database import Database

    settings = load_settings()
    database = Database(settings.database_url)
    try:
        before = database.revision()
        after = database.upgrade()
    finally:
        database.close()
    where = mask_url(settings.database_url)
    print(f"{where}: {'already at' if before == after else 'now at'} version {after}")


@app.command("settings", rich_help_panel=SETUP, epilog="Example: PACKSHOT_REGION=ap-southeast-1 packshot settings")
def settings_(json: JsonOption = False) -> None:
    """Show every setting in force and where it came from; secrets are masked."""
    lines = load_settings().describe()
    if json:
        print_json([{"name": line.name, "value": line.value, "origin": line.origin} for line in lines])
        return
    titles = ("setting", "value", "from", "what it is")
    print_table(titles, [(line.name, line.value, line.origin, line.meaning) for line in lines])
