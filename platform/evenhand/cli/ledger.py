"""`evenhand ledger show|verify|grant|export`."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evenhand.errors import LedgerError, UsageError
from evenhand.progress import console

if TYPE_CHECKING:
    from evenhand.privacy.ledger_check import LedgerCopy
    from evenhand.privacy.ledger_state import LedgerState
    from evenhand.privacy.site import Site

__all__ = ["register"]

_group = typer.Typer(
    no_args_is_help=True,
    help="Privacy ledgers: what was spent of what was granted, and whether the record is whole.",
)

Where = Annotated[
    str,
    typer.Argument(
        metavar="HOSPITAL|FOLDER",
        help="A hospital by name, or a folder with its ledger (a run's hospitals/NAME, a copy).",
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        help="Where hospitals have their places. Default: $EVENHAND_HOME, else the user's data.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the root."""
    app.add_typer(_group, name="ledger")


@_group.command("show")
def _show(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[HOSPITAL|FOLDER]",
            help="A hospital by name or a folder with its ledger; none: all hospitals, in short.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    plot: Annotated[
        Path | None,
        typer.Option(help="Draw what was spent against what was granted: .png, .svg or .pdf."),
    ] = None,
) -> None:
    """Show what a hospital has spent of its patients' privacy, and for what.

    Example: evenhand ledger show

    Example: evenhand ledger show north --plot north.svg

    Example: evenhand ledger show runs/demo/hospitals/north
    """
    if where is None:
        if plot is not None:
            raise UsageError("--plot draws one hospital's ledger; name the hospital.")
        _print_all(home)
        return
    copy = _copy(where, home)
    state = copy.state(_own_key(copy.path.parent))
    _print_state(copy, state)
    if plot is not None:
        from evenhand.privacy.ledger_plot import draw_ledger

        draw_ledger(state, plot)
        console.print(f"Drawn: {escape(str(plot))}", soft_wrap=True)


@_group.command("verify")
def _verify(
    where: Where,
    home: Home = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(help="Receipts of a run (hospitals/HOSPITAL/receipts.jsonl); repeatable."),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="A hash that an earlier verify printed and you wrote down; repeatable."),
    ] = None,
) -> None:
    """Check every entry's hash and signature, and that none is missing.

    A ledger and its head that were both put back to an older copy hang together in
    themselves. Only what was kept elsewhere tells: receipts of runs, or a head written down.

    Example: evenhand ledger verify north

    Example: evenhand ledger verify north --receipts runs/demo/hospitals/north/receipts.jsonl
    """
    from evenhand.privacy.keys import fingerprint_of
    from evenhand.privacy.ledger_check import read_receipts

    copy = _copy(where, home)
    own = _own_key(copy.path.parent)
    kept = [one for path in receipts or [] for one in read_receipts(path)]
    faults = copy.faults(own, kept, head or [])
    if faults:
        for fault in faults:
            typer.echo(str(fault))
        raise LedgerError(
            f"'{copy.path}' is not what was written: {len(faults)} faults. Nothing is charged "
            "to it any more. Restore the ledger and its head from a copy."
        )
    known = "the key beside it" if own else "the key that it names; compare the fingerprint"
    typer.echo(f"Whole: {len(copy.entries)} entries, signed by {known}.")
    typer.echo(f"key   {fingerprint_of(copy.public_key)}")
    typer.echo(f"head  {copy.entries[-1].hash}")
    if not kept and not head:
        console.print(
            "That nobody put an older copy back is shown by receipts of runs (--receipts) or by "
            "a head that you wrote down (--head)."
        )


