"""`evenhand mitigate` as an auditor types it: weights, thresholds, and a verdict."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from evenhand.artifacts import write_prediction_table
from evenhand.cases.nifti import write_nifti
from evenhand.cli import app, main
from evenhand.geometry import Affine
from evenhand_audit.simulate import simulated_rows


def mitigate(*words):
    """Run `evenhand mitigate ...`."""
    return CliRunner().invoke(app, ["mitigate", *map(str, words)])


def people(path, count=40):
    """A participants.tsv."""
    rows = [f"sub-{n}\t{'FM'[n % 3 > 0]}\t{'ab'[n % 2]}" for n in range(count)]
    path.write_text("participant_id\tsex\thospital\n" + "\n".join(rows) + "\n")
    return path


def test_weights_of_every_method(tmp_path):
    """From participants.tsv and a prediction table to four tables that training reads."""
    write_prediction_table(tmp_path / "p.csv", simulated_rows(patients=40, gap=0.2), {})
    found = mitigate(
        *(
            "weights",
            people(tmp_path / "participants.tsv"),
            "--by",
            "sex",
            "--strip-prefix",
            "sub-",
        ),
        *("--results", tmp_path / "p.csv", "--out", tmp_path / "w"),
    )
    assert found.exit_code == 0, found.output
    names = {path.name for path in (tmp_path / "w").iterdir()}
    assert names == {
        "weights-reweighting.csv",
        "weights-group-balanced.csv",
        "weights-group-dro.csv",
        "weights-fair-error-bound.csv",
    }
    table = pd.read_csv(tmp_path / "w" / "weights-group-dro.csv")
    assert list(table.columns) == ["patient", "weight"]
    assert "patient data" in found.output


def test_a_verdict_on_two_tables(tmp_path):
    """A model that is worse for everybody is called that; other patients are refused."""
    before = simulated_rows(patients=60, gap=0.1)
    after = [row | {"dice": row["dice"] * 0.8} for row in before]
    write_prediction_table(tmp_path / "a.csv", before, {})
    write_prediction_table(tmp_path / "b.csv", after, {})
    found = mitigate("judge", tmp_path / "a.csv", tmp_path / "b.csv", "--by", "sex")
    assert found.exit_code == 0, found.output
    assert "lowers every group" in found.output
    assert "person-" not in found.output


def masks(tmp_path, count=48):
    """Pictures of probabilities: of F they are too low, so that 0.5 misses half of the tumour."""
    rng = np.random.default_rng(0)
    for number in range(count):
        mask = np.zeros((16, 16, 2), np.uint8)
        mask[4:12, 4:12] = 1
        level = np.where(mask, 0.45 if number % 2 else 0.8, 0.1)
        values = np.clip(level + rng.normal(0, 0.05, mask.shape), 0, 1)
        for name, array in (("ref", mask), ("model", (values > 0.5).astype(np.uint8))):
            (tmp_path / name).mkdir(exist_ok=True)
            write_nifti(tmp_path / name / f"{number}.nii.gz", array, Affine(np.eye(4)))
        (tmp_path / "prob").mkdir(exist_ok=True)
        write_nifti(
            tmp_path / "prob" / f"{number}.nii.gz", values.astype(np.float32), Affine(np.eye(4))
        )
    rows = "".join(f"{n}\t{'MF'[n % 2]}\n" for n in range(count))
    (tmp_path / "participants.tsv").write_text(f"participant_id\tsex\n{rows}")
    (tmp_path / "m.toml").write_text(f"""
name = "m"
[masks]
reference = "{tmp_path}/ref/{{case}}.nii.gz"
models = {{ net = "{tmp_path}/model/{{case}}.nii.gz" }}
probabilities = {{ net = "{tmp_path}/prob/{{case}}.nii.gz" }}
[attributes]
path = "{tmp_path}/participants.tsv"
columns = {{ sex = "sex" }}
[audit]
attributes = ["sex"]
""")
    return tmp_path / "m.toml"


def test_thresholds_by_group(tmp_path):
    """F get the lower threshold that their probabilities need, and the gap is gone."""
    out = tmp_path / "t.csv"
    found = mitigate("thresholds", masks(tmp_path), "--by", "sex", "--out", out)
    assert found.exit_code == 0, found.output
    table = pd.read_csv(out).set_index("group")["threshold"]
    assert table["F"] < 0.45
    assert "F, the worst group, is served better" in " ".join(found.output.split())
    # The same low threshold would have served everybody: that is said, too.
    assert "Whether the gap changes is open" in " ".join(found.output.split())


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (("weights", "{people}", "--by", "sx", "--out", "{out}"), (2, "did you mean 'sex'")),
        (("judge", "{table}", "{other}", "--by", "sex"), (2, "different patients")),
        (("judge", "{table}", "{table}", "--by", "sxe"), (2, "did you mean 'sex'")),
        (("judge", "{table}", "{none}", "--by", "sex"), (1, "There is no")),
        (("thresholds", "{none}", "--by", "sex", "--out", "{out}"), (2, "There is no")),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path, monkeypatch, capsys, words, refusal):
    """Exit code 2 for wrong use, 1 for what is not there; nothing is written."""
    write_prediction_table(tmp_path / "t.csv", simulated_rows(patients=20), {})
    write_prediction_table(tmp_path / "o.csv", simulated_rows(patients=24), {})
    places = {
        "people": people(tmp_path / "people.tsv"),
        "table": tmp_path / "t.csv",
        "other": tmp_path / "o.csv",
        "none": tmp_path / "none.toml",
        "out": tmp_path / "out",
    }
    filled = [word.format(**places) for word in words]
    monkeypatch.setattr("sys.argv", ["evenhand", "mitigate", *filled])
    with pytest.raises(SystemExit) as ending:
        main()
    heard = " ".join(capsys.readouterr().err.split())
    assert refusal[1] in heard
    assert ending.value.code == refusal[0], heard
    assert not (tmp_path / "out").exists()
