//! Gates that see the budget beside their input.

use espalier_job::{Average, GateInput};
use espalier_vit::{AtBudget, Config, Routing, Vit};
use tch::{Device, no_grad};

use crate::common::{dims, gated, gates, images, seeing_budget};

fn margins(vit: &Vit) -> tch::Tensor {
    no_grad(|| {
        vit.forward(&images(&dims(), 6, 3), &Routing::PerSample)
            .margins_BM
    })
}

#[test]
fn they_begin_as_gates_that_do_not() {
    let gate = gates(GateInput::Cls, Average::Logits);
    let new = |gate| {
        let config = Config {
            gate: Some(gate),
            ..Config::dense(dims(), vec![0.5], vec![0.25])
        };
        Vit::new(config, 4, Device::Cpu).unwrap()
    };
    let (plain, mut seeing) = (new(gate), new(seeing_budget(gate)));
    for budget in [0.4, 0.6, 0.8] {
        seeing.see_budget(budget);
        assert_eq!(margins(&seeing), margins(&plain));
    }
}

#[test]
fn the_budget_moves_margins_and_thresholds_follow_it() {
    let at = |budget, threshold, threshold_shared| AtBudget {
        budget,
        threshold,
        threshold_shared,
    };
    let mut vit = gated(seeing_budget(gates(GateInput::Mean, Average::Logits)));
    let refused = vit.run_at(0.5).unwrap_err().to_string();
    assert!(refused.contains("compress.gate.budgets"), "{refused}");
    vit.set_budgets(vec![at(0.4, 1.0, Some(3.0)), at(0.8, -1.0, None)]);
    let before = margins(&vit);
    vit.run_at(0.5).unwrap();
    assert_ne!(margins(&vit), before);
    let gate = vit.config().gate.unwrap();
    assert_eq!(gate.budget.unwrap().target, 0.5);
    assert!((gate.threshold - 0.5).abs() < 1e-12);
    assert!((gate.threshold_shared.unwrap() - 2.0).abs() < 1e-12);
    vit.run_at(0.6).unwrap();
    assert_eq!(margins(&vit), before);
    let refused = vit.run_at(0.9).unwrap_err().to_string();
    assert_eq!(
        refused,
        "budgets: 0.9 is not one of the model's budgets, 0.4 to 0.8"
    );
    let folder = tempfile::tempdir().unwrap();
    vit.save(folder.path()).unwrap();
    let opened = Vit::open(folder.path(), Device::Cpu).unwrap();
    assert_eq!(opened.config(), vit.config());
    assert_eq!(margins(&opened), before);
}
