"""`evenhand audit` as an auditor types it: reports, comparisons, documents, and clear refusals."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evenhand.artifacts import file_sha256, write_prediction_table
from evenhand.cases.nifti import write_nifti
from evenhand.cli import app, main
from evenhand.geometry import Affine
from evenhand_audit.cards import CHECKLISTS, DOCUMENTS, write_cards
from evenhand_audit.simulate import simulated_rows

ARMS = (("pooled", "automatic"), ("federated", "automatic"))


def audit(*words):
    """Run `evenhand audit ...`."""
    return CliRunner().invoke(app, ["audit", *map(str, words)])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table of 60 simulated patients under two arms, with its sidecar. Read only."""
    path = tmp_path_factory.mktemp("table") / "predictions.csv"
    write_prediction_table(path, simulated_rows(patients=60, gap=0.2, arms=ARMS), {"config": "abc"})
    return path


@pytest.fixture(scope="module")
def report(table, tmp_path_factory):
    """The folder of a report on that table. Read only."""
    out = tmp_path_factory.mktemp("report") / "report"
    found = audit(table, "--out", out, "--resamples", 200, "--attributes", "sex,hospital")
    assert found.exit_code == 0, found.output
    return out


@pytest.fixture
def refused(monkeypatch, capsys):
    """Run `evenhand audit ...` to its refusal; give back the exit code and what was said."""

    def run(*words):
        monkeypatch.setattr("sys.argv", ["evenhand", "audit", *map(str, words)])
        with pytest.raises(SystemExit) as ending:
            main()
        return ending.value.code, " ".join(capsys.readouterr().err.split())

    return run


