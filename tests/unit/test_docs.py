"""Docs are tests: what README, guides, config headers and help texts show exists and parses."""

import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import click
import numpy as np
import pytest
import typer

from evenhand.artifacts import PREDICTION_COLUMNS
from evenhand.cli import app
from evenhand.config import ExperimentConfig, Section
from evenhand.config_files import load_config, load_section
from evenhand.privacy.policy import load_policy
from evenhand_audit.intake_config import AuditInput

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
POLICY = ROOT / "configs" / "site-policy.toml"
CONFIGS = sorted(set((ROOT / "configs").glob("*.toml")) - {POLICY})
CLI = typer.main.get_command(app)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def name_of(path):
    """Path within the repository, as a test id."""
    return path.relative_to(ROOT).as_posix()


def blocks(text, language):
    """Contents of the fenced blocks of a language."""
    return [body for found, body in FENCE.findall(text) if found == language]


def spans(text):
    """Inline code outside fenced blocks, each on one line."""
    return [" ".join(span.split()) for span in INLINE.findall(FENCE.sub("", text))]


def shell_lines(text):
    """Commands of all sh blocks, continued lines joined."""
    joined = "\n".join(blocks(text, "sh")).replace("\\\n", " ")
    return [line.strip() for line in joined.splitlines() if line.strip()]


def header(path):
    """The comment at the top of a config, without its marks."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#"))
    return "\n".join(lines)


def documented():
    """Every place that shows a whole command: where, and the command."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for line in (*shell_lines(text), *spans(text)):
            if line.startswith("evenhand "):
                yield name_of(page), line
    for path in (*CONFIGS, POLICY):
        for found in re.findall(r"\bevenhand (?:(?!  |\(|`).)+", header(path)):
            yield name_of(path), found.strip()
    for name, command in leaves():
        for found in re.findall(r"^Example: (.+)$", plain(command.help), re.MULTILINE):
            yield f"help of {name}", found


def leaves(group=CLI, path=()):
    """All commands that do something, by the words that call them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def plain(text):
    """Help text without rich's marks."""
    return re.sub(r"\[/?(?:bold)?\]", "", text or "")


def parse(line, *, whole):
    """Parse a command as the command line would; return its name (None: the root itself).

    Args:
        line: such as `evenhand run CONFIG --out OUT`.
        whole: whether required arguments must be there.
    """
    optional = re.sub(r"\[(--[^\]]*)\]", r"\1", line)  # as usage lines write what may be left out
    words = shlex.split(optional, comments=True)[1:]
    command, path = CLI, []
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        default = getattr(command, "default_command", None)
        if default is not None and words[0] not in command.commands:
            words.insert(0, default)
        word = words.pop(0)
        assert word in command.commands, f"there is no command '{' '.join((*path, word))}'"
        command = command.commands[word]
        path.append(word)
    if isinstance(command, click.Group):
        known = {option for each in command.params for option in each.opts} | {"--help"}
        assert set(words) <= known, f"'{line}' has unknown options"
        return None
    if "--help" in words:
        return " ".join(path)
    try:
        command.make_context(path[-1], words)
    except click.MissingParameter:
        assert not whole, f"'{line}' lacks an argument"
    return " ".join(path)


class TestCommands:
    """Nobody finds a command in the docs that does not work."""

    @pytest.mark.parametrize(("where", "line"), list(documented()))
    def test_every_documented_command_parses(self, where, line):
        """The command, its options and their values exist; in blocks it is complete."""
        prose = where.endswith(".md") and line not in shell_lines((ROOT / where).read_text("utf-8"))
        parse(line, whole=not prose)

    @pytest.mark.parametrize(
        "line",
        [
            "evenhand fly",
            "evenhand weights lift",
            "evenhand run my.toml --sett a=1",
            "evenhand review runs/demo --port 99999",
            "evenhand audit table.csv",
        ],
    )
    def test_the_parser_notices_what_is_wrong(self, line):
        """The test above would fail for a wrong command, option or value, or a missing one."""
        with pytest.raises((AssertionError, click.UsageError)):
            parse(line, whole=True)

    @pytest.mark.parametrize("name", [name for name, _ in leaves()])
    def test_every_command_is_in_readme_or_a_guide(self, name):
        """A command that no guide shows might as well not be there."""
        shown = {
            parse(line, whole=False)
            for where, line in documented()
            if where == "README.md" or where.startswith("docs/guides/")
        }
        assert name in shown

    @pytest.mark.parametrize(("name", "command"), list(leaves()))
    def test_every_help_has_an_example(self, name, command):
        """Help that shows no example makes people guess. `Example: evenhand NAME ...`."""
        assert f"Example: evenhand {name}" in plain(command.help)

    @pytest.mark.parametrize(("name", "command"), list(leaves()))
    def test_every_argument_and_option_is_explained(self, name, command):
        """What stands in the source reaches the screen: typer and click must fit together."""
        silent = [one.name for one in command.params if not getattr(one, "help", None)]
        assert not silent, f"evenhand {name}"

    @pytest.mark.parametrize(("where", "line"), list(documented()))
    def test_every_config_that_is_shown_exists(self, where, line):
        """A documented command that names a file in configs/ finds it there."""
        missing = [
            word
            for word in shlex.split(line, comments=True)
            if word.startswith("configs/") and not (ROOT / word).is_file()
        ]
        assert missing == [], where

    def test_every_make_target_that_is_shown_exists(self):
        """The first two commands of the README are make's."""
        targets = set(
            re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
        )
        shown = {
            word
            for page in PAGES
            for line in [*shell_lines(page.read_text("utf-8")), *spans(page.read_text("utf-8"))]
            if line.startswith("make ")
            for word in line.split()[1:]
            if "=" not in word
        }
        assert {"demo", "test"} <= shown <= targets

    def test_readme_starts_with_the_two_commands(self):
        """A new reader sees what to type before anything else that can be typed."""
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        assert shell_lines(readme)[:2] == ["make demo", "make test"]


