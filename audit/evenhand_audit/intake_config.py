"""The audit's own config: whose results, where the patients' attributes are, how to group them.

One TOML file describes an audit of anybody's model, for `evenhand audit FILE.toml --out DIR`. It
takes either a ready table of metrics (`[table]`) or folders of masks (`[masks]`).
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evenhand.config import AuditConfig, Section

__all__ = [
    "AttributeSource",
    "AuditInput",
    "Bin",
    "MaskSource",
    "TableSource",
]

Positive = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(min_length=1)]

CASE, PATIENT = "{case}", "{patient}"
"""Places in a pattern that stand for the id of a case or a patient."""


class TableSource(Section):
    """A ready table with one row a case (and model, and label): CSV, TSV or Parquet."""

    path: Path | None = None
    """One table; or give `models`."""
    models: dict[Name, Path] = Field(default_factory=dict)
    """One table for each model, by the model's name."""
    columns: dict[Name, Name] = Field(default_factory=dict)
    """Our column: what the table calls it. Columns of our names need no entry."""
    constants: dict[Name, str | float] = Field(default_factory=dict)
    """Our column: one value for all rows, such as `units = "mm"`."""
    scale: dict[Name, Positive] = Field(default_factory=dict)
    """Our column: what its numbers are multiplied by, such as `dice = 0.01` for per cent."""

    @model_validator(mode="after")
    def _one_source(self) -> "TableSource":
        if (self.path is None) == (not self.models):
            raise ValueError("give exactly one of table.path and [table.models]")
        twice = sorted({*self.columns} & {*self.constants})
        if twice:
            raise ValueError(f"{', '.join(twice)} is both in columns and in constants; choose one")
        return self


class MaskSource(Section):
    """Reference masks and those of each model, as patterns of paths with {case} or {patient}."""

    reference: Name
    """Such as `refs/{case}.nii.gz`; `*` stands for anything that does not matter."""
    models: Annotated[dict[Name, Name], Field(min_length=1)]
    """Pattern of each model's masks, by the model's name."""
    probabilities: dict[Name, Name] = Field(default_factory=dict)
    """Pattern of a model's probabilities (NIfTI or PNG), for the calibration error."""
    labels: dict[Name, Annotated[tuple[int, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Values of each label (of a DICOM SEG: segment numbers); empty: masks have one label."""
    prompt: Literal["automatic", "box"] = "automatic"
    """Whether the models were given a box around the tumour."""
    units: Literal["mm", "voxel"] = "mm"
    """`voxel` where the true spacing is not known."""
    pixel_mm: tuple[Positive, Positive] | None = None
    """Of pictures: millimetres between rows and between columns."""
    missing: Literal["refuse", "empty", "skip"] = "refuse"
    """A case that a model has no mask for: refused, counted as an empty mask, or left out."""

    @model_validator(mode="after")
    def _patterns(self) -> "MaskSource":
        for pattern in (self.reference, *self.models.values(), *self.probabilities.values()):
            if CASE not in pattern and PATIENT not in pattern:
                raise ValueError(f"the pattern '{pattern}' needs {{case}} or {{patient}} in it")
        strangers = sorted({*self.probabilities} - {*self.models})
        if strangers:
            raise ValueError(f"probabilities are given for {strangers[0]}, which is no model")
        if self.probabilities and len(self.labels) > 1:
            raise ValueError("probabilities belong to one label; name one label, or leave them out")
        return self


class AttributeSource(Section):
    """Who the patients are: a table, DICOM headers, or both."""

    path: Path | None = None
    """CSV, TSV (such as participants.tsv) or Parquet, one row a patient or case."""
    key: Name = "participant_id"
    """The table's column that holds the id."""
    matches: Literal["patient", "case"] = "patient"
    """What the id is of."""
    strip_prefix: str = ""
    """Taken off the ids before they are compared, such as `sub-`."""
    columns: dict[Name, Name] = Field(default_factory=dict)
    """Our column or a new attribute: what the table calls it."""
    dicom: str = ""
    """Pattern of DICOM files or folders, such as `images/{case}`."""
    keywords: dict[Name, Name] = Field(default_factory=dict)
    """Our column or a new attribute: DICOM keyword, such as `scanner = "ManufacturerModelName"`."""

    @model_validator(mode="after")
    def _one_source(self) -> "AttributeSource":
        if self.path is None and not self.dicom:
            raise ValueError("give attributes.path (a table), attributes.dicom (a pattern) or both")
        if bool(self.dicom) != bool(self.keywords):
            raise ValueError("attributes.dicom and [attributes.keywords] go together")
        if self.dicom and CASE not in self.dicom and PATIENT not in self.dicom:
            raise ValueError("attributes.dicom needs {case} or {patient} in it")
        twice = sorted({*self.columns} & {*self.keywords})
        if twice:
            raise ValueError(f"{', '.join(twice)} is both in columns and in keywords; choose one")
        return self


class Bin(Section):
    """Groups cut from a number; each edge belongs to the group above it."""

    column: Name
    """A metric of the table, such as volume_reference, or a column of the attributes' source."""
    edges: Annotated[tuple[float, ...], Field(min_length=1)]
    """Chosen before looking; rising."""

    @model_validator(mode="after")
    def _rising(self) -> "Bin":
        if list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges must rise, such as [1000, 10000]")
        return self


class AuditInput(Section):
    """Everything that `evenhand audit` needs to know about results from elsewhere."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    title: str = ""
    """Heading of the report."""
    table: TableSource | None = None
    masks: MaskSource | None = None
    attributes: AttributeSource | None = None
    values: dict[Name, dict[str, str]] = Field(default_factory=dict)
    """By attribute: what a value in the source means, such as `sex = { "1" = "F" }`."""
    bins: dict[Name, Bin] = Field(default_factory=dict)
    """New attributes cut from numbers, by name."""
    audit: AuditConfig = AuditConfig()

    @model_validator(mode="after")
    def _one_source(self) -> "AuditInput":
        if (self.table is None) == (self.masks is None):
            raise ValueError("give exactly one of [table] (ready metrics) and [masks]")
        return self
