"""Writes the report of the experiments: Markdown, plots and the cards it was made from."""

import json
from dataclasses import asdict
from pathlib import Path

import matplotlib
from data import KINDS
from figures import BATCHES, Cards, Entry, Figure
from tables import SEPARATE, TABLES, control

matplotlib.use("svg")
from matplotlib import pyplot as plt  # noqa: E402  the backend is chosen first

# The same figures give the same file.
plt.rcParams["svg.hashsalt"] = "espalier"
SVG = {"Date": None, "Creator": None}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(figure: Figure) -> str:
    return figure.text(100)


def adaptivity(cards: Cards, row: str) -> list[str]:
    """Whether gates look at their input."""
    gain = cards.figure(row, "gates", "shuffle_gain")
    paths, top = cards.figure(row, "gates", "distinct_paths"), cards.figure(row, "gates", "top_path_share")
    constant = control(row)
    over_constant = percent(cards.accuracy(row).minus(cards.accuracy(constant))) if constant in cards.rows else ""
    return [paths.text(digits=1), percent(top), percent(gain), over_constant]


ADAPTIVITY = ["paths", "top path, %", "over shuffled", "over constant"]


def policies(cards: Cards) -> str:
    rows = [
        [row, *(percent(cards.accuracy(row, batch)) for batch in BATCHES), percent(cards.accuracy(row)), percent(cards.over_batches(row))]
        for row in cards.rows
    ]
    accuracy = table(["policy", *(f"B = {batch}" for batch in BATCHES), "per sample", "best - worst B"], rows)
    rows = [
        [row, *(cards.macs(row, batch).text(digits=3) for batch in BATCHES), cards.macs(row).text(digits=3), *adaptivity(cards, row)]
        for row in cards.rows
    ]
    macs = table(["policy", *(f"F at {batch}" for batch in BATCHES), "per sample", *ADAPTIVITY], rows)
    return f"Accuracy, %:\n\n{accuracy}\n\nHard MACs over dense, and what the gates do:\n\n{macs}"


def methods(cards: Cards) -> str:
    rows = [
        [
            row.rsplit("-", 1)[1],
            row.rsplit("-", 1)[0],
            percent(cards.accuracy(row)),
            cards.macs(row).text(digits=3),
            cards.figure(row, "macs", "static_ratio").text(digits=3),
            *[cards.figure(row, "gates", "distinct_paths").text(digits=1), percent(cards.figure(row, "gates", "shuffle_gain"))],
        ]
        for row in cards.rows
    ]
    return table(["target", "method", "accuracy, %", "F", "F, static", "paths", "over shuffled"], rows)


def frontier(cards: Cards) -> str:
    rows = []
    for budget in SEPARATE:
        for row in cards.rows:
            name = "the gates see the budget" if row == "seen" else f"trained for {row.rsplit('-', 1)[1]}"
            if row == f"separate-{budget}":
                name = "trained for it alone"
            elif row != "seen":
                name += ", threshold moved"
            figures = [cards.at_budget(row, budget, value) for value in ("accuracy", "effective_ratio", "shared_ratio", "distinct_paths")]
            accuracy, alone, together, paths = figures
            rows.append([f"{budget}", name, percent(accuracy), alone.text(digits=3), together.text(digits=3), paths.text(digits=1)])
    return table(["budget", "model", "accuracy, %", "F", "F at 64", "paths"], rows)


def recipes(cards: Cards) -> str:
    rows = [
        [row, percent(cards.accuracy(row)), cards.macs(row).text(digits=3), cards.macs(row, 256).text(digits=3), *adaptivity(cards, row)]
        for row in cards.rows
    ]
    return table(["recipe", "accuracy, %", "F", "F at 256", *ADAPTIVITY], rows)


def varied(cards: Cards) -> str:
    rows = []
    for row in cards.rows:
        of_kinds = [(cards.figure(row, "by_kind", kind, "accuracy"), cards.figure(row, "by_kind", kind, "effective_ratio")) for kind in KINDS]
        rows.append([row, *(text for accuracy, macs in of_kinds for text in (percent(accuracy), macs.text(digits=3)))])
    kinds = table(["recipe", *(text for kind in KINDS for text in (f"{kind}, %", f"F, {kind}"))], rows)
    return f"{recipes(cards)}\n\nBy the kind of image:\n\n{kinds}"


