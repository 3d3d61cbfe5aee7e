"""Anybody's results become a prediction table, or are refused in one sentence."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from evenhand.artifacts import read_prediction_table
from evenhand.cases.nifti import write_nifti
from evenhand.config import AuditConfig
from evenhand.config_files import load_section
from evenhand.errors import ConfigError, DataError, UsageError
from evenhand.geometry import Affine
from evenhand.metrics import score_case
from evenhand_audit.cohort import patients_of
from evenhand_audit.intake import take_in, write_intake
from evenhand_audit.intake_config import AuditInput
from evenhand_audit.intake_findings import examine
from evenhand_audit.intake_patterns import find_cases, matches_of
from evenhand_audit.intake_plan import plan_input, ready_table
from evenhand_audit.scoring import score_masks

COUNT = 6


def vendor_table(count=COUNT, **changes):
    """A table as a vendor might send it: other names, per cent, millilitres, codes."""
    number = np.arange(count)
    return pd.DataFrame(
        {
            "StudyID": [f"S{n}" for n in number],
            "PatientID": [f"P{n}" for n in number],
            "DSC": 80.0 + number,
            "HD95_mm": 3.0 + number,
            "NSD": 0.9,
            "vol_ref_ml": 2.0,
            "vol_pred_ml": [0.0, *[1.5] * (count - 1)],
            "gender": ["1", "2"] * (count // 2) + ["1"] * (count % 2),
            "yrs": [str(40 + n) for n in number[:-1]] + ["n/a"],
            "scanner": ["A", "B", ""] * (count // 3),
            "tesla": [1.5, 3.0] * (count // 2) + [3.0] * (count % 2),
        }
        | changes
    )


VENDOR = """
name = "vendor"
title = "Vendor's table"
[table]
path = "{path}"
[table.columns]
case = "StudyID"
patient = "PatientID"
dice = "DSC"
hd95 = "HD95_mm"
nsd = "NSD"
volume_reference = "vol_ref_ml"
volume_predicted = "vol_pred_ml"
sex = "gender"
age_years = "yrs"
[table.constants]
units = "mm"
nsd_tolerance = 2.0
hospital = "north"
[table.scale]
dice = 0.01
volume_reference = 1000
volume_predicted = 1000
[values.sex]
"1" = "F"
"2" = "M"
[bins.field]
column = "tesla"
edges = [2]
[bins.size]
column = "volume_reference"
edges = [1000, 5000]
[audit]
attributes = ["sex", "age_group", "scanner", "field", "size"]
"""


def vendor_config(tmp_path, table, ending=".csv"):
    """Write the table and its config; give back the config as read."""
    path = tmp_path / f"vendor{ending}"
    if ending == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False, sep="," if ending == ".csv" else "\t")
    config = tmp_path / "vendor.toml"
    config.write_text(VENDOR.format(path=path))
    return load_section(config, AuditInput)


class TestTable:
    """A ready table of metrics with any names."""

    @pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
    def test_names_units_codes_and_groups_are_mapped(self, tmp_path, ending):
        """Whatever the table calls it, per cent and millilitres too; numbers fall into groups."""
        intake = take_in(vendor_config(tmp_path, vendor_table(), ending))
        write_intake(intake, tmp_path / "out.csv")
        table, meta = read_prediction_table(tmp_path / "out.csv")
        assert table["dice"].tolist() == pytest.approx([0.8, 0.81, 0.82, 0.83, 0.84, 0.85])
        assert table["sex"].tolist() == ["F", "M"] * 3
        assert table["scanner"].tolist() == ["A", "B", "unknown"] * 2
        assert table["field"].tolist() == ["under 2", "2 and over"] * 3
        assert set(table["size"]) == {"1000 to under 5000"}
        assert table["age_years"].isna().tolist() == [False] * 5 + [True]
        assert table["empty"].tolist() == ["prediction"] + ["none"] * 5
        assert set(table["arm"]) == {"vendor"}
        assert len(meta["sources"]["vendor" + ending]) == len(meta["config_sha256"]) == 64

    def test_several_models_stand_side_by_side(self, tmp_path):
        """One table a model; the model's name is its arm."""
        for name in ("a", "b"):
            vendor_table().to_csv(tmp_path / f"{name}.csv", index=False)
        text = VENDOR.replace('path = "{path}"', "")
        text += f'[table.models]\n"Model A" = "{tmp_path}/a.csv"\n"Model B" = "{tmp_path}/b.csv"\n'
        (tmp_path / "two.toml").write_text(text)
        rows = take_in(load_section(tmp_path / "two.toml", AuditInput)).rows
        assert rows["arm"].value_counts().to_dict() == {"Model A": COUNT, "Model B": COUNT}

    def test_a_column_that_is_not_there_names_the_nearest(self, tmp_path):
        """The mapping says DSC, the table DSCs."""
        table = vendor_table().rename(columns={"DSC": "DSCs"})
        with pytest.raises(DataError, match=r"no column 'DSC' .*did you mean 'DSCs'"):
            take_in(vendor_config(tmp_path, table))

    def test_a_column_that_nobody_maps_is_named(self, tmp_path):
        """A misspelt column of ours is found, and the way to map it is said."""
        vendor_table().rename(columns={"DSC": "dise"}).to_csv(tmp_path / "t.csv", index=False)
        plan = plan_input(
            tmp_path / "t.csv", options={}, columns={"case": "StudyID"}, constants={}, overrides=[]
        )
        with pytest.raises(DataError, match=r"lacks '\w+'"):
            ready_table(plan, tmp_path / "out")
        assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]

    def test_a_cell_that_is_no_number_is_named_and_not_shown(self, tmp_path):
        """Row and column, never the value."""
        table = vendor_table(DSC=[80, 81, "secret", 83, 84, 85])
        with pytest.raises(DataError, match="row 4, column 'dice'") as error:
            take_in(vendor_config(tmp_path, table))
        assert "secret" not in str(error.value)

    def test_cases_that_come_twice_are_refused(self, tmp_path):
        """The same case scored twice would count twice."""
        table = pd.concat([vendor_table(), vendor_table().iloc[:1]])
        with pytest.raises(DataError, match="scores one case twice"):
            write_intake(take_in(vendor_config(tmp_path, table)), tmp_path / "out.csv")
        assert not (tmp_path / "out.csv").exists()

    def test_what_was_not_used_is_said(self, tmp_path):
        """A reader sees which columns the audit did not look at."""
        intake = take_in(vendor_config(tmp_path, vendor_table(comment="x")))
        assert intake.notes == ("Columns of the source that were not used: comment.",)


