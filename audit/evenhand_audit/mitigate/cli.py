"""`evenhand mitigate`: weights for training, thresholds per group, and whether they helped."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import UsageError
from evenhand_audit.cli import ages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenhand_audit.mitigate.verdict import Trial

__all__ = ["register"]

HELP = "What can be done about a gap: weights, thresholds, and a verdict on whether it helped."

WEIGHTS_HELP = (
    "Write how often each training patient is to be drawn, one table a method.\n\n"
    "PATIENTS is a table of the training patients (such as participants.tsv). With --results, a "
    "prediction table of other patients, methods that follow the loss are there too. Training "
    "takes a table as training.patient_weights. The tables are patient data.\n\n"
    "Example: evenhand mitigate weights participants.tsv --by sex --out weights "
    "--results runs/demo/predictions.csv --arm pooled --prompt automatic"
)

COUNT_HELP = (
    "Count the training patients of each group with noise, for mitigation under privacy.\n\n"
    "The release is charged to the hospital's ledger. Which groups are told must be said "
    "beforehand. Add up the tables of several hospitals, or weigh with your own.\n\n"
    "Example: evenhand mitigate count participants.tsv --by sex --groups F,M,unknown "
    "--hospital north --epsilon 3 --strip-prefix sub- --out counts.csv"
)

THRESHOLDS_HELP = (
    "Choose a threshold of the probability for each group, and say honestly what it brings.\n\n"
    "CONFIG is a config of `evenhand audit` with [masks] and [masks.probabilities]. What is "
    "reported is cross-fitted: patients are judged at thresholds that others chose.\n\n"
    "Example: evenhand mitigate thresholds masks.toml --by sex --out thresholds.csv"
)

JUDGE_HELP = (
    "Say whether a measure helped: the same patients before and after, by group.\n\n"
    "A measure that only makes everybody worse off is called that.\n\n"
    "Example: evenhand mitigate judge before.csv after.csv --by sex"
)

By = Annotated[str, typer.Option(help="Attribute whose groups are to be served alike.")]
Edges = Annotated[str, typer.Option(help="Ages at which age groups are cut, for --by age_group.")]
Minimum = Annotated[int, typer.Option(min=2, help="Smaller groups are put together.")]
Arm = Annotated[str, typer.Option(help="Model, where the table has several.")]
Prompt = Annotated[str, typer.Option(help="Prompt, where the table has several.")]


def register(app: typer.Typer) -> None:
    """Add `mitigate` to the root command."""
    group = typer.Typer(help=HELP, no_args_is_help=True)
    group.command("weights", help=WEIGHTS_HELP)(_weights)
    group.command("count", help=COUNT_HELP)(_count)
    group.command("thresholds", help=THRESHOLDS_HELP)(_thresholds)
    group.command("judge", help=JUDGE_HELP)(_judge)
    app.add_typer(group, name="mitigate")


def _weights(
    patients: Annotated[Path, typer.Argument(metavar="PATIENTS", help="CSV, TSV or Parquet.")],
    *,
    by: By,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the tables.")],
    results: Annotated[
        Path | None, typer.Option(metavar="TABLE", help="Prediction table; not of these patients.")
    ] = None,
    arm: Arm = "",
    prompt: Prompt = "",
    against: Annotated[
        str, typer.Option(help="Column that reweighting makes the group independent of.")
    ] = "hospital",
    counts: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLE", help="Columns group, patients: over all hospitals, or noised."
        ),
    ] = None,
    key: Annotated[str, typer.Option(help="Column of the patient's id.")] = "participant_id",
    strip_prefix: Annotated[str, typer.Option(help="Taken off ids, such as sub-.")] = "",
    age_edges: Edges = "50",
    minimum_group: Minimum = 5,
    step: Annotated[float, typer.Option(min=0.0, help="Of group DRO.")] = 3.0,
    gamma: Annotated[float, typer.Option(min=0.0, help="Of the fair error bound.")] = 1.0,
    largest: Annotated[float, typer.Option(min=1.0, help="Weight of a patient, at most.")] = 5.0,
    private: Annotated[
        bool,
        typer.Option(
            "--private",
            help="Shares for private training (privacy.patient_shares), from noised --counts.",
        ),
    ] = False,
) -> None:
    from evenhand_audit.mitigate.people import (
        count_table,
        group_losses,
        grouped,
        losses_by_group,
        one_arm,
        read_counts,
        read_people,
    )
    from evenhand_audit.mitigate.private import group_shares
    from evenhand_audit.mitigate.tables import weigh, write_weights
    from evenhand_audit.terminal import print_table

    edges = ages(age_edges)
    cases = one_arm(results, arm, prompt) if results is not None else None
    if private:
        if counts is None:
            raise UsageError(
                "Shares follow from noised counts, never from the patients themselves. Give "
                "--counts: evenhand mitigate count"
            )
        alone = grouped(
            patients, by=by, against=by, key=key, edges=edges, strip_prefix=strip_prefix
        )
        known = count_table(counts)
        lost = None if cases is None else losses_by_group(cases, by, edges, list(known))
        shares = group_shares(known, losses=lost, step=step, gamma=gamma, largest=largest)
        _told_shares(dict(zip(alone["patient"], alone[by].astype(str), strict=True)), shares, out)
        return
    people = read_people(
        patients,
        by=by,
        against=against,
        key=key,
        strip_prefix=strip_prefix,
        minimum=minimum_group,
        edges=edges,
    )
    losses = None if cases is None else group_losses(cases, by, edges, people)
    over_all = read_counts(counts, people) if counts is not None else None
    tables = weigh(people, losses=losses, counts=over_all, step=step, gamma=gamma, largest=largest)
    written = write_weights(people, tables, out)
    rows = [
        (each.method, each.group, str(each.patients),
         "" if each.loss is None else f"{each.loss:.3f}", f"{each.weight:.2f}")
        for each in tables.groups
    ]  # fmt: skip
    print_table(("method", "group", "patients", "loss before", "weight"), rows)
    for sentence in tables.left_out:
        typer.echo(f"Left out: {sentence}")
    for path in written:
        typer.echo(f"Table: {path} (patient data: it stays with you)")


def _told_shares(
    groups_of: dict[str, str], shares: "Mapping[str, Mapping[str, float]]", out: Path
) -> None:
    from evenhand_audit.mitigate.private import write_shares
    from evenhand_audit.terminal import print_table

    written = write_shares(groups_of, shares, out)
    rows = [
        (method, group, f"{share:.2f}")
        for method, by_group in shares.items()
        for group, share in by_group.items()
    ]
    print_table(("method", "group", "share"), rows)
    for path in written:
        typer.echo(f"Table: {path} (patient data: it stays with you)")


def _count(
    patients: Annotated[Path, typer.Argument(metavar="PATIENTS", help="CSV, TSV or Parquet.")],
    *,
    by: By,
    groups: Annotated[str, typer.Option(help="All groups, said beforehand, between commas.")],
    hospital: Annotated[str, typer.Option(help="Whose ledger is charged.")],
    epsilon: Annotated[
        float, typer.Option(min=0.01, help="What this spends of each patient's budget.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Columns group, patients.")],
    store: Annotated[
        Path | None,
        typer.Option(help="The case store: the ledger then knows patients by their images."),
    ] = None,
    key: Annotated[str, typer.Option(help="Column of the patient's id.")] = "participant_id",
    strip_prefix: Annotated[str, typer.Option(help="Taken off ids, such as sub-.")] = "",
    age_edges: Edges = "50",
) -> None:
    import pandas as pd

    from evenhand.artifacts import write_atomically
    from evenhand_audit.cli import words
    from evenhand_audit.mitigate.people import grouped
    from evenhand_audit.mitigate.private import counted
    from evenhand_audit.terminal import print_table

    rows = grouped(
        patients, by=by, against=by, key=key, edges=ages(age_edges), strip_prefix=strip_prefix
    )
    told = counted(
        dict(zip(rows["patient"], rows[by].astype(str), strict=True)),
        groups=words(groups),
        by=by,
        epsilon=epsilon,
        hospital=hospital,
        store=store,
    )
    table = pd.DataFrame({"group": list(told), "patients": list(told.values())})
    write_atomically(out, str(table.to_csv(index=False, lineterminator="\n")).encode())
    print_table(("group", "patients, noised"), [(name, str(each)) for name, each in told.items()])
    typer.echo(f"Counts: {out} (epsilon {epsilon:g} is charged to the ledger of {hospital})")


def _thresholds(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Config with [masks].")],
    *,
    by: By,
    out: Annotated[Path, typer.Option(metavar="FILE.csv", help="Thresholds by group.")],
    arm: Arm = "",
    minimum_group: Annotated[
        int, typer.Option(min=2, help="Smaller groups keep the common threshold.")
    ] = 10,
) -> None:
    import numpy as np
    import pandas as pd

    from evenhand.artifacts import write_atomically
    from evenhand.config_files import load_section
    from evenhand_audit.analysis import SEED
    from evenhand_audit.intake_config import AuditInput
    from evenhand_audit.intake_plan import lazy_progress
    from evenhand_audit.mitigate.thresholds import COMMON, GRID, chosen, cross_fitted, sweep_masks
    from evenhand_audit.mitigate.verdict import judge_trial
    from evenhand_audit.terminal import print_table

    told = load_section(config, AuditInput)
    groups_of = _groups_of(told, by)
    assert told.masks is not None  # noqa: S101 - _groups_of has looked
    model = arm or next(iter(told.masks.models))
    with lazy_progress("Sweeping thresholds") as step:
        sweep = sweep_masks(told.masks, model, step)
    groups = [groups_of[patient] for patient in sweep.patients]
    best = chosen(sweep.dice, groups, minimum_group)
    after = cross_fitted(sweep.dice, groups, minimum_group, SEED)
    starts = {
        f"Against {COMMON} for everybody": sweep.dice[:, GRID.index(COMMON)],
        "Against one threshold for everybody, chosen in the same way": cross_fitted(
            sweep.dice, ["everybody"] * len(groups), minimum_group, SEED
        ),
    }
    table = pd.DataFrame({"group": list(best), "threshold": list(best.values())})
    write_atomically(out, str(table.to_csv(index=False, lineterminator="\n")).encode())
    print_table(("group", "threshold"), [(name, f"{each:.2f}") for name, each in best.items()])
    for words, before in starts.items():
        typer.echo(words)
        rng = np.random.default_rng(SEED)
        _show(judge_trial(before, after, groups, resamples=4000, rng=rng))
    typer.echo(f"Thresholds: {out}")


def _groups_of(told: object, by: str) -> dict[str, str]:
    """Group of each patient, through the audit's own intake."""
    from evenhand_audit.cohort import attributes_of, check_attributes, patients_of
    from evenhand_audit.intake import take_in
    from evenhand_audit.intake_config import AuditInput

    assert isinstance(told, AuditInput)  # noqa: S101 - the caller has read it
    if told.masks is None:
        raise UsageError("Thresholds need [masks] with [masks.probabilities]; the config has none.")
    audit = told.audit.model_copy(update={"attributes": (by,)})
    rows = take_in(told.model_copy(update={"audit": audit})).rows
    check_attributes((by,), attributes_of(rows))
    first = rows[rows["arm"] == rows["arm"].iloc[0]]
    people = patients_of(first, (by,), told.audit.age_edges)
    return dict(zip(people["patient"].astype(str), people[by].astype(str), strict=True))


