"""`evenhand audit why` and `evenhand audit cohort`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COHORT_HELP", "WHY_HELP", "cohort", "why"]

WHY_HELP = (
    "Say what a gap may come from: the patients who drive it, and what is left inside strata.\n\n"
    "Strata are thirds of the reference volume, hospitals, and every further attribute of the "
    "table; of a run also thirds of the contrast of lesion against surroundings, and scanners. The "
    "list of patients is patient data; look at their cases in the review page. None of "
    "this is a proof of a cause.\n\n"
    "--explain DIR makes maps of where the model of a run looked, in the cases that drive the gap "
    "most: a piece of the slice is hidden, and the map shows how much of the proposed tumour goes. "
    "Each is made in two ways; how far the two agree is its stability.\n\n"
    "Example: evenhand audit why predictions.csv --by sex --arm pooled --prompt automatic "
    "--out drivers.csv"
)

COHORT_HELP = (
    "Hold the patients of a cohort against a reference population: who is missing?\n\n"
    "PATIENTS is a table such as participants.tsv, REFERENCE has the columns group and share. "
    "Groups under the minimum are put together.\n\n"
    "Example: evenhand audit cohort participants.tsv population.csv --by sex"
)


def why(
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="Folder of a run, or a table.")],
    *,
    by: Annotated[str, typer.Option(help="Attribute whose gap is looked into.")],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Patients who drive the gap.")],
    arm: Annotated[str, typer.Option(help="Model, where the table has several.")] = "",
    prompt: Annotated[str, typer.Option(help="Prompt, where the table has several.")] = "",
    age_edges: Annotated[str, typer.Option(help="Ages at which age groups are cut.")] = "50",
    minimum_group: Annotated[
        int, typer.Option(min=3, help="Groups with fewer patients are passed over.")
    ] = 5,
    explain: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Maps of the cases that drive the gap; of a run."),
    ] = None,
    explain_cases: Annotated[int, typer.Option(min=1, help="How many cases get a map.")] = 4,
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    import numpy as np

    from evenhand_audit.cli import ages
    from evenhand_audit.cohort import attributes_of, check_attributes, patients_of
    from evenhand_audit.explain.why import drivers_of, gap_of, strata_of, thirds, write_why
    from evenhand_audit.intake_plan import run_table
    from evenhand_audit.mitigate.people import one_arm
    from evenhand_audit.records import number
    from evenhand_audit.terminal import print_table
    from evenhand_audit.words import attribute_name

    if explain is not None and not given.is_dir():
        raise UsageError("--explain needs the folder of a run, where the model and its cases are.")
    cases = one_arm(run_table(given) if given.is_dir() else given, arm, prompt)
    known = attributes_of(cases)
    check_attributes((by,), known)
    people = patients_of(cases, known, ages(age_edges))
    dice = people["dice"].to_numpy(dtype=np.float64)
    gap = gap_of(dice, list(people[by]), minimum_group)
    drivers = drivers_of(dice, gap)
    write_why(drivers, people, cases, by, out)
    typer.echo(f"{gap.worst} lies {gap.value:.3f} below {gap.best} in mean Dice.")
    halved = (drivers["gap_without"] <= gap.value / 2).to_numpy()
    if halved.any():
        count = int(halved.argmax()) + 1
        whose = "patient" if count == 1 else f"{count} patients"
        typer.echo(f"Without the {whose} who drive it most, half of the gap would be gone.")
    rows = []
    volume = thirds(people["volume_reference"].to_numpy(dtype=np.float64))
    kinds = {"reference volume": volume} | {name: list(people[name]) for name in known}
    if given.is_dir():
        kinds |= _seen(given, cases, people)
    for name, strata in kinds.items():
        if name == by or len(set(strata)) < 2:
            continue
        found, whole = strata_of(dice, gap, strata)
        rows += [
            (attribute_name(name), each.name, f"{each.best_patients} / {each.worst_patients}",
             number(each.gap), f"{number(each.low)} to {number(each.high)}")
            for each in (*found, *([whole] if whole else []))
        ]  # fmt: skip
    print_table(("strata of", "stratum", "patients", "gap", "95% interval"), rows)
    typer.echo(f"Drivers: {out} (patient data: it stays with you)")
    if explain is not None:
        order = [str(people["patient"].iloc[place]) for place in drivers["position"]]
        _explain(given, cases, order, explain, explain_cases)


def _seen(given: Path, cases: "pd.DataFrame", people: "pd.DataFrame") -> dict[str, list[str]]:
    """Strata from the images of a run; says how Dice goes with contrast on the way."""
    import numpy as np

    from evenhand.experiment.layout import RunFolder
    from evenhand_audit.explain.images import by_patient, looks_of, rank_correlation
    from evenhand_audit.explain.why import thirds
    from evenhand_audit.records import number

    run = RunFolder(given)
    if not run.split_path.is_file():  # a table in a folder, without the cases
        return {}
    looks = by_patient(looks_of(run, cases["case"].astype(str)), cases)
    looks = looks.reindex(people["patient"])
    dice = people["dice"].to_numpy(dtype=np.float64)
    volume = people["volume_reference"].to_numpy(dtype=np.float64)
    for name, values in (("reference volume", volume), ("contrast", looks["contrast"].to_numpy())):
        rho, count = rank_correlation(values, dice)
        if np.isfinite(rho):
            typer.echo(f"Dice against {name}: rank correlation {number(rho)} ({count} patients).")
    strata = {}
    known = looks["contrast"].notna().to_numpy()
    if known.any():
        third = iter(thirds(looks["contrast"].to_numpy()[known]))
        strata["contrast"] = [next(third) if each else "unknown" for each in known]
    scanners = list(looks["scanner"].fillna("").replace("", "unknown"))
    return strata | ({"scanner": scanners} if len(set(scanners)) > 1 else {})


def _explain(
    given: Path, cases: "pd.DataFrame", patients: list[str], out: Path, count: int
) -> None:
    from evenhand.experiment.layout import RunFolder
    from evenhand_audit.explain.maps import explain_cases
    from evenhand_audit.explain.occlusion import STABLE
    from evenhand_audit.terminal import print_table

    if set(cases["prompt"]) != {"automatic"}:
        raise UsageError("Maps are of the automatic mode; choose --prompt automatic.")
    wanted = [
        str(case)
        for patient in patients
        for case in cases["case"][cases["patient"].astype(str) == patient]
    ][:count]
    found = explain_cases(RunFolder(given), str(cases["arm"].iloc[0]), wanted, out)
    rows = [
        (each.case, str(one.slice_number), f"{one.stability:.2f}",
         f"{one.inside:.0%}", f"{one.area:.0%}")
        for each in found
        for one in [each.explanation]
    ]  # fmt: skip
    print_table(("case", "slice", "stability", "importance in tumour", "tumour's area"), rows)
    shaky = sum(not each.explanation.stability >= STABLE for each in found)
    if shaky:
        typer.echo(
            f"{shaky} of {len(found)} maps changed with how they were made: do not read them."
        )
    typer.echo(f"Maps: {out} (patient data: they stay with you)")


def cohort(
    patients: Annotated[Path, typer.Argument(metavar="PATIENTS", help="CSV, TSV or Parquet.")],
    reference: Annotated[Path, typer.Argument(metavar="REFERENCE", help="Columns group, share.")],
    *,
    by: Annotated[str, typer.Option(help="Attribute that is compared.")],
    key: Annotated[str, typer.Option(help="Column of the patient's id.")] = "participant_id",
    age_edges: Annotated[str, typer.Option(help="Ages at which age groups are cut.")] = "50",
    minimum_group: Annotated[
        int, typer.Option(min=2, help="Groups with fewer patients are put together.")
    ] = 5,
) -> None:
    """Imports as above."""
    from evenhand_audit.cli import ages
    from evenhand_audit.explain.representation import read_reference, representation
    from evenhand_audit.mitigate.people import grouped
    from evenhand_audit.terminal import print_table

    people = grouped(patients, by=by, against="", key=key, edges=ages(age_edges))
    found = representation(list(people[by]), read_reference(reference), minimum_group)
    rows = [
        (each.group, str(each.patients), f"{each.share:.1%}", f"{each.low:.1%} to {each.high:.1%}",
         f"{each.reference:.1%}", f"{each.ratio:.2f}", each.verdict)
        for each in found
    ]  # fmt: skip
    print_table(
        ("group", "patients", "share", "95% interval", "population", "ratio", "verdict"), rows
    )
