"""`evenhand attack`: measure a privacy promise instead of trusting it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evenhand.errors import PrivacyError, UsageError

if TYPE_CHECKING:
    from evenhand.privacy.accounting import Mechanism
    from evenhand_audit.attack.canaries import CanaryAudit
    from evenhand_audit.attack.reconstruction import Reconstruction
    from evenhand_audit.attack.report import AttackReport, Target

__all__ = ["register"]

HELP = (
    "Attack a privacy promise: canary patients, membership inference, reconstruction.\n\n"
    "With RUN, the adapters of a finished run are attacked, and phantoms under its noise. Without, "
    "phantoms under the promise that the options describe. --self-test only checks that the code "
    "does what the accountant counts on; exit status 1 where it does not. Nothing is charged to "
    "any ledger, and a run is only read.\n\n"
    "Example: evenhand attack runs/demo\n\n"
    "Example: evenhand attack --epsilon 8 --patients 40 --out attacked\n\n"
    "Example: evenhand attack --self-test"
)


def register(app: typer.Typer) -> None:
    """Add `attack` to the root command."""
    app.command("attack", help=HELP)(_attack)


def _attack(
    *,
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Folder of a finished run.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the report. Default: RUN/attack, or attack."),
    ] = None,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Only check the code; about ten seconds.")
    ] = False,
    epsilon: Annotated[float, typer.Option(help="Of the promise, without RUN.")] = 8.0,
    patients: Annotated[int, typer.Option(min=2, help="Training patients, without RUN.")] = 40,
    rate: Annotated[float, typer.Option(help="Sampling rate, without RUN.")] = 0.5,
    steps: Annotated[int, typer.Option(min=1, help="Private steps, without RUN.")] = 20,
    canaries: Annotated[
        int, typer.Option(min=10, help="Made-up patients; more can prove more.")
    ] = 400,
    models: Annotated[
        int, typer.Option(min=4, help="Models for membership inference, without RUN.")
    ] = 16,
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.9999, help="Of the proven epsilon.")
    ] = 0.95,
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    if self_test:
        if run is not None:
            raise UsageError("--self-test checks the code and takes no run; leave one out.")
        _self_test()
        return
    from evenhand.experiment.layout import RunFolder
    from evenhand_audit.attack.report import write_attack

    with _working() as tell:
        if run is not None:
            report = _on_run(run, _Effort(canaries, models, confidence), tell)
        else:
            report = _on_phantoms(
                _PhantomPromise(patients, epsilon, rate, steps),
                _Effort(canaries, models, confidence),
                tell,
            )
        folder = out or (RunFolder(run).attack_path.parent if run else Path("attack"))
        index = write_attack(report, folder)
    _show(report)
    typer.echo(f"Report: {index}\nData:   {folder / 'attack.json'}")


def _self_test() -> None:
    from rich.console import Console

    from evenhand_audit.attack.checks import FALSE_ALARM, Check
    from evenhand_audit.attack.wiring import self_test

    console = Console(highlight=False)

    def show(check: Check) -> None:
        mark = "[green]passed[/]" if check.passed else "[bold red]FAILED[/]"
        console.print(f"{mark}  [bold]{check.name}[/]: {check.finding}", soft_wrap=True)

    checks = self_test(show)
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise PrivacyError(
            f"The installed code does not keep its promise ({', '.join(failed)}). Do not train "
            "with it. A correct one fails a check about once in a million runs: run it again to "
            "be sure."
        )
    typer.echo(f"All {len(checks)} checks passed. False alarms: at most {FALSE_ALARM:g} a check.")


@dataclass(frozen=True)
class _Effort:
    """How hard to try."""

    canaries: int
    models: int
    confidence: float


@dataclass(frozen=True)
class _PhantomPromise:
    """A promise to phantoms, where no run is given."""

    patients: int
    epsilon: float
    rate: float
    steps: int


def _on_run(folder: Path, effort: _Effort, tell: Callable[[str], None]) -> "AttackReport":
    from evenhand.experiment.layout import RunFolder
    from evenhand_audit.attack.report import AttackReport, Target
    from evenhand_audit.attack.run_folder import attack_arms, promise_of

    run = RunFolder(folder)
    promise = promise_of(run)
    target = Target(
        name=f"{run.config().name}, hospital {promise.hospital}",
        epsilon=promise.epsilon,
        delta=promise.delta,
        patients=promise.patients,
        phantoms=run.config().data.phantom is not None,
    )
    tell("membership inference on the run's adapters")
    membership = attack_arms(run, on_arm=lambda arm: tell(f"membership inference: {arm}"))
    canaries, undone = _under_noise(target, promise.mechanism, effort, tell)
    return AttackReport(target, canaries, membership, undone)


def _on_phantoms(
    promise: _PhantomPromise, effort: _Effort, tell: Callable[[str], None]
) -> "AttackReport":
    from evenhand.privacy.accounting import Mechanism, default_delta, noise_for
    from evenhand.privacy.planner import PlanRequest
    from evenhand_audit.attack.membership import attack_phantoms
    from evenhand_audit.attack.report import AttackReport, Target

    PlanRequest(  # refuses what no promise can be
        patients=(promise.patients,),
        epsilon=promise.epsilon,
        parameters=1,
        sampling_rate=promise.rate,
        steps=promise.steps,
    )
    delta = default_delta(promise.patients)
    noise = noise_for(promise.epsilon, delta, promise.rate, promise.steps)
    mechanism = Mechanism(promise.rate, noise, promise.steps)
    membership = {}
    for name, private in (("without noise", False), ("with the promised noise", True)):
        tell(f"membership inference on phantoms {name}")
        membership[name] = attack_phantoms(
            mechanism, patients=promise.patients, models=effort.models, private=private
        )
    target = Target("phantoms", promise.epsilon, delta, promise.patients, phantoms=True)
    canaries, undone = _under_noise(target, mechanism, effort, tell)
    return AttackReport(target, canaries, membership, undone)


def _under_noise(
    target: "Target", mechanism: "Mechanism", effort: _Effort, tell: Callable[[str], None]
) -> "tuple[CanaryAudit, tuple[Reconstruction, ...]]":
    """What is measured on phantoms under the noise of a promise."""
    from evenhand_audit.attack.canaries import AUDIT_DELTA, audit_in_one_run
    from evenhand_audit.attack.reconstruction import reconstruct

    tell("canary patients")
    audit = audit_in_one_run(
        mechanism,
        canaries=effort.canaries,
        delta=min(AUDIT_DELTA, target.delta),
        confidence=effort.confidence,
    )
    tell("reconstruction from one update")
    return audit, (reconstruct(0.0), reconstruct(mechanism.noise_multiplier))


def _show(report: "AttackReport") -> None:
    from rich.console import Console
    from rich.table import Table

    from evenhand_audit.attack.report import verdict_of

    console = Console(highlight=False)
    verdict, sentence = verdict_of(report)
    colour = "green" if verdict == "held" else "bold red"
    console.print(f"[{colour}]{verdict.upper()}[/]  {sentence}", soft_wrap=True)
    table = Table(title="Who took part?", title_justify="left")
    for column in ("attacked", "attack", "AUC (95%)", "found at 1%", "found at 0.1%"):
        table.add_column(column)
    for name, attacks in report.membership.items():
        for each in attacks:
            points = [
                f"{point.found:.1%}" + ("" if point.measurable else " (too few)")
                for point in each.points
            ]
            auc = f"{each.auc:.3f} ({each.auc_low:.3f} to {each.auc_high:.3f})"
            table.add_row(name, each.attack, auc, *points)
    console.print(table)
    for found in report.reconstruction:
        noise = "no noise" if found.noise_multiplier == 0 else "the promised noise"
        console.print(
            f"One update with {noise}: likeness {found.likeness:.2f} (without the update "
            f"{found.likeness_of_guess:.2f}), right patient named in {found.named:.0%} of "
            f"{found.updates} (guessing {1 / found.gallery:.0%}).",
            soft_wrap=True,
        )


@contextmanager
def _working() -> Iterator[Callable[[str], None]]:
    from evenhand.progress import progress_bar

    with progress_bar() as bar:
        task = bar.add_task("attacking", total=None)
        yield lambda what: bar.update(task, description=what)
