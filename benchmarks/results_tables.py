"""Print the tables of a results page from a finished run: numbers only, no patient.

Usage: python benchmarks/results_tables.py runs/lgg > tables.md
"""

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    """Print arms, subgroups of the lead arms, privacy and time as Markdown."""
    run = Path(sys.argv[1])
    report = json.loads((run / "report" / "audit.json").read_text("utf-8"))
    arms, facts = report["audit"]["arms"], report["facts"]["arms"]
    print("## Arms\n\n" + arms_table(arms, facts))
    print("## Each hospital on its own test patients\n\n" + homes_table(arms))
    print("## Subgroups (mean Dice)\n\n" + groups_table(arms))
    print("## Largest gaps\n\n" + gaps_table(arms))
    print("## Privacy\n\n" + privacy_table(facts))
    print("## Time\n\n" + time_table(json.loads((run / "run.json").read_text("utf-8"))))


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def interval(estimate: dict[str, float], digits: int = 3) -> str:
    """A figure with its 95% interval."""
    value, low, high = (f"{estimate[key]:.{digits}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def arms_table(arms: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    """One row an arm and prompt."""
    rows = []
    for arm in arms:
        metrics, fact = arm["overall"]["metrics"], facts[arm["arm"]]
        epsilon = fact["epsilon"]
        rows.append(
            [
                arm["arm"],
                arm["prompt"],
                str(fact["train_patients"]),
                str(arm["overall"]["patients"]),
                interval(metrics["dice"]["mean"]),
                f"{metrics['dice']['median']['value']:.3f}",
                interval(metrics["hd95"]["mean"], 1),
                interval(metrics["nsd"]["mean"]),
                f"{max(e['epsilon'] for e in epsilon.values()):.2f}" if epsilon else "none",
                f"{fact['seconds']:.0f}",
                f"{fact['bytes_moved'] / 1e6:.1f}",
            ]
        )
    head = "Arm,Prompt,Train n,Test n,Mean Dice (95% CI),Median Dice,HD95,NSD,ε,Training s,MB"
    return table(head.split(","), rows)


def leading(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Arms that all hospitals share, each in automatic mode where it has one."""
    shared = [arm for arm in arms if not arm["arm"].startswith("local-")]
    return [arm for arm in shared if arm["prompt"] == "automatic" or "zero-shot" in arm["arm"]]


def homes_table(arms: list[dict[str, Any]]) -> str:
    """A hospital alone beside all together, automatic mode, each on that hospital's patients."""
    dice: dict[str, dict[str, str]] = {}
    for arm in arms:
        for attribute in arm["attributes"] if arm["prompt"] == "automatic" else ():
            for group in attribute["by_group"] if attribute["attribute"] == "hospital" else ():
                name = f"{group['group']} (n={group['patients']})"
                kind = "alone" if arm["arm"] == f"local-{group['group']}" else arm["arm"]
                if not kind.startswith("local-"):  # another hospital's
                    dice.setdefault(name, {})[kind] = interval(group["metrics"]["dice"]["mean"])
    kinds = sorted({kind for own in dice.values() for kind in own})
    rows = [[name, *(own.get(kind, "") for kind in kinds)] for name, own in dice.items()]
    return table(["Hospital", *kinds], rows)


def groups_table(arms: list[dict[str, Any]]) -> str:
    """One row a group, one column an arm: automatic mode where there is one."""
    shown = leading(arms)
    rows: dict[tuple[str, str], list[str]] = {}
    for arm in shown:
        for attribute in arm["attributes"]:
            for group in attribute["by_group"]:
                key = (attribute["attribute"], f"{group['group']} (n={group['patients']})")
                dice = group["metrics"]["dice"]["mean"]
                rows.setdefault(key, []).append(interval(dice))
    head = ["Attribute", "Group"] + [f"{arm['arm']}, {arm['prompt']}" for arm in shown]
    return table(head, [[*key, *cells] for key, cells in rows.items()])


def gaps_table(arms: list[dict[str, Any]]) -> str:
    """Largest gap in mean Dice of each attribute, by arm and prompt."""
    rows = []
    for arm in leading(arms):
        for attribute in arm["attributes"]:
            difference = (attribute["difference"] or {}).get("dice")
            if difference:
                rows.append(
                    [
                        arm["arm"],
                        arm["prompt"],
                        attribute["attribute"],
                        interval(difference["gap"]),
                        difference["worst_group"],
                    ]
                )
    return table(["Arm", "Prompt", "Attribute", "Gap (95% CI)", "Worst group"], rows)


def privacy_table(facts: dict[str, Any]) -> str:
    """Epsilon of each hospital."""
    rows = [
        [arm, name, f"{e['epsilon']:.2f}", f"{e['delta']:.2g}", e["unit"], e["accountant"]]
        for arm, fact in facts.items()
        for name, e in (fact["epsilon"] or {}).items()
    ]
    return table(["Arm", "Hospital", "ε", "δ", "Unit", "Accountant"], rows)


def time_table(record: dict[str, Any]) -> str:
    """Seconds of each stage, scoring included, and the machine."""
    rows = [[stage, f"{seconds:.0f}"] for stage, seconds in record["seconds"].items()]
    rows.append(["all", f"{sum(record['seconds'].values()):.0f}"])
    machine = (
        f"\n{record['cores']} cores ({record['machine']}), Python {record['python']}, "
        f"torch {record['torch']}.\n"
    )
    return table(["Stage", "Seconds"], rows) + machine


if __name__ == "__main__":
    main()
