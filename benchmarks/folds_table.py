"""The folds of benchmarks/model_folds.py as one prediction table, for `evenhand audit`.

Every patient is predicted by an adapter that was trained without that patient's fold.

    python benchmarks/model_folds.py runs/folds runs/rows --row adapter
    python benchmarks/folds_table.py runs/folds runs/rows adapter few-15 --out runs/folds.csv
    evenhand audit configs/audit-lgg.toml --out report --set table.path=runs/folds.csv

The table is patient data. The predicted volume is counted within 10 voxels of both masks.
"""

import argparse
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from model_tables import LOGITS

from evenhand.artifacts import write_prediction_table
from evenhand.cases.records import Case
from evenhand.experiment.layout import HospitalHome, RunFolder


def main() -> None:
    """Write the table and say what it holds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder with the stores")
    parser.add_argument("folds", type=Path, help="where model_folds.py left its files")
    parser.add_argument("rows", nargs="+", help="rows of it, each an arm of the table")
    parser.add_argument("--out", type=Path, required=True, help="prediction table (CSV)")
    asked = parser.parse_args()
    cases = {
        case.case_id: (home, case)
        for home in RunFolder(asked.run).hospitals()
        for case in home.store()
    }
    rows = [row for name in asked.rows for row in _rows(asked.folds, name, cases)]
    write_prediction_table(asked.out, rows, {"experiment": "folds"})
    table = pd.DataFrame(rows)
    print(table.groupby(["arm", "prompt"])["dice"].agg(["size", "mean"]).round(3))


def _rows(
    folds: Path, name: str, cases: dict[str, tuple[HospitalHome, Case]]
) -> Iterator[dict[str, Any]]:
    for path in sorted(folds.glob(f"{name}-*.json")):
        if re.fullmatch(rf"{re.escape(name)}-\d+", path.stem):
            for found in json.loads(path.read_text("utf-8"))["cases"]:
                yield _row(found, name, *cases[found["case"]])


def _row(found: dict[str, Any], arm: str, home: HospitalHome, case: Case) -> dict[str, Any]:
    mask = home.store().volumes(case, ()).mask
    counts = found["histogram"][0]
    predicted = sum(count for count, low in zip(counts, LOGITS, strict=False) if low >= -1e-9)
    patient = asdict(case.patient)
    return {
        "arm": arm,
        "prompt": found["prompt"],
        "case": case.case_id,
        "patient": patient["patient_id"],
        "units": "voxel",
        "nsd_tolerance": 2.0,
        "volume_reference": float(0 if mask is None else mask.sum()),
        "volume_predicted": float(predicted),
        "empty": "none" if predicted else "prediction",
        **{key: patient[key] for key in ("hospital", "sex", "age_years", "race", "ethnicity")},
        **{key: found[key] for key in ("dice", "hd95", "nsd")},
    }


if __name__ == "__main__":
    main()
