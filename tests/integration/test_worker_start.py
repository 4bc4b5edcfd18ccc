"""A worker that cannot work says why in one sentence and does not begin, started by our command or by Celery's own."""

import sys
from pathlib import Path

import pytest

from tests.servers import nursery
from tests.servers.cli import COMMAND, Cli

CELERY = [str(Path(sys.executable).with_name("celery")), "-A", "worker.broker", "worker", "-P", "threads"]
NOBODY = "127.0.0.1:1"


@pytest.fixture
def cli(tmp_path: Path, postgres_url: str) -> Cli:
    env = {
        "PACKSHOT_DATABASE_URL": postgres_url,
        "PACKSHOT_REDIS_URL": f"redis://{NOBODY}/0",
        "DASHSCOPE_API_KEY": "sk-rehearsal",
    }
    return Cli(tmp_path, env)


@pytest.mark.parametrize("command", [[COMMAND, "worker"], CELERY], ids=["packshot", "celery"])
@pytest.mark.parametrize(
    ("env", "code", "words"),
    [
        ({"DASHSCOPE_API_KEY": ""}, 2, "DASHSCOPE_API_KEY is not set"),
        ({"DASHSCOPE_API_KEY": "sk two words"}, 2, "holds characters that no key has"),
        ({"PACKSHOT_DATABASE_URL": f"postgresql://packshot@{NOBODY}/x"}, 1, "PACKSHOT_DATABASE_URL is right"),
        ({"PACKSHOT_DATABASE_URL": "sqlite:///ledger.db"}, 2, "several processes and hosts cannot share"),
        ({"PACKSHOT_REDIS_URL": ""}, 2, "PACKSHOT_REDIS_URL is not set"),
        ({"PACKSHOT_REDIS_URL": "redis://queue:port/0"}, 2, "this is not an address of Redis"),
    ],
    ids=["no key", "no such key", "no ledger", "sqlite", "no redis", "bad port"],
)
def test_a_worker_that_cannot_work_does_not_begin(
    cli: Cli, command: list[str], env: dict[str, str], code: int, words: str
):
    # when
    ended, out, err = nursery.run(command, env={**cli.environment(), **env}, cwd=cli.folder, timeout_s=60)

    # then
    assert ended == code, out + err
    errors = [line for line in (out + err).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, out + err
    assert words in errors[0]
    assert "Traceback" not in out + err
    assert "ready" not in out + err


def test_celerys_own_tools_need_redis_alone_and_say_so_in_one_sentence(cli: Cli):
    # given: a host that only looks on
    inspect = [*CELERY[:3], "inspect", "ping", "--timeout", "1"]
    env = {**cli.environment(), "PACKSHOT_DATABASE_URL": "", "DASHSCOPE_API_KEY": ""}

    # when
    without = nursery.run(inspect, env={**env, "PACKSHOT_REDIS_URL": ""}, cwd=cli.folder, timeout_s=60)
    _, out, err = nursery.run(inspect, env=env, cwd=cli.folder, timeout_s=60)

    # then
    assert without[0] == 2
    assert without[2].startswith("error: PACKSHOT_REDIS_URL is not set")
    assert without[2].count("\n") == 1
    assert "PACKSHOT_" not in out + err
