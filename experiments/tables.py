"""Which jobs each table is made of. Pure: the same arguments give the same runs.

A run is base.toml with some fields replaced, for one seed. Runs of two tables whose jobs are the same are trained once.
"""

from dataclasses import dataclass, field

SEEDS = (1, 2, 3)
TARGET = 0.4
BUDGETS = (0.3, 0.4, 0.5)

# Every micro-batch has 128 samples, so `random` draws up to 64 of them, as the paper does.
POLICIES = {
    "whole": "whole",
    "uniform-32": {"uniform": 32},
    "uniform-8": {"uniform": 8},
    "random-1-64": {"random": {"lo": 1, "hi": 64}},
    "recursive": "recursive",
}

METHODS = {
    "unified": {"compress.mode": "unified"},
    "static": {"compress.mode": "static", "compress.static_target": None},
    "dynamic": {"compress.mode": "dynamic", "compress.static_target": None},
    "sequential": {"compress.mode": "sequential"},
    "random-skip": {"compress.mode": "dynamic", "compress.static_target": None, "compress.gate.decide": "random"},
    "constant": {"compress.gate.decide": "constant"},
}

# The range that one model is dialled over, and where separate models are trained. All five calibrated budgets of
# a model are of its card's frontier: 0.4, 0.5, .. 0.8.
DIALLED = {"lo": 0.4, "hi": 0.8}
SEPARATE = (0.4, 0.5, 0.6, 0.7)

# What may make gates look at their input, one change at a time, and the changes that helped together.
ALONE = {"compress.grouping": [{"policy": {"uniform": 1}}]}
SOME = {"compress.gate.information": 0.02}
INFORMED = {"compress.gate.information": 0.1}
# Where less is left, what is left has to go where it pays.
TIGHT = {"compress.target": 0.25, "compress.static_target": 0.625}
LONG = {"compress.tune.epochs": 8.0}
CONSTANT = METHODS["constant"]
RECIPES = {
    "base": {},
    "reluctant": {"compress.gate.keep_init": 0.95, "compress.gate.lr_scale": 4.0},
    "quick-gates": {"compress.gate.lr_scale": 10.0},
    "some-information": SOME,
    "information": INFORMED,
    "singles": ALONE,
    "singles-some-information": ALONE | SOME,
    "singles-information": ALONE | INFORMED,
    "probability": {"compress.gate.average": "probability"},
    "cls": {"compress.gate.input": "cls"},
    "wide-gates": {"compress.gate.hidden_ratio": 0.5},
    "constant": CONSTANT,
    "long": LONG,
    "singles-information-long": ALONE | INFORMED | LONG,
    "constant-long": CONSTANT | LONG,
    "tight-base": TIGHT,
    "tight-singles": TIGHT | ALONE,
    "tight-singles-some-information": TIGHT | ALONE | SOME,
    "tight-singles-information": TIGHT | ALONE | INFORMED,
    "tight-constant": TIGHT | CONSTANT,
}
CHOSEN = "tight-singles-some-information"


def control(row: str) -> str:
    """The recipe that differs from this one in that its gates see no input."""
    tight, long = row.startswith("tight-"), row.endswith("long")
    return f"{'tight-' if tight else ''}constant{'-long' if long else ''}"


@dataclass(frozen=True)
class Run:
    """One job."""

    table: str
    row: str
    seed: int
    data: str = "mixed"
    fields: dict = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return f"{self.table}.{self.row}.{self.seed}"


def dense(seed: int, data: str = "mixed") -> Run:
    """The dense model."""
    fields = {"compress": {"mode": "dense", "tune": {"epochs": 8.0}}}
    return Run("dense", data, seed, data, fields)


def start(run: Run) -> Run | None:
    """The dense model whose weights a run starts from, as in the paper: that of its seed and data; a dense one starts from scratch."""
    return None if run.table == "dense" else dense(run.seed, run.data)


def policies() -> list[Run]:
    """How the training batch is cut into groups, at one budget."""
    runs = [
        Run("policies", row, seed, fields={"compress.target": TARGET, "compress.grouping": [{"policy": policy}]})
        for row, policy in POLICIES.items()
        for seed in SEEDS
    ]
    control = METHODS["constant"] | {"compress.target": TARGET}
    return runs + [Run("policies", "constant", seed, fields=control) for seed in SEEDS]


def methods() -> list[Run]:
    """Unified against its parts and baselines, at each budget."""
    runs = []
    for budget in BUDGETS:
        # The static part keeps half of what the gates are to save.
        share = {"compress.target": budget, "compress.static_target": (1.0 + budget) / 2}
        for row, fields in METHODS.items():
            runs += [Run("methods", f"{row}-{budget}", seed, fields=share | fields) for seed in SEEDS]
    return runs


def frontier() -> list[Run]:
    """One model at many budgets: its gates see the budget, or the thresholds of models trained for one are moved.

    All have the same static share, that of the greatest budget, so that they differ in their gates alone.
    """
    share = {"compress.static_target": 0.85}
    rows = {"seen": share | {"compress.target": 0.6, "compress.gate.budgets": DIALLED | {"adapt": "gates"}}}
    for budget in SEPARATE:
        # A model of its own budget, and the control at all others.
        moved = {"compress.target": budget, "compress.gate.budgets": DIALLED | {"adapt": "threshold"}}
        rows[f"separate-{budget}"] = share | moved
    return [Run("frontier", row, seed, fields=fields) for row, fields in rows.items() for seed in SEEDS]


def varied() -> list[Run]:
    """The chosen recipe and its controls on images of three kinds, on the test set."""
    static = METHODS["static"] | {"compress.target": TIGHT["compress.target"]}
    rows = {"base": RECIPES["tight-base"], "chosen": RECIPES[CHOSEN], "static": static, "constant": RECIPES[control(CHOSEN)]}
    return [Run("varied", row, seed, "varied", fields) for row, fields in rows.items() for seed in SEEDS]


def recipes() -> list[Run]:
    """What makes gates depend on their input: chosen on held-out training images, never on the test set."""
    return [Run("recipes", row, 1, "varied-held-out", {"compress.target": TARGET} | fields) for row, fields in RECIPES.items()]


def dense_models() -> list[Run]:
    """What the runs of the other tables start from."""
    return [dense(seed, data) for data in ("mixed", "varied") for seed in SEEDS] + [dense(1, "varied-held-out")]


# Those that others are compared with first.
MAKERS = {"dense": dense_models, "policies": policies, "methods": methods, "frontier": frontier, "recipes": recipes, "varied": varied}
TABLES = tuple(MAKERS)


def all_runs(tables: list[str]) -> list[Run]:
    """The runs of the named tables."""
    return [run for table, make in MAKERS.items() if table in tables for run in make()]
