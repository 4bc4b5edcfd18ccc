"""What many tests share: a PostgreSQL server for the whole run, and a ledger of either kind for each test."""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import structlog

from models.database import Database
from tests.servers.postgres import PostgresProcess

TEMPLATE = "migrated"
_numbers = count(1)


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that runs in the tests' own process sets its logs, to a stream that is closed afterwards."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresProcess]:
    """One server; its database `migrated` has the tables and no rows."""
    with PostgresProcess() as server:
        template = Database(server.create_database(TEMPLATE))
        template.upgrade()
        template.close()
        yield server


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file that has the tables and no rows."""
    file = tmp_path_factory.mktemp("migrated") / "ledger.db"
    template = Database(f"sqlite:///{file}")
    template.upgrade()
    template.close()
    return file


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    return f"sqlite:///{shutil.copy(migrated_file, tmp_path / 'ledger.db')}"


@pytest.fixture
def postgres_url(postgres: PostgresProcess) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template=TEMPLATE)
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh ledger with its tables; a test that takes it runs on both databases."""
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    found = Database(url)
    yield found
    found.close()
