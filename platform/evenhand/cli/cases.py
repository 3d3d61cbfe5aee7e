"""`evenhand cases|phantom`; `ingest` has a module of its own."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.cli import ingest
from evenhand.cli.tables import new_table, standard_output
from evenhand.progress import steps

if TYPE_CHECKING:
    from evenhand.cases.records import Case
    from evenhand.cases.store import CaseStore

__all__ = ["register"]

_HOSPITALS = ("north", "east", "south", "west")


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
    app.command("phantom")(_phantom)
    ingest.register(app)
    app.command("cases")(_cases)


def _phantom(
    *,
    into: Annotated[Path, typer.Option(help="Folder to make; must be empty or new.")],
    hospitals: Annotated[int, typer.Option(min=1, help="How many hospitals.")] = 4,
    patients: Annotated[int, typer.Option(min=1, help="Patients of each hospital.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Equal seeds make equal files.")] = 0,
    bias_contrast: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Tumour contrast of women, relative to men; 1: fair."),
    ] = 0.45,
    scanner_shift: Annotated[
        float, typer.Option(min=0, help="How far the hospitals' scanners differ; 0: not at all.")
    ] = 1.0,
) -> None:
    """Make synthetic hospitals with a planted subgroup bias, as a BIDS tree.

    The size of the bias is written to phantom_truth.json in the tree.

    Example: evenhand phantom --into phantoms --patients 10 --bias-contrast 0.45
    """
    from evenhand.config import PhantomConfig
    from evenhand.ingest.phantom import TRUTH_FILE, make_phantoms

    names = [*_HOSPITALS, *(f"hospital-{n}" for n in range(5, hospitals + 1))][:hospitals]
    config = PhantomConfig(
        patients=dict.fromkeys(names, patients),
        bias_contrast=bias_contrast,
        scanner_shift=scanner_shift,
    )
    with steps("Making phantoms") as step:
        make_phantoms(config, into, seed=seed, progress=step)
    out = standard_output()
    out.print(f"{hospitals * patients} patients of {', '.join(names)} are in '{into}'.")
    out.print(f"What was planted is in '{into / TRUTH_FILE}'.")
    out.print(f"Next: evenhand ingest {into} --into stores", soft_wrap=True)


def _cases(
    store: Annotated[Path, typer.Argument(help="Folder of one hospital's store.")],
    case_id: Annotated[str | None, typer.Argument(help="Show this case alone.")] = None,
) -> None:
    """List the cases of a store, or show one with its intensities.

    Example: evenhand cases stores/north north001
    """
    from evenhand.cases.store import CaseStore

    opened = CaseStore(store)
    if case_id is None:
        _show_cases(opened)
    else:
        _show_case(opened, opened.case(case_id))


def _show_cases(store: "CaseStore") -> None:
    out = standard_output()
    table = new_table(
        *("case", "sex", "age", "race", "ethnicity", "sequences", "shape", "spacing (mm)"),
        *("tumour voxels", "tumour slices"),
        title=f"Hospital {store.hospital}: {len(store)} cases{', encrypted' if store.key else ''}",
    )
    cases = list(store)
    for case in cases:
        person = case.patient
        table.add_row(
            *(case.case_id, person.sex, _age(person.age_years), person.race, person.ethnicity),
            *(", ".join(case.sequences), *_grid(case), *_tumour(store, case)),
        )
    out.print(table)
    counts = new_table("attribute", "patients", title="Attributes")
    patients = {case.patient.patient_id: case.patient for case in cases}.values()
    for attribute in ("sex", "race", "ethnicity"):
        found = Counter(getattr(patient, attribute) for patient in patients)
        counts.add_row(attribute, ", ".join(f"{k} {n}" for k, n in sorted(found.items())))
    ages = [patient.age_years for patient in patients if patient.age_years is not None]
    span = f"{min(ages):g} to {max(ages):g} years {len(ages)}, " if ages else ""
    counts.add_row("age", f"{span}unknown {len(patients) - len(ages)}")
    out.print(counts)


def _show_case(store: "CaseStore", case: "Case") -> None:
    import numpy as np

    out = standard_output()
    person = case.patient
    shape, spacing = _grid(case)
    voxels, slices = _tumour(store, case)
    record = new_table("field", "value", title=f"Case {case.case_id} of hospital {store.hospital}")
    rows = {"patient": person.patient_id, "sex": person.sex, "age": _age(person.age_years)}
    rows |= {"race": person.race, "ethnicity": person.ethnicity, **person.extra}
    rows |= {"shape": shape, "spacing (mm)": spacing}
    rows |= {"tumour voxels": voxels, "tumour slices": slices, "source": case.source}
    for field, value in rows.items():
        record.add_row(field, value)
    out.print(record)
    names = ("minimum", "1%", "median", "99%", "maximum", "mean", "zero")
    table = new_table("sequence", *names, title="Intensities")
    for sequence, image in store.volumes(case).images.items():
        marks = [*np.percentile(image, [0, 1, 50, 99, 100]), image.mean()]
        zero = f"{100 * float((image == 0).mean()):.0f}%"
        table.add_row(sequence, *(f"{mark:.4g}" for mark in marks), zero)
    out.print(table)


def _grid(case: "Case") -> tuple[str, str]:
    shape = " x ".join(str(size) for size in case.shape)
    return shape, " x ".join(f"{size:.3g}" for size in case.affine.spacing_mm)


def _tumour(store: "CaseStore", case: "Case") -> tuple[str, str]:
    mask = store.volumes(case, sequences=()).mask
    if mask is None:
        return "no mask", "no mask"
    return str(int((mask > 0).sum())), str(int(mask.any(axis=(0, 1)).sum()))


def _age(age_years: float | None) -> str:
    return "unknown" if age_years is None else f"{age_years:g}"
