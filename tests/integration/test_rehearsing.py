"""A rehearsal is there to be repeated: with another manifest, and refused at once where a fault is misspelt."""

from pathlib import Path

import pytest

from tests.servers.cli import Cli, write_manifest


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    return Cli(tmp_path, {"PACKSHOT_LIMITS": "qwen-image-2.0=1000/1s"})


def test_a_changed_manifest_is_rehearsed_anew_and_the_earlier_rehearsal_is_kept(cli: Cli):
    manifest = cli.folder / "m.yaml"
    write_manifest(manifest, [{"sku": "A", "prompt": "red"}])
    cli.ok("rehearse", "m.yaml")
    write_manifest(manifest, [{"sku": "A", "prompt": "blue"}])

    facts = cli.ok("rehearse", "m.yaml", "--json").json

    assert (facts["state"], facts["rows"]["succeeded"]) == ("finished", 1)
    assert cli.query("SELECT name FROM batches ORDER BY id") == [("m~1",), ("m",)]
    assert cli.query("SELECT count(*) FROM entries WHERE kind = 'charge'") == [(2,)]
    cli.ok("audit", "m", "--deep")


@pytest.mark.parametrize(("fault", "words"), [("flood=1", "flood"), ("http_500=2", "is not NAME=SHARE")])
def test_a_fault_that_there_is_not_is_refused_before_anything_is_made(cli: Cli, fault: str, words: str):
    write_manifest(cli.folder / "m.yaml", [{"sku": "A", "prompt": "red"}])

    result = cli.run("rehearse", "m.yaml", "--fault", fault)

    assert (result.code, result.err.count("error:")) == (2, 1), result
    assert words in result.err
    assert not (cli.folder / ".packshot").exists()