class TestReport:
    """One command for every kind of input."""

    def test_a_run_folder_is_its_table(self, table, tmp_path):
        """The folder of a run is audited by the table in it."""
        found = audit("report", table.parent, "--out", tmp_path / "r", "--resamples", 100)
        assert found.exit_code == 0, found.output
        record = json.loads((tmp_path / "r" / "audit.json").read_text())
        assert record["origin"]["table_sha256"] == file_sha256(table)

    def test_a_foreign_table_with_options(self, tmp_path):
        """Columns and constants from the command line; the cases lie beside the report."""
        rows = pd.DataFrame(simulated_rows(patients=30)).drop(columns=["units", "race"])
        rows["scanner"] = ["A", "B", "C"] * 10
        rows.rename(columns={"dice": "DSC"}).to_csv(tmp_path / "v.csv", index=False)
        found = audit(
            *(tmp_path / "v.csv", "--out", tmp_path / "r", "--resamples", 100),
            *("--column", "dice=DSC", "--constant", "units=mm", "--attributes", "sex,scanner"),
        )
        assert found.exit_code == 0, found.output
        assert "patient data" in found.output
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"v.csv", "r", "r-cases.csv", "r-cases.json"}
        record = json.loads((tmp_path / "r" / "audit.json").read_text())
        shown = [each["attribute"] for each in record["audit"]["arms"][0]["attributes"]]
        assert shown == ["sex", "scanner"]
        assert "person-" not in json.dumps(record)

    def test_masks_are_scored_and_judged(self, tmp_path):
        """From folders of NIfTI and a participants table to a report, by label."""
        rng = np.random.default_rng(0)
        for number in range(12):
            reference = np.zeros((12, 12, 4), np.uint8)
            reference[2:8, 2:8, 1:3], reference[4:6, 4:6, 1:3] = 1, 2
            predicted = np.where(rng.uniform(size=reference.shape) < 0.2, 0, reference)
            for name, mask in (("refs", reference), ("model", predicted)):
                (tmp_path / name).mkdir(exist_ok=True)
                path = tmp_path / name / f"{number}.nii.gz"
                write_nifti(path, mask.astype(np.uint8), Affine(np.eye(4)))
        people = "".join(f"sub-{n}\t{'FM'[n % 2]}\n" for n in range(12))
        (tmp_path / "participants.tsv").write_text(f"participant_id\tsex\n{people}")
        (tmp_path / "a.toml").write_text(f"""
name = "a"
[masks]
reference = "{tmp_path}/refs/{{case}}.nii.gz"
models = {{ mine = "{tmp_path}/model/{{case}}.nii.gz" }}
labels = {{ whole = [1, 2], core = [2] }}
[attributes]
path = "{tmp_path}/participants.tsv"
strip_prefix = "sub-"
columns = {{ sex = "sex" }}
[audit]
attributes = ["sex"]
""")
        out = tmp_path / "r"
        found = audit(tmp_path / "a.toml", "--out", out, "--resamples", 100, "--workers", 1)
        assert found.exit_code == 0, found.output
        record = json.loads((out / "audit.json").read_text())
        assert len(record["audit"]["arms"]) == 2
        assert "core" in json.dumps(record["audit"])

    @pytest.mark.parametrize(
        ("rows", "options", "refusal"),
        [
            ({"hospitl": "x"}, (), (1, "unknown column 'hospitl'; did you mean 'hospital'")),
            ({"empty": "both"}, (), (1, "Every reference mask is empty")),
            ({}, ("--attributes", "sexx"), (2, "did you mean 'sex'")),
            ({}, ("--set", "audit.resample=100"), (2, "did you mean 'resamples'")),
            ({}, ("--set", "audit.resamples=1"), (2, "resamples")),
            ({}, ("--age-edges", "60,40"), (2, "rising ages")),
            ({}, ("--column", "dice"), (2, "wants NAME=NAME")),
        ],
    )
    def test_bad_input_is_one_sentence(self, tmp_path, refused, rows, options, refusal):
        """Exit code 2 for wrong use, 1 for bad data; nothing half-written."""
        path = tmp_path / "t.csv"
        pd.DataFrame([row | rows for row in simulated_rows(patients=20)]).to_csv(path, index=False)
        code, said = refused(path, "--out", tmp_path / "r", *options)
        assert code == refusal[0]
        assert refusal[1] in said
        assert [each.name for each in tmp_path.iterdir()] == ["t.csv"]

    def test_three_patients_are_too_few(self, tmp_path, refused):
        """No figure stands for three people."""
        path = tmp_path / "t.csv"
        pd.DataFrame(simulated_rows(patients=3)).to_csv(path, index=False)
        code, said = refused(path, "--out", tmp_path / "r")
        assert code == 1
        assert "3 patients" in said
        assert not (tmp_path / "r").exists()

    def test_what_weakens_an_audit_is_said_on_screen_and_page(self, tmp_path):
        """One hospital only, and sex unknown for half of the patients."""
        path = tmp_path / "t.csv"
        rows = pd.DataFrame(simulated_rows(patients=40)).assign(hospital="north")
        rows.loc[rows.index % 4 < 2, "sex"] = "unknown"
        rows.to_csv(path, index=False)
        found = audit(
            path, "--out", tmp_path / "r", "--resamples", 100, "--attributes", "sex,hospital"
        )
        assert found.exit_code == 0, found.output
        page = " ".join((tmp_path / "r" / "index.html").read_text("utf-8").split())
        for said in ("Sex is not known of 50% of the patients", "are of one group"):
            assert said in " ".join(found.output.split())
            assert said in page


class TestCompare:
    """`evenhand audit compare A B`."""

    def test_two_versions(self, table, tmp_path):
        """The same table twice has not changed."""
        found = audit("compare", table, table.parent, "--out", tmp_path / "c", "--resamples", 200)
        assert found.exit_code == 0, found.output
        assert "within chance" in found.output
        record = json.loads((tmp_path / "c" / "compare.json").read_text())
        assert {arm["before"] for arm in record["arms"]} == {"pooled", "federated"}


@pytest.fixture(scope="module")
def cards(report, tmp_path_factory):
    """The documents of the report, with a few facts. Read only."""
    folder = tmp_path_factory.mktemp("cards")
    facts = folder / "facts.toml"
    facts.write_text('model_name = "Tumour | finder"\nlicense = "apache-2.0"\n')
    found = audit("cards", report, "--out", folder / "out", "--facts", facts)
    assert found.exit_code == 0, found.output
    return folder / "out"


