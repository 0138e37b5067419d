"""What is read off the report cards: means and spreads over seeds, and paired differences. Pure."""

from dataclasses import dataclass
from statistics import fmean, stdev

BATCHES = (256, 64, 32, 8, 2, 1)


@dataclass(frozen=True)
class Figure:
    """A value of each seed."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.values)

    @property
    def spread(self) -> float:
        """Standard deviation over the seeds; 0 of one."""
        return stdev(self.values) if len(self.values) > 1 else 0.0

    def text(self, scale: float = 1.0, digits: int = 2) -> str:
        spread = f" ± {scale * self.spread:.{digits}f}" if len(self.values) > 1 else ""
        return f"{scale * self.mean:.{digits}f}{spread}"

    def minus(self, other: "Figure") -> "Figure":
        """Differences seed by seed."""
        return Figure(tuple(a - b for a, b in zip(self.values, other.values, strict=True)))

    def verdict(self) -> str:
        """Whether a difference that is claimed to be positive is: of one sign over all seeds, or not shown."""
        if len(self.values) < 2:
            return "one seed shows nothing"
        if min(self.values) > 0:
            return "holds here"
        return "does not hold here" if max(self.values) <= 0 else "not shown: the seeds disagree"


@dataclass(frozen=True)
class Entry:
    """The card of a run, and where it is from."""

    table: str
    row: str
    seed: int
    command: str
    commit: str
    machine: str
    card: dict


class Cards:
    """The cards of one table."""

    def __init__(self, entries: list[Entry], table: str) -> None:
        self.by_row: dict[str, list[dict]] = {}
        self.origins: set[tuple[str, str, str]] = set()
        for entry in sorted(entries, key=lambda entry: entry.seed):
            if entry.table == table:
                self.by_row.setdefault(entry.row, []).append(entry.card)
                self.origins.add((entry.command, entry.commit, entry.machine))

    @property
    def rows(self) -> list[str]:
        return list(self.by_row)

    def figure(self, row: str, *path: str) -> Figure:
        values = []
        for card in self.by_row[row]:
            value = card
            for name in path:
                value = value[name]
            values.append(float(value))
        return Figure(tuple(values))

    def accuracy(self, row: str, batch: int | None = None) -> Figure:
        """In shared mode at an inference batch, or per sample."""
        return self.figure(row, "accuracy", "per_sample") if batch is None else self.figure(row, "accuracy", "shared", str(batch))

    def macs(self, row: str, batch: int | None = None) -> Figure:
        """Hard MACs over those of the dense model."""
        if batch is None:
            return self.figure(row, "macs", "effective_ratio")
        dense = self.figure(row, "macs", "dense").values
        found = self.figure(row, "macs", "by_batch", str(batch)).values
        return Figure(tuple(a / b for a, b in zip(found, dense, strict=True)))

    def at_budget(self, row: str, budget: float, name: str) -> Figure:
        """What a model gives at one of its calibrated budgets."""
        values = []
        for card in self.by_row[row]:
            values += [float(at[name]) for at in card["frontier"] if at["budget"] == budget]
        return Figure(tuple(values))

    def over_batches(self, row: str) -> Figure:
        """Accuracy at the best inference batch minus that at the worst."""
        by_batch = [self.accuracy(row, batch).values for batch in BATCHES]
        return Figure(tuple(max(seed) - min(seed) for seed in zip(*by_batch, strict=True)))
