"""The report: whole, self-contained, free of ids, and made by one command."""

import json
import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from evenhand import plugins
from evenhand.artifacts import file_sha256, write_prediction_table
from evenhand.cli import app, main
from evenhand.config import AuditConfig
from evenhand.errors import DataError
from evenhand_audit.report import write_audit
from evenhand_audit.simulate import simulated_rows

QUICK = AuditConfig(resamples=200)
ARMS = (("box-zero-shot", "box"), ("federated", "automatic"), ("federated-private", "automatic"))
FACTS = {
    "title": "Phantoms <script>alert(1)</script>",
    "arms": {
        "federated": {"seconds": 300.0, "bytes_moved": 13_400_000, "train_patients": 78},
        "federated-private": {
            "epsilon": {
                "north": {"epsilon": 7.91, "delta": 0.004, "unit": "patient", "accountant": "PRV"},
                "east": {"epsilon": 7.98, "delta": 0.005, "unit": "patient", "accountant": "PRV"},
            },
            "seconds": 60.0,
            "bytes_moved": 0,
            "note": "noise hides much",
            "attack": "The attack proves epsilon of at least 1.23.",
        },
    },
    "notes": ["Volumes are synthetic."],
    "left_out": {"EZ": "one patient only"},
    "weights": "MobileSAM",
    "planted_bias": {"attribute": "sex", "value": "F", "contrast_ratio": 0.45, "groups": {}},
}


