"""`evenhand ledger`: what an officer sees, grants and hands on, and what is refused."""

import csv
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from evenhand.cli import ledger as ledger_cli
from evenhand.errors import EvenhandError
from evenhand.privacy.accounting import Mechanism
from evenhand.privacy.chain import Entry, chain_faults
from evenhand.privacy.cohort import Cohort
from evenhand.privacy.ledger_check import write_receipt
from evenhand.privacy.ledger_file import LEDGER_FILE
from evenhand.privacy.site import Site

EXAMPLE = Path(__file__).resolve().parents[2] / "configs" / "site-policy.toml"
ROUND = Mechanism(sampling_rate=0.5, noise_multiplier=6.0, steps=4)

app = typer.Typer()
ledger_cli.register(app)


@app.callback()
def _root() -> None:
    """Keep `ledger` a group of its own, as it is under `evenhand`."""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with the ledger of hospital north: two studies, three charges."""
    monkeypatch.setenv("EVENHAND_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "200")
    ledger = Site.of("north").ledger()
    ledger.grant(4.0, 1e-3, by="A. Osei", reason="pilot")
    cohort = Cohort.of(ledger.key, {f"P{n:04d}": [f"scan {n}"] for n in range(12)})
    for number, study in enumerate(("first", "first", "second")):
        receipt = ledger.charge(ROUND, f"round {number}", study=study, cohort=cohort)
        write_receipt(tmp_path / "receipts.jsonl", receipt)
    return tmp_path / "home"


def run(*words):
    """A command that is to succeed; what it printed, on one line."""
    result = CliRunner().invoke(app, ["ledger", *map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def refused(*words):
    """The sentence with which a command is refused."""
    result = CliRunner().invoke(app, ["ledger", *map(str, words)])
    assert isinstance(result.exception, EvenhandError), result.output
    return str(result.exception)


def test_a_name_means_the_hospital_and_not_a_folder_here(home, tmp_path, monkeypatch):
    """A folder north where the officer stands must not pass for the hospital's ledger."""
    other = Site(tmp_path / "here" / "north", "other").ledger()
    other.grant(1.0, 1e-3)
    monkeypatch.chdir(tmp_path / "here")
    assert "Hospital north" in run("show", "north")
    assert "Hospital other" in run("show", "./north")


def test_a_ledger_of_another_key_is_not_shown(home, tmp_path):
    """Signed anew with another key it hangs together; the key beside it tells."""
    other = Site(tmp_path / "other", "north").ledger()
    other.grant(4.0, 1e-3)
    place = home / "hospitals" / "north"
    for name in (LEDGER_FILE, "ledger.head"):
        (place / name).write_bytes((tmp_path / "other" / name).read_bytes())
    assert "is damaged" in refused("show", "north")
    assert "damaged" in run("show")


def test_only_who_may_grant_accepts_a_clock(home):
    """A clock set back is for those whom the policy names."""
    text = EXAMPLE.read_text("utf-8")
    (home / "site-policy.toml").write_text(text)
    whole = run("verify", "north")
    assert "the site policy lets" in refused("grant", "north", "--accept-clock", "--by", "Nobody")
    assert run("verify", "north") == whole


