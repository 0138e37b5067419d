//! RandAugment: which operations an image gets, and how strong. The mapping of a level to an argument
//! is that of timm's increasing set.

use espalier_job::RandAugment;
use espalier_random::{ChaCha8Rng, Rng as _, StandardNormal, Stream};

use super::Key;
use super::operation::Operation;

/// The strongest level.
const STRONGEST: f64 = 10.0;

/// An operation by a level, 0..=10, and a direction, 1 or -1, where it has two.
type Leveled = fn(f64, f64) -> Operation;

/// In timm's order, with its names.
const SET: [(&str, Leveled); 15] = [
    ("AutoContrast", |_, _| Operation::AutoContrast),
    ("Equalize", |_, _| Operation::Equalize),
    ("Invert", |_, _| Operation::Invert),
    ("Rotate", |level, way| {
        Operation::Rotate(way * share(level) * 30.0)
    }),
    ("PosterizeIncreasing", |level, _| {
        // One bit is kept where timm asks for none: PIL refuses that, and a black image teaches nothing.
        Operation::Posterize((4 - (share(level) * 4.0) as u8).max(1))
    }),
    ("SolarizeIncreasing", |level, _| {
        Operation::Solarize(256 - (share(level) * 256.0) as u16)
    }),
    ("SolarizeAdd", |level, _| {
        Operation::SolarizeAdd((share(level) * 110.0) as u8)
    }),
    ("ColorIncreasing", |level, way| {
        Operation::Color(factor(level, way))
    }),
    ("ContrastIncreasing", |level, way| {
        Operation::Contrast(factor(level, way))
    }),
    ("BrightnessIncreasing", |level, way| {
        Operation::Brightness(factor(level, way))
    }),
    ("SharpnessIncreasing", |level, way| {
        Operation::Sharpness(factor(level, way))
    }),
    ("ShearX", |level, way| {
        Operation::ShearX(way * share(level) * 0.3)
    }),
    ("ShearY", |level, way| {
        Operation::ShearY(way * share(level) * 0.3)
    }),
    ("TranslateXRel", |level, way| {
        Operation::TranslateX(way * share(level) * 0.45)
    }),
    ("TranslateYRel", |level, way| {
        Operation::TranslateY(way * share(level) * 0.45)
    }),
];

fn share(level: f64) -> f64 {
    level / STRONGEST
}

/// Of an enhancement: 1 changes nothing.
fn factor(level: f64, way: f64) -> f32 {
    (1.0 + way * share(level) * 0.9).max(0.1) as f32
}

/// The operations a sample gets, in their order.
pub(super) fn draw(asked: &RandAugment, key: Key) -> Vec<Operation> {
    let mut rng = key.rng(Stream::RandAugment);
    (0..asked.operations)
        .filter_map(|_| drawn(asked, &mut rng))
        .collect()
}

/// All is drawn whatever is used, so that a probability does not alter the operations after it.
fn drawn(asked: &RandAugment, rng: &mut ChaCha8Rng) -> Option<Operation> {
    let (_, leveled) = SET[rng.random_range(0..SET.len())];
    let applied = rng.random::<f64>() < asked.probability;
    let noise: f64 = rng.sample(StandardNormal);
    let level = (asked.magnitude + asked.std * noise).clamp(0.0, STRONGEST);
    let way = if rng.random() { 1.0 } else { -1.0 };
    applied.then(|| leveled(level, way))
}

/// The operation of timm's name at a level and in a direction.
#[cfg(test)]
pub(super) fn named(name: &str, level: f64, way: f64) -> Operation {
    let found = SET.iter().find(|(known, _)| *known == name);
    let (_, leveled) = found.unwrap_or_else(|| panic!("no operation {name}"));
    leveled(level, way)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn_for(asked: &RandAugment, step: u64, sample: u32) -> Vec<Operation> {
        let key = Key {
            seed: 5,
            step,
            sample,
        };
        draw(asked, key)
    }

    #[test]
    fn every_operation_comes_about_as_often() {
        let asked = RandAugment {
            probability: 1.0,
            ..RandAugment::default()
        };
        let mut counts = [0; SET.len()];
        for sample in 0..3000 {
            for operation in drawn_for(&asked, 1, sample) {
                let kind = std::mem::discriminant(&operation);
                let same = |(_, leveled): &(&str, Leveled)| {
                    std::mem::discriminant(&leveled(5.0, 1.0)) == kind
                };
                counts[SET.iter().position(same).unwrap()] += 1;
            }
        }
        assert_eq!(counts.iter().sum::<usize>(), 6000);
        assert!(
            counts.iter().all(|count| (320..480).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn half_are_applied_and_the_rest_stays_the_same() {
        let asked = RandAugment::default();
        let always = RandAugment {
            probability: 1.0,
            ..asked.clone()
        };
        let mut applied = 0;
        for sample in 0..1000 {
            let (some, all) = (drawn_for(&asked, 1, sample), drawn_for(&always, 1, sample));
            assert!(some.iter().all(|operation| all.contains(operation)));
            applied += some.len();
        }
        assert!((900..1100).contains(&applied), "{applied} of 2000");
    }

    #[test]
    fn draws_differ_by_step_and_sample() {
        let asked = RandAugment::default();
        let draws = |step, sample| -> Vec<_> {
            (sample..sample + 16)
                .map(|s| drawn_for(&asked, step, s))
                .collect()
        };
        assert_eq!(draws(1, 0), draws(1, 0));
        assert_ne!(draws(1, 0), draws(2, 0));
        assert_ne!(draws(1, 0), draws(1, 16));
    }
}
