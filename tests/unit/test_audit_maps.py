"""Maps of where a model looks, and contrast from images: what they must find in known pictures."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from evenhand.artifacts import write_prediction_table
from evenhand.cases.records import Patient
from evenhand.cases.splits import Split
from evenhand.cases.store import CaseStore
from evenhand.cli import app
from evenhand.config import ExperimentConfig, ModelConfig
from evenhand.errors import UsageError
from evenhand.experiment.layout import RunFolder
from evenhand.geometry import Affine
from evenhand_audit.explain import maps
from evenhand_audit.explain.images import by_patient, contrast_of, looks_of, rank_correlation
from evenhand_audit.explain.occlusion import explain_slice
from evenhand_audit.simulate import simulated_rows

SHAPE = (48, 40, 3)


def looks_at_brightness(slices, _):
    """Logits of (batch, 3, h, w): proposes what is bright in the lower half, looks only there."""
    logits = (slices[:, 1] - 0.6) * 20
    logits[:, : logits.shape[1] // 2] = -20
    return logits


def looks_at_a_corner(slices, hidden):
    """The same, but only if a far corner is bright: a shortcut."""
    corner = slices[:, 1, 6:10, 6:10].mean(dim=(1, 2)) > 0.75
    return torch.where(corner[:, None, None], looks_at_brightness(slices, hidden), -20.0)


def picture():
    """Body of 100 with a lesion of 200 in the middle slice, and a bright corner."""
    rng = np.random.default_rng(0)
    volume = (100 + rng.normal(0, 5, SHAPE)).astype(np.float32)
    mask = np.zeros(SHAPE, np.uint8)
    mask[28:36, 20:28, 1] = 1
    volume[mask > 0] = 200
    volume[3:9, 3:9] = 200
    return volume, mask


def model_of(propose):
    """What the explanation asks of a model, with a known answer and no backbone."""
    encoder = SimpleNamespace(prefix=lambda pixels, _: pixels)
    backbone = SimpleNamespace(normalise=lambda pixels: pixels, encoder=encoder)
    return SimpleNamespace(
        config=ModelConfig(image_size=128, head_size=64), backbone=backbone, tail_blocks=0,
        propose=propose, eval=lambda: None, device=torch.device("cpu"), temperature=1.0,
    )  # fmt: skip


def test_a_map_shows_the_lesion_where_the_model_looks_there():
    """Most of the importance lies in the lesion, which is 3% of the body; both maps agree."""
    volume, mask = picture()
    made = explain_slice(model_of(looks_at_brightness), volume, mask)
    assert made.slice_number == 1
    assert made.area == pytest.approx(64 / (48 * 40))
    assert made.inside > 5 * made.area
    peak = np.unravel_index(made.importance.argmax(), made.importance.shape)
    assert 24 <= peak[0] < 40
    assert 16 <= peak[1] < 32
    assert made.importance[3:9, 3:9].max() <= 0
    assert made.stability > 0.5


def test_a_shortcut_is_seen_outside_the_lesion():
    """A model that needs the corner has importance there, and less of it in the lesion."""
    volume, mask = picture()
    honest = explain_slice(model_of(looks_at_brightness), volume, mask)
    shortcut = explain_slice(model_of(looks_at_a_corner), volume, mask)
    assert honest.importance[3:9, 3:9].max() <= 0
    assert shortcut.importance[3:9, 3:9].max() > 0.3
    assert shortcut.inside < honest.inside


def test_a_model_that_looks_nowhere_has_no_stable_map():
    """A constant answer makes a constant map: its stability is not a number, never 1."""
    made = explain_slice(model_of(lambda slices, _: 0 * slices[:, 0]), *picture())
    assert np.isnan(made.stability)
    assert np.isnan(made.inside)


def test_contrast_by_hand_and_where_there_is_none():
    """Brighter is positive, darker negative; without lesion or surroundings it is no number."""
    volume, mask = picture()
    assert contrast_of(volume, mask) > 10
    dark = volume.copy()
    dark[mask > 0] = 20
    assert contrast_of(dark, mask) < -10
    assert np.isnan(contrast_of(volume, np.zeros_like(mask)))
    assert np.isnan(contrast_of(volume * mask, mask))
    assert np.isnan(contrast_of(volume, np.ones_like(mask)))


def test_rank_correlation_passes_over_what_is_not_known():
    """Two patients without contrast do not count."""
    rho, count = rank_correlation(np.array([1, 2, 3, np.nan, 4]), np.array([1, 2, 3, 0, 4.0]))
    assert (rho, count) == (pytest.approx(1.0), 4)
    assert np.isnan(rank_correlation(np.ones(5), np.arange(5.0))[0])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of twelve patients; F have a lesion of less contrast, and Dice goes with it."""
    folder = RunFolder(tmp_path / "run")
    config = ExperimentConfig.model_validate(
        {"name": "t", "seed": 0, "data": {"phantom": {}, "sequences": ["FLAIR"]},
         "model": {"image_size": 128, "head_size": 64}}
    )  # fmt: skip
    folder.path.mkdir()
    folder.config_path.write_text(config.model_dump_json())
    rows = simulated_rows(patients=12, arms=[("pooled", "automatic")])
    store = CaseStore.create(folder.path / "hospitals" / "north" / "store", "north")
    for number, row in enumerate(rows):
        volume, mask = picture()
        volume[mask > 0] = 140 if row["sex"] == "F" else 200
        patient = Patient(patient_id=row["patient"], hospital="north", sex=row["sex"])
        store.add(
            case_id=row["case"], patient=patient, affine=Affine(np.eye(4)),
            images={"FLAIR": volume}, mask=mask, source="test",
            acquisition={"manufacturer": "GE" if number % 3 else "Siemens"},
        )  # fmt: skip
        row["dice"] = 0.5 if row["sex"] == "F" else 0.9
    write_prediction_table(folder.predictions_path, rows, {})
    split = Split(train={}, test={"north": tuple(str(row["patient"]) for row in rows)})
    folder.split_path.write_text(split.to_json())
    model = model_of(looks_at_brightness)
    monkeypatch.setattr(maps, "build_model", lambda _: model)
    monkeypatch.setattr(maps, "load_onto", lambda *_: None)
    adapter = folder.arm("pooled").adapter_path
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"-")
    return folder


