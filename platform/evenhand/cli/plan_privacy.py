"""`evenhand plan-privacy`: what a promise costs, before anything is promised."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evenhand.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from evenhand.config import ExperimentConfig
    from evenhand.privacy.planner import Plan, PlanRequest, TrustPlan

__all__ = ["register"]

HELP = (
    "Plan a privacy promise: how much noise it needs, and whether a model can come out of it.\n\n"
    "Shows both trust models side by side: local, where each hospital hides its own update, and "
    "secure-sum, where only the sum of all hospitals is ever visible. Nothing is trained and no "
    "budget is used. The expectation is a rule of thumb, not a forecast of Dice.\n\n"
    "Example: evenhand plan-privacy --patients 12 --epsilon 8 --parameters 964\n\n"
    "Example: evenhand plan-privacy --patients 7,20,6,15 --epsilon 8 --parameters 964 "
    "--plot plan.svg\n\n"
    "Example: evenhand plan-privacy --config configs/demo.toml"
)


def register(app: typer.Typer) -> None:
    """Add `plan-privacy` to the root."""
    app.command("plan-privacy", help=HELP)(_plan)


def _plan(
    *,
    patients: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N...]", help="Training patients; one number a hospital, with commas."
        ),
    ] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="Of the promise to each patient. Default: 8.")
    ] = None,
    delta: Annotated[
        float | None,
        typer.Option(help="Default: 1 / (10 N), N the patients who share one noise."),
    ] = None,
    parameters: Annotated[
        int | None, typer.Option(help="How many numbers are trained. Fewer need less noise.")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Chance of a patient to be drawn in a step. Default: 0.5.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Private steps over all rounds. Default: 40.")
    ] = None,
    tolerated: Annotated[
        int | None,
        typer.Option(
            help="Hospitals that may drop out or collude under secure-sum. Default: 1 of three up."
        ),
    ] = None,
    minimum_cohort: Annotated[
        int, typer.Option(min=1, help="Refuse hospitals with fewer training patients.")
    ] = 2,
    config: Annotated[
        Path | None,
        typer.Option(help="Take what is not given here from an experiment's config."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw signal to noise against patients: .png, .svg, .pdf.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--json", help="Write the plan for programs to this file.")
    ] = None,
) -> None:
    """Heavy libraries are imported here, so that `evenhand --help` stays quick."""
    from evenhand.privacy.planner import PlanRequest, make_plan

    asked: dict[str, Any] = {
        "patients": None if patients is None else _counts(patients),
        "epsilon": epsilon,
        "delta": delta,
        "parameters": parameters,
        "sampling_rate": rate,
        "steps": steps,
        "tolerated": tolerated,
    }
    asked = {key: value for key, value in asked.items() if value is not None}
    if config is not None:
        asked = _of_config(config, asked) | asked
    for key in ("patients", "parameters"):
        if key not in asked:
            raise UsageError(
                f"A plan needs --{key}, or a config that says it (--config). "
                "Example: evenhand plan-privacy --patients 12 --epsilon 8 --parameters 964"
            )
    if tolerated is None:  # a config's choice may be for more hospitals than are planned for
        asked["tolerated"] = min(asked.get("tolerated", 1), max(0, len(asked["patients"]) - 2))
    request = PlanRequest(**({"epsilon": 8.0} | asked), minimum_cohort=minimum_cohort)
    plan = make_plan(request)
    if plot is not None:
        from evenhand.cli.plan_plot import draw_plan

        draw_plan(plan, plot)
    if data is not None:
        _write(plan, data)
    _show(plan)
    for written in (plot, data):
        if written is not None:
            typer.echo(f"Written: {written}")


def _counts(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--patients wants whole numbers with commas, such as 7,20,6,15; got '{text}'."
        ) from None


def _of_config(path: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """What an experiment's config says; what costs time only where it was not given."""
    from evenhand.config_files import load_config

    experiment = load_config(path)
    privacy = experiment.privacy
    found: dict[str, Any] = {
        "epsilon": privacy.epsilon,
        "sampling_rate": privacy.sampling_rate,
        "steps": privacy.rounds * privacy.steps_per_round,
        "clip_norm": privacy.clip_norm,
        "tolerated": privacy.tolerated,
    }
    if privacy.delta is not None:
        found["delta"] = privacy.delta
    if "patients" not in asked:
        found["patients"] = _training_patients(experiment)
    if "parameters" not in asked:
        found["parameters"] = _trained_numbers(experiment)
    return found


def _training_patients(experiment: "ExperimentConfig") -> tuple[int, ...]:
    """Patients of each hospital, less those who test."""
    from collections import Counter

    from evenhand.ingest.participants import read_participants

    data = experiment.data
    if data.phantom is not None:
        all_of = dict(data.phantom.patients)
    elif data.source is not None and data.source.is_dir():
        people = {person.patient for person in read_participants(data.source)}
        all_of = dict(Counter(person.hospital for person in people))
    else:
        raise ConfigError(
            f"data.source of the config is not here ('{data.source}'), so its patients cannot "
            "be counted. Give --patients, one number a hospital."
        )
    names = data.hospitals or tuple(sorted(set(all_of) - set(data.left_out)))
    counts = [all_of.get(name, 0) for name in names]
    if min(counts, default=0) < 2:
        raise ConfigError(
            "A hospital of the config has fewer than two patients; training and testing need "
            "two. Leave it out with a reason in data.left_out."
        )
    tests = [min(max(round(n * data.test_fraction), 1), n - 1) for n in counts]
    return tuple(n - test for n, test in zip(counts, tests, strict=True))


