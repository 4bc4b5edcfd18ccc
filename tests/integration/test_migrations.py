"""The tables come from migrations, on both databases, from nothing, once, and never from the future."""

import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import inspect, text

from models.database import Database, known_revisions, newest_revision
from models.errors import LedgerUnavailable
from models.tables import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request, tmp_path):
    """A database without tables; of SQLite not even the file or its folder."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'new' / 'ledger.db'}")
        yield database
        database.close()
        return
    postgres = request.getfixturevalue("postgres")
    database = Database(postgres.create_database("empty"))
    yield database
    database.close()
    postgres.drop_database("empty")


def test_from_nothing_to_the_newest_tables(empty):
    assert empty.revision() is None

    assert empty.upgrade() == newest_revision()

    assert empty.revision() == newest_revision()
    empty.ensure_current()
    with empty.read() as connection:
        names = set(inspect(connection).get_table_names())
    assert names == {*metadata.tables, "alembic_version"}


def test_what_the_migrations_made_is_what_the_code_expects(database):
    with database.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        assert compare_metadata(context, metadata) == []


def test_the_indexes_that_guard_money_are_there_with_their_conditions(database):
    with database.read() as connection:
        found = {index["name"]: index for index in inspect(connection).get_indexes("entries")}

    for name in ("uq_entries_one_charge_per_attempt", "uq_entries_once_per_hold"):
        assert found[name]["unique"]
        condition = found[name]["dialect_options"][f"{database.dialect}_where"]
        assert "kind" in str(condition)


@pytest.mark.parametrize("removed", ["batches", "jobs", "rows"])
def test_whatever_leads_to_a_record_that_may_be_removed_is_found_by_an_index(database, removed):
    """Else removing the jobs of a torn submission reads every entry of the ledger once for each job."""
    with database.read() as connection:
        tables = inspect(connection)
        for name in tables.get_table_names():
            whole = [
                found["column_names"]
                for found in (*tables.get_indexes(name), *tables.get_unique_constraints(name))
                if found.get("dialect_options", {}).get(f"{database.dialect}_where") is None
            ]
            for key in tables.get_foreign_keys(name):
                if key["referred_table"] == removed:
                    column = key["constrained_columns"][0]
                    assert any(columns[0] == column for columns in whole), f"{name}.{column}"


def test_upgrading_twice_changes_nothing_and_says_nothing(database, capfd):
    before = database.revision()

    assert database.upgrade() == before

    assert capfd.readouterr() == ("", "")


def test_two_services_that_start_at_once_both_find_their_tables(empty):
    errors: list[Exception] = []
    gate = threading.Barrier(2)

    def upgrade() -> None:
        gate.wait(30)
        try:
            empty.upgrade()
        except Exception as error:  # noqa: BLE001 -- whatever it is, it fails the test
            errors.append(error)

    threads = [threading.Thread(target=upgrade) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert errors == []
    empty.ensure_current()


def test_a_ledger_without_tables_is_refused_with_the_way_out(empty):
    if empty.file:
        with pytest.raises(LedgerUnavailable, match=r"there is no ledger .* yet"):
            empty.ensure_current()
        empty.file.parent.mkdir()
        empty.file.touch()

    with pytest.raises(LedgerUnavailable, match="has no tables yet; run: packshot db upgrade"):
        empty.ensure_current()


@pytest.mark.parametrize("act", [Database.ensure_current, Database.upgrade], ids=["use", "upgrade"])
def test_a_ledger_of_a_newer_packshot_is_refused_and_left_alone(database, act):
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    with pytest.raises(LedgerUnavailable, match=r"at version 9999, which this packshot does not know; .* install that"):
        act(database)

    assert database.revision() == "9999"


def test_a_ledger_of_an_older_packshot_is_refused_with_the_way_out(database, monkeypatch):
    known = known_revisions()
    monkeypatch.setattr("models.database.newest_revision", lambda: "9999")
    monkeypatch.setattr("models.database.known_revisions", lambda: {*known, "9999"})

    with pytest.raises(LedgerUnavailable, match="needs 9999; run: packshot db upgrade"):
        database.ensure_current()