class TestConfig:
    """The audit's config is as strict as every other."""

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("[tabel]\n", "'table'"),
            ("[table]\ncolums = {}\n", "'table.columns'"),
            ("[bins.size]\nedge = [1]\n", "'bins.size.edges'"),
            ("[audit]\nresample = 100\n", "'audit.resamples'"),
        ],
    )
    def test_an_unknown_key_names_the_nearest(self, tmp_path, wrong, right):
        """Also below a name of the user's own choice."""
        (tmp_path / "c.toml").write_text(f'name = "a"\n{wrong}')
        with pytest.raises(ConfigError, match=f"did you mean {right}"):
            load_section(tmp_path / "c.toml", AuditInput)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "exactly one of"),
            (
                '[table]\npath = "a"\n[masks]\nreference = "{case}"\nmodels = {a = "{case}"}',
                "one of",
            ),
            ('[masks]\nreference = "a.nii"\nmodels = { a = "{case}" }', "{case} or {patient}"),
            ('[table]\npath = "a"\n[bins.b]\ncolumn = "c"\nedges = [2, 1]', "edges must rise"),
            ('[table]\npath = "a"\n[attributes]\ndicom = "x/{case}"', "go together"),
        ],
    )
    def test_what_contradicts_itself_is_refused(self, tmp_path, text, said):
        """Each contradiction is one sentence, exit code 2."""
        (tmp_path / "c.toml").write_text(f'name = "a"\n{text}')
        with pytest.raises(ConfigError, match=said.replace("{", r"\{")) as error:
            load_section(tmp_path / "c.toml", AuditInput)
        assert error.value.exit_code == 2


