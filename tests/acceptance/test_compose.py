"""docker-compose.yml, tried without an engine: our services are started by exactly its words against real servers.

What a container would change is substituted, and nothing else, in one place (`Stage.here`): host names and ports of
other services, the folders of volumes, the programs of the image. The rest of the file is read and judged.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.settings import Settings
from tests.servers.cli import OURS, until
from tests.servers.postgres import PostgresProcess
from tests.servers.redis import RedisProcess
from tests.servers.s3 import ACCESS_KEY, SECRET_KEY, S3Process, _free_port

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
OUR_SERVICES = {"migrate", "bucket", "emulator", "scheduler", "worker", "packshot"}
ONCE = {"migrate", "bucket", "packshot"}
OPERATOR = {"POSTGRES_PASSWORD": "letters1", "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def interpolate(text: str, env: Mapping[str, str]) -> str:
    """`${NAME}`, `${NAME:-default}`, `${NAME:?message}` and `$$`, as compose does it."""

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        found = env.get(match["name"], "")
        if found or match["how"] is None:
            return found
        if match["how"] == ":?":
            raise KeyError(f"{match['name']}: {match['word']}")
        return match["word"]

    return re.sub(r"\$\$|\$\{(?P<name>\w+)(?:(?P<how>:[-?])(?P<word>[^}]*))?\}", value, text)


def read_compose(env: Mapping[str, str]) -> dict[str, Any]:
    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: walk(value) for key, value in node.items()}
        if isinstance(node, list):
            return [walk(value) for value in node]
        return interpolate(node, env) if isinstance(node, str) else node

    found: dict[str, Any] = walk(yaml.safe_load(COMPOSE.read_text()))
    return found


def read_env_file(name: str) -> dict[str, str]:
    lines = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = (line.strip() for line in text.splitlines())
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line and not line.startswith("#")]


def seconds(duration: str) -> float:
    return sum(
        float(number) * {"s": 1, "m": 60, "h": 3600}[unit] for number, unit in re.findall(r"([\d.]+)([smh])", duration)
    )


# -- what the files say -----------------------------------------------------------------------------------------------


@pytest.fixture
def compose() -> dict[str, Any]:
    return read_compose(read_env_file("rehearsal.env"))


def test_every_image_is_pinned_by_its_full_version(compose: dict[str, Any]):
    # given
    foreign = [service["image"] for name, service in compose["services"].items() if name not in OUR_SERVICES]
    bases = [argument for word, argument in instructions() if word == "ARG"]

    # then
    assert len(foreign) == 3
    for image in [*foreign, *(base.partition("=")[2] for base in bases)]:
        assert re.search(r":v?\d+\.\d+(\.\d+)?[\w.-]*(@sha256:[0-9a-f]{64})?$", image), image
    assert [argument for word, argument in instructions() if word == "FROM"] == ["${PYTHON} AS build", "${PYTHON}"]


def test_redis_keeps_what_it_is_given_and_drops_nothing(compose: dict[str, Any]):
    # given
    options = redis_options(compose)

    # then
    assert options["appendonly"] == "yes"
    assert options["maxmemory-policy"] == "noeviction"
    assert "redis:/data" in compose["services"]["redis"]["volumes"]


def test_every_service_that_stays_is_watched_and_started_again(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        if name in ONCE:
            assert service["healthcheck"] == {"disable": True}, name
            continue
        assert service["healthcheck"]["test"][0] == "CMD", f"{name}: exec form, no shell between"
        assert service["restart"] == "unless-stopped", name
        for waited_for, how in service.get("depends_on", {}).items():
            ends = waited_for in ONCE
            assert how["condition"] == ("service_completed_successfully" if ends else "service_healthy"), name


def test_nothing_of_ours_runs_as_root_or_writes_into_its_image(compose: dict[str, Any]):
    # given
    users = [argument for word, argument in instructions() if word == "USER"]

    # then
    assert users == ["packshot"]
    for name in OUR_SERVICES:
        service = compose["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["init"] is True
        assert "user" not in service


def test_workers_can_be_many_and_no_port_is_open_to_the_outside(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        assert "container_name" not in service, name
        assert "ports" not in service, name
    assert compose["networks"]["inside"] == {"internal": True}
    assert set(compose["services"]["worker"]["networks"]) == {"inside", "outside"}


def test_a_worker_that_is_stopped_has_time_for_the_calls_in_flight(compose: dict[str, Any]):
    # given
    worker = compose["services"]["worker"]
    settings = Settings(
        PACKSHOT_CALL_TIMEOUT_S=worker["environment"]["PACKSHOT_CALL_TIMEOUT_S"],
        PACKSHOT_LEASE_S=worker["environment"]["PACKSHOT_LEASE_S"],
    )

    # then
    assert seconds(worker["stop_grace_period"]) > settings.call_timeout_s + settings.connect_timeout_s + 60
    assert settings.lease_s > settings.call_timeout_s


def test_volumes_are_named_and_no_source_is_mounted(compose: dict[str, Any]):
    for name, service in compose["services"].items():
        for volume in service.get("volumes", []):
            source, target = volume.split(":")[:2]
            assert source in compose["volumes"] or (source, target) == ("./manifests", "/catalog"), f"{name}: {volume}"


def test_nothing_secret_stands_in_the_file_and_what_is_missing_is_asked_for():
    # given
    text = COMPOSE.read_text()
    secrets = ("POSTGRES_PASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "DASHSCOPE_API_KEY")

    # then: each comes from outside, and is said to be missing by name
    for name in secrets:
        assert f"${{{name}:?set {name}" in text
        assert f"${{{name}:-" not in text
        given = {other: "x" for other in secrets if other != name}
        with pytest.raises(KeyError, match=f"{name}: set {name}"):
            read_compose(given)
    for service in yaml.safe_load(text)["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search("KEY|SECRET|PASSWORD|TOKEN", name):
                assert value.startswith("${"), name
    assert not re.search(r"://\w+:[^$@\s]+@", text)


def test_what_the_image_copies_is_there_and_not_left_out():
    # given
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        source
        for word, argument in instructions()
        if word == "COPY" and "--from" not in argument
        for source in argument.split()[:-1]
    ]

    # then
    assert {"models", "worker", "scheduler", "emulator", "constraints.txt"} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore
    assert ignore[1] == "*"


def test_the_image_starts_programs_without_a_shell():
    for word, argument in instructions():
        if word in ("ENTRYPOINT", "CMD"):
            assert isinstance(json.loads(argument), list)
        if word == "HEALTHCHECK":
            assert isinstance(json.loads(argument.partition("CMD ")[2]), list)


def test_every_package_of_ours_is_pinned_for_the_image():
    # given
    import tomllib

    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}

    # then
    for requirement in wanted:
        assert re.split(r"[\[<>=~]", requirement)[0] in pinned, f"{requirement}: run make lock"


def readme_commands() -> list[list[str]]:
    lines = (line.strip() for line in (ROOT / "README.md").read_text().splitlines())
    return [shlex.split(line, comments=True) for line in lines if line.startswith("docker compose")]


def test_the_page_names_files_profiles_and_services_that_are_there(compose: dict[str, Any]):
    # given
    up, run = readme_commands()

    # then
    for words in (up, run):
        assert read_env_file(words[words.index("--env-file") + 1])["COMPOSE_PROFILES"] == "rehearsal"
    assert compose["services"]["emulator"]["profiles"] == ["rehearsal"]
    assert up[up.index("--scale") + 1].partition("=")[0] in compose["services"]
    assert run[run.index("--rm") + 1] == "packshot"


# -- and what it does -------------------------------------------------------------------------------------------------


class Stage:
    """The servers of the file as processes on this machine, and its services beside them."""

    def __init__(self, folder: Path, postgres: PostgresProcess, redis: RedisProcess, s3: S3Process) -> None:
        self.folder = folder
        self.services = read_compose({**read_env_file("rehearsal.env"), **OPERATOR})["services"]
        self.running: dict[str, subprocess.Popen[str]] = {}
        self._emulator = f"127.0.0.1:{_free_port()}"
        self._servers = {
            "postgres:5432": f"127.0.0.1:{postgres.port}",
            "redis:6379": f"127.0.0.1:{redis.port}",
            "s3:7070": f"127.0.0.1:{s3.port}",
            "emulator:8090": self._emulator,
            "127.0.0.1:8090": self._emulator,
        }
        self._words = {
            "packshot": str(Path(sys.executable).with_name("packshot")),
            "python": sys.executable,
            "0.0.0.0": "127.0.0.1",
            "8090": self._emulator.rpartition(":")[2],
            "/state": str(folder / "state"),
        }

    def here(self, text: str) -> str:
        """What a word of the file means on this machine."""
        for service, address in self._servers.items():
            text = re.sub(rf"(?<![\w.]){re.escape(service)}(?!\d)", address, text)
        return text

    def command(self, words: list[str]) -> list[str]:
        return [self._words.get(word, self.here(word)) for word in words]

    def environment(self, name: str) -> dict[str, str]:
        """The service's and the image's, on an environment that has nothing of ours."""
        image = dict(
            pair.split("=", 1) for word, argument in instructions() if word == "ENV" for pair in shlex.split(argument)
        )
        clean = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
        own = {key: self.here(str(value)) for key, value in self.services[name].get("environment", {}).items()}
        return {**clean, **image, "PATH": os.environ["PATH"], **own}

    def entrypoint(self, name: str) -> list[str]:
        image = next(json.loads(argument) for word, argument in instructions() if word == "ENTRYPOINT")
        words: list[str] = self.services[name].get("entrypoint", image)
        return words

    def once(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A service that ends, as `docker compose run`; arguments replace its command."""
        words = [*self.entrypoint(name), *(arguments or self.services[name]["command"])]
        return subprocess.run(
            self.command(words), env=self.environment(name), cwd=ROOT / "manifests", timeout=120,
            capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip

    def up(self, name: str, instance: str | None = None) -> None:
        words = [*self.entrypoint(name), *self.services[name]["command"]]
        with (self.folder / f"{instance or name}.log").open("w") as log:
            self.running[instance or name] = subprocess.Popen(
                self.command(words), env=self.environment(name), cwd=ROOT / "manifests",
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, text=True,
            )  # fmt: skip

    def is_healthy(self, name: str) -> bool:
        """What the file's health check says now."""
        words = self.services[name]["healthcheck"]["test"][1:]
        done = subprocess.run(
            self.command(words), env=self.environment(name), capture_output=True, timeout=60, check=False
        )
        return done.returncode == 0

    def down(self, instance: str) -> int:
        """SIGTERM, as `docker compose stop`; the exit code."""
        process = self.running.pop(instance)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def talk(self) -> str:
        return "\n".join(f"== {log.name}\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))


def redis_options(compose: Mapping[str, Any]) -> dict[str, str]:
    words = compose["services"]["redis"]["command"][1:]
    return dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))


