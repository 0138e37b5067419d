use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Digest, Kind};

fn matches(filter: &str) -> bool {
    let record = CheckpointRecord {
        sequence: 1,
        name: "demo".to_owned(),
        digest: Digest::of(b"d"),
        kind: Kind::Model,
        size: 1000,
        job: Some("j1".to_owned()),
        step: Some(50),
        parent: Some(Digest::of(b"p")),
        teacher: None,
        created_ms: 0,
    };
    let note = NoteRecord {
        labels: [("team", "vision"), ("fold", "3"), ("a.b", "x")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        keep: false,
    };
    let report = json!({
        "accuracy": {"per_sample": 0.91, "shared": {"8": 0.9}},
        "gates": {"rate": [{"attn": 0.5}]},
        "note": null,
    });
    let filter = Filter::parse(filter).expect(filter);
    filter.matches(&Subject {
        record: &record,
        note: &note,
        report: &report,
    })
}

#[test]
fn fields_are_compared() {
    for filter in [
        "accuracy.per_sample > 0.9",
        "accuracy.shared.8 >= 0.9",
        "gates.rate.0.attn = 0.5",
        "name = demo and kind = model and job = j1",
        "step = 50 and step < 51 and step <= 50 and size != 1001",
        "label.team = vision and label.a.b = \"x\"",
        "label.fold = 3",
        "label.team > 'visa'",
        "keep = false",
        "note = null",
        "not (label.team = audio) and not teacher = x",
        "name = other or (step = 50 and not size < 10)",
        "size = 1e3",
    ] {
        assert!(matches(filter), "{filter}");
    }
    let parent = Digest::of(b"p");
    assert!(matches(&format!("parent = {parent}")));
    for filter in [
        "accuracy.per_sample > 0.95",
        "name = demo and step = 51",
        "label.team != vision",
        // Not there: neither equal nor unequal nor anything.
        "label.none = x or label.none != x or teacher != x or macs.dense > 0",
        "accuracy.per_sample = text",
        "accuracy < 5",
        "not name = demo",
    ] {
        assert!(!matches(filter), "{filter}");
    }
}

#[test]
fn and_binds_closer_than_or() {
    assert!(matches("name = demo or name = demo and step = 0"));
    assert!(!matches("(name = demo or name = demo) and step = 0"));
    assert!(matches("not name = x and not not name = demo"));
}

#[test]
fn problems_say_where() {
    let deep = format!("{}a = 1{}", "(".repeat(40), ")".repeat(40));
    let long = "a = 1 or ".repeat(1000);
    for (filter, expected) in [
        ("", "at character 1: expected a field"),
        ("a", "at character 2: expected =, !="),
        ("a = ", "at character 5: expected a number"),
        ("a = 1 b", "at character 7: expected `and`, `or` or the end"),
        ("(a = 1", "at character 7: expected `)`"),
        ("a = \"x", "at character 5: the text has no end"),
        ("a = 1 & b = 2", "at character 7: '&' means nothing"),
        (
            "a..b = 1",
            "at character 1: expected a field without empty parts",
        ),
        ("a < < 1", "at character 5: expected a number"),
        (&deep, "at character 33: expected less nesting"),
        (&long, "more than 4096"),
    ] {
        let error = Filter::parse(filter).expect_err(filter).to_string();
        assert!(error.contains(expected), "{filter}: {error}");
    }
}

fn condition() -> impl Strategy<Value = String> {
    let comparison = (
        "[a-z]{1,3}(\\.[a-z]{1,3})?",
        "=|!=|<|<=|>|>=",
        "[0-9]{1,3}|\"[a-z ]{0,4}\"|true",
    )
        .prop_map(|(field, operator, value)| format!("{field} {operator} {value}"));
    comparison.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) and ({b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a}) or ({b})")),
            inner.prop_map(|a| format!("not ({a})")),
        ]
    })
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in ".{0,60}") {
        let _ = Filter::parse(&text);
    }

    #[test]
    fn not_is_the_opposite_and_the_rules_of_logic_hold(a in condition(), b in condition()) {
        prop_assume!(!["and", "or", "not"].iter().any(|k| a.starts_with(k) && !a.starts_with("not (")));
        if let (Ok(_), Ok(_)) = (Filter::parse(&a), Filter::parse(&b)) {
            prop_assert_ne!(matches(&a), matches(&format!("not ({a})")));
            prop_assert_eq!(
                matches(&format!("not (({a}) or ({b}))")),
                matches(&format!("not ({a}) and not ({b})"))
            );
        }
    }
}
