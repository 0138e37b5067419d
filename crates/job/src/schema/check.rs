use std::collections::BTreeMap;

use serde_json::{Map, Value};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::range::Range;
use super::suggest::{list, suggestion};
use super::walk::{kind, target};
use crate::Problems;

/// What the walk over a document found.
pub(crate) struct Checked {
    pub(crate) problems: Problems,
    /// Byte offset of every field the document gives, by path.
    pub(crate) offsets: BTreeMap<String, usize>,
}

/// A walk over a document beside its schema.
pub(crate) struct Checker<'s> {
    root: &'s Value,
    found: Checked,
}

impl<'s> Checker<'s> {
    pub(crate) fn new(root: &'s Value) -> Self {
        let found = Checked {
            problems: Problems::default(),
            offsets: BTreeMap::new(),
        };
        Self { root, found }
    }

    pub(crate) fn check(mut self, document: &Spanned<DeTable<'_>>) -> Checked {
        self.table(self.root, document.get_ref(), "");
        self.found
    }

    fn value(&mut self, schema: &'s Value, value: &Spanned<DeValue<'_>>, path: &str) {
        self.found
            .offsets
            .entry(path.to_owned())
            .or_insert(value.span().start);
        // A bound may stand beside a reference as well as behind it.
        let bounds = [Range::of(schema), Range::of(target(self.root, schema))];
        let schema = target(self.root, schema);
        if let Some(variants) = schema.get("oneOf").and_then(Value::as_array) {
            return self.variant(variants, value.get_ref(), path);
        }
        match (kind(schema), value.get_ref()) {
            ("object", DeValue::Table(table)) => self.table(schema, table, path),
            ("array", DeValue::Array(array)) => {
                for (index, item) in array.iter().enumerate() {
                    self.value(&schema["items"], item, &format!("{path}[{index}]"));
                }
            }
            ("integer" | "number", DeValue::Integer(number)) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(exact) => self.number(&bounds, exact as f64, &number.to_string(), path),
                    Err(_) => {
                        let most = i64::MAX;
                        self.problem(path, format!("{number} is out of range: at most {most}"));
                    }
                }
            }
            ("number", DeValue::Float(number)) => {
                let parsed = number.as_str().parse().unwrap_or(f64::NAN);
                self.number(&bounds, parsed, &number.to_string(), path);
            }
            ("string", DeValue::String(_)) | ("boolean", DeValue::Boolean(_)) => {}
            (expected, other) => self.mismatch(article(expected), other, path),
        }
    }

    fn number(&mut self, bounds: &[Range], number: f64, shown: &str, path: &str) {
        if let Some(range) = bounds.iter().find(|range| !range.holds(number)) {
            let words = range.words();
            let message = match words.is_empty() {
                true => format!("{shown} is out of range: a finite number is needed"),
                false => format!("{shown} is out of range: {words}"),
            };
            self.problem(path, message);
        }
    }

    fn table(&mut self, schema: &'s Value, table: &DeTable<'_>, path: &str) {
        let fields = schema["properties"].as_object();
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let below = join(path, name);
            self.found.offsets.insert(below.clone(), key.span().start);
            match fields.and_then(|fields| fields.get(name)) {
                Some(field) => self.value(field, value, &below),
                None => {
                    let known = suggestion(
                        name,
                        fields.into_iter().flat_map(Map::keys).map(String::as_str),
                    );
                    self.problem(&below, format!("unknown field; {known}"));
                }
            }
        }
        for name in strings(&schema["required"]) {
            if !table.contains_key(name) {
                self.problem(&join(path, name), "missing".to_owned());
            }
        }
    }

    /// An enum: a bare name, or a table of one name and its arguments.
    fn variant(&mut self, variants: &'s [Value], value: &DeValue<'_>, path: &str) {
        let bare = names(variants, |variant| {
            variant["const"]
                .as_str()
                .map(|name| vec![name])
                .unwrap_or_else(|| strings(&variant["enum"]))
        });
        let tagged = names(variants, |variant| strings(&variant["required"]));
        let known = || bare.iter().chain(&tagged).copied();
        match value {
            DeValue::String(name) if bare.contains(&name.as_ref()) => {}
            DeValue::String(name) if tagged.contains(&name.as_ref()) => {
                self.problem(path, format!("`{name}` needs a value: {{ {name} = .. }}"));
            }
            DeValue::String(name) => {
                let known = suggestion(name, known());
                self.problem(path, format!("unknown value `{name}`; {known}"));
            }
            DeValue::Table(table) if !tagged.is_empty() => match table.iter().next() {
                Some((key, argument)) if table.len() == 1 => {
                    let name = key.get_ref().as_ref();
                    let below = join(path, name);
                    match variants
                        .iter()
                        .find_map(|variant| variant["properties"].get(name))
                    {
                        Some(schema) => self.value(schema, argument, &below),
                        None if bare.contains(&name) => {
                            self.problem(
                                path,
                                format!("`{name}` takes no value: write \"{name}\""),
                            );
                        }
                        None => {
                            let known = suggestion(name, known());
                            self.problem(&below, format!("unknown value `{name}`; {known}"));
                        }
                    }
                }
                _ => {
                    let known: Vec<&str> = known().collect();
                    self.problem(path, format!("exactly one of {} is needed", list(&known)));
                }
            },
            other => {
                let known: Vec<&str> = known().collect();
                self.mismatch(&format!("one of {}", list(&known)), other, path);
            }
        }
    }

    fn mismatch(&mut self, expected: &str, found: &DeValue<'_>, path: &str) {
        let found = match found {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.problem(path, format!("{expected} is needed, found {found}"));
    }

    fn problem(&mut self, path: &str, message: String) {
        self.found.problems.add(path, message);
    }
}

fn article(kind: &str) -> &str {
    match kind {
        "object" => "a table",
        "array" => "a list",
        "integer" => "an integer",
        "number" => "a number",
        "boolean" => "true or false",
        _ => "a string",
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array()
        .map(|items| items.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn names<'s>(variants: &'s [Value], of: impl Fn(&'s Value) -> Vec<&'s str>) -> Vec<&'s str> {
    variants.iter().flat_map(of).collect()
}