@_group.command("grant")
def _grant(
    hospital: Annotated[str, typer.Argument(help="Its name.")],
    *,
    epsilon: Annotated[
        float | None,
        typer.Option(help="The most that each patient may spend in all.", show_default=False),
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(
            help="Below 1 / patients. Default: as granted before; it can only become smaller.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="Who grants. Default: your login name.", show_default=False)
    ] = None,
    reason: Annotated[str, typer.Option(help="For whoever reads the ledger later.")] = "",
    accept_clock: Annotated[
        bool,
        typer.Option("--accept-clock", help="The clock was set back, and that is right."),
    ] = False,
    home: Home = None,
) -> None:
    """Grant a hospital's patients' budget, in all; the last grant counts.

    Who may grant, and how much, is up to the site policy. What was spent before stays spent.

    Example: evenhand ledger grant north --epsilon 8 --delta 0.001 --by "A. Osei" --reason "pilot"

    Example: evenhand ledger grant north --accept-clock
    """
    from evenhand.privacy.site import Site

    site = Site.of(hospital, home)
    who = by or getpass.getuser()
    if accept_clock:
        site.policy().check_granter(hospital, who)
        _known(site).ledger().accept_clock(who)
    elif epsilon is None:
        raise UsageError("Say how much: --epsilon E, and --delta D the first time.")
    if epsilon is None:
        return
    if delta is None:
        present = _known(site).ledger().state().grant if site.ledger_path.exists() else None
        if present is None:
            raise UsageError(
                "The first grant needs --delta: well below 1 / patients, such as 0.001 for 100."
            )
        delta = present.delta
    site.policy().check_grant(hospital, who, epsilon, delta)
    site.ledger().grant(epsilon, delta, by=who, reason=reason)
    _show(hospital, home)


@_group.command("export")
def _export(
    where: Where,
    out: Annotated[Path, typer.Option(help="File to write; its ending chooses the form.")],
    home: Home = None,
) -> None:
    """Write a ledger for others: .json with hashes and signatures, .csv for a spreadsheet.

    Patients stand in the .json as keyed tags, which nobody can name without the hospital's key.
    How many there are, how many images each has, and who is in several cohorts can be seen. The
    .csv has no tags.

    Example: evenhand ledger export north --out north.json

    Example: evenhand ledger export north --out north.csv
    """
    from evenhand.artifacts import write_atomically

    forms = {".json": "json", ".csv": "csv"}
    form = forms.get(out.suffix.lower())
    if form is None:
        raise UsageError(f"--out wants a name that ends in .json or .csv; got '{out.name}'.")
    copy = _copy(where, home)
    text = copy.to_json() if form == "json" else copy.to_csv()
    write_atomically(out, text.encode())
    console.print(f"Written: {escape(str(out))}", soft_wrap=True)


def _copy(where: str, home: Path | None) -> "LedgerCopy":
    """The ledger of a hospital in the home, or of a folder.

    A name means the hospital, whatever lies in the current directory: ./NAME means the folder.
    """
    from evenhand.privacy.ledger_check import LedgerCopy
    from evenhand.privacy.ledger_file import LEDGER_FILE
    from evenhand.privacy.site import Site

    folder = Path(where)
    own = Site.of(where, home).ledger_path
    if where == folder.name and where != ".." and own.exists():
        return LedgerCopy.read(own)
    for place in (folder, folder / "site"):
        if (place / LEDGER_FILE).exists():
            return LedgerCopy.read(place / LEDGER_FILE)
    if len(folder.parts) != 1:
        raise LedgerError(
            f"There is no ledger in '{where}'. Ledgers of real hospitals lie in their own place, "
            "outside runs; give the hospital's name: evenhand ledger show NAME"
        )
    return LedgerCopy.read(own)


def _own_key(folder: Path) -> str | None:
    """The public key (hex) beside a ledger; None beside a copy."""
    from evenhand.privacy.keys import KEY_FILE, HospitalKey

    return HospitalKey.open(folder, make=False).public if (folder / KEY_FILE).exists() else None


def _known(site: "Site") -> "Site":
    if not site.ledger_path.exists():
        raise LedgerError(f"Hospital {site.hospital} has no ledger at '{site.ledger_path}'.")
    return site


def _print_all(home: Path | None) -> None:
    from evenhand.home import evenhand_home
    from evenhand.privacy.ledger_check import LedgerCopy
    from evenhand.privacy.ledger_file import LEDGER_FILE
    from evenhand.privacy.ledger_plot import spent_now

    place = home or evenhand_home()
    paths = sorted(place.glob(f"hospitals/*/{LEDGER_FILE}"))
    if not paths:
        raise LedgerError(
            f"There is no ledger in '{place}'. A private run makes one for each hospital, and "
            "so does: evenhand ledger grant HOSPITAL --epsilon E --delta D"
        )
    table = Table("hospital", "epsilon spent", "granted", "delta", "charges", box=None)
    for path in paths:
        copy = LedgerCopy.read(path)
        if copy.faults(_own_key(path.parent)):
            name = escape(path.parent.name)
            table.add_row(name, "[red]damaged[/]", "", "", "see evenhand ledger verify")
            continue
        state = copy.state()
        grant = state.grant
        table.add_row(
            escape(state.hospital),
            f"{spent_now(state):.3f}" if grant else "",
            f"{grant.epsilon:g}" if grant else "nothing",
            f"{grant.delta:g}" if grant else "",
            str(len(state.charges)),
        )
    Console().print(table)
    console.print(f"Folder: {escape(str(place))}", soft_wrap=True)


def _print_state(copy: "LedgerCopy", state: "LedgerState") -> None:
    from evenhand.privacy.keys import fingerprint_of
    from evenhand.privacy.ledger_plot import spent_now

    out = Console()
    name = escape(state.hospital)
    kind = " (phantoms: no person is behind them)" if state.synthetic else ""
    out.print(f"[bold]Hospital {name}[/]{kind}")
    grant = state.grant
    if grant is None:
        out.print("Nothing was granted, so nothing can be spent.")
    else:
        spent = spent_now(state)
        share = 100 * spent / grant.epsilon
        by = f" by {escape(grant.by)}" if grant.by else ""
        out.print(
            f"Spent: epsilon {spent:.3f} of {grant.epsilon:g} ({share:.0f}%) at delta "
            f"{grant.delta:g}, for the patient who was used most; granted {grant.at[:10]}{by}."
        )
    sizes = {digest: len(members) for digest, members in state.cohorts.items()}
    table = Table("study", "release", "cohort", "patients", "charges", "steps", "noise", "last")
    table.box, table.pad_edge = None, False
    for line in _studies(state, sizes):
        table.add_row(*line)
    if state.charges:
        out.print(table)
    for trust in sorted({one.trust for one in state.charges} - {"local"}):
        studies = sorted({one.study or one.purpose for one in state.charges if one.trust == trust})
        out.print(f"[bold]{escape(', '.join(studies))}[/]: {escape(trust)}.", soft_wrap=True)
    console.print(f"Key: {fingerprint_of(copy.public_key)}", soft_wrap=True)
    console.print(f"File: {escape(str(copy.path))}", soft_wrap=True)


def _studies(state: "LedgerState", sizes: dict[str, int]) -> list[tuple[str, ...]]:
    """Charges that differ in their purpose alone, on one line."""
    groups: dict[tuple[str, str, str | None, str], list[int]] = {}
    last: dict[tuple[str, str, str | None, str], str] = {}
    for one in state.charges:
        noise = f"{one.mechanism.noise_multiplier:.3g} at rate {one.mechanism.sampling_rate:g}"
        key = (one.study or one.purpose, one.release, one.cohort, noise)
        groups.setdefault(key, []).append(one.mechanism.steps)
        last[key] = one.at[:16].replace("T", " ")
    lines: list[tuple[str, ...]] = []
    for key, steps in groups.items():
        study, release, cohort, noise = key
        patients = str(sizes[cohort]) if cohort else "all"
        name = cohort[:8] if cohort else "all"
        lines.append(
            (
                escape(study),
                release,
                name,
                patients,
                str(len(steps)),
                str(sum(steps)),
                noise,
                last[key],
            )
        )
    return lines