def why(folder, out, *words):
    """Run `evenhand audit why` on the run."""
    line = ["audit", "why", folder, "--by", "sex", "--out", out / "d.csv", *words]
    return CliRunner().invoke(app, list(map(str, line)))


def test_contrast_is_a_stratum_of_a_run(run, tmp_path):
    """Dice goes with contrast in this run; why says so, by thirds of it and by scanner."""
    found = why(run.path, tmp_path)
    assert found.exit_code == 0, found.output
    assert "Dice against contrast: rank correlation" in found.output
    assert "Siemens" in found.output
    cases = pd.read_csv(run.predictions_path)
    looks = by_patient(looks_of(run, cases["case"]), cases)
    women = cases.set_index("patient")["sex"].reindex(looks.index) == "F"
    assert looks["contrast"][women].max() < looks["contrast"][~women].min()


def test_maps_are_written_for_the_cases_that_drive_the_gap(run, tmp_path):
    """One picture a case and a table; the worst group's cases come first."""
    found = why(run.path, tmp_path, "--explain", tmp_path / "maps", "--explain-cases", 2)
    assert found.exit_code == 0, found.output
    table = pd.read_csv(tmp_path / "maps" / "maps.csv")
    assert len(table) == 2
    assert set(table["stability"].between(-1, 1)) == {True}
    for case in table["case"]:
        assert (tmp_path / "maps" / f"{case}.png").read_bytes().startswith(b"\x89PNG")
    assert "stability" in found.output


def test_maps_that_cannot_be_made_are_a_sentence(run, tmp_path):
    """Of a table alone, and of an arm without an adapter."""
    found = why(run.predictions_path, tmp_path, "--explain", tmp_path / "maps")
    assert isinstance(found.exception, UsageError)
    assert "folder of a run" in str(found.exception)
    run.arm("pooled").adapter_path.unlink()
    found = why(run.path, tmp_path, "--explain", tmp_path / "maps")
    assert isinstance(found.exception, UsageError)
    assert "no adapter" in str(found.exception)
    assert not (tmp_path / "maps").exists()
