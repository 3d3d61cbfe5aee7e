"""The audit itself: a prediction table in, records out.

Estimates come from fairlearn's MetricFrame over patients, intervals from `resampling`, what may be
shown from `disclosure`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from numpy.typing import NDArray

from evenhand.config import AuditConfig
from evenhand.errors import DataError
from evenhand_audit.cohort import check_attributes, group_order, patients_of
from evenhand_audit.disclosure import group_safely
from evenhand_audit.records import (
    METRICS,
    ArmAudit,
    AttributeAudit,
    Audit,
    Difference,
    EquityScaled,
    Estimate,
    GroupAudit,
    Metric,
    Summary,
    Withheld,
)
from evenhand_audit.resampling import (
    LEVEL,
    Resamples,
    gap_interval,
    generator_for,
    mean_interval,
    median_interval,
    resample,
    shuffled_group_means,
)

__all__ = ["SEED", "audit_table", "equity_scaled_by_std", "equity_scaled_by_sum"]

SEED = 20240717
"""Start of all resampling, so that the same table gives the same report."""

Floats = NDArray[np.float64]
COLUMNS = [metric.column for metric in METRICS]


def audit_table(table: pd.DataFrame, config: AuditConfig, *, seed: int = SEED) -> Audit:
    """Judge every arm and prompt of a prediction table.

    Args:
        table: as `evenhand.artifacts.read_prediction_table` returns it.
        config: attributes, age edges, minimum group, resamples. The tolerance of NSD is the
            table's own.
        seed: of the resampling.

    Raises:
        DataError: no arm has enough patients, or a patient has two values of an attribute.
        UsageError: an attribute is not one of a table, or is named twice.
    """
    check_attributes(config.attributes)
    arms: list[ArmAudit] = []
    withheld: list[Withheld] = []
    for (arm, prompt), cases in table.groupby(["arm", "prompt"], sort=False):
        patients = patients_of(cases, config.attributes, config.age_edges)
        if len(patients) < config.minimum_group:
            withheld.append(Withheld(str(arm), str(prompt)))
            continue
        arms.append(_audit_arm((str(arm), str(prompt)), cases, patients, config, seed))
    if not arms:
        raise DataError(
            f"The table holds {table['patient'].nunique()} patients, and no arm reaches the "
            f"{config.minimum_group} that a figure must stand for. Score more patients, or lower "
            "audit.minimum_group if small groups may be shown."
        )
    return Audit(
        arms=tuple(arms),
        withheld=tuple(withheld),
        units=str(table["units"].iloc[0]),
        nsd_tolerance=float(table["nsd_tolerance"].iloc[0]),
        minimum_group=config.minimum_group,
        resamples=config.resamples,
        seed=seed,
        age_edges=tuple(config.age_edges),
    )


def equity_scaled_by_sum(overall: Floats, groups: Floats) -> Floats:
    """I / (1 + sum over groups of |I - I_g|): FairSeg, Tian et al., ICLR 2024.

    Args:
        overall: I, mean over all patients, (...).
        groups: I_g, mean of each group, (..., groups).
    """
    scaled: Floats = overall / (1 + np.abs(groups - overall[..., None]).sum(axis=-1))
    return scaled


def equity_scaled_by_std(overall: Floats, groups: Floats) -> Floats:
    """I / (1 + std of the group means): FairMedFM, Jin et al., NeurIPS 2024.

    The standard deviation is the population's (divided by the number of groups), as in that
    project's code. Arguments as in `equity_scaled_by_sum`.
    """
    scaled: Floats = overall / (1 + groups.std(axis=-1))
    return scaled


def _audit_arm(
    names: tuple[str, str],
    cases: pd.DataFrame,
    patients: pd.DataFrame,
    config: AuditConfig,
    seed: int,
) -> ArmAudit:
    arm, prompt = names
    values = patients[COLUMNS].to_numpy(dtype=np.float64)
    everybody = resample(values, config.resamples, generator_for(seed, arm, prompt))
    centre = {
        metric.column: _centre(patients, metric, ["everybody"] * len(patients)).overall
        for metric in METRICS
    }
    return ArmAudit(
        arm=arm,
        prompt=prompt,
        overall=_group("everybody", patients, everybody, centre),
        empty_masks={
            which: int((cases["empty"] == which).sum())
            for which in ("reference", "prediction", "both")
        },
        attributes=tuple(
            _audit_attribute(attribute, patients, config, names, seed)
            for attribute in config.attributes
        ),
    )


def _audit_attribute(
    attribute: str,
    patients: pd.DataFrame,
    config: AuditConfig,
    names: tuple[str, str],
    seed: int,
) -> AttributeAudit:
    counts = {str(group): int(n) for group, n in patients[attribute].value_counts().items()}
    order = group_order(attribute, list(counts), config.age_edges)
    grouping = group_safely({group: counts[group] for group in order}, config.minimum_group)
    label = patients[attribute].map(grouping.label)
    members = {name: patients[label == name] for name in grouping.labels}
    drawn = {
        name: resample(
            member[COLUMNS].to_numpy(dtype=np.float64),
            config.resamples,
            generator_for(seed, *names, attribute, name),
        )
        for name, member in members.items()
    }
    frames = {metric.column: _centre(patients, metric, list(label)) for metric in METRICS}
    comparable = len(members) > 1
    return AttributeAudit(
        attribute=attribute,
        by_group=tuple(
            _group(
                name,
                member,
                drawn[name],
                {column: frame.by_group.loc[name] for column, frame in frames.items()},
            )
            for name, member in members.items()
        ),
        pooled=grouping.pooled,
        difference={
            metric.column: _difference(index, metric, frames[metric.column], members, drawn)
            for index, metric in enumerate(METRICS)
            if comparable
        },
        equity_scaled_dice=_equity_scaled(
            frames["dice"],
            members,
            config.resamples,
            generator_for(seed, *names, attribute, "shuffled"),
        )
        if comparable
        else None,
    )


def _centre(patients: pd.DataFrame, metric: Metric, groups: Sequence[str]) -> MetricFrame:
    """Mean and median by group; the metric of a case stands where a prediction would."""
    return MetricFrame(
        metrics={
            "mean": lambda _, scores: float(np.mean(scores)),
            "median": lambda _, scores: float(np.median(scores)),
        },
        y_true=patients[metric.column],
        y_pred=patients[metric.column],
        sensitive_features=pd.Series(groups, name="group", index=patients.index),
    )


def _group(
    name: str,
    members: pd.DataFrame,
    drawn: Resamples,
    centre: Mapping[str, "pd.Series[float]"],
) -> GroupAudit:
    metrics = {}
    for index, metric in enumerate(METRICS):
        values = members[metric.column].to_numpy(dtype=np.float64)
        figures = centre[metric.column]
        metrics[metric.column] = Summary(
            mean=Estimate(float(figures["mean"]), *mean_interval(values, drawn.means[:, index])),
            median=Estimate(
                float(figures["median"]), *median_interval(len(values), drawn.medians[:, index])
            ),
        )
    return GroupAudit(name, len(members), int(members["cases"].sum()), metrics)


def _difference(
    index: int,
    metric: Metric,
    frame: MetricFrame,
    members: Mapping[str, pd.DataFrame],
    drawn: Mapping[str, Resamples],
) -> Difference:
    means = frame.by_group["mean"]
    top, bottom = str(means.idxmax()), str(means.idxmin())
    best, worst = (top, bottom) if metric.higher_is_better else (bottom, top)
    low, high = gap_interval(
        [member[metric.column].to_numpy(dtype=np.float64) for member in members.values()],
        [(each.means[:, index], each.standard_errors[:, index]) for each in drawn.values()],
    )
    replicates = np.stack([each.means[:, index] for each in drawn.values()], axis=1)
    extreme = replicates.min(axis=1) if metric.higher_is_better else replicates.max(axis=1)
    again = replicates[:, list(drawn).index(worst)] == extreme
    return Difference(
        best_group=best,
        worst_group=worst,
        gap=Estimate(
            float(frame.difference()["mean"]), max(low, -metric.bound), min(high, metric.bound)
        ),
        worst_again=float(again.mean()),
    )


def _equity_scaled(
    frame: MetricFrame,
    members: Mapping[str, pd.DataFrame],
    resamples: int,
    rng: np.random.Generator,
) -> EquityScaled:
    overall = np.asarray(frame.overall["mean"], dtype=np.float64)
    means = frame.by_group["mean"].loc[list(members)].to_numpy(dtype=np.float64)
    values = np.concatenate([member["dice"].to_numpy() for member in members.values()])
    dealt = shuffled_group_means(
        values, [len(member) for member in members.values()], resamples, rng
    )
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    everybody = np.broadcast_to(overall, len(dealt))
    by_sum, by_std = (
        np.quantile(definition(everybody, dealt), tails)
        for definition in (equity_scaled_by_sum, equity_scaled_by_std)
    )
    return EquityScaled(
        by_sum=float(equity_scaled_by_sum(overall, means)),
        by_sum_at_random=(float(by_sum[0]), float(by_sum[1])),
        by_std=float(equity_scaled_by_std(overall, means)),
        by_std_at_random=(float(by_std[0]), float(by_std[1])),
    )
