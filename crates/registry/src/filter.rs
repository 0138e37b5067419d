//! The language in which checkpoints are searched for.
//!
//! ```text
//! any     = all { "or" all }
//! all     = not { "and" not }
//! not     = "not" not | "(" any ")" | field op value
//! op      = "=" | "!=" | "<" | "<=" | ">" | ">="
//! field   = name { "." name }          value = number | "text" | word | true | false | null
//! ```
//!
//! Fields are `name`, `kind`, `job`, `step`, `size`, `parent`, `teacher`, `digest`, `keep`, `label.NAME`, and
//! everything else is looked for in the report card, such as `accuracy.per_sample`. A comparison with
//! a field that is not there is false; `!=` too, so that `not (a = 1)` and `a != 1` differ.

mod parse;

use serde_json::Value;

use crate::records::{CheckpointRecord, NoteRecord};

pub use parse::FilterError;

/// A condition on checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter(Condition);

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Any(Vec<Condition>),
    All(Vec<Condition>),
    Not(Box<Condition>),
    Compare {
        field: Vec<String>,
        operator: Operator,
        value: Value,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is known of a checkpoint.
pub(crate) struct Subject<'a> {
    pub(crate) record: &'a CheckpointRecord,
    pub(crate) note: &'a NoteRecord,
    pub(crate) report: &'a Value,
}

impl Filter {
    /// Reads a filter.
    ///
    /// # Errors
    /// [`FilterError`] says where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        parse::parse(text).map(Self)
    }

    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.0.holds(subject)
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::Any(conditions) => conditions.iter().any(|c| c.holds(subject)),
            Self::All(conditions) => conditions.iter().all(|c| c.holds(subject)),
            Self::Not(condition) => !condition.holds(subject),
            Self::Compare {
                field,
                operator,
                value,
            } => subject
                .field(field)
                .is_some_and(|found| operator.holds(&found, value)),
        }
    }
}

impl Operator {
    fn holds(self, found: &Value, value: &Value) -> bool {
        use std::cmp::Ordering;
        let order = match (found, value) {
            (Value::Number(a), Value::Number(b)) => match (a.as_u64(), b.as_u64()) {
                (Some(a), Some(b)) => Some(a.cmp(&b)),
                _ => a.as_f64().partial_cmp(&b.as_f64()),
            },
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            // A label that looks like a number is text all the same: `label.fold = 3`.
            (Value::String(a), b @ (Value::Number(_) | Value::Bool(_))) => {
                Some(a.cmp(&b.to_string()))
            }
            (a, b) => (a == b).then_some(Ordering::Equal),
        };
        match self {
            Self::Equal => order == Some(Ordering::Equal),
            Self::NotEqual => order != Some(Ordering::Equal),
            Self::Less => order == Some(Ordering::Less),
            Self::LessOrEqual => order.is_some_and(Ordering::is_le),
            Self::Greater => order == Some(Ordering::Greater),
            Self::GreaterOrEqual => order.is_some_and(Ordering::is_ge),
        }
    }
}

impl Subject<'_> {
    /// `None` when there is no such field.
    fn field(&self, path: &[String]) -> Option<Value> {
        let record = self.record;
        let digest = |digest: Option<crate::Digest>| digest.map(|d| d.to_string().into());
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        match names.as_slice() {
            ["name"] => Some(record.name.clone().into()),
            ["kind"] => Some(record.kind.as_str().into()),
            ["job"] => record.job.clone().map(Value::from),
            ["step"] => record.step.map(Value::from),
            ["size"] => Some(record.size.into()),
            ["keep"] => Some(self.note.keep.into()),
            ["digest"] => digest(Some(record.digest)),
            ["parent"] => digest(record.parent),
            ["teacher"] => digest(record.teacher),
            ["label", label @ ..] => self
                .note
                .labels
                .get(&label.join("."))
                .cloned()
                .map(Value::from),
            path => look_up(self.report, path).cloned(),
        }
    }
}

/// A field of a report card.
pub(crate) fn look_up<'a>(report: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter().try_fold(report, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        value => value.get(name),
    })
}

#[cfg(test)]
mod tests;
