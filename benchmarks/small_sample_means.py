"""Can the mean of 15 patients have an honest interval where one in ten is missed?

    python benchmarks/small_sample_means.py [--repeats 1000]

Every fifth sample of 15 has no missed patient in it, and looks like one of a model that misses
nobody. Prints, for each way to make a 95% interval, how often it holds the truth and how wide it
is, with 15 patients of each kind of `benchmarks/audit_coverage.py`. Wanted: 93.5% to 96.5% in every
kind.

- studentised: the audit's own.
- empirical likelihood (Owen 1988), with an F instead of a chi-squared quantile.
- betting (Waudby-Smith and Ramdas 2024, hedged capital) and Anderson (1969): hold whatever the
  distribution between 0 and 1 is.
- allowance: the studentised one, whose lower end is moved down to (1 - q) times the mean where that
  is lower, q = 1 - 0.1^(1/n) being a share of failures that n patients do not show with a chance
  of 10%; the upper end is that of a one-sided 96% interval, so that all of the error lies there.
"""

import argparse

import numpy as np
from audit_coverage import KINDS, SEED, holds, seen
from numpy.typing import NDArray
from scipy import optimize, stats

from evenhand_audit.resampling import Figure, mean_interval, resample_groups, standard_error

Floats = NDArray[np.float64]
PATIENTS, MEAN = 15, 0.8


def studentised(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """As the audit's."""
    drawn = resample_groups([Figure(values)], [np.arange(len(values))], 1000, rng)[0]
    low, high = mean_interval(Figure(values), drawn.values[0], drawn.errors[0])
    return max(low, 0.0), min(high, 1.0)


def allowance(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Lower end that allows for failures that were not seen; see above."""
    figure = Figure(values)
    drawn = resample_groups([figure], [np.arange(len(values))], 1000, rng)[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (drawn.values[0] - figure.value) / drawn.errors[0]
    t = t[~np.isnan(t)]
    low = figure.value - float(np.quantile(t, 0.975, method="higher")) * standard_error(figure)
    high = figure.value - float(np.quantile(t, 0.04, method="lower")) * standard_error(figure)
    unseen = 1 - 0.1 ** (1 / len(values))
    return max(min(low, (1 - unseen) * figure.value), 0.0), min(high, 1.0)


def empirical_likelihood(values: Floats, _: np.random.Generator) -> tuple[float, float]:
    """All means whose likelihood ratio is not too small; never beyond the sample's own range."""
    count, centre = len(values), values.mean()
    limit = float(stats.f.ppf(0.95, 1, count - 1))

    def beyond(mean: float) -> float:
        apart = values - mean
        low, high = (1 / count - 1) / apart.max(), (1 / count - 1) / apart.min()
        slope = optimize.brentq(
            lambda each: float((apart / (1 + each * apart)).sum()), low * (1 - 1e-9),
            high * (1 - 1e-9),
        )  # fmt: skip
        return 2 * float(np.log1p(slope * apart).sum()) - limit

    edges = values.min() + 1e-6, values.max() - 1e-6
    ends = [
        edge if beyond(edge) < 0 else float(optimize.brentq(beyond, min(edge, centre),
                                                            max(edge, centre)))
        for edge in edges
    ]  # fmt: skip
    return ends[0], ends[1]


def betting(values: Floats, rng: np.random.Generator) -> tuple[float, float]:
    """Means against which no bettor grows rich: hedged capital with predictable bets."""
    x, grid = rng.permutation(values), np.linspace(0.001, 0.999, 999)
    number = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (number + 1)
    spread = (0.25 + np.cumsum((x - mean) ** 2)) / (number + 1)
    before = np.concatenate([[0.25], spread[:-1]])
    stake = np.sqrt(2 * np.log(2 / 0.05) / (len(x) * before))[:, None]
    up = 1 + np.minimum(stake, 0.5 / grid) * (x[:, None] - grid)
    down = 1 - np.minimum(stake, 0.5 / (1 - grid)) * (x[:, None] - grid)
    wealth = np.maximum(np.cumprod(up, 0), np.cumprod(down, 0)).max(axis=0) / 2
    kept = grid[wealth < 1 / 0.05]
    return (float(kept.min()), float(kept.max())) if len(kept) else (0.0, 1.0)


def anderson(values: Floats, _: np.random.Generator) -> tuple[float, float]:
    """From a band around the empirical distribution (Kolmogorov and Smirnov)."""
    band = float(stats.kstwo.ppf(0.95, len(values)))
    ordered = np.sort(values)
    cdf = np.arange(len(values) + 1) / len(values)
    steps = np.diff(np.concatenate([[0.0], ordered, [1.0]]))
    low = 1 - float((np.minimum(cdf + band, 1) * steps).sum())
    high = 1 - float((np.maximum(cdf - band, 0) * steps).sum())
    return low, high


METHODS = {
    "studentised": studentised,
    "empirical likelihood": empirical_likelihood,
    "betting": betting,
    "Anderson": anderson,
    "allowance": allowance,
}


def main() -> None:
    """Print one Markdown row a method: coverage and mean width by kind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=1000)
    asked = parser.parse_args()
    kinds = [*((name, draw, 1) for name, draw in KINDS.items()),
             ("clustered: 1 to 7 cases a patient", KINDS["Dice, beta(9.6, 2.4)"], 4)]  # fmt: skip
    print("| interval | " + " | ".join(name for name, _, _ in kinds) + " |")
    print("|---|" + "---|" * len(kinds))
    for name, method in METHODS.items():
        cells = []
        for _, draw, cases in kinds:
            rng = np.random.default_rng([SEED, cases])
            held, width = 0, 0.0
            for _ in range(asked.repeats):
                values, _single = seen(draw(rng, PATIENTS, MEAN), cases, PATIENTS, rng)
                low, high = method(values.clip(0, 1), rng)
                held += holds((low, high), MEAN)
                width += high - low
            cells.append(f"{held / asked.repeats:.1%} ({width / asked.repeats:.3f})")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{PATIENTS} patients, {asked.repeats} repeats, seed {SEED}; in brackets: mean width")


if __name__ == "__main__":
    main()