class Page(HTMLParser):
    """Everything in a page that a browser could load, the ids, and the labels of pictures."""

    def __init__(self, text):
        super().__init__()
        self.loads, self.ids, self.labels, self.tags, self.text = [], [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Note what the tag could load and how it is named."""
        self.tags.append(tag)
        for key, value in attrs:
            if key in {"src", "href", "xlink:href", "srcset", "data", "action"}:
                self.loads.append(value)
            if key == "id":
                self.ids.append(value)
            if key == "aria-label":
                self.labels.append(value)

    def handle_data(self, data):
        """Keep text, words of neighbouring cells apart."""
        self.text += f" {data}"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report on 40 simulated patients under three arms."""
    folder = tmp_path_factory.mktemp("audit")
    rows = simulated_rows(patients=60, gap=0.2, arms=ARMS, cases_per_patient=2)
    write_prediction_table(folder / "predictions.csv", rows, {"config": "0123abcd"})
    index = write_audit(folder / "predictions.csv", folder / "report", config=QUICK, facts=FACTS)
    return folder, index, index.read_text(encoding="utf-8")


def test_the_page_loads_nothing(report):
    """A hospital opens the report offline: no address, links only into itself, one own script."""
    page = Page(report[2])
    assert page.loads
    assert all(target.startswith("#") for target in page.loads)
    assert not {"link", "iframe", "img", "object"} & set(page.tags)
    assert page.tags.count("script") == 1
    script = report[2].split("<script>")[1].split("</script>")[0]
    assert "table.sortable" in script
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML", script)
    assert not re.search(r"https?:|@import|url\((?!#)", report[2])


def test_no_patient_or_case_is_named(report):
    """Neither page nor JSON holds an id of a patient or a case."""
    folder, index, page = report
    assert index == folder / "report" / "index.html"
    for text in (page, (folder / "report" / "audit.json").read_text()):
        assert "person-" not in text


def test_every_picture_has_words_and_ids_are_unique(report):
    """Each plot has an alternative text, and inline SVGs do not clash."""
    page = Page(report[2])
    assert page.tags.count("svg") == len(page.labels) == 1 + len(ARMS) + 1
    assert all(len(label) > 40 for label in page.labels)
    assert len(page.ids) == len(set(page.ids)) > 0


def test_page_one_tells_a_clinician_what_was_found(report):
    """Patients, the finding in words, privacy, time and traffic are there; the title is escaped."""
    text = re.sub(r"\s+", " ", Page(report[2]).text)
    assert "60 test patients (120 cases) of 4 hospitals" in text
    assert "Patients of sex F have the lowest mean Dice" in text
    assert "Left out: EZ (one patient only)" in text
    assert "Phantoms <script>alert(1)</script>" in text
    for figure in ("7.98", "13.4", "5 min", "noise hides much", "Volumes are synthetic.", "PRV"):
        assert figure in text
    assert "federated-private, attacked: The attack proves epsilon of at least 1.23." in text
    assert text.index("Who is served worst?") < text.index("How good is each arm?")


def test_an_arm_that_the_run_says_nothing_of_is_not_called_unprivate(report):
    """Without facts the privacy of an arm is unknown, which is not the same as none."""
    privacy = {}
    for arm, _ in ARMS:
        row = report[2].split(f'<th scope="row">{arm}<', 1)[1].split("</tr>")[0]
        privacy[arm] = re.findall(r'<td class="num">(.*?)</td>', row)[1]
    assert privacy == {
        "box-zero-shot": "\N{EN DASH}",
        "federated": "none",
        "federated-private": "7.98",
    }


def test_caveats_and_definitions_are_named(report):
    """Both equity-scaled definitions, the tolerance, the empty-mask rule and the units are said."""
    text = re.sub(r"\s+", " ", Page(report[2]).text)
    for said in (
        "FairSeg",
        "FairMedFM",
        "within 2 mm of the other mask\N{RIGHT SINGLE QUOTATION MARK}s edge",
        "A missed tumour counts as Dice 0",
        "fewer than 5 patients",
        "vouched for by its sidecar",
        "“Box”: each tumour slice is given a box around the reference",
    ):
        assert said in text


def test_the_planted_bias_is_compared_with_what_was_found(report):
    """On synthetic data the report says in which arms the audit names the planted group."""
    text = re.sub(r"\s+", " ", Page(report[2]).text)
    assert "made harder to see on purpose: sex F, with 0.45 of everybody else" in text
    assert re.search(r"Named worst, beyond chance: [^.]*federated · automatic", text)


def test_the_json_holds_everything_with_its_origin(report):
    """Hash of the table, versions, every estimate; strict JSON without NaN or Infinity."""
    folder, _, _ = report

    def refuse(constant):
        raise AssertionError(constant)

    text = (folder / "report" / "audit.json").read_text()
    record = json.loads(text, parse_constant=refuse)
    assert record["origin"]["table_sha256"] == file_sha256(folder / "predictions.csv")
    assert record["origin"]["meta"] == {"config": "0123abcd"}
    assert [arm["arm"] for arm in record["audit"]["arms"]] == [arm for arm, _ in ARMS]
    sex = record["audit"]["arms"][1]["attributes"][1]
    assert [group["patients"] for group in sex["by_group"]] == [30, 30]
    for figure in ("mean", "median"):
        estimate = sex["by_group"][0]["metrics"]["nsd"][figure]
        assert estimate["low"] <= estimate["value"] <= estimate["high"]
    assert record["findings"][1]["difference"]["worst_group"] == "F"


def test_the_same_table_gives_the_same_bytes(report, tmp_path):
    """Nothing in the report depends on the clock or on chance."""
    folder, _, page = report
    again = write_audit(folder / "predictions.csv", tmp_path, config=QUICK, facts=FACTS)
    assert again.read_text(encoding="utf-8") == page


@pytest.mark.parametrize(
    "changes",
    [
        {"units": "voxel", "empty": "prediction", "dice": 0.0, "volume_predicted": 0.0},
        {"empty": "both", "volume_reference": 0.0, "volume_predicted": 0.0, "dice": 1.0},
        {"sex": "unknown", "race": "unknown", "age_years": None, "hospital": "only"},
    ],
)
def test_extreme_tables_still_get_a_report(tmp_path, changes):
    """All masks empty, no reference at all, or no attribute known: a report, not a crash."""
    rows = [row | changes for row in simulated_rows(patients=12)]
    write_prediction_table(tmp_path / "t.csv", rows, {})
    page = write_audit(tmp_path / "t.csv", tmp_path / "out", config=QUICK).read_text()
    assert "12 test patients" in page


def test_two_patients_a_group_give_an_open_interval(tmp_path):
    """Where the spread cannot be told, the page says infinite and the JSON null."""
    rows = simulated_rows(patients=4)
    write_prediction_table(tmp_path / "t.csv", rows, {})
    config = AuditConfig(resamples=200, minimum_group=2, attributes=("sex",))
    page = write_audit(tmp_path / "t.csv", tmp_path / "out", config=config).read_text()
    record = json.loads((tmp_path / "out" / "audit.json").read_text())
    difference = record["audit"]["arms"][0]["attributes"][0]["difference"]
    assert difference["hd95"]["gap"]["high"] is None
    assert difference["dice"]["gap"]["high"] == 1.0
    assert "∞" in page


def test_an_arm_under_the_minimum_is_named_and_not_shown(tmp_path):
    """A reader learns that an arm exists and why its figures do not stand there."""
    rows = simulated_rows(patients=12)
    rows += [row | {"arm": "local-north"} for row in rows[:2]]
    write_prediction_table(tmp_path / "t.csv", rows, {})
    page = Page(write_audit(tmp_path / "t.csv", tmp_path / "out", config=QUICK).read_text())
    text = re.sub(r"\s+", " ", page.text)
    assert "local-north automatic not shown: fewer than 5 patients" in text


def test_a_bad_table_leaves_nothing_behind(tmp_path):
    """A refused table writes no folder and no half of a report."""
    (tmp_path / "t.csv").write_text("arm,prompt\nx,box\n")
    with pytest.raises(DataError, match="lacks columns"):
        write_audit(tmp_path / "t.csv", tmp_path / "out", config=QUICK)
    assert not (tmp_path / "out").exists()


def test_the_core_finds_the_report_by_name():
    """`evenhand run` reaches the audit through its entry point."""
    assert plugins.load("evenhand.reports", "audit") is write_audit


def test_the_command_audits_any_table(tmp_path):
    """`evenhand audit` needs a CSV of the schema and nothing else."""
    rows = simulated_rows(patients=24, arms=(("theirs [v2]", "automatic"),))
    write_prediction_table(tmp_path / "theirs.csv", rows, {})
    (tmp_path / "theirs.json").unlink()
    out = tmp_path / "report"
    result = CliRunner().invoke(
        app,
        ["audit", str(tmp_path / "theirs.csv"), "--out", str(out), "--attributes", "sex,age_group",
         "--age-edges", "40,60", "--minimum-group", "3", "--resamples", "150"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert str(out / "index.html") in result.output.replace("\n", "")
    assert "theirs [v2]" in result.output
    record = json.loads((out / "audit.json").read_text())
    audit = record["audit"]
    assert [each["attribute"] for each in audit["arms"][0]["attributes"]] == ["sex", "age_group"]
    assert (audit["age_edges"], audit["minimum_group"], audit["resamples"]) == ([40, 60], 3, 150)
    assert record["origin"]["vouched_by_sidecar"] is False


@pytest.mark.parametrize(
    ("options", "outcome"),
    [
        (["--attributes", "sx"], (2, "did you mean 'sex'")),
        (["--age-edges", "old"], (2, "--age-edges wants rising ages such as 40,60")),
        (["--age-edges", "60,40"], (2, "--age-edges wants rising ages such as 40,60")),
        (["--minimum-group", "99"], (1, "no arm reaches the 99")),
    ],
)
def test_wrong_use_of_the_command_is_one_sentence(tmp_path, monkeypatch, capsys, options, outcome):
    """Exit code 2 for wrong use, 1 for data that cannot be audited; one sentence, no traceback."""
    write_prediction_table(tmp_path / "t.csv", simulated_rows(patients=12), {})
    monkeypatch.setattr(
        "sys.argv",
        ["evenhand", "audit", str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), *options],
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    shown = re.sub(r"\s+", " ", capsys.readouterr().err)
    assert stopped.value.code == outcome[0]
    assert outcome[1] in shown
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()
