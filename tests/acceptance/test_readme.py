"""What the documentation says is done here, in its order: every command, every manifest, every table, every link."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from models.settings import Settings
from scheduler.cli.app import app
from tests.servers.cli import COMMAND, Cli, Result, fast_env
from tests.servers.emulator import EmulatorProcess, running_emulator

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
FORMAT = ROOT / "manifests" / "README.md"
PAGES = [README, FORMAT, *sorted((ROOT / "docs").glob("*.md"))]
CLUSTER = "## More than one machine"

# What the text beside a command promises, as a pattern that its talk and its result, one after the other, must hold.
PROMISED = {
    "packshot rehearse manifests/hello.yaml": r"14 succeeded",
    "packshot check shop.yaml": r"3 rows are in order",
    "packshot plan shop.yaml": r"at most 0\.60 CNY.*about \d+ s",
    "packshot rehearse shop.yaml": r"3 succeeded.*nothing was really spent",
    "packshot run shop.yaml": r"at most 0\.60 CNY.*3 succeeded",
    "packshot status shop": r"rows +3 succeeded.*3 billed, 3 stored.*calls +3 answered.*money +0\.60 CNY charged",
    "packshot rows shop": r"MUG-1 +white +succeeded +0\.20 CNY",
    "packshot cost shop --by sku": r"MUG-1 +2 +0\.40 CNY\nWATCH-1 +1 +0\.20 CNY\n3 pictures, 0\.60 CNY",
    "packshot retry shop": r"no failed job",
    "packshot held shop": r"",
    "packshot release shop": r"no held job",
    "packshot audit --deep": r"",
    "packshot settings": r"PACKSHOT_REGION +cn-beijing +default",
    "packshot schema": r'"\$schema"',
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    language: str
    text: str


def blocks(text: str) -> Iterator[Block]:
    for fence in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield Block(*fence.groups())


def alone(text: str) -> str:
    """The page without the section on the cluster, whose parts have tests of their own."""
    before, _, rest = text.partition(CLUSTER)
    return before + rest[rest.find("\n## ") :] if rest else before


def typed(block: Block) -> list[str]:
    """Commands of a console block, without the words beside them."""
    return [shlex.join(words) for line in block.text.splitlines() if (words := shlex.split(line, comments=True))]


def inline(text: str) -> set[str]:
    return {found for found in re.findall(r"`(packshot [a-z][^`]*)`", text) if "COMMAND" not in found}


def tables(text: str, title: str) -> list[list[str]]:
    """Rows of every table whose first column has this title."""
    rows, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split(" | ")] if line.startswith("| ") else []
        if not line.startswith("|"):
            inside = False
        elif cells and cells[0] == title:
            inside = True
        elif inside and cells:
            rows.append(cells)
    return rows


def commands() -> dict[str, Any]:
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": one for each, one in inner.items()} if inner else {name: command}
    return found


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    limits = "qwen-image-2.0=1000/1s"
    with running_emulator(tmp_path_factory.mktemp("emulator"), limits=limits) as running:
        yield running


# -- done ----------------------------------------------------------------------------------------------------


def test_a_newcomer_who_follows_the_readme_gets_what_it_promises(tmp_path: Path, emulator: EmulatorProcess):
    # given: an empty folder with photos; the provider's address leads to an emulator
    text = README.read_text(encoding="utf-8")
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    (tmp_path / "photos").mkdir()
    for name in ("mug", "watch"):
        shutil.copy(ROOT / "manifests/samples" / f"{name}.jpg", tmp_path / "photos")
    cli = Cli(tmp_path, {"PATH": "/usr/bin:/bin"})
    done = []

    # when
    for block in blocks(alone(text)):
        if block.language == "yaml":
            (tmp_path / "shop.yaml").write_text(block.text, encoding="utf-8")
        elif block.language == "console":
            for line in typed(block):
                result = follow(line, cli, emulator)
                assert result.code == 0, f"{line}\n{result}"
                assert keeps(line, result), f"{line}\n{result}"
                done.append(line)

    # then
    assert {"make demo", "make test", "packshot rehearse shop.yaml", "packshot run shop.yaml"} <= set(done)
    assert len(list((tmp_path / "out/rehearsal/hello").glob("*.png"))) == 14
    assert len(list((tmp_path / "out/rehearsal/shop").glob("*.png"))) == 3
    assert len(list((tmp_path / "out/shop").glob("*.png"))) == 3
    assert emulator.invoice()["micros"] == 600_000

    # and what the text between mentions works too
    for line in sorted(inline(alone(text)) & set(PROMISED)):
        result = follow(line, cli, emulator)
        assert result.code == 0, f"{line}\n{result}"
        assert keeps(line, result), f"{line}\n{result}"


def keeps(line: str, result: Result) -> bool:
    """Did a command say what the page promises of it?"""
    return bool(re.search(PROMISED.get(line, ""), result.err + result.out, flags=re.DOTALL))


def follow(line: str, cli: Cli, emulator: EmulatorProcess) -> Result:
    """Do what a line says; `make` targets are looked up, and the demo's own command is done."""
    words = shlex.split(line)
    if words[0] == "export":
        name, _, value = words[1].partition("=")
        if name == "DASHSCOPE_API_KEY":
            assert value.startswith("sk-")
            cli.env.update(fast_env(emulator.url))
        else:
            assert (name, value) == ("PATH", "$PWD/.venv/bin:$PATH")
            cli.env["PATH"] = f"{Path(COMMAND).parent}:{cli.env['PATH']}"
        return Result(0, "", "")
    if words[0] == "make":
        return make(words[1], cli)
    assert words[0] == "packshot", line
    return cli.run(*words[1:])


