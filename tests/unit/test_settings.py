"""Settings: where they come from, that they fit together, and that no secret is shown."""

from pathlib import Path

import pytest

from models import settings
from models.errors import SettingsError
from models.settings import (
    Settings,
    load,
    mask,
    mask_url,
    mask_user,
    parse_breaker,
    parse_daily_budget,
    parse_limit_share,
    parse_share,
    unknown_names,
)

SECRET = "sk-0123456789abcdef"


def toml(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "packshot.toml").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "cwd"
    folder.mkdir()
    return folder


@pytest.fixture
def beside(tmp_path):
    folder = tmp_path / "beside"
    folder.mkdir()
    return folder


def origin(found: Settings, name: str) -> str:
    return next(line.origin for line in found.describe() if line.name == name)


def a_ledger_in(folder: Path) -> Path:
    (folder / ".packshot").mkdir(parents=True)
    (folder / ".packshot" / "ledger.db").touch()
    return folder / ".packshot" / "ledger.db"


def refused(cwd: Path, environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as raised:
        load(environ=environ, cwd=cwd)
    return str(raised.value)


# -- which ledger --------------------------------------------------------------------------------


def test_the_ledger_is_that_of_the_nearest_folder_above(cwd):
    a_ledger_in(cwd.parent)
    below = cwd / "a" / "b"
    below.mkdir(parents=True)

    assert load(environ={}, cwd=below).database_url == "sqlite:///../../../.packshot/ledger.db"
    a_ledger_in(cwd / "a")
    assert load(environ={}, cwd=below).database_url == "sqlite:///../.packshot/ledger.db"
    assert load(environ={}, cwd=cwd / "a").database_url == "sqlite:///.packshot/ledger.db"


def test_a_ledger_that_is_named_goes_before_one_above(cwd):
    a_ledger_in(cwd.parent)

    found = load(environ={"PACKSHOT_DATABASE_URL": "sqlite:///mine.db"}, cwd=cwd)

    assert found.database_url == "sqlite:///mine.db"


def test_the_ledger_of_the_manifest_s_folder_is_known_where_none_is_named(cwd, beside):
    ledger = a_ledger_in(beside)

    assert load(beside, environ={}, cwd=cwd).ledger_of_manifest() == ledger
    assert load(beside, environ={"PACKSHOT_DATABASE_URL": "sqlite:///x.db"}, cwd=cwd).ledger_of_manifest() is None


# -- where from ----------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold(cwd):
    found = load(environ={}, cwd=cwd)

    assert found.database_url == "sqlite:///.packshot/ledger.db"
    assert {line.origin for line in found.describe()} == {"default"}


def test_the_environment_beats_the_file_beside_the_manifest_which_beats_the_working_folders(cwd, beside):
    toml(cwd, 'PACKSHOT_MAX_TRIES = 2\nPACKSHOT_CONCURRENCY = 2\nPACKSHOT_LOG = "debug"')
    toml(beside, "PACKSHOT_MAX_TRIES = 3\nPACKSHOT_CONCURRENCY = 3")

    found = load(beside, environ={"PACKSHOT_MAX_TRIES": "4"}, cwd=cwd)

    assert (found.max_tries, found.concurrency, found.log_level) == (4, 3, "debug")
    assert origin(found, "PACKSHOT_MAX_TRIES") == "environment"
    assert origin(found, "PACKSHOT_CONCURRENCY") == str(beside / "packshot.toml")
    assert origin(found, "PACKSHOT_LOG") == str(cwd / "packshot.toml")
    assert origin(found, "PACKSHOT_REGION") == "default"


def test_an_empty_variable_is_no_setting(cwd):
    toml(cwd, "PACKSHOT_MAX_TRIES = 2")

    assert load(environ={"PACKSHOT_MAX_TRIES": ""}, cwd=cwd).max_tries == 2


def test_the_region_of_the_bucket_goes_by_both_of_its_names(cwd):
    assert load(environ={"AWS_REGION": "eu-west-1"}, cwd=cwd).aws_region == "eu-west-1"
    both = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "us-east-1"}
    assert load(environ=both, cwd=cwd).aws_region == "us-east-1"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("PACKSHOT_MAX_TRYS = 2", "PACKSHOT_MAX_TRYS is not a setting; did you mean PACKSHOT_MAX_TRIES?"),
        ("[packshot]\nmax_tries = 2", "packshot is not a setting; "),
        ("PACKSHOT_MAX_TRIES = ", "cannot be read: "),
    ],
)
def test_a_file_with_a_mistake_is_named(cwd, text, sentence):
    toml(cwd, text)

    said = refused(cwd, {})

    assert said.startswith(f"{cwd / 'packshot.toml'}: ")
    assert sentence in said


