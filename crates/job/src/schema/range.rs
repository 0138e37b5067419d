use serde_json::Value;

/// The values a schema allows a number to have.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Range {
    least: Option<f64>,
    most: Option<f64>,
    above: Option<f64>,
    below: Option<f64>,
}

impl Range {
    pub(crate) fn of(schema: &Value) -> Self {
        let bound = |keyword: &str| schema.get(keyword).and_then(Value::as_f64);
        let most = match schema.get("format").and_then(Value::as_str) {
            Some("uint32") => Some(f64::from(u32::MAX)),
            _ => None,
        };
        Self {
            least: bound("minimum"),
            most: bound("maximum").or(most),
            above: bound("exclusiveMinimum"),
            below: bound("exclusiveMaximum"),
        }
    }

    /// Whether `number` lies inside; never for a number that is not finite.
    pub(crate) fn holds(&self, number: f64) -> bool {
        number.is_finite()
            && self.least.is_none_or(|bound| number >= bound)
            && self.most.is_none_or(|bound| number <= bound)
            && self.above.is_none_or(|bound| number > bound)
            && self.below.is_none_or(|bound| number < bound)
    }

    /// The bounds in words; empty without any.
    pub(crate) fn words(&self) -> String {
        // A lower bound of 0 beside another lower bound is the number type's own and says nothing.
        let least = self.least.filter(|_| self.above.is_none());
        let words: Vec<String> = [
            ("at least", least),
            ("more than", self.above),
            ("at most", self.most),
            ("less than", self.below),
        ]
        .into_iter()
        .filter_map(|(word, bound)| bound.map(|bound| format!("{word} {bound}")))
        .collect();
        words.join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn bounds_are_open_or_closed() {
        let half_open = Range::of(&json!({"exclusiveMinimum": 0, "maximum": 1}));
        assert!(half_open.holds(1.0) && half_open.holds(f64::MIN_POSITIVE));
        for outside in [0.0, 1.5, f64::NAN, f64::INFINITY] {
            assert!(!half_open.holds(outside), "{outside}");
        }
        assert_eq!(half_open.words(), "more than 0 and at most 1");
        assert_eq!(Range::default().words(), "");
    }
}
