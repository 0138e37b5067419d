use serde_json::Value;

/// The schema behind references and optional values.
pub(crate) fn target<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    let inner = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|reference| root.pointer(reference.trim_start_matches('#')))
        .or_else(|| {
            let options = schema.get("anyOf")?.as_array()?;
            options.iter().find(|option| option["type"] != "null")
        });
    match inner {
        Some(inner) => target(root, inner),
        None => schema,
    }
}

/// The JSON type a schema asks for, null apart; empty if it asks for none.
pub(crate) fn kind(schema: &Value) -> &str {
    match &schema["type"] {
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .find(|kind| *kind != "null")
            .unwrap_or_default(),
        kind => kind.as_str().unwrap_or_default(),
    }
}