def test_a_misspelt_variable_is_pointed_out_and_what_is_not_ours_is_not():
    environ = {"PACKSHOT_LIMTS": "x", "PACKSHOT_CI": "1", "PACKSHOT_LOG": "info", "PATH": "/bin"}

    assert unknown_names(environ) == ["PACKSHOT_LIMTS is not a setting; did you mean PACKSHOT_LIMITS?"]


# -- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PACKSHOT_MAX_TRIES", "0", "greater than or equal to 1"),
        ("PACKSHOT_MAX_TRIES", "many", "valid integer"),
        ("PACKSHOT_CONCURRENCY", "2001", "less than or equal to 2000"),
        ("PACKSHOT_LOOKAHEAD_S", "0", "greater than 0"),
        ("PACKSHOT_REGION", "mars", "'mars' is not a region; write one of cn-beijing"),
        ("PACKSHOT_LIMITS", "qwen-image-2.o=2/1s", "did you mean qwen-image-2.0?"),
        ("PACKSHOT_PRICES", "qwen-image-2.0@cn-beijing=1", "names no currency"),
        ("PACKSHOT_EXPOSURE_LIMIT", "101%", "is not between 0% and 100%"),
        ("PACKSHOT_EXPOSURE_LIMIT", "some", "is not an amount of money"),
        ("PACKSHOT_CONFIRM_OVER", "1%", "is not an amount of money"),
        ("PACKSHOT_CONFIRM_OVER", "5 USD", "names a currency, and it holds in that of the batch; write 5"),
        ("PACKSHOT_DAILY_BUDGET", "100", "names no currency; write 100 CNY"),
        ("PACKSHOT_BREAKER", "often", "write 20/50%, CODE=5/10% or off"),
        ("PACKSHOT_LOG", "loud", "is not a level; write debug, info, warning or error"),
        ("DASHSCOPE_HTTP_BASE_URL", "dashscope.aliyuncs.com", "is not an address; write https://host/api/v1"),
        ("DASHSCOPE_HTTP_BASE_URL", "https://", "is not an address"),
        ("DASHSCOPE_WORKSPACE_ID", "llm 1", "'llm 1' is not a workspace's id; copy it from the Model Studio console"),
        ("DASHSCOPE_WORKSPACE_ID", "llm-1\r\nX-Evil: 1", "is not a workspace's id"),
        ("DASHSCOPE_WORKSPACE_ID", "ключ", "is not a workspace's id"),
        ("DASHSCOPE_WORKSPACE_ID", "evil.example/", "is not a workspace's id"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_name_its_place_and_the_way_out(cwd, name, value, sentence):
    said = refused(cwd, {name: value})

    assert said.startswith(f"{name} (environment): ")
    assert sentence in said


def test_blanks_around_a_workspace_s_id_are_not_of_it(cwd):
    assert load(environ={"DASHSCOPE_WORKSPACE_ID": " llm-1\n"}, cwd=cwd).workspace_id == "llm-1"
    assert load(environ={"DASHSCOPE_WORKSPACE_ID": " "}, cwd=cwd).workspace_id is None


def test_a_lease_must_outlast_a_call(cwd):
    said = refused(cwd, {"PACKSHOT_CALL_TIMEOUT_S": "890", "PACKSHOT_CONNECT_TIMEOUT_S": "10"})

    assert "PACKSHOT_LEASE_S (900) must be longer than PACKSHOT_CALL_TIMEOUT_S plus PACKSHOT_CONNECT_TIMEOUT_S" in said
    assert load(environ={"PACKSHOT_CALL_TIMEOUT_S": "889"}, cwd=cwd).call_timeout_s == 889


def test_settings_do_not_change_once_read(cwd):
    found = load(environ={}, cwd=cwd)

    with pytest.raises(ValueError, match="frozen"):
        found.max_tries = 7


def test_an_accounts_own_limits_and_prices_are_in_the_catalogue_it_sees(cwd):
    environ = {"PACKSHOT_LIMITS": "qwen-image-2.0=9/1s", "PACKSHOT_PRICES": "qwen-image-2.0@cn-beijing=0.1 CNY"}

    own = load(environ=environ, cwd=cwd).models["qwen-image-2.0"]

    assert str(own.limits[0]) == "9/1s"
    assert {p.micros for p in own.prices if p.region == "cn-beijing"} == {100_000}


# -- what follows from them ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "url"),
    [
        ({}, "https://dashscope.aliyuncs.com/api/v1"),
        ({"DASHSCOPE_WORKSPACE_ID": "ws-1"}, "https://ws-1.cn-beijing.maas.aliyuncs.com/api/v1"),
        ({"DASHSCOPE_HTTP_BASE_URL": "http://127.0.0.1:9/"}, "http://127.0.0.1:9/api/v1"),
        ({"DASHSCOPE_HTTP_BASE_URL": "https://proxy/api/v1"}, "https://proxy/api/v1"),
    ],
)
def test_the_region_chooses_the_host_unless_one_is_named(cwd, environ, url):
    assert load(environ=environ, cwd=cwd).provider_url("cn-beijing") == url