class TestCards:
    """`evenhand audit cards REPORT`: filled with what is known and no more."""

    def test_all_documents_are_there(self, cards):
        """Model card, datasheet, three checklists and the hashes."""
        assert {path.name for path in cards.iterdir()} == set(DOCUMENTS)

    def test_every_document_names_the_hashes(self, cards, report, table):
        """Table, config, code and audit.json, so that each figure can be traced."""
        origin = json.loads((report / "audit.json").read_text())["origin"]
        hashes = {origin["table_sha256"], origin["config_sha256"], origin["code_sha256"]}
        hashes.add(file_sha256(report / "audit.json"))
        assert origin["table_sha256"] == file_sha256(table)
        for name in DOCUMENTS:
            text = (cards / name).read_text(encoding="utf-8")
            assert all(each in text for each in hashes), name

    def test_figures_bear_the_mark_and_are_those_of_the_report(self, cards, report):
        """The mean Dice of the card is that of audit.json, with interval and mark."""
        arms = json.loads((report / "audit.json").read_text())["audit"]["arms"]
        (arm,) = [arm for arm in arms if arm["arm"] == "federated"]
        dice = arm["overall"]["metrics"]["dice"]["mean"]
        card = (cards / "README.md").read_text(encoding="utf-8")
        assert f"Dice {dice['value']:.3f} ({dice['low']:.3f} to {dice['high']:.3f})" in card
        rows = [line for line in card.splitlines() if line.startswith("| ")][1:]
        assert len(rows) >= 1 + 2 + 4
        assert all("[A]" in row for row in rows)

    def test_the_header_is_yaml_that_hugging_face_reads(self, cards):
        """Licence, task and results as a model index."""
        yaml = pytest.importorskip("yaml")
        text = (cards / "README.md").read_text(encoding="utf-8")
        front = yaml.safe_load(text.split("---\n")[1])
        assert (front["license"], front["pipeline_tag"]) == ("apache-2.0", "image-segmentation")
        (result,) = front["model-index"][0]["results"]
        assert {"dice", "hd95", "nsd"} <= {each["type"] for each in result["metrics"]}

    def test_paraphrases_are_called_that(self, cards):
        """Nobody takes our short words, or our numbers, for those of the publication."""
        for name in CHECKLISTS:
            text = (cards / name).read_text(encoding="utf-8")
            assert "paraphrased" in text, name
            assert "were compared with the publication" in text, name

    def test_nothing_is_invented(self, cards):
        """Who knows what the audit cannot is named; the number of items is the checklist's."""
        items = {"CLAIM-2024.md": 44, "FUTURE-AI.md": 30}
        for name in CHECKLISTS:
            text = (cards / name).read_text(encoding="utf-8")
            assert "*To be filled in by" in text
            rows = re.findall(r"^\| (?!no\.)[^|]+ \| [^|]+ \| .+ \|$", text, re.MULTILINE)
            assert len(rows) == items.get(name, len(rows)) > 10
        assert "apache" not in (cards / "DATASHEET.md").read_text(encoding="utf-8")

    def test_wrong_use_is_refused_before_anything_is_written(self, report, tmp_path):
        """No report, no such arm, an unknown fact: each one sentence, nothing written."""
        from evenhand.errors import ConfigError, DataError, UsageError

        out = tmp_path / "out"
        with pytest.raises(DataError, match=r"There is no '.*audit\.json'"):
            write_cards(tmp_path, out)
        with pytest.raises(UsageError, match="no arm 'best'; it has: pooled, federated"):
            write_cards(report, out, arm="best")
        (tmp_path / "facts.toml").write_text('model_nam = "x"')
        with pytest.raises(ConfigError, match="did you mean 'model_name'"):
            write_cards(report, out, facts=tmp_path / "facts.toml")
        assert not out.exists()
