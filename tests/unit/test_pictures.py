"""Plain pictures, the whole way: a folder of PNG and a CSV to stores, training, table, audit."""

import json

import numpy as np
import pytest
from PIL import Image
from test_experiment_pipeline import backbone, calls, config_of, run  # noqa: F401 - fixtures
from typer.testing import CliRunner

from evenhand.artifacts import read_prediction_table
from evenhand.cli import app
from evenhand.errors import DataError, UsageError

SIZE = (40, 30)
"""Columns and rows."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Bright discs on speckle: ten people, two pictures of each, two scanners, two findings."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    lines = ["Image,Person,Scanner,Finding"]
    for name in ("Images", "Masks"):
        (folder / name).mkdir()
    for number in range(20):
        x, y = rng.integers(10, 28), rng.integers(8, 22)
        columns, rows = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
        inside = (columns - x) ** 2 + (rows - y) ** 2 < 40
        grey = 60 + 120 * inside + rng.normal(0, 10, inside.shape)
        Image.fromarray(grey.clip(0, 255).astype(np.uint8)).save(folder / f"Images/us_{number}.png")
        mask = (255 * inside).astype(np.uint8)
        Image.fromarray(mask).save(folder / f"Masks/mask_{number}.png")
        person = number // 2
        scanner, finding = "AB"[person % 2], ("benign", "malignant")[person % 3 == 0]
        lines.append(f"us_{number},{person},Scanner {scanner},{finding}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def test_the_whole_way(source, calls, tmp_path):  # noqa: F811
    """Each scanner a hospital; learnt, scored by person, audited by the table's own column."""
    for letter in "AB":
        command = ["ingest", str(source), "--into", str(tmp_path), "--hospital", f"scanner{letter}"]
        command += ["--only", f"Scanner=Scanner {letter}", "--attribute", "Finding", "--jobs", "1"]
        command += ["--patient-column", "Person", "--keep-names"]
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    stores = {f"scanner{letter}": str(tmp_path / f"scanner{letter}") for letter in "AB"}
    outcome = run(
        config_of(
            arms=["pooled"],
            data={"stores": stores, "sequences": ["image"], "units": "voxel", "test_fraction": 0.4},
            training={"epochs": 40, "tumour_slices": 2, "other_slices": 0},
            audit={"attributes": ["hospital", "finding"], "minimum_group": 2},
        ),
        tmp_path / "out",
    )
    table, _ = read_prediction_table(outcome.run.predictions_path)
    assert set(table["finding"]) == {"benign", "malignant"}
    assert table.groupby("patient").size().eq(2).all()
    assert table["dice"].mean() > 0.7
    lines = (source / "table.csv").read_text().splitlines()
    known = {line.split(",")[1]: line.split(",")[3] for line in lines}
    assert all(known[row.patient] == row.finding for row in table.itertuples())

    command = ["audit", str(outcome.run.predictions_path), "--out", str(tmp_path / "report")]
    command += ["--attributes", "hospital,finding", "--minimum-group", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    (arm,) = json.loads((tmp_path / "report" / "audit.json").read_text())["audit"]["arms"]
    assert {"hospital", "finding"} <= {each["attribute"] for each in arm["attributes"]}

    adapter = outcome.run.arm("pooled").adapter_path
    picture, mask = source / "Images/us_3.png", tmp_path / "mask.png"
    result = CliRunner().invoke(app, ["predict", str(adapter), str(picture), "--out", str(mask)])
    assert result.exit_code == 0, result.output
    drawn = np.asarray(Image.open(mask))
    wanted = np.asarray(Image.open(source / "Masks/mask_3.png"))
    assert drawn.shape == wanted.shape == SIZE[::-1]
    assert set(np.unique(drawn)) <= {0, 255}
    overlap = ((drawn > 0) & (wanted > 0)).sum()
    assert 2 * overlap / ((drawn > 0).sum() + (wanted > 0).sum()) > 0.7, "not turned or mirrored"

    for more, error in (
        (["--out", str(tmp_path / "mask.nii.gz")], UsageError),
        (["--out", str(mask), "--box", "0,1,1,5,5"], UsageError),
    ):
        result = CliRunner().invoke(app, ["predict", str(adapter), str(picture), *more])
        assert isinstance(result.exception, error)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    result = CliRunner().invoke(app, ["predict", str(adapter), str(broken), "--out", str(mask)])
    assert isinstance(result.exception, DataError)


def test_an_attribute_that_nobody_has_makes_no_column(calls, tmp_path):  # noqa: F811
    """A misspelt one is refused by the audit, as before, and is no group called unknown."""
    config = config_of(arms=["pooled"], audit={"attributes": ["hospital", "findign"]})
    outcome = run(config, tmp_path / "out")
    table, _ = read_prediction_table(outcome.run.predictions_path)
    assert "findign" not in table.columns