def test_a_region_without_a_shared_host_needs_a_workspace(cwd):
    with pytest.raises(SettingsError, match="set DASHSCOPE_WORKSPACE_ID"):
        load(environ={}, cwd=cwd).provider_url("eu-central-1")


@pytest.mark.parametrize(
    ("text", "quote", "limit"),
    [
        ("1%", 100_000_000, 1_000_000),
        ("0", 100_000_000, 0),
        ("0%", 100_000_000, 0),
        ("2.50", 1, 2_500_000),
        ("2.50 CNY", 1, 2_500_000),
        ("0.29%", 100_000_000, 290_000),
        ("29%", 100, 29),
        ("1%", 99, 0),
        ("100%", 7, 7),
    ],
)
def test_the_exposure_limit_is_a_share_of_the_quote_or_an_amount_to_the_micro_unit(cwd, text, quote, limit):
    found = load(environ={"PACKSHOT_EXPOSURE_LIMIT": text}, cwd=cwd)

    assert found.exposure_limit_micros(quote) == limit


@pytest.mark.parametrize("text", ["nan%", "-1%", "%", "one%", "inf%"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="is not"):
        parse_share(text)


def test_budgets_of_the_day_and_thresholds_are_read():
    assert parse_daily_budget("100 CNY, 15 USD") == {"CNY": 100_000_000, "USD": 15_000_000}
    found = parse_breaker("20/50%, DataInspectionFailed=200/90%")
    assert {name: (t.failures, t.share) for name, t in found.items()} == {
        "*": (20, 0.5),
        "DataInspectionFailed": (200, 0.9),
    }
    assert parse_breaker("off") == {}


def test_a_part_of_the_limits_may_be_left_to_others(cwd):
    assert load(environ={}, cwd=cwd).share == 1.0
    assert load(environ={"PACKSHOT_LIMIT_SHARE": "80%"}, cwd=cwd).share == 0.8
    said = refused(cwd, {"PACKSHOT_LIMIT_SHARE": "0.8"})
    assert said == "PACKSHOT_LIMIT_SHARE (environment): '0.8' is not a part of the limits; write 80%, at most 100%"


@pytest.mark.parametrize("text", ["0%", "101%", "80", "%", "-5%", "nan%"])
def test_a_part_of_the_limits_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match="write 80%"):
        parse_limit_share(text)


# -- secrets ----------------------------------------------------------------------------------