def _judge(
    before: Annotated[Path, typer.Argument(metavar="BEFORE", help="Prediction table.")],
    after: Annotated[Path, typer.Argument(metavar="AFTER", help="Of the same patients.")],
    *,
    by: By,
    arm: Arm = "",
    prompt: Prompt = "",
    age_edges: Edges = "50",
    minimum_group: Minimum = 5,
) -> None:
    import numpy as np

    from evenhand_audit.analysis import SEED
    from evenhand_audit.cohort import attributes_of, check_attributes, patients_of
    from evenhand_audit.disclosure import group_safely
    from evenhand_audit.mitigate.people import one_arm
    from evenhand_audit.mitigate.verdict import judge_trial

    edges = ages(age_edges)
    cases = [one_arm(path, arm, prompt) for path in (before, after)]
    check_attributes((by,), attributes_of(cases[0]))
    tables = [patients_of(each, (by,), edges).set_index("patient") for each in cases]
    if set(tables[0].index) != set(tables[1].index):
        raise UsageError(
            "The two tables are of different patients, so a change could be one of patients. Score "
            "the same patients again, or compare with `evenhand audit compare`."
        )
    first, second = tables[0], tables[1].loc[tables[0].index]
    labels = first[by].astype(str)
    safe = group_safely(dict(Counter(labels)), minimum_group)
    trial = judge_trial(
        first["dice"].to_numpy(dtype=float),
        second["dice"].to_numpy(dtype=float),
        [safe.label(each) for each in labels],
        resamples=4000,
        rng=np.random.default_rng(SEED),
    )
    _show(trial)


def _show(trial: "Trial") -> None:
    from evenhand_audit.records import number
    from evenhand_audit.terminal import print_table

    rows = [
        (each.group, str(each.patients),
         *(f"{number(figure.value)}\n{number(figure.low)} to {number(figure.high)}"
           for figure in (each.before, each.after, each.change)))
        for each in (trial.overall, *trial.groups)
    ]  # fmt: skip
    print_table(("group", "patients", "Dice before", "after", "change"), rows)
    gaps = [
        f"{number(each.value)} ({number(each.low)} to {number(each.high)})"
        for each in (trial.gap_before, trial.gap_after)
    ]
    typer.echo(f"Gap of {trial.best_before} over {trial.worst_before}: {gaps[0]}, then {gaps[1]}.")
    typer.echo(trial.verdict)
