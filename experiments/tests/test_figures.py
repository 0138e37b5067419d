"""The experiments' pure parts: which runs there are, and what is read off their cards."""

import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import figures  # noqa: E402  found through the path above
import report  # noqa: E402
import run as harness  # noqa: E402
import tables  # noqa: E402


def entry(table: str, row: str, seed: int, found: dict) -> figures.Entry:
    return figures.Entry(table, row, seed, "make experiments", "abc", "here", found)


def card(accuracy: float, by_batch: list[float]) -> dict:
    shared = dict(zip(map(str, figures.BATCHES), by_batch, strict=True))
    macs = {"dense": 200.0, "effective_ratio": 0.5, "by_batch": {str(batch): 100.0 for batch in figures.BATCHES}}
    return {"accuracy": {"per_sample": accuracy, "shared": shared}, "macs": macs}


class Tables(unittest.TestCase):
    def test_every_run_has_a_name_of_its_own_that_a_registry_takes(self) -> None:
        names = [run.name for run in tables.all_runs(tables.TABLES)]
        self.assertEqual(len(names), len(set(names)))
        for name in names:
            self.assertRegex(name, r"^[a-z0-9][a-z0-9._-]{0,62}$")

    def test_recipes_never_see_the_test_set(self) -> None:
        self.assertEqual({run.data for run in tables.recipes()}, {"varied-held-out"})

    def test_every_recipe_has_a_control_that_differs_in_the_gates_alone(self) -> None:
        for row, fields in tables.RECIPES.items():
            control = tables.RECIPES[tables.control(row)]
            for field in ("compress.target", "compress.static_target", "compress.tune.epochs"):
                self.assertEqual(fields.get(field), control.get(field), row)
            self.assertEqual(control["compress.gate.decide"], "constant")

    def test_budgets_are_equal_within_a_table(self) -> None:
        self.assertEqual({run.fields["compress.target"] for run in tables.policies()}, {tables.TARGET})
        for run in tables.methods():
            self.assertEqual(run.fields["compress.target"], float(run.row.rsplit("-", 1)[1]))

    def test_tables_share_the_jobs_that_are_the_same_in_both(self) -> None:
        folders = {run.name: harness.plan(run, Path("state"), 1.0).folder for run in tables.all_runs(tables.TABLES)}
        for seed in tables.SEEDS:
            self.assertEqual(folders[f"policies.recursive.{seed}"], folders[f"methods.unified-{tables.TARGET}.{seed}"])
            self.assertEqual(folders[f"policies.constant.{seed}"], folders[f"methods.constant-{tables.TARGET}.{seed}"])
        self.assertEqual(len(set(folders.values())), len(folders) - 2 * len(tables.SEEDS))

    def test_a_run_starts_from_the_dense_model_of_its_seed_and_data(self) -> None:
        for run in tables.all_runs(("policies", "recipes")):
            init = harness.plan(run, Path("state"), 1.0).document["model"]["init"]
            dense = harness.plan(tables.dense(run.seed, run.data), Path("state"), 1.0)
            self.assertEqual(init, {"safetensors": str(dense.folder / "model.safetensors")})
            self.assertNotIn("init", dense.document["model"])

    def test_a_job_of_another_length_leaves_the_other_seeds_theirs(self) -> None:
        planned = [harness.plan(tables.dense(seed), Path("state"), 0.5) for seed in tables.SEEDS]
        self.assertEqual([each.document["compress"]["tune"]["epochs"] for each in planned], [4.0] * len(tables.SEEDS))

    def test_every_model_of_the_frontier_can_be_run_at_every_budget_that_is_compared(self) -> None:
        for run in tables.frontier():
            budgets = run.fields["compress.gate.budgets"]
            self.assertLessEqual(budgets["hi"], run.fields["compress.static_target"])
            for budget in (*tables.SEPARATE, run.fields["compress.target"]):
                self.assertTrue(budgets["lo"] <= budget <= budgets["hi"])


class Figures(unittest.TestCase):
    def test_a_difference_is_taken_seed_by_seed(self) -> None:
        difference = figures.Figure((0.9, 0.8)).minus(figures.Figure((0.8, 0.9)))
        self.assertAlmostEqual(difference.mean, 0.0)
        self.assertAlmostEqual(difference.spread, 0.1 * 2**0.5)

    def test_a_verdict_needs_all_seeds(self) -> None:
        for values, verdict in (
            ((0.1, 0.2, 0.3), "holds here"),
            ((-0.1, -0.2, 0.0), "does not hold here"),
            ((0.1, -0.1, 0.3), "not shown: the seeds disagree"),
            ((0.1,), "one seed shows nothing"),
        ):
            self.assertEqual(figures.Figure(values).verdict(), verdict)

    def test_a_model_is_read_at_each_of_its_budgets(self) -> None:
        def at(*accuracies: float) -> dict:
            return {"frontier": [{"budget": b, "accuracy": a} for b, a in zip((0.4, 0.6), accuracies, strict=True)]}

        entries = [entry("frontier", "seen", seed, at(0.1 * seed, 0.2 * seed)) for seed in (2, 1)]
        found = figures.Cards(entries, "frontier").at_budget("seen", 0.6, "accuracy")
        self.assertEqual(found.values, (0.2, 0.4))

    def test_cards_are_grouped_by_row_in_the_order_of_seeds(self) -> None:
        entries = [
            entry("policies", "whole", 2, card(0.7, [0.7] * 6)),
            entry("policies", "whole", 1, card(0.6, [0.5, 0.6, 0.6, 0.6, 0.6, 0.9])),
            entry("methods", "static-0.5", 1, card(0.1, [0.1] * 6)),
        ]
        cards = figures.Cards(entries, "policies")
        self.assertEqual(cards.rows, ["whole"])
        self.assertEqual(cards.accuracy("whole").values, (0.6, 0.7))
        self.assertEqual(cards.accuracy("whole", 1).values, (0.9, 0.7))
        self.assertEqual(cards.macs("whole", 256).values, (0.5, 0.5))
        spans = cards.over_batches("whole").values
        self.assertAlmostEqual(spans[0], 0.4)
        self.assertEqual(spans[1], 0.0)

    def test_a_table_made_again_replaces_its_old_cards_and_no_others(self) -> None:
        kept = [entry("policies", "old", 1, {}), entry("methods", "static-0.5", 1, {})]
        new = [entry("policies", "whole", 1, {})]
        self.assertEqual(report.merged(kept, new), [kept[1], new[0]])


if __name__ == "__main__":
    unittest.main()