@pytest.fixture
def stage(tmp_path: Path, postgres: PostgresProcess) -> Iterator[Stage]:
    """PostgreSQL with an empty database `packshot`, Redis with the file's own options, S3 without a bucket."""
    options = redis_options(read_compose(read_env_file("rehearsal.env")))
    postgres.create_database("packshot")
    server = RedisProcess(**{name.replace("-", "_"): value for name, value in options.items()})
    with server as redis, S3Process(tmp_path / "s3") as s3:
        found = Stage(tmp_path, postgres, redis, s3)
        yield found
        for process in found.running.values():
            process.kill()
            process.wait()
    postgres.drop_database("packshot")


def test_the_services_of_the_file_buy_a_batch_together(stage: Stage):
    # given
    assert not stage.is_healthy("scheduler")
    assert not stage.is_healthy("worker")
    for name in ("migrate", "bucket", "bucket"):  # made again, a bucket is no trouble
        done = stage.once(name)
        assert done.returncode == 0, done.stderr

    # when
    stage.up("emulator")
    stage.up("scheduler")
    stage.up("worker", "worker-1")
    stage.up("worker", "worker-2")
    for name in ("emulator", "scheduler", "worker"):
        until(lambda name=name: stage.is_healthy(name), within_s=60)
    _, _, *run = next(words for words in readme_commands() if "submit" in words)
    submitted = stage.once("packshot", *run[run.index("packshot") + 1 :])
    watched = stage.once("packshot", "watch", "hello", "--json")
    asked = stage.once("packshot", "doctor", "--output", "s3://packshot/hello", "--json")

    # then
    assert submitted.returncode == 0, (submitted, stage.talk())
    assert submitted.stdout.strip() == "hello"
    assert watched.returncode == 0, (watched, stage.talk())
    assert json.loads(watched.stdout)["pictures"]["stored"] == 14
    findings = {finding["part"]: (finding["state"], finding["said"]) for finding in json.loads(asked.stdout)}
    assert {state for state, _ in findings.values()} == {"ok"}, findings
    assert findings["workers"][1].startswith("2 answer")

    # when: told to leave, in the order of `docker compose down`
    codes = {instance: stage.down(instance) for instance in ("worker-1", "worker-2", "scheduler", "emulator")}

    # then
    assert set(codes.values()) == {0}, (codes, stage.talk())
    assert not stage.is_healthy("emulator")
    assert not stage.is_healthy("scheduler")
    assert not stage.is_healthy("worker")