def write_masks(folder, *, models=("good", "poor"), labels=(1,), count=4):
    """References and two models' masks of `count` patients as NIfTI."""
    rng = np.random.default_rng(0)
    for number in range(count):
        reference = np.zeros((16, 16, 5), np.uint8)
        for place, label in enumerate(labels):
            reference[3 + 6 * place : 8 + 6 * place, 4:9, 1:4] = label
        affine = Affine(np.diag([1.0, 1.0, 2.0, 1.0]))
        for name in ("refs", *models):
            mask = reference.copy()
            if name == "poor":
                mask[rng.uniform(size=mask.shape) < 0.4] = 0
            path = folder / name / f"p{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_nifti(path, mask, affine)
    return folder


def mask_config(folder, text="", attributes='attributes = ["sex"]'):
    """The config of `write_masks`."""
    path = folder / "masks.toml"
    path.write_text(f"""
name = "masks"
[masks]
reference = "{folder}/refs/{{case}}.nii.gz"
models = {{ good = "{folder}/good/{{case}}.nii.gz", poor = "{folder}/poor/{{case}}.nii.gz" }}
{text}
[audit]
{attributes}
""")
    return load_section(path, AuditInput)


class TestMasks:
    """Folders of masks are scored case by case."""

    def test_a_row_for_each_case_model_and_label(self, tmp_path):
        """Values are those of `score_case`; several processes give what one gives."""
        write_masks(tmp_path, labels=(1, 2))
        config = mask_config(tmp_path, "labels = { whole = [1, 2], core = [2] }").masks
        seen = []
        rows = score_masks(config, 2.0, workers=1, progress=lambda *step: seen.append(step))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert rows.groupby(["arm", "label"]).size().to_dict() == dict.fromkeys(
            [("good", "core"), ("good", "whole"), ("poor", "core"), ("poor", "whole")], 4
        )
        assert set(rows.loc[rows["arm"] == "good", "dice"]) == {1.0}
        core = np.zeros((16, 16, 5), np.uint8)
        core[9:14, 4:9, 1:4] = 1
        volume = score_case(core, core, spacing=(1, 1, 2), nsd_tolerance=2.0).volume_reference
        assert set(rows.loc[rows["label"] == "core", "volume_reference"]) == {volume}
        pd.testing.assert_frame_equal(rows, score_masks(config, 2.0, workers=2))

    def test_attributes_come_from_participants(self, tmp_path):
        """A BIDS table with prefixed ids, its own names and further columns."""
        write_masks(tmp_path)
        (tmp_path / "participants.tsv").write_text(
            "participant_id\tgender\tsite\tgrade\n"
            + "".join(f"sub-p{n}\t{'FM'[n % 2]}\tnorth\t{n % 3}\n" for n in range(4))
        )
        text = f"""[attributes]
path = "{tmp_path}/participants.tsv"
strip_prefix = "sub-"
columns = {{ sex = "gender", hospital = "site" }}"""
        config = mask_config(tmp_path, text, 'attributes = ["sex", "hospital", "grade"]')
        intake = take_in(config, workers=1)
        assert intake.rows["sex"].tolist() == ["F", "F", "M", "M"] * 2
        assert intake.attributes == ("grade",)
        assert set(intake.rows["hospital"]) == {"north"}
        assert "hd95" in intake.meta["definitions"]

    def test_grade_is_held_equal_without_being_compared(self, tmp_path):
        """Named under [attributes.columns], it is kept although no attribute asks for it."""
        write_masks(tmp_path)
        (tmp_path / "participants.tsv").write_text(
            "participant_id\tgender\tstage\n"
            + "".join(f"p{n}\t{'FM'[n % 2]}\tG{n % 2}\n" for n in range(4))
        )
        text = f"""[attributes]
path = "{tmp_path}/participants.tsv"
columns = {{ sex = "gender", grade = "stage" }}"""
        intake = take_in(mask_config(tmp_path, text, 'attributes = ["sex"]'), workers=1)
        assert intake.attributes == ("grade",)
        patients = patients_of(intake.rows[intake.rows["arm"] == "good"], ("sex",), ())
        assert patients["grade"].tolist() == ["G0", "G1", "G0", "G1"]

    def test_probabilities_give_a_calibration_error(self, tmp_path):
        """Only for the model that has them."""
        write_masks(tmp_path)
        for number in range(4):
            path = tmp_path / "probs" / f"p{number}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            half = np.full((16, 16, 5), 0.5, np.float32)
            write_nifti(path, half, Affine(np.diag([1.0, 1.0, 2.0, 1.0])))
        config = mask_config(
            tmp_path, f'probabilities = {{ poor = "{tmp_path}/probs/{{case}}.nii.gz" }}'
        )
        rows = score_masks(config.masks, 2.0, workers=1)
        assert rows.loc[rows["arm"] == "good", "calibration_error"].isna().all()
        assert rows.loc[rows["arm"] == "poor", "calibration_error"].between(0.2, 0.5).all()

    def test_pictures_need_a_size_or_pixels(self, tmp_path):
        """A PNG does not say how large its pixels are; nobody guesses."""
        pixels = np.zeros((12, 12), np.uint8)
        pixels[3:8, 3:8] = 255
        for name in ("refs", "good"):
            (tmp_path / name).mkdir()
            Image.fromarray(pixels).save(tmp_path / name / "p0.png")
        patterns = [f"{tmp_path}/{name}/{{case}}.png" for name in ("refs", "good")]
        text = f'reference = "{patterns[0]}"\nmodels = {{ good = "{patterns[1]}" }}'
        (tmp_path / "c.toml").write_text(f'name = "a"\n[masks]\n{text}\n')
        config = load_section(tmp_path / "c.toml", AuditInput).masks
        with pytest.raises(DataError, match=r"masks\.pixel_mm"):
            score_masks(config, 2.0, workers=1)
        sized = config.model_copy(update={"pixel_mm": (0.5, 0.5)})
        assert score_masks(sized, 2.0, workers=1)["volume_reference"].tolist() == [6.25]

    def test_a_mask_that_is_missing_is_refused_or_counted_as_missed(self, tmp_path):
        """Leaving a case out would make the model look better than it is."""
        write_masks(tmp_path)
        (tmp_path / "poor" / "p2.nii.gz").unlink()
        with pytest.raises(DataError, match=r"'poor' has no mask for 1 of 4 cases .*'p2'"):
            score_masks(mask_config(tmp_path).masks, 2.0, workers=1)
        rows = score_masks(mask_config(tmp_path, 'missing = "empty"').masks, 2.0, workers=1)
        left = score_masks(mask_config(tmp_path, 'missing = "skip"').masks, 2.0, workers=1)
        assert left["case"].tolist() == ["p0", "p0", "p1", "p1", "p3", "p3"]
        missed = rows[(rows["arm"] == "poor") & (rows["case"] == "p2")].iloc[0]
        assert (missed["dice"], missed["empty"]) == (0.0, "prediction")

    def test_unequal_geometry_names_the_cases_and_writes_nothing(self, tmp_path):
        """Every unequal case is listed, not only the first."""
        write_masks(tmp_path)
        for number in (1, 3):
            write_nifti(
                tmp_path / "poor" / f"p{number}.nii.gz",
                np.ones((16, 16, 4), np.uint8),
                Affine(np.diag([1.0, 1.0, 2.0, 1.0])),
            )
        with pytest.raises(DataError, match=r"2 of 4 cases.*\n- 'p1.*\n- 'p3") as error:
            score_masks(mask_config(tmp_path).masks, 2.0, workers=1)
        assert "grid" in str(error.value)

    def test_a_pattern_that_finds_nothing_is_said(self, tmp_path):
        """An empty audit is no audit."""
        write_masks(tmp_path)
        with pytest.raises(DataError, match="No file matches"):
            find_cases(f"{tmp_path}/nowhere/{{case}}.nii.gz")
        config = mask_config(tmp_path).masks
        wrong = config.model_copy(update={"models": {"gone": f"{tmp_path}/gone/{{case}}.nii.gz"}})
        with pytest.raises(DataError, match="No file of model 'gone'"):
            score_masks(wrong, 2.0, workers=1)