def _trained_numbers(experiment: "ExperimentConfig") -> int:
    """Size of what the private arm trains, from the model's shape; no weights are needed."""
    import torch

    from evenhand.model.adapted import AdaptedModel
    from evenhand.model.backbones import Backbone
    from evenhand.model.weights import find

    model = experiment.model
    entry = find(model.backbone)
    with torch.device("meta"):
        backbone = Backbone(entry.name, model.image_size, entry.sha256)
        adapted = AdaptedModel(backbone, model, seed=0)
    chosen = adapted.choose_trainable(experiment.privacy.trainable)
    return sum(each.numel() for each in chosen.values())


def _write(plan: "Plan", path: Path) -> None:
    import json
    from dataclasses import asdict

    from evenhand.artifacts import write_atomically

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(asdict(plan), indent=1) + "\n").encode())


def _show(plan: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    request = plan.request
    out = Console(highlight=False)
    total = sum(request.patients)
    hospitals = len(request.patients)
    where = f"{hospitals} hospitals together" if hospitals > 1 else "one hospital"
    out.print(
        f"{total} training patients at {where}, {request.parameters:,} trained numbers, "
        f"{request.steps} steps, each patient drawn with probability {request.sampling_rate:g}."
    )
    table = Table(title=f"Epsilon {request.epsilon:g} for each patient", title_justify="left")
    for column in ("", "local", "secure-sum"):
        table.add_column(column, justify="left" if not column else "right")
    for name, value in _lines(request):
        table.add_row(name, value(plan.local), value(plan.secure_sum))
    out.print(table)
    other = Table(title="Other promises (noise within about 5%)", title_justify="left")
    for column in ("epsilon", "noise, local", "signal / noise", "noise, secure-sum"):
        other.add_column(column, justify="right")
    other.add_column("signal / noise", justify="right")
    for row in plan.table:
        figures = (*row.local, *row.secure_sum)
        other.add_row(f"{row.epsilon:g}", *(f"{figure:.2f}" for figure in figures))
    out.print(other)
    for sentence in _sentences(plan):
        out.print(sentence, soft_wrap=True)


def _lines(request: "PlanRequest") -> list[tuple[str, Any]]:
    def span(values: tuple[float, ...]) -> str:
        low, high = f"{min(values):.3g}", f"{max(values):.3g}"
        return low if low == high else f"{low} to {high}"

    return [
        ("delta", lambda trust: span(trust.deltas)),
        ("noise multiplier (sigma)", lambda trust: span(trust.noise_multipliers)),
        (
            "hospitals that may drop out or collude",
            lambda trust: "any" if trust.trust == "local" else str(request.tolerated),
        ),
        (
            f"noise on a step, in clipping norms (C = {request.clip_norm:g})",
            lambda trust: f"{trust.expectation.noise_per_step / request.clip_norm:.1f}",
        ),
        ("signal to noise of all steps", lambda trust: f"{trust.expectation.signal_to_noise:.2f}"),
        ("expectation", lambda trust: trust.expectation.verdict),
        (
            "patients needed, in all",
            lambda trust: f"about {_two(trust.expectation.patients_needed)}",
        ),
    ]


def _sentences(plan: "Plan") -> list[str]:
    from evenhand.privacy.planner import UNCERTAINTY, USEFUL

    request = plan.request
    total = sum(request.patients)
    said = [_sentence(total, trust) for trust in (plan.local, plan.secure_sum)]
    if len(request.patients) == 1:
        said = [said[1].replace("With secure-sum, at", "At")]
        said.append("With other hospitals the two trust models differ: give one number each.")
    said.append(
        f"Basis: signal to noise S = sqrt(steps) x rate x patients / (sigma x sqrt(numbers)); at "
        f"S = {USEFUL:g} half of the gain was kept on real patients (one measurement), so the "
        f"numbers of patients may be off by a factor of {UNCERTAINTY:g} either way. No Dice is "
        "promised. More than settings, a start from public data and fewer trained numbers help."
    )
    weakest = max(*plan.local.deltas, *plan.secure_sum.deltas)
    if weakest > 1e-3:
        said.append(
            f"Delta {weakest:.2g} is weak: about the chance with which the promise may fail. "
            "With few patients nothing better is to be had at this usefulness."
        )
    return said


def _sentence(total: int, trust: "TrustPlan") -> str:
    expected = trust.expectation
    needed = _two(expected.patients_needed)
    start = f"With {trust.trust}, at {total} patients"
    if expected.verdict == "no useful model":
        return f"{start} no useful model comes out; about {needed} would be needed."
    if expected.verdict == "doubtful":
        return f"{start} it is doubtful whether a useful model comes out; about {needed} should do."
    return f"{start} a useful model can come out; about {needed} are needed."


def _two(count: int) -> str:
    """Two digits: more would look like knowledge."""
    if count >= 10_000_000:
        return "more than 10,000,000"
    return f"{int(float(f'{count:.2g}')):,}"
