"""One arm at work: what may be shown of it, its resamples and tests, and the records of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame
from numpy.typing import NDArray

from evenhand.config import AuditConfig
from evenhand_audit.cohort import figure_of, group_order, metrics_of
from evenhand_audit.disclosure import Publication, all_pairs, plan_publication
from evenhand_audit.fairness import (
    equity_scaled_by_std,
    equity_scaled_by_sum,
    skewed_error_ratio,
)
from evenhand_audit.inference import Dealt, Effect, cliffs_delta, permutation_tests
from evenhand_audit.mixed import Adjusted, Covariates, adjusted_gap
from evenhand_audit.power import detectable_gap
from evenhand_audit.rates import most_missed, planning_error, rate_gap_interval, rate_interval
from evenhand_audit.records import (
    FAMILY_LEVEL,
    ArmAudit,
    AttributeAudit,
    Detectable,
    Difference,
    EquityScaled,
    Estimate,
    Family,
    GroupAudit,
    Metric,
    Missed,
    SkewedErrors,
    Summary,
)
from evenhand_audit.resampling import (
    LEVEL,
    Figure,
    Replicates,
    closed_interval,
    gap_interval,
    median_interval,
    resample_groups,
)

__all__ = ["ArmAtWork", "Partition", "prepare_arm"]

EVERYBODY = "everybody"
"""Name of the row of all patients."""

PAIR = " \N{MULTIPLICATION SIGN} "
"""Between the names of two attributes that are crossed."""

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Partition:
    """All patients of an arm in the published groups of one attribute or pair."""

    attribute: str
    crossed: bool
    labels: tuple[str, ...]
    members: tuple[Indices, ...]
    label_of_patient: tuple[str, ...]
    pooled: tuple[str, ...]
    involves_hospital: bool


def prepare_arm(
    names: tuple[str, str],
    cases: pd.DataFrame,
    patients: pd.DataFrame,
    config: AuditConfig,
    earlier: tuple[Sequence[Bools], int] = ((), 0),
) -> "ArmAtWork":
    """Decide what may be shown of an arm and collect its figures.

    Args:
        names: arm and prompt.
        cases: its rows of the prediction table.
        patients: the same by patient.
        config: of the audit.
        earlier: rows of earlier reports and how many of their patients are gone.

    Raises:
        TooCloseError: an earlier report is too near to show anything.
    """
    groups = {name: patients[name].astype(str).tolist() for name in config.attributes}
    orders = {
        name: group_order(name, sorted(set(labels)), config.age_edges)
        for name, labels in groups.items()
    }
    pairs = all_pairs(config.attributes) if config.intersections else []
    publication = plan_publication(
        len(patients),
        groups,
        orders=orders,
        pairs=pairs,
        minimum=config.minimum_group,
        earlier=earlier[0],
        gone=earlier[1],
    )
    partitions = _partitions(publication, groups)
    metrics, incomplete = metrics_of(cases)
    usable = tuple(
        metric for metric in metrics if _has_below(figure_of(patients, metric), partitions)
    )
    left_out = (*incomplete, *(metric.name for metric in metrics if metric not in usable))
    return ArmAtWork(names, cases, patients, usable, left_out, publication, partitions)


def _partitions(
    publication: Publication, groups: Mapping[str, Sequence[str]]
) -> tuple[Partition, ...]:
    found = []
    for name, grouping in publication.single.items():
        label = np.array([grouping.label(group) for group in groups[name]], dtype=object)
        found.append(_partition(name, grouping.labels, label, grouping.pooled, (name,)))
    for pair, cross in publication.pairs.items():
        found.append(
            _partition(PAIR.join(pair), cross.labels, cross.label_of_patient, cross.pooled, pair)
        )
    return tuple(found)


def _partition(
    attribute: str,
    labels: tuple[str, ...],
    label_of_patient: NDArray[np.object_],
    pooled: tuple[str, ...],
    parts: tuple[str, ...],
) -> Partition:
    return Partition(
        attribute=attribute,
        crossed=len(parts) > 1,
        labels=labels,
        members=tuple(np.flatnonzero(label_of_patient == label) for label in labels),
        label_of_patient=tuple(label_of_patient),
        pooled=pooled,
        involves_hospital="hospital" in parts,
    )


def _has_below(figure: Figure, partitions: Sequence[Partition]) -> bool:
    """Whether a rate exists for every published row: no row without a single lesion."""
    if figure.bottom is None:
        return True
    rows = [members for partition in partitions for members in partition.members]
    return bool(figure.bottom.sum() > 0) and all(figure.bottom[row].sum() > 0 for row in rows)


@dataclass(frozen=True, eq=False)
class ArmAtWork:
    """One arm and prompt before it is judged."""

    names: tuple[str, str]
    cases: pd.DataFrame
    patients: pd.DataFrame
    metrics: tuple[Metric, ...]
    incomplete: tuple[str, ...]
    publication: Publication
    partitions: tuple[Partition, ...]

    @property
    def comparisons(self) -> int:
        """Tests that this arm adds to the family."""
        return len(self.metrics) * sum(len(each.labels) > 1 for each in self.partitions)

    def judge(self, config: AuditConfig, family: Family, rng: np.random.Generator) -> ArmAudit:
        """Resample, test and write down; p-values are corrected later, with the whole family's."""
        figures = [figure_of(self.patients, metric) for metric in self.metrics]
        everybody = np.arange(len(self.patients))
        groups = [everybody, *(row for each in self.partitions for row in each.members)]
        drawn = resample_groups(figures, groups, config.resamples, rng)
        found = []
        dealt = self._dealt(figures, family, rng)
        start = 1
        for partition in self.partitions:
            end = start + len(partition.labels)
            compared = dealt.get(partition.attribute)
            judged = _Judged(self, partition, figures, drawn[start:end], compared, family)
            found.append(judged.record())
            start = end
        singles = len(self.publication.single)
        return ArmAudit(
            arm=self.names[0],
            prompt=self.names[1],
            overall=self.row(EVERYBODY, everybody, figures, drawn[0], self._frame(EVERYBODY)),
            empty_masks={
                which: int((self.cases["empty"] == which).sum())
                for which in ("reference", "prediction", "both")
            },
            metrics=self.metrics,
            incomplete=self.incomplete,
            attributes=tuple(found[:singles]),
            intersections=tuple(found[singles:]),
            checks=(),
        )

    def _dealt(
        self, figures: Sequence[Figure], family: Family, rng: np.random.Generator
    ) -> dict[str, Dealt]:
        compared = [each for each in self.partitions if len(each.labels) > 1]
        if not compared:
            return {}
        hospital = np.unique(self.patients["hospital"], return_inverse=True)[1]
        strata = [
            hospital if family.within_hospital and not each.involves_hospital else None
            for each in compared
        ]
        results = permutation_tests(
            figures, [each.members for each in compared], family.permutations, rng, strata
        )
        return {each.attribute: result for each, result in zip(compared, results, strict=True)}

    def _frame(self, label: str) -> MetricFrame:
        return self.frame([label] * len(self.patients))

    def frame(self, groups: Sequence[str]) -> MetricFrame:
        """Every metric by group. What MetricFrame hands over are numbers of patients."""
        functions = {}
        for metric in self.metrics:
            figure = figure_of(self.patients, metric)
            functions[metric.column] = lambda who, _, figure=figure: figure.of(who).value
        numbers = np.arange(len(self.patients))
        return MetricFrame(
            metrics=functions,
            y_true=numbers,
            y_pred=numbers,
            sensitive_features=pd.Series(list(groups), name="group"),
        )

    def row(
        self,
        name: str,
        members: Indices,
        figures: Sequence[Figure],
        drawn: Replicates,
        frame: MetricFrame,
    ) -> GroupAudit:
        """One published row with its intervals."""
        values = frame.by_group.loc[name]
        metrics = {}
        for index, metric in enumerate(self.metrics):
            mine = figures[index].of(members)
            resampled = drawn.values[index], drawn.errors[index]
            value, median = float(values[metric.column]), None
            if metric.parts is None:
                mean = Estimate(value, *closed_interval(mine, resampled, metric.bound))
                ends = median_interval(mine.top)
                median = Estimate(float(np.median(mine.top)), *ends)
            else:
                mean = Estimate(value, *rate_interval(mine))
            metrics[metric.column] = Summary(mean, median)
        cases = int(self.patients["cases"].to_numpy()[members].sum())
        missed = int(self.patients["missed"].to_numpy()[members].sum())
        bound = Missed(missed, most_missed(missed, len(members)))
        return GroupAudit(name, len(members), cases, metrics, bound)