def test_patterns_find_bids_trees(tmp_path):
    """A place that comes twice must agree; a star is anything."""
    for sub, ses in (("01", "a"), ("02", "b")):
        path = tmp_path / f"sub-{sub}" / f"ses-{ses}" / f"sub-{sub}_mask.nii.gz"
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / "sub-01" / "ses-a" / "sub-99_mask.nii.gz").touch()
    pattern = f"{tmp_path}/sub-{{patient}}/ses-*/sub-{{patient}}_mask.nii.gz"
    assert set(find_cases(pattern)) == {("01", "01"), ("02", "02")}
    assert matches_of(pattern, case="02", patient="02") is not None
    assert matches_of(pattern, case="03", patient="03") is None


def rows(**columns):
    """Eight patients of one model."""
    base = {"arm": "m", "patient": [f"p{n}" for n in range(8)], "empty": "none", "sex": "F"}
    return pd.DataFrame(base | {"age_years": 50.0, "hospital": "north"} | columns)


class TestFindings:
    """What makes an audit meaningless is refused, what weakens it is said."""

    CONFIG = AuditConfig(attributes=("sex",), minimum_group=2)

    def test_all_empty_references_are_refused(self):
        """Dice 1 for two empty masks is a convention and no result."""
        with pytest.raises(DataError, match="Every reference mask is empty"):
            examine(rows(empty="both"), self.CONFIG)

    def test_a_model_that_marks_nothing_is_a_finding(self):
        """Most likely the wrong folder."""
        (found, *_) = examine(rows(empty="prediction"), self.CONFIG)
        assert "Model 'm' marks nothing" in found

    def test_one_group_only_is_a_finding(self):
        """There is nobody to compare with."""
        assert examine(rows(), self.CONFIG) == (
            "All patients whose sex is known are of one group: nothing can be compared by it.",
        )

    def test_an_attribute_that_half_of_the_patients_lack_is_a_finding(self):
        """The share is said, the missing are not left out in silence."""
        (found,) = examine(rows(sex=["F", "M"] * 2 + ["unknown"] * 4), self.CONFIG)
        assert "Sex is not known of 50% of the patients" in found

    def test_a_share_that_gives_a_small_group_away_is_put_into_words(self):
        """Seven of eight unknown leaves one patient who is known."""
        (found, *_) = examine(rows(sex=["F"] + ["unknown"] * 7), self.CONFIG)
        assert "nearly all" in found
        assert "88%" not in found


