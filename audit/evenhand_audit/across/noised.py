"""One hospital's sums with noise: a release under differential privacy, charged to its ledger.

Nothing is suppressed here; noise hides small groups. So which groups are told must not depend on
the patients: all that were named beforehand are told, empty ones too, and whoever is in another
counts nowhere. The number of patients is public, as everywhere in Evenhand (docs/privacy.md). Told
are metrics between 0 and 1 for every patient, Dice and NSD: HD95 has no bound, and a rate of
lesions none on what one patient adds to it.

A patient's value x goes in as y = 2x - 1, from -1 to 1. For each attribute or pair a patient adds 1
to the number of one group, and for everybody and for that group, of each arm and metric, y and y^2.
That vector is never longer than sqrt(P + 2 M (1 + P)) with P attributes and pairs and M metrics of
all arms together, which is the sensitivity.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evenhand import __version__
from evenhand.artifacts import file_sha256, write_atomically
from evenhand.config import AuditConfig
from evenhand.errors import UsageError
from evenhand_audit.across.sums import asked_of, rows_of_hospital, settings_of
from evenhand_audit.arms import PAIR
from evenhand_audit.cohort import age_group_names, patients_of
from evenhand_audit.disclosure import all_pairs, cell_name
from evenhand_audit.ledger_cohort import cohort_of, release_noise

if TYPE_CHECKING:
    from evenhand.privacy.site import Site

__all__ = [
    "NOISED_COLUMNS",
    "NOISED_SCHEMA",
    "NOISED_SCHEMA_VERSION",
    "NoisedGroup",
    "NoisedSums",
    "noised_sums",
    "read_noised",
    "sensitivity",
    "write_noised",
]

NOISED_SCHEMA = "evenhand audit noised sums"
"""What the file says it is."""

NOISED_SCHEMA_VERSION = 1
"""Raised when the layout of the file changes."""

NOISED_COLUMNS = ("dice", "nsd")
"""Metrics that lie between 0 and 1 for every patient of every table."""

KNOWN_GROUPS = {"sex": ("F", "M", "O", "unknown")}
"""Groups that the schema of a table fixes."""

EVERYBODY = ("", "")
"""Attribute and group of the row of everybody."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class NoisedGroup:
    """One group of one arm."""

    arm: str
    prompt: str
    attribute: str
    """Empty for everybody."""
    group: str
    count: float
    """Patients, with noise; of everybody exact."""
    sums: dict[str, tuple[float, float]]
    """By metric the noised sums of y and of y^2."""


@dataclass(frozen=True)
class NoisedSums:
    """All that one hospital tells."""

    hospital: str
    settings: dict[str, Any]
    """Must be the same at all hospitals."""
    patients: int
    privacy: dict[str, Any]
    """`epsilon` of this release, `delta`, `unit`, `accountant`, `noise_multiplier`, and `deviation`
    of the noise on each number."""
    groups: tuple[NoisedGroup, ...]


def sensitivity(partitions: int, metrics: int) -> float:
    """Longest vector that one patient can add.

    Args:
        partitions: attributes and pairs.
        metrics: of all arms together.
    """
    return float(np.sqrt(partitions + 2 * metrics * (1 + partitions)))


def noised_sums(
    path: Path,
    config: AuditConfig,
    *,
    epsilon: float,
    groups: Mapping[str, Sequence[str]],
    hospital: str = "",
    pairs: bool = False,
    site: "Site | None" = None,
    store: Path | None = None,
) -> NoisedSums:
    """Charge one hospital's sums to its ledger, then noise them.

    Args:
        path: prediction table.
        config: attributes and age edges; the minimum is that of the pooled page.
        epsilon: of this release, at the ledger's delta.
        groups: by attribute the groups that are told; of `sex` and `age_group` they are known.
        hospital: whose rows, where the table has several.
        pairs: whether pairs of attributes are told too.
        site: where the ledger lies; None: the hospital's own place.
        store: the hospital's case store, so that its ledger knows patients by their images.

    Raises:
        BudgetError: the grant would be exceeded.
        PolicyError: the site policy lets no table leave, or not with so little noise.
        PrivacyError: nothing was granted.
        UsageError: groups are not known, or arms are of different patients.
    """
    from evenhand.privacy.accounting import ACCOUNTANT, UNIT, default_delta
    from evenhand.privacy.release import release_table
    from evenhand.privacy.site import Site

    config = asked_of(config, pairs=pairs)
    rows, name, meta = rows_of_hospital(path, config, hospital)
    order = _groups(config, groups)
    arms = dict(_arms(rows, config))
    patients = next(iter(arms.values())).index
    cells = _cells(config, order)
    columns = [json.dumps(each) for each in _columns(arms, cells)]
    place = site or Site.of(name)
    ledger = place.ledger()
    grant = ledger.state().grant
    delta = grant.delta if grant else default_delta(len(patients))
    noise = release_noise(epsilon, delta)
    bound = sensitivity(len(cells), len(arms) * len(NOISED_COLUMNS))
    told = release_table(
        ledger,
        place.policy(),
        cohort_of(place, patients, store),
        [list(row) for row in _vectors(arms, cells)],
        columns=columns,
        bound=bound,
        noise_multiplier=noise,
        study="audit",
        purpose=f"noised audit sums of the table {file_sha256(path)[:16]}",
    )
    settings = settings_of(config, rows, meta) | {
        "groups": {each: list(names) for each, names in order.items()},
    }
    privacy = {
        "epsilon": epsilon,
        "delta": delta,
        "unit": UNIT,
        "accountant": ACCOUNTANT.upper(),
        "noise_multiplier": noise,
        "deviation": noise * bound,
    }
    found = tuple(_told(arms, cells, told, len(patients)))
    return NoisedSums(name, settings, len(patients), privacy, found)


