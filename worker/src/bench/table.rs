//! The report as a table in Markdown.

use std::fmt::Write as _;

use super::{Report, Row};
use crate::turns::Spread;

const HEADER: &str = "\
| threads | batch | gates | dense, ms | compressed, ms | speed-up | bound | share of bound | by processor time |\n\
|---|---|---|---|---|---|---|---|---|\n";
const EAGER: &str = " PyTorch eager, dense, ms | speed-up over it |";

/// One line per row; times and speed-ups as medians with quartiles.
pub(super) fn render(report: &Report) -> String {
    let has_peer = report.rows.iter().any(|row| row.eager_ms.is_some());
    let mut text = format!(
        "{}: {:.0} MACs an image when dense, {:.3} of them with every gate open\n\n",
        report.model, report.dense_macs, report.static_ratio
    );
    if has_peer {
        let (titles, rule) = HEADER.split_once('\n').unwrap_or((HEADER, ""));
        let _ = write!(text, "{titles}{EAGER}\n{}---|---|\n", rule.trim_end());
    } else {
        text.push_str(HEADER);
    }
    for row in &report.rows {
        text.push_str(&line(row));
    }
    text.push_str(
        "\nTimes and speed-ups: median (quartiles) over the rounds, all models in turn. Bound: dense MACs over those spent. \
         By processor time: speed-up and share of the bound as the processors' time has it.\n",
    );
    text
}

fn line(row: &Row) -> String {
    let mut line = format!(
        "| {} | {} | {} | {} | {} | {} | {:.2} | {:.2} | {}, {:.2} |",
        row.threads,
        row.batch,
        row.mode.name(),
        ms(&row.dense_ms),
        ms(&row.model_ms),
        factor(&row.speed_up),
        row.bound,
        row.share,
        factor(&row.processor_speed_up),
        row.processor_share
    );
    if let (Some(eager_ms), Some(speed_up)) = (&row.eager_ms, &row.speed_up_over_eager) {
        let _ = write!(line, " {} | {} |", ms(eager_ms), factor(speed_up));
    }
    line.push('\n');
    line
}

fn ms(time: &Spread) -> String {
    format!("{:.1} ({:.1}-{:.1})", time.median, time.low, time.high)
}

fn factor(factor: &Spread) -> String {
    format!(
        "{:.2} ({:.2}-{:.2})",
        factor.median, factor.low, factor.high
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Mode;

    fn report(eager_ms: Option<Spread>) -> Report {
        let spread = |median: f64| Spread {
            low: median - 0.5,
            median,
            high: median + 0.5,
        };
        Report {
            model: "m".to_owned(),
            dense_macs: 1000.0,
            static_ratio: 0.7,
            rows: vec![Row {
                threads: 1,
                batch: 8,
                mode: Mode::PerSample,
                rounds: 5,
                dense_ms: spread(20.0),
                model_ms: spread(11.0),
                eager_ms,
                speed_up: spread(1.8),
                processor_speed_up: spread(1.9),
                speed_up_over_eager: eager_ms.map(|_| spread(2.2)),
                bound: 2.0,
                share: 0.9,
                processor_share: 0.95,
            }],
        }
    }

    #[test]
    fn every_line_of_the_table_has_the_same_columns() {
        let spread = Spread {
            low: 24.0,
            median: 25.0,
            high: 26.0,
        };
        for (eager_ms, columns) in [(None, 9), (Some(spread), 11)] {
            let text = render(&report(eager_ms));
            let table: Vec<&str> = text.lines().filter(|line| line.starts_with('|')).collect();
            assert_eq!(table.len(), 3);
            assert!(
                table
                    .iter()
                    .all(|line| line.matches('|').count() == columns + 1),
                "{text}"
            );
        }
    }
}