class TestShow:
    """What was spent, of what, for what."""

    def test_one_hospital(self, home):
        """Spent and granted, each study with its patients, and whose key it is."""
        told = run("show", "north")
        spent = Site.of("north").ledger().spent().epsilon
        assert f"Spent: epsilon {spent:.3f} of 4 (" in told
        assert "by A. Osei" in told
        assert "first training" in told
        assert "second training" in told
        assert " 12 2 8 6 at rate 0.5" in told  # 12 patients, 2 charges, 8 steps
        assert "P0001" not in told

    def test_all_hospitals(self, home):
        """One line each; a damaged one is named as such and hides nothing of the others."""
        Site.of("south").ledger().grant(2.0, 1e-4)
        Site.of("west").ledger()
        damaged = Site.of("east")
        damaged.ledger().grant(1.0, 1e-3)
        (damaged.path / "ledger.head").unlink()
        told = run("show")
        assert "south 0.000 2 0.0001 0" in told
        assert "west nothing" in told
        assert "east damaged" in told
        assert "north" in told

    def test_a_folder(self, home, tmp_path):
        """A copy elsewhere, or a run's hospital, can be shown too."""
        assert "Hospital north" in run("show", home / "hospitals" / "north")
        site = Site(tmp_path / "run" / "hospitals" / "east" / "site", "east", synthetic=True)
        site.ledger().grant(1.0, 1e-3)
        assert "phantoms: no person" in run("show", tmp_path / "run" / "hospitals" / "east")

    @pytest.mark.parametrize("ending", ["png", "svg"])
    def test_a_plot(self, home, tmp_path, ending):
        """A figure that names the hospital and its studies."""
        path = tmp_path / f"spent.{ending}"
        run("show", "north", "--plot", path)
        assert path.stat().st_size > 5000
        if ending == "svg":
            assert path.read_text().count("<path") > 10

    def test_nothing_there(self, home, tmp_path):
        """With the command that makes a ledger."""
        assert "evenhand ledger grant" in refused("show", "nowhere")
        assert "There is no ledger" in refused("show", "--home", tmp_path / "empty")
        assert "outside runs" in refused("show", tmp_path / "run" / "north")

    def test_a_damaged_ledger_shows_no_figures(self, home):
        """What cannot be trusted is not shown as if it could."""
        change(home, "UPDATE entries SET content = replace(content, '6.0', '9.0')")
        assert "damaged (entry 4:" in refused("show", "north")

    @pytest.mark.parametrize("path", ["spent.gif", "nowhere/spent.png"])
    def test_a_plot_that_cannot_be_drawn(self, home, path):
        """Ending or folder are named."""
        assert path.split("/")[0] in refused("show", "north", "--plot", path)

    def test_a_plot_of_nothing(self, home):
        """Without a charge there is no curve; without a hospital no ledger."""
        Site.of("south").ledger().grant(2.0, 1e-4)
        assert "spent nothing yet" in refused("show", "south", "--plot", "x.png")
        assert "name the hospital" in refused("show", "--plot", "x.png")


def change(home, statement):
    """Change a ledger as somebody with a database browser could."""
    path = home / "hospitals" / "north" / LEDGER_FILE
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER entries_stay")
        connection.execute("DROP TRIGGER entries_are_kept")
        connection.execute(statement)


class TestVerify:
    """Whole, or not, and where."""

    def test_whole(self, home, tmp_path):
        """Says how many entries, whose key, and the head to write down."""
        told = run("verify", "north", "--receipts", tmp_path / "receipts.jsonl")
        assert "Whole: 6 entries, signed by the key beside it." in told
        head = told.split("head ")[1].split()[0]
        assert len(head) == 64
        assert "Whole" in run("verify", "north", "--head", head)

    def test_faults_are_listed_with_positions(self, home, tmp_path):
        """On standard output, each on a line; exit status 1."""
        change(home, "DELETE FROM entries WHERE position = 5")
        result = CliRunner().invoke(app, ["ledger", "verify", "north"])
        assert result.exit_code == 1
        assert "entry 6: entry 5 before it is missing." in result.output
        assert "1 faults" in str(result.exception)
        path = tmp_path / "receipts.jsonl"
        assert "2 faults" in refused("verify", "north", "--receipts", path)

    def test_a_copy_without_the_key(self, home, tmp_path):
        """An auditor can check it, and is told what to compare."""
        copy = tmp_path / "copy"
        copy.mkdir()
        for name in (LEDGER_FILE, "ledger.head"):
            (copy / name).write_bytes((home / "hospitals" / "north" / name).read_bytes())
        assert "compare the fingerprint" in run("verify", copy)

    def test_a_head_that_was_never_there(self, home):
        """What was written down before must be in the chain."""
        assert "1 faults" in refused("verify", "north", "--head", "ab" * 32)