def test_no_secret_is_shown_anywhere(cwd):
    names = ("DASHSCOPE_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    environ = dict.fromkeys(names, SECRET) | {
        "PACKSHOT_DATABASE_URL": f"postgresql://user:{SECRET}@host/ledger",
        "PACKSHOT_REDIS_URL": f"redis://:{SECRET}@host/0",
    }

    found = load(environ=environ, cwd=cwd)

    lines = {line.name: line.value for line in found.describe()}
    assert SECRET not in str(lines)
    assert SECRET.removeprefix("sk-") not in str(lines)
    assert lines["PACKSHOT_DATABASE_URL"] == "postgresql://user:***@host/ledger"
    assert lines["DASHSCOPE_API_KEY"] == "sk-0...ef"
    assert SECRET not in repr(found)


def test_a_secret_of_the_wrong_kind_is_refused_without_showing_it(cwd):
    toml(cwd, f'DASHSCOPE_API_KEY = ["{SECRET}"]')

    assert SECRET not in refused(cwd, {})


def test_a_mask_shows_enough_to_tell_keys_apart_and_nothing_of_a_short_one():
    assert mask(SECRET) == "sk-0...ef"
    assert mask("short") == "***"
    assert mask_url("no address at all") == "***"


def test_every_setting_is_described_and_named_like_a_variable():
    for name, info in Settings.model_fields.items():
        assert info.description, name
        assert str(info.alias).isupper(), name
    assert settings.TOML_NAME == "packshot.toml"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://gate.example/api/v1", "https://gate.example/api/v1"),
        ("https://me:secret@gate.example/api/v1", "https://***@gate.example/api/v1"),
        ("https://secret-token@gate.example:8443", "https://***@gate.example:8443"),
        ("http://me:se/cr@et@[::1]:9000", "http://***@[::1]:9000"),
    ],
)
def test_user_and_password_in_an_address_are_not_shown(url, shown):
    assert mask_user(url) == shown
    in_force = load(environ={"DASHSCOPE_HTTP_BASE_URL": url, "AWS_ENDPOINT_URL": url}, cwd=Path("/nonexistent"))
    told = {line.name: line.value for line in in_force.describe()}
    assert told["DASHSCOPE_HTTP_BASE_URL"] == told["AWS_ENDPOINT_URL"] == shown


@pytest.mark.parametrize(
    "url",
    [
        "http://queue:6379/0",
        "amqp://queue",
        "queue:6379",
        "redis://:secret@queue:port/0",
        "redis://:secret@queue:0/0",
        "redis://:secret@queue:99999/0",
        "redis://:secret@queue/zero",
        "unix:///run/redis.sock",
    ],
)
def test_an_address_that_is_not_of_redis_is_refused_in_one_sentence_that_does_not_show_it(cwd, url):
    said = refused(cwd, {"PACKSHOT_REDIS_URL": url})

    assert said == (
        "PACKSHOT_REDIS_URL (environment): this is not an address of Redis; "
        "write redis://host:6379/0, or rediss:// for TLS"
    )


@pytest.mark.parametrize(
    "url", ["redis://queue", "redis://queue:6379/", "rediss://user:secret@[::1]:6380/3?ssl_cert_reqs=none"]
)
def test_an_address_of_redis_may_leave_out_port_and_database(cwd, url):
    found = load(environ={"PACKSHOT_REDIS_URL": f" {url} "}, cwd=cwd).redis_url

    assert found is not None
    assert found.get_secret_value() == url


@pytest.mark.parametrize("name", ["LEASE_S", "CALL_TIMEOUT_S", "CONNECT_TIMEOUT_S", "MAX_WAIT_S", "LOOKAHEAD_S"])
@pytest.mark.parametrize("value", ["inf", "nan", "1e9"])
def test_every_time_has_an_end(cwd, name, value):
    assert f"PACKSHOT_{name} (environment): '{value}': " in refused(cwd, {f"PACKSHOT_{name}": value})


def test_a_number_without_quotes_in_the_file_is_refused_with_the_way_out(cwd):
    toml(cwd, "PACKSHOT_CONFIRM_OVER = 10")

    assert 'packshot.toml): write the value in quotes, as PACKSHOT_CONFIRM_OVER = "..."' in refused(cwd, {})
