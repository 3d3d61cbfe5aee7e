"""A run folder as the review page reads it: its arms, proposed masks and hospitals' stores."""

import csv
import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from evenhand.artifacts import file_sha256
from evenhand.cases.records import Case
from evenhand.cases.store import CaseStore
from evenhand.errors import DataError, UsageError
from evenhand.experiment.layout import RunFolder

__all__ = ["PREFERRED_ARMS", "ReviewRun", "days_between"]

PREFERRED_ARMS = ("federated", "federated-private", "pooled")
"""Which arm is reviewed when none is named: the first of these that has masks."""


@dataclass(frozen=True)
class ReviewRun:
    """A finished run and the arm whose masks are reviewed. `open` checks both."""

    folder: Path
    arm: str

    @classmethod
    def open(cls, folder: Path, arm: str | None = None) -> "ReviewRun":
        """Open a run folder for review of one arm (None: the preferred one).

        Raises:
            UsageError: there is no such folder or no such arm; says what there is.
            DataError: the run has no masks or no case stores.
        """
        if not folder.is_dir():
            raise UsageError(
                f"There is no run folder '{folder}'. Make one with "
                "`evenhand run configs/demo.toml`, or name the one that `evenhand run` printed."
            )
        arms = _arms_with_masks(folder)
        if not arms:
            raise DataError(
                f"'{folder}' has no proposed masks (arms/ARM/masks); let "
                "`evenhand run` finish first."
            )
        if arm is None:
            arm = next((name for name in PREFERRED_ARMS if name in arms), arms[0])
        if arm not in arms:
            raise UsageError(
                f"'{folder}' has no masks of an arm '{arm}'. Choose with --arm one of: "
                f"{', '.join(arms)}."
            )
        run = cls(folder, arm)
        if run._config.get("data", {}).get("labels"):
            raise UsageError(
                f"'{folder}' finds several labels (data.labels); review knows one. Look at "
                f"the masks in arms/{arm}/masks with a viewer of yours."
            )
        if not run.stores:
            raise DataError(
                f"'{folder}' has no case stores (hospitals/HOSPITAL/store); "
                "name a folder that `evenhand run` wrote."
            )
        return run

    @cached_property
    def stores(self) -> dict[str, CaseStore]:
        """Case store of each hospital, by hospital name."""
        folders = sorted((self.folder / "hospitals").glob("*/store"))
        stores = [CaseStore(folder) for folder in folders]
        return {store.hospital: store for store in stores}

    @cached_property
    def hospital_of(self) -> dict[str, str]:
        """Hospital of each case that has a proposed mask, by case id.

        Raises:
            DataError: a mask belongs to no case, or to cases of two hospitals.
        """
        found: dict[str, str] = {}
        for case_id in self.case_ids():
            hospitals = [name for name, store in self.stores.items() if case_id in store]
            if len(hospitals) != 1:
                where = " and ".join(hospitals) if hospitals else "no hospital"
                raise DataError(
                    f"The mask of case '{case_id}' in arms/{self.arm}/masks belongs to {where}; "
                    "it must belong to one. Run `evenhand run` again."
                )
            found[case_id] = hospitals[0]
        return found

    @property
    def database(self) -> Path:
        """The SQLite file with the decisions of this run."""
        return RunFolder(self.folder).review_path

    @cached_property
    def _config(self) -> dict[str, Any]:
        try:
            config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return config if isinstance(config, dict) else {}

    @cached_property
    def backbone(self) -> str:
        """Name of the backbone that proposed the masks; empty where the run does not say."""
        model = self._config.get("model")
        return str(model.get("backbone", "")) if isinstance(model, dict) else ""

    @cached_property
    def adapter_sha256(self) -> str:
        """Hash of the arm's adapter file; empty where the arm has none."""
        path = RunFolder(self.folder).arm(self.arm).adapter_path
        return file_sha256(path) if path.is_file() else ""

    @cached_property
    def uncertainty_of(self) -> dict[str, float]:
        """Uncertainty by case id, where the prediction table has a column of that name."""
        try:
            with RunFolder(self.folder).predictions_path.open(encoding="utf-8", newline="") as file:
                rows = [row for row in csv.DictReader(file) if row.get("arm") == self.arm]
            # The first way of prompting is the one whose masks are reviewed.
            first = rows[0].get("prompt") if rows else None
            found = {r["case"]: float(r["uncertainty"]) for r in rows if r.get("prompt") == first}
        except (OSError, KeyError, TypeError, ValueError):
            return {}
        return {case: value for case, value in found.items() if math.isfinite(value)}

    @cached_property
    def units(self) -> Literal["mm", "voxel"]:
        """Whether spacings are true millimetres; `voxel` where the config says or is missing."""
        data = self._config.get("data")
        return "mm" if isinstance(data, dict) and data.get("units") == "mm" else "voxel"

    def case_ids(self) -> list[str]:
        """Cases that have a proposed mask of this arm, sorted."""
        return RunFolder(self.folder).arm(self.arm).mask_case_ids()

    def mask_path(self, case_id: str) -> Path:
        """Where the proposed mask of a case lies."""
        return RunFolder(self.folder).arm(self.arm).mask_path(case_id)

    def probability_path(self, case_id: str) -> Path:
        """Where the model's probabilities for a case lie, if the run has kept them."""
        return RunFolder(self.folder).arm(self.arm).probability_path(case_id)

    def image_file(self, case: Case, sequence: str) -> bytes:
        """Return an image of a case as a gzipped NIfTI file."""
        return self.stores[case.patient.hospital].image_file(case, sequence)

    def others(self, case: Case) -> list[Case]:
        """Other studies of a case's patient at its hospital.

        Earlier ones come first, the latest of them at the top; then later ones, and those whose
        time nobody knows.
        """
        store = self.stores[case.patient.hospital]
        ids = self._studies[case.patient.hospital, case.patient.patient_id]
        found = [store.case(case_id) for case_id in ids if case_id != case.case_id]

        def order(other: Case) -> tuple[int, int, str]:
            days = days_between(case, other)
            if days is None:
                return 2, 0, other.case_id
            return int(days > 0), abs(days), other.case_id

        return sorted(found, key=order)

    @cached_property
    def _studies(self) -> dict[tuple[str, str], list[str]]:
        """Case ids by hospital and patient; what is ingested later is seen at the next start."""
        found: dict[tuple[str, str], list[str]] = {}
        for name, store in self.stores.items():
            for case in store:
                found.setdefault((name, case.patient.patient_id), []).append(case.case_id)
        return found

    def case(self, case_id: str) -> Case:
        """Return the record of a case that has a proposed mask.

        Raises:
            DataError: there is no such case, or its record is damaged.
        """
        if case_id not in self.hospital_of:
            raise DataError("There is no such case among the proposed masks of this run.")
        return self.stores[self.hospital_of[case_id]].case(case_id)


def days_between(case: Case, other: Case) -> int | None:
    """How many days another study came after a case (before: negative); None: nobody knows.

    Dates are shifted, by the same number of days for all studies of a patient.
    """
    try:
        own, theirs = (
            datetime.strptime(one.acquisition["study_date_shifted"], "%Y%m%d").replace(tzinfo=UTC)
            for one in (case, other)
        )
    except (KeyError, ValueError):
        return None
    return (theirs - own).days


def _arms_with_masks(folder: Path) -> list[str]:
    return [arm.path.name for arm in RunFolder(folder).arms() if arm.mask_case_ids()]