@dataclass(frozen=True, eq=False)
class _Judged:
    """One attribute or pair of an arm, resampled and tested."""

    arm: ArmAtWork
    partition: Partition
    figures: Sequence[Figure]
    drawn: Sequence[Replicates]
    dealt: Dealt | None
    family: Family

    def record(self) -> AttributeAudit:
        frame = self.arm.frame(self.partition.label_of_patient)
        rows = zip(self.partition.labels, self.partition.members, self.drawn, strict=True)
        return AttributeAudit(
            attribute=self.partition.attribute,
            by_group=tuple(
                self.arm.row(name, members, self.figures, drawn, frame)
                for name, members, drawn in rows
            ),
            pooled=self.partition.pooled,
            difference={}
            if self.dealt is None
            else {
                metric.column: self._difference(index, metric, frame, self.dealt)
                for index, metric in enumerate(self.arm.metrics)
            },
            equity_scaled_dice=self._equity_scaled(frame),
            skewed_error_ratio=self._skewed(frame),
        )

    def _difference(
        self, index: int, metric: Metric, frame: MetricFrame, dealt: Dealt
    ) -> Difference:
        values = frame.by_group[metric.column]
        ascending = [str(name) for name in values.sort_values(kind="stable").index]
        top, bottom = ascending[-1], ascending[0]  # two groups, also where all are alike
        best, worst = (top, bottom) if metric.higher_is_better else (bottom, top)
        mine = [self.figures[index].of(members) for members in self.partition.members]
        drawn = [(each.values[index], each.errors[index]) for each in self.drawn]
        low, high = rate_gap_interval(mine) if metric.parts else gap_interval(mine, drawn)
        gap = float(frame.difference()[metric.column])
        ratio = float(values.min() / values.max()) if values.max() > 0 else None
        p_value = float(dealt.p_values[index])
        return Difference(
            best_group=best,
            worst_group=worst,
            gap=Estimate(gap, max(low, -metric.bound), min(high, metric.bound)),
            ratio=ratio,
            worst_again=self._worst_again(index, metric, worst),
            p_value=p_value,
            p_holm=p_value,
            p_fdr=p_value,
            comparisons=self.family.comparisons,
            effect=self._effect(metric, mine, best, worst),
            detectable=self._detectable(mine, metric.bound),
            adjusted=self._adjusted(metric, best, worst),
        )

    def _worst_again(self, index: int, metric: Metric, worst: str) -> float:
        replicates = np.stack([each.values[index] for each in self.drawn], axis=1)
        extreme = replicates.min(axis=1) if metric.higher_is_better else replicates.max(axis=1)
        return float((replicates[:, self.partition.labels.index(worst)] == extreme).mean())

    def _effect(
        self, metric: Metric, mine: Sequence[Figure], best: str, worst: str
    ) -> Effect | None:
        if metric.parts is not None:
            return None
        better, worse = (mine[self.partition.labels.index(name)].top for name in (best, worst))
        return (
            cliffs_delta(better, worse) if metric.higher_is_better else cliffs_delta(worse, better)
        )

    def _detectable(self, mine: Sequence[Figure], bound: float) -> Detectable:
        errors = [planning_error(each) for each in mine]
        counts = [len(each.top) for each in mine]
        pairs = sorted(
            combinations(range(len(mine)), 2),
            key=lambda two: float(np.hypot(errors[two[0]], errors[two[1]])),
        )
        level = FAMILY_LEVEL / self.family.comparisons / len(pairs)
        gaps = [
            min(detectable_gap((errors[i], errors[j]), (counts[i], counts[j]), level), bound)
            for i, j in (pairs[0], pairs[-1])
        ]
        return Detectable(*gaps)

    def _adjusted(self, metric: Metric, best: str, worst: str) -> Adjusted | None:
        if metric.column != "dice" or self.partition.crossed:
            return None
        patients = self.arm.patients
        return adjusted_gap(
            patients["dice"].to_numpy(dtype=np.float64),
            self.partition.label_of_patient,
            (best, worst),
            Covariates(
                hospital=patients["hospital"].to_numpy(dtype=object),
                volume=patients["volume_reference"].to_numpy(dtype=np.float64),
                grade=patients["grade"].to_numpy(dtype=object) if "grade" in patients else None,
            ),
            hospital_is_compared=self.partition.involves_hospital,
            grade_is_compared=self.partition.attribute == "grade",
        )

    def _dice(self, frame: MetricFrame) -> tuple[Floats, Floats, Floats]:
        """Overall, by group, and by group for each deal."""
        assert self.dealt is not None  # noqa: S101 - callers have looked
        overall = np.asarray(frame.overall["dice"], dtype=np.float64)
        means = frame.by_group["dice"].loc[list(self.partition.labels)].to_numpy(dtype=np.float64)
        return overall, means, self.dealt.values[..., 0] + overall

    def _equity_scaled(self, frame: MetricFrame) -> EquityScaled | None:
        if self.dealt is None:
            return None
        overall, means, dealt = self._dice(frame)
        everybody = np.broadcast_to(overall, len(dealt))
        return EquityScaled(
            by_sum=float(equity_scaled_by_sum(overall, means)),
            by_sum_at_random=_middle(equity_scaled_by_sum(everybody, dealt)),
            by_std=float(equity_scaled_by_std(overall, means)),
            by_std_at_random=_middle(equity_scaled_by_std(everybody, dealt)),
        )

    def _skewed(self, frame: MetricFrame) -> SkewedErrors | None:
        if self.dealt is None:
            return None
        _, means, dealt = self._dice(frame)
        ratio = float(skewed_error_ratio(means))
        return SkewedErrors(ratio, _middle(skewed_error_ratio(np.minimum(dealt, 1.0))))


def _middle(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], method="nearest")
    return float(low), float(high)