def anchors(page):
    """The anchors that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in headings}


def local_links(page):
    """Targets of a page's links that lie in the repository, as (path, anchor)."""
    for target in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


class TestLinks:
    """Nobody follows a link into nothing."""

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_relative_links_and_pictures_resolve(self, page):
        """Every file that is linked is there and not empty, every anchor is a heading."""
        broken = []
        for path, anchor in local_links(page):
            inside = path.is_relative_to(ROOT) and path.is_file() and path.stat().st_size > 0
            if not inside or (anchor and anchor not in anchors(path)):
                broken.append(f"{path.name}#{anchor}" if anchor else path.name)
        assert broken == []

    def test_every_page_can_be_reached_from_the_readme(self):
        """A page that nothing links to is a page that nobody reads."""
        reached, waiting = set(), [ROOT / "README.md"]
        while waiting:
            page = waiting.pop()
            if page not in reached and page.suffix == ".md" and page.is_file():
                reached.add(page)
                waiting += [path for path, _ in local_links(page)]
        assert set(PAGES) - reached == set()


def section_keys(section=ExperimentConfig, prefix=""):
    """All dotted keys of a config."""
    for name, field in section.model_fields.items():
        yield prefix + name
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                yield from section_keys(kind, f"{prefix}{name}.")


def is_audit(path):
    """Whether a config describes somebody else's results rather than an experiment."""
    return bool({"table", "masks"} & tomllib.loads(path.read_text(encoding="utf-8")).keys())


def loaded(path):
    """A config, read as what it is."""
    return load_section(path, AuditInput) if is_audit(path) else load_config(path)


class TestConfigs:
    """Nobody copies a config that is refused."""

    @pytest.mark.parametrize("path", CONFIGS, ids=name_of)
    def test_every_config_loads(self, path):
        """What is in configs/ is what the present version reads; its name is its file's."""
        assert loaded(path).name == path.stem

    @pytest.mark.parametrize("path", CONFIGS, ids=name_of)
    def test_every_config_says_what_it_is_for(self, path):
        """The header gives purpose, command, expected result and cost, each with content."""
        text = header(path)
        for word in ("Purpose", "Command", "Expected", "Cost"):
            assert re.search(rf"^ {word}:\s+\S", text, re.MULTILINE), word
        assert f"evenhand {'audit' if is_audit(path) else 'run'} {name_of(path)}" in text

    def test_the_site_policy_loads_and_says_what_it_is_for(self):
        """An officer copies it: it is accepted as it stands, and its header says how to use it."""
        assert load_policy(POLICY).grants.by
        for word in ("Purpose", "Command", "Expected", "Cost"):
            assert re.search(rf"^ {word}:\s+\S", header(POLICY), re.MULTILINE), word

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_configs_in_pages_load(self, page, tmp_path):
        """A config that a guide offers for copying is accepted as it stands."""
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8"), "toml")):
            path = tmp_path / f"{number}.toml"
            path.write_text(block, encoding="utf-8")
            assert loaded(path).name == tomllib.loads(block)["name"]

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_keys_that_are_named_exist(self, page):
        """`privacy.epsilon` in a text is a key of the config."""
        known = {*section_keys(), *section_keys(AuditInput)}
        sections = "|".join({*ExperimentConfig.model_fields, *AuditInput.model_fields})
        named = {
            key
            for span in spans(page.read_text(encoding="utf-8"))
            if (key := span.split("=")[0].strip()) and re.fullmatch(rf"({sections})\.[a-z_.]+", key)
        }
        assert named - known == set()

    def test_the_keys_are_found(self):
        """The test above would notice a wrong key: nested sections are looked into."""
        known = set(section_keys())
        assert {"privacy.epsilon", "data.phantom.patients", "data.left_out"} <= known
        assert "privacy.epsilom" not in known


class TestGuides:
    """What a guide lists is what the code wants."""

    def test_auditor_guide_lists_the_columns_of_the_table(self):
        """Whoever makes a table by hand finds every column, in order, and no other."""
        text = (ROOT / "docs" / "guides" / "auditor.md").read_text(encoding="utf-8")
        table = text.partition("| column |")[2].partition("\n\n")[0]
        assert tuple(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == PREDICTION_COLUMNS

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_python_in_pages_runs(self, page):
        """Code that a guide offers for copying works on two (here empty) masks."""
        masks = {name: np.zeros((4, 4, 4), np.uint8) for name in ("predicted", "reference")}
        for block in blocks(page.read_text(encoding="utf-8"), "python"):
            found = dict(masks)
            exec(compile(block, name_of(page), "exec"), found)  # noqa: S102 - our own docs
            assert found["score"].dice == 1.0

    @pytest.mark.parametrize("page", GUIDES, ids=name_of)
    def test_every_guide_ends_with_what_to_do_when_refused(self, page):
        """A reader who is stuck finds the way out at the same place in each guide."""
        headings = re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert headings[-1] == "When something is refused"

    def test_every_decision_has_status_context_decision_consequences(self):
        """Decisions are numbered without a gap and have the same parts."""
        numbers = [int(path.name[:4]) for path in DECISIONS]
        assert numbers == list(range(1, len(DECISIONS) + 1))
        for path in DECISIONS:
            text = path.read_text(encoding="utf-8")
            assert text.startswith(f"# {int(path.name[:4])}. "), path.name
            assert re.search(r"^\*\*Status\*\*: \w", text, re.MULTILINE), path.name
            heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
            assert heads == ["Context", "Decision", "Consequences"], path.name