class TestGrant:
    """Who grants what."""

    def test_first_and_later(self, home):
        """The first one makes ledger and key; later ones keep delta."""
        told = run("grant", "south", "--epsilon", 3, "--delta", 0.001, "--by", "B", "--reason", "x")
        assert "of 3 (0%) at delta 0.001" in told
        run("grant", "south", "--epsilon", 5, "--by", "B")
        grant = Site.of("south").ledger().state().grant
        assert (grant.epsilon, grant.delta, grant.by) == (5.0, 0.001, "B")

    def test_the_login_name_is_the_default(self, home, monkeypatch):
        """Somebody always stands in the ledger."""
        monkeypatch.setattr("getpass.getuser", lambda: "officer")
        run("grant", "south", "--epsilon", 3, "--delta", 0.001)
        assert Site.of("south").ledger().state().grant.by == "officer"

    def test_the_policy_decides(self, home):
        """Who may, and how much; nothing is written otherwise."""
        (home / "site-policy.toml").write_text(EXAMPLE.read_text())
        assert "not 'mallory'" in refused("grant", "north", "--epsilon", 5, "--by", "mallory")
        told = refused("grant", "north", "--epsilon", 9, "--by", "privacy-officer")
        assert "maximum_epsilon" in told
        assert Site.of("north").ledger().state().grant.epsilon == 4.0
        run("grant", "north", "--epsilon", 5, "--by", "privacy-officer")

    @pytest.mark.parametrize(
        ("words", "sentence"),
        [
            ((), "--epsilon E"),
            (("--epsilon", 3), "first grant needs --delta"),
            (("--epsilon", 0, "--delta", 0.001), "finite epsilon above 0"),
            (("--epsilon", -2, "--delta", 0.001), "finite epsilon above 0"),
            (("--epsilon", 3, "--delta", 1), "between 0 and 1"),
            (("--accept-clock",), "has no ledger"),
        ],
    )
    def test_what_is_refused(self, home, words, sentence):
        """In a sentence, and nothing is granted."""
        assert sentence in refused("grant", "south", *words)
        site = Site.of("south")
        assert not site.ledger_path.exists() or site.ledger().state().grant is None

    def test_accept_clock(self, home):
        """Recorded with a name, and nothing else changes."""
        run("grant", "north", "--accept-clock", "--by", "A. Osei")
        ledger = Site.of("north").ledger()
        assert [one.epsilon for one in ledger.state().grants] == [4.0]
        assert "Whole: 7 entries" in run("verify", "north")


class TestExport:
    """For an auditor, and for a spreadsheet."""

    def test_json_can_be_checked_by_others(self, home, tmp_path):
        """Hashes and signatures come along: the chain is right in the copy too."""
        run("export", "north", "--out", tmp_path / "north.json")
        content = json.loads((tmp_path / "north.json").read_text())
        entries = [
            Entry(
                **{
                    **row,
                    "content": json.dumps(row["content"], sort_keys=True, separators=(",", ":")),
                }
            )
            for row in content["entries"]
        ]
        assert len(entries) == 6
        assert list(chain_faults(entries, content["public_key"])) == []
        assert "P0001" not in (tmp_path / "north.json").read_text()

    def test_csv(self, home, tmp_path):
        """One row a grant or charge, with the columns that somebody would look for."""
        run("export", "north", "--out", tmp_path / "north.csv")
        with (tmp_path / "north.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["kind"] for row in rows] == ["grant", "charge", "charge", "charge"]
        assert rows[0]["by"] == "A. Osei"
        assert (rows[3]["study"], rows[3]["noise_multiplier"]) == ("second", "6.0")

    def test_what_is_refused(self, home, tmp_path):
        """Another ending, or a ledger that cannot be trusted."""
        assert ".json or .csv" in refused("export", "north", "--out", tmp_path / "north.xlsx")
        change(home, "DELETE FROM entries WHERE position = 5")
        assert "damaged" in refused("export", "north", "--out", tmp_path / "north.json")
        assert not (tmp_path / "north.json").exists()


def test_it_is_a_command_of_evenhand():
    """The group hangs under `evenhand`."""
    from evenhand.cli import app as whole

    result = CliRunner().invoke(whole, ["ledger", "--help"])
    assert result.exit_code == 0
    for name in ("show", "verify", "grant", "export"):
        assert name in result.output