def make(target: str, cli: Cli) -> Result:
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert recipe, f"the Makefile has no {target}"
    if target != "demo":
        return Result(0, "", "")
    (line,) = recipe[1].strip().splitlines()
    result = cli.run(*shlex.split(line.removeprefix("$(BIN)/packshot ")))
    assert keeps(line.removeprefix("$(BIN)/"), result), result
    return result


def test_the_manifests_of_the_page_on_the_format_are_in_order(tmp_path: Path):
    # given
    (tmp_path / "photos").mkdir()
    for name in ("mug", "lamp"):
        shutil.copy(ROOT / "manifests/samples" / f"{name}.jpg", tmp_path / "photos")
    text = FORMAT.read_text(encoding="utf-8")
    found = {block.language: block.text for block in blocks(text)}
    (tmp_path / "autumn.yaml").write_text(found["yaml"], encoding="utf-8")
    (tmp_path / "catalog.csv").write_text(found["csv"], encoding="utf-8")
    cli = Cli(tmp_path)

    # then: what is said below the first manifest, and the command that is written out
    planned = cli.ok("plan", "autumn.yaml", "--json").json
    assert (planned["rows"], planned["pictures"], planned["budget_micros"]) == (3, 4, 20_000_000)
    written = [line.strip() for line in text.splitlines() if line.startswith("    packshot ")]
    assert written
    for line in written:
        assert cli.ok(*shlex.split(line)[1:]).code == 0


# -- agreed with ---------------------------------------------------------------------------------------------


def test_every_command_in_the_documentation_exists_with_its_options():
    # given
    known = commands()
    lines = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines |= inline(text)
        for block in blocks(text):
            lines |= {line for line in typed(block) if block.language == "console" and line.startswith("packshot ")}

    # then
    assert len(lines) > 15
    for line in lines:
        words = shlex.split(line)[1:]
        name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
        if name == "MANIFEST" or name.isupper():
            continue
        assert name in known, line
        options = {option for parameter in known[name].params for option in parameter.opts}
        for word in words:
            assert not word.startswith("-") or name == "emulator" or word in {*options, "--help"}, line


def test_the_command_tables_name_every_command_and_no_other():
    named = [
        name
        for row in tables(README.read_text(encoding="utf-8"), "command")
        for name in re.findall(r"`([^`]+)`", row[0])
    ]
    assert len(named) == len(set(named))
    assert set(named) == set(commands())


def test_every_setting_of_the_readme_exists_and_has_the_default_it_says():
    # given
    fields = {str(info.alias): info for info in Settings.model_fields.values()}
    rows = tables(README.read_text(encoding="utf-8"), "setting")
    assert len(rows) > 10

    # then
    for name_cell, _, said in rows:
        names = re.findall(r"`([A-Z_]+)`", name_cell)
        assert names, name_cell
        defaults = [plain(fields[name].default) for name in names]
        if said.startswith("`") and len(names) == 1:
            assert defaults == [said.strip("`")], name_cell
        elif re.fullmatch(r"\d+(, \d+)*", said):
            assert defaults == said.split(", "), name_cell
        else:
            assert set(defaults) == {""}, name_cell


def plain(default: Any) -> str:
    """As the environment would say it."""
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(int(default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def test_every_example_is_in_the_table_of_examples():
    listed = {
        name for row in tables(FORMAT.read_text(encoding="utf-8"), "file") for name in re.findall(r"\((.+)\)", row[0])
    }
    there = {path.name for path in FORMAT.parent.iterdir() if path.suffix in (".yaml", ".csv", ".jsonl")}
    assert listed == there - {"broken.csv", "broken.jsonl"}  # which broken.yaml names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_make_demo_rehearses_hello():
    shown = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "packshot rehearse manifests/hello.yaml" in shown
