//! Every operation against what timm and PIL give (`crates/data/reference/make.py`).

use serde::Deserialize;

use crate::augment::operation::Operation;
use crate::augment::{Canvas, policy};
use crate::{Shape, reference::Stored};
use espalier_job::Interpolation;

#[derive(Deserialize)]
struct Case {
    source: Stored,
    interpolation: Interpolation,
    fill: Vec<u8>,
    operations: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    name: String,
    level: f64,
    way: f64,
    pixels: String,
}

#[test]
fn operations_give_the_bits_of_pil() {
    let text = include_str!("../../../reference/operations.json");
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    let mut wrong = Vec::new();
    let mut compared = 0;
    for case in &cases {
        let source = case.source.picture();
        let canvas = Canvas {
            shape: Shape {
                channels: source.channels,
                image_size: source.width,
                classes: 1,
            },
            interpolation: case.interpolation,
            fill: &case.fill,
        };
        for expected in &case.operations {
            let operation: Operation = policy::named(&expected.name, expected.level, expected.way);
            let changed = operation.apply(source.clone(), canvas);
            let pixels = crate::reference::unhex(&expected.pixels);
            let off = changed
                .pixels
                .iter()
                .zip(&pixels)
                .filter(|(a, b)| a != b)
                .count();
            compared += 1;
            if changed.pixels != pixels {
                let (channels, kind) = (source.channels, case.interpolation);
                wrong.push(format!(
                    "{operation:?} of {channels} channels, {kind:?}: {off} values"
                ));
            }
        }
    }
    assert!(compared > 150, "only {compared} cases");
    assert!(
        wrong.is_empty(),
        "{} of {compared} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