def _groups(config: AuditConfig, given: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    known = KNOWN_GROUPS | {"age_group": (*age_group_names(config.age_edges), "unknown")}
    order = {}
    for name in config.attributes:
        if name not in given and name not in known:
            raise UsageError(
                f"Which groups '{name}' has must be said beforehand, or the noise hides less than "
                f"it says. Add --groups {name}=GROUP+GROUP, the same at all hospitals."
            )
        order[name] = tuple(given.get(name, known.get(name, ())))
    return order


def _cells(
    config: AuditConfig, order: Mapping[str, Sequence[str]]
) -> dict[tuple[str, ...], list[tuple[str, ...]]]:
    """Groups of each attribute and pair, each a tuple of one or two."""
    pairs = all_pairs(config.attributes) if config.intersections else []
    wanted = [*((name,) for name in config.attributes), *pairs]
    return {names: list(product(*(order[name] for name in names))) for names in wanted}


def _arms(
    rows: pd.DataFrame, config: AuditConfig
) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Patients of each arm and prompt, all the same, in one order."""
    labels = ["label"] if "label" in rows and len(set(rows["label"])) > 1 else []
    first: list[str] | None = None
    for names, cases in rows.groupby(["arm", "prompt", *labels], sort=False):
        people = patients_of(cases, config.attributes, config.age_edges)
        people = people.set_index("patient").sort_index()
        first = first if first is not None else list(people.index)
        if list(people.index) != first:
            raise UsageError(
                "The arms of the table are of different patients, so one number of patients cannot "
                "stand for all. Tell the arms one by one, or score the same patients."
            )
        yield (str(names[0]), " · ".join(str(each) for each in names[1:])), people


def _columns(
    arms: Mapping[tuple[str, str], pd.DataFrame],
    cells: Mapping[tuple[str, ...], Sequence[tuple[str, ...]]],
) -> Iterator[list[str]]:
    """Names of all numbers, in the order of `_vectors`."""
    places = [(PAIR.join(names), _name(each)) for names, all_ in cells.items() for each in all_]
    yield from (["count", *place] for place in places)
    for arm in arms:
        for column in NOISED_COLUMNS:
            for place in (EVERYBODY, *places):
                yield from ([part, *arm, column, *place] for part in ("y", "y^2"))


def _name(groups: tuple[str, ...]) -> str:
    return cell_name(*groups) if len(groups) == 2 else groups[0]


def _vectors(
    arms: Mapping[tuple[str, str], pd.DataFrame],
    cells: Mapping[tuple[str, ...], Sequence[tuple[str, ...]]],
) -> Floats:
    """What each patient adds, (patients, numbers)."""
    people = next(iter(arms.values()))
    inside = [
        np.logical_and.reduce([people[name].astype(str) == group for name, group in
                               zip(names, each, strict=True)])
        for names, all_ in cells.items()
        for each in all_
    ]  # fmt: skip
    members = np.array(inside, dtype=np.float64).reshape(len(inside), len(people))
    blocks = [members]
    everybody = np.ones((1, len(people)))
    for arm in arms.values():
        for column in NOISED_COLUMNS:
            y = 2 * arm[column].to_numpy(dtype=np.float64).clip(0, 1) - 1
            both = np.stack([y, y**2])  # (2, patients)
            rows = np.concatenate([everybody, members])  # (1 + cells, patients)
            blocks.append((rows[:, None] * both[None]).reshape(-1, len(people)))
    return np.concatenate(blocks).T


def _told(
    arms: Mapping[tuple[str, str], pd.DataFrame],
    cells: Mapping[tuple[str, ...], Sequence[tuple[str, ...]]],
    told: Mapping[str, float],
    patients: int,
) -> Iterator[NoisedGroup]:
    places = [(PAIR.join(names), _name(each)) for names, all_ in cells.items() for each in all_]
    for arm in arms:
        for place in (EVERYBODY, *places):
            count = patients if place == EVERYBODY else told[json.dumps(["count", *place])]
            sums = {
                column: (told[json.dumps(["y", *arm, column, *place])],
                         told[json.dumps(["y^2", *arm, column, *place])])
                for column in NOISED_COLUMNS
            }  # fmt: skip
            yield NoisedGroup(*arm, *place, float(count), sums)


def write_noised(sums: NoisedSums, path: Path) -> None:
    """Write what leaves; it was charged when it was made.

    Raises:
        ResourceError: the file cannot be written.
    """
    record = {
        "schema": NOISED_SCHEMA,
        "schema_version": NOISED_SCHEMA_VERSION,
        "evenhand": __version__,
        **asdict(sums),
    }
    write_atomically(path, f"{json.dumps(record, indent=1, allow_nan=False)}\n".encode())


def read_noised(record: Mapping[str, Any]) -> NoisedSums:
    """Read the record of a file that says it is one of noised sums.

    Raises:
        KeyError, TypeError, ValueError: it is damaged.
    """
    groups = tuple(_group(each) for each in record["groups"])
    privacy = dict(record["privacy"])
    patients = int(record["patients"])
    if not (float(privacy["deviation"]) > 0 and float(privacy["epsilon"]) > 0) or patients < 1:
        raise ValueError
    settings, hospital = dict(record["settings"]), str(record["hospital"])
    return NoisedSums(hospital, settings, patients, privacy, groups)


def _group(each: Mapping[str, Any]) -> NoisedGroup:
    sums = {str(name): (float(one), float(two)) for name, (one, two) in each["sums"].items()}
    arm, prompt, attribute, group = (
        str(each[part]) for part in ("arm", "prompt", "attribute", "group")
    )
    return NoisedGroup(arm, prompt, attribute, group, float(each["count"]), sums)
