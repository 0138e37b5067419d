//! The report card of a checkpoint as text.

use serde_json::Value;

use crate::output;

/// The card, a line per figure. Figures that a checkpoint lacks are left out.
pub(crate) fn card(report: &Value) -> String {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            rows.push(vec![name.to_owned(), value]);
        }
    };
    row(
        "accuracy, per sample",
        percent(&report["accuracy"]["per_sample"]),
    );
    row(
        "accuracy, shared, by batch",
        by_batch(&report["accuracy"]["shared"], percent),
    );
    row("MACs, dense", count(&report["macs"]["dense"]));
    row(
        "MACs, static",
        with_ratio(&report["macs"], "static", "static_ratio"),
    );
    row(
        "MACs, effective",
        with_ratio(&report["macs"], "effective", "effective_ratio"),
    );
    row("MACs target", ratio(&report["macs"]["target"]));
    row(
        "MACs, shared, by batch",
        by_batch(&report["macs"]["by_batch"], count),
    );
    row(
        "parameters",
        from_to(report, "params", "dense", "compressed", count),
    );
    row(
        "weights file",
        size(&report["bytes"]).map(|now| match size(&report["bytes_dense"]) {
            Some(dense) => format!("{now} (dense {dense})"),
            None => now,
        }),
    );
    row(
        "latency ms, dense, by batch",
        by_batch(&report["latency_ms"]["dense"], millis),
    );
    row(
        "latency ms, this, by batch",
        by_batch(&report["latency_ms"]["compressed"], millis),
    );
    row(
        "gates, decided by",
        report["gates"]["decide"].as_str().map(str::to_owned),
    );
    row(
        "gates, distinct paths",
        count(&report["gates"]["distinct_paths"]),
    );
    row(
        "gates, top path's share",
        percent(&report["gates"]["top_path_share"]),
    );
    row(
        "gates, gain over shuffled",
        points(&report["gates"]["shuffle_gain"]),
    );
    row(
        "gate rates, block: MHSA FFN",
        rates(&report["gates"]["rate"]),
    );
    for at in report["frontier"].as_array().into_iter().flatten() {
        row(&format!("at budget {}", at["budget"]), at_budget(at));
    }
    output::table(&["FIGURE", "VALUE"], &rows)
}

/// `88.10% at 0.400 of dense, shared at batch 64: 87.90% at 0.391 of dense, 12 paths`.
fn at_budget(at: &Value) -> Option<String> {
    let pair = |accuracy: &str, macs: &str| {
        let (accuracy, macs) = (percent(&at[accuracy])?, ratio(&at[macs])?);
        Some(format!("{accuracy} at {macs}"))
    };
    Some(format!(
        "{}, shared at batch 64: {}, {} paths",
        pair("accuracy", "effective_ratio")?,
        pair("shared_accuracy", "shared_ratio")?,
        count(&at["distinct_paths"])?
    ))
}

fn percent(value: &Value) -> Option<String> {
    value.as_f64().map(|v| format!("{:.2}%", 100.0 * v))
}

/// A difference of two shares, in percentage points.
fn points(value: &Value) -> Option<String> {
    value.as_f64().map(|v| format!("{:+.2} points", 100.0 * v))
}

fn ratio(value: &Value) -> Option<String> {
    value.as_f64().map(|v| format!("{v:.3} of dense"))
}

fn millis(value: &Value) -> Option<String> {
    value.as_f64().map(|v| format!("{v:.2}"))
}

fn size(value: &Value) -> Option<String> {
    value.as_u64().map(output::bytes)
}

/// A count with its thousands apart: 4,599,000.
fn count(value: &Value) -> Option<String> {
    let digits = format!("{:.0}", value.as_f64()?);
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    Some(text)
}

fn with_ratio(macs: &Value, name: &str, ratio_name: &str) -> Option<String> {
    let text = count(&macs[name])?;
    Some(match ratio(&macs[ratio_name]) {
        Some(ratio) => format!("{text} ({ratio})"),
        None => text,
    })
}

fn from_to(
    report: &Value,
    group: &str,
    from: &str,
    to: &str,
    show: fn(&Value) -> Option<String>,
) -> Option<String> {
    let now = show(&report[group][to])?;
    let before = show(&report[group][from])?;
    Some(format!("{now} (dense {before})"))
}

/// `1: 88.10%  8: 88.05%`, in the order of the batch sizes.
fn by_batch(figures: &Value, show: fn(&Value) -> Option<String>) -> Option<String> {
    let mut entries: Vec<(u64, String)> = figures
        .as_object()?
        .iter()
        .filter_map(|(batch, value)| Some((batch.parse().ok()?, show(value)?)))
        .collect();
    entries.sort();
    let entries: Vec<String> = entries
        .into_iter()
        .map(|(batch, text)| format!("{batch}: {text}"))
        .collect();
    (!entries.is_empty()).then(|| entries.join("  "))
}

/// `0: 1.00 0.42  1: - 0.99`, a dash where a module has no gate.
fn rates(rates: &Value) -> Option<String> {
    let rate = |value: &Value| match value.as_f64() {
        Some(rate) => format!("{rate:.2}"),
        None => "-".to_owned(),
    };
    let blocks: Vec<String> = rates
        .as_array()?
        .iter()
        .map(|b| format!("{}: {} {}", b["block"], rate(&b["attn"]), rate(&b["ffn"])))
        .collect();
    (!blocks.is_empty()).then(|| blocks.join("  "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_card_shows_what_is_there() {
        let report = json!({
            "accuracy": { "per_sample": 0.8812, "shared": { "64": 0.88, "1": 0.8812 } },
            "macs": { "dense": 4_599_000, "effective": 2_299_500.0, "effective_ratio": 0.5 },
            "frontier": [{
                "budget": 0.4, "accuracy": 0.86, "effective_ratio": 0.401, "shared_accuracy": 0.855,
                "shared_ratio": 0.39, "distinct_paths": 12,
            }],
            "gates": { "decide": "constant", "shuffle_gain": -0.0012, "rate": [{ "block": 0, "attn": null, "ffn": 0.5 }] },
        });
        let card = card(&report);
        for line in [
            "accuracy, per sample         88.12%",
            "accuracy, shared, by batch   1: 88.12%  64: 88.00%",
            "MACs, dense                  4,599,000",
            "MACs, effective              2,299,500 (0.500 of dense)",
            "gates, decided by            constant",
            "gates, gain over shuffled    -0.12 points",
            "gate rates, block: MHSA FFN  0: - 0.50",
            "at budget 0.4                86.00% at 0.401 of dense, shared at batch 64: 85.50% at 0.390 of dense, 12 paths",
        ] {
            assert!(
                card.lines().any(|l| l.trim() == line),
                "{line:?} not in\n{card}"
            );
        }
        assert!(!card.contains("latency"));
    }
}