def claims(sections: dict[str, Cards]) -> str:
    """Each claim, the paired difference that it is about, and whether the seeds bear it out."""
    rows = []

    def claim(text: str, difference: Figure) -> None:
        rows.append([text, f"{percent(difference)} points", difference.verdict()])

    found = sections["policies"]
    if {"recursive", "whole"} <= set(found.rows):
        for row in found.rows:
            if row not in ("recursive", "constant"):
                for batch in (256, 1):
                    difference = found.accuracy("recursive", batch).minus(found.accuracy(row, batch))
                    claim(f"recursive is better than {row} at B = {batch} [paper]", difference)
        claim(
            "recursive varies less over the inference batch than whole [paper]",
            found.over_batches("whole").minus(found.over_batches("recursive")),
        )
    of_kinds = sections["varied"]
    for cards, name, where in (
        (found, "recursive", ""),
        (found, "whole", ""),
        (of_kinds, "base", " on images of three kinds"),
        (of_kinds, "chosen", " on images of three kinds"),
    ):
        if name in cards.rows:
            claim(f"{name}{where}: gates are worth more than the same patterns shuffled", cards.figure(name, "gates", "shuffle_gain"))
            if "constant" in cards.rows:
                claim(f"{name}{where}: gates are worth more than constant ones", cards.accuracy(name).minus(cards.accuracy("constant")))
    for row in of_kinds.rows if "chosen" in of_kinds.rows else []:
        if row in ("base", "static"):
            difference = of_kinds.accuracy("chosen").minus(of_kinds.accuracy(row))
            claim(f"chosen on images of three kinds: it is better than {row}", difference)
    found = sections["methods"]
    for row in found.rows:
        method, budget = row.rsplit("-", 1)
        unified = f"unified-{budget}"
        if method != "unified" and unified in found.rows:
            source = " [paper]" if method in ("static", "dynamic") else ""
            claim(f"unified is better than {method} at {budget}{source}", found.accuracy(unified).minus(found.accuracy(row)))
    found = sections["frontier"]
    for budget in SEPARATE:
        for row in found.rows if "seen" in found.rows else []:
            if row != "seen":
                own = row == f"separate-{budget}"
                other = "a model of its own" if own else f"moving the threshold of the model of {row.rsplit('-', 1)[1]}"
                difference = found.at_budget("seen", budget, "accuracy").minus(found.at_budget(row, budget, "accuracy"))
                claim(f"at {budget}, seeing the budget is better than {other}", difference)
    return table(["claim", "mean difference ± spread over the seeds", "verdict"], rows) if rows else "No table was run that a claim is about."


def plot_policies(cards: Cards, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4))
    for row in cards.rows:
        means = [100 * cards.accuracy(row, batch).mean for batch in BATCHES]
        spreads = [100 * cards.accuracy(row, batch).spread for batch in BATCHES]
        axes.errorbar(BATCHES, means, yerr=spreads, marker="o", capsize=2, label=row)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("inference batch, deciding together")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    save(figure, path)


def plot_methods(cards: Cards, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4))
    names = dict.fromkeys(row.rsplit("-", 1)[0] for row in cards.rows)
    for name in names:
        own = [row for row in cards.rows if row.rsplit("-", 1)[0] == name]
        macs = [cards.macs(row).mean for row in own]
        axes.errorbar(
            macs,
            [100 * cards.accuracy(row).mean for row in own],
            yerr=[100 * cards.accuracy(row).spread for row in own],
            marker="o",
            capsize=2,
            label=name,
        )
    axes.set_xlabel("hard MACs over dense")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    save(figure, path)


def plot_frontier(cards: Cards, path: Path) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4))
    budgets = [at["budget"] for at in next(iter(cards.by_row.values()))[0]["frontier"]]
    for row in cards.rows:
        found = [cards.at_budget(row, budget, "accuracy") for budget in budgets]
        macs = [cards.at_budget(row, budget, "effective_ratio").mean for budget in budgets]
        label = "gates see the budget" if row == "seen" else f"trained for {row.rsplit('-', 1)[1]}, threshold moved"
        means, spreads = [100 * at.mean for at in found], [100 * at.spread for at in found]
        axes.errorbar(macs, means, yerr=spreads, marker="o", capsize=2, label=label)
    axes.set_xlabel("hard MACs over dense")
    axes.set_ylabel("accuracy, %")
    axes.legend()
    save(figure, path)


def save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata=SVG)
    plt.close(figure)


def merged(kept: list[Entry], new: list[Entry]) -> list[Entry]:
    """A table that was made again takes the place of what was there of it."""
    again = {entry.table for entry in new}
    return [entry for entry in kept if entry.table not in again] + new


def origins(sections: dict[str, Cards]) -> str:
    rows = [[f"`{name}`", f"`{command}`", commit, machine] for name, cards in sections.items() for command, commit, machine in sorted(cards.origins)]
    return table(["table", "command", "commit", "machine"], rows)


def write(out: Path, new: list[Entry]) -> None:
    """Writes report.md, the plots and cards.json into `out`. Tables that are there already and were not made now are kept."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "cards.json"
    kept = [Entry(**entry) for entry in json.loads(path.read_text())] if path.exists() else []
    entries = merged(kept, new)
    sections = {name: Cards(entries, name) for name in TABLES}
    parts = [
        "# The paper's claims at a small scale",
        "[README.md](../README.md) says what each table is and how to read it. Figures are means over the seeds ± their standard deviation.",
        origins(sections),
        "## What holds here",
        claims(sections),
    ]
    dense = sections["dense"]
    if dense.rows:
        found = table(["set", "accuracy, %"], [[row, percent(dense.accuracy(row))] for row in dense.rows])
        parts += ["## The dense models that all others start from", found]
    for name, title, text, plot in (
        ("policies", "How the training batch is cut into groups", policies, plot_policies),
        ("methods", "Unified against its parts and baselines", methods, plot_methods),
        ("frontier", "One model at many budgets", frontier, plot_frontier),
        ("recipes", "What makes gates look at their input", recipes, None),
        ("varied", "The chosen recipe where images are of three kinds", varied, None),
    ):
        if not sections[name].rows:
            continue
        parts += [f"## {title}", text(sections[name])]
        if plot:
            plot(sections[name], out / f"{name}.svg")
            parts.append(f"![{title}]({name}.svg)")
    (out / "report.md").write_text("\n\n".join(parts) + "\n")
    path.write_text(json.dumps([asdict(entry) for entry in entries], indent=1) + "\n")