class TestPlan:
    """What `evenhand audit` makes of its argument."""

    def test_wrong_use_is_said(self, tmp_path):
        """A picture, an empty folder, options that do not go together."""
        rest = {"options": {}, "columns": {}, "constants": {}, "overrides": []}
        with pytest.raises(UsageError, match="neither the folder of a run"):
            plan_input(tmp_path / "a.docx", **rest)
        with pytest.raises(DataError, match=r"no predictions\.csv"):
            plan_input(tmp_path, **rest)
        with pytest.raises(UsageError, match=r"\[table.columns\]"):
            plan_input(tmp_path / "a.toml", **rest | {"columns": {"dice": "d"}})
        with pytest.raises(UsageError, match=r"only the audit's keys"):
            plan_input(tmp_path / "a.csv", **rest | {"overrides": ["title=x"]})

    def test_a_strange_file_in_the_way_is_kept(self, tmp_path):
        """The table beside the report replaces only what Evenhand wrote."""
        config = vendor_config(tmp_path, vendor_table())
        (tmp_path / "out-cases.csv").write_text("mine")
        plan = plan_input(
            tmp_path / "vendor.toml", options={}, columns={}, constants={}, overrides=[]
        )
        assert plan.title == config.title
        with pytest.raises(UsageError, match="in the way"):
            ready_table(plan, tmp_path / "out")
        assert (tmp_path / "out-cases.csv").read_text() == "mine"
