//! `espalier registry ...`

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use espalier_proto::v1::{
    BestBy, CollectGarbageRequest, GetRetentionRequest, GetUsageRequest, Retention,
    SetRetentionRequest,
};
use espalier_registry::{Fault, Mirror};
use serde_json::json;

use crate::args::{Global, Output, RegistryCommand, RetentionArgs};
use crate::connect;
use crate::exit::Failure;
use crate::output::{self, Listing, bytes};

/// Longest collection that is waited for: the registry ends it before.
const COLLECT: Duration = Duration::from_secs(15 * 60);

pub(crate) async fn run(global: &Global, command: RegistryCommand) -> Result<(), Failure> {
    match command {
        RegistryCommand::Usage => usage(global).await,
        RegistryCommand::Gc { dry_run } => collect(global, dry_run).await,
        RegistryCommand::Fsck { repair } => fsck(global, repair).await,
        RegistryCommand::Retention(args) => retention(global, args).await,
    }
}

async fn usage(global: &Global) -> Result<(), Failure> {
    let usage = connect::registry(global)
        .await?
        .get_usage(connect::unary(GetUsageRequest {}))
        .await
        .map_err(Failure::rpc("asking what is stored"))?
        .into_inner();
    let quota = match usage.quota_bytes {
        0 => "none".to_owned(),
        quota => bytes(quota),
    };
    Listing {
        header: vec!["CHUNKS", "STORED", "QUOTA", "LEASES"],
        rows: vec![vec![
            usage.chunks.to_string(),
            bytes(usage.stored_bytes),
            quota,
            usage.leases.to_string(),
        ]],
        json: json!({
            "chunks": usage.chunks,
            "stored_bytes": usage.stored_bytes,
            "quota_bytes": usage.quota_bytes,
            "leases": usage.leases,
        }),
    }
    .print(global.output)
}

async fn collect(global: &Global, dry_run: bool) -> Result<(), Failure> {
    let mut request = tonic::Request::new(CollectGarbageRequest { dry_run });
    request.set_timeout(COLLECT);
    let report = connect::registry(global)
        .await?
        .collect_garbage(request)
        .await
        .map_err(Failure::rpc("collecting garbage"))?
        .into_inner();
    let retired = report.retired.iter();
    match global.output {
        Output::Json => output::json(&json!({
            "dry_run": dry_run,
            "retired": retired
                .map(|r| json!({ "name": r.name, "digest": r.digest, "reason": r.reason }))
                .collect::<Vec<_>>(),
            "retired_count": report.retired_count,
            "swept_chunks": report.swept_chunks,
            "swept_bytes": report.swept_bytes,
            "waiting_chunks": report.waiting_chunks,
            "chunks": report.chunks,
            "cut_short": report.cut_short,
        })),
        Output::Table => {
            let rows: Vec<Vec<String>> = retired
                .map(|r| vec![r.name.clone(), r.digest.clone(), r.reason.clone()])
                .collect();
            if !rows.is_empty() {
                output::text(&output::table(&["NAME", "RETIRED", "BECAUSE"], &rows))?;
            }
            output::text(&format!(
                "{} {} checkpoints and {} of {} chunks ({}); {} chunks wait for their grace period{}",
                if dry_run { "would remove" } else { "removed" },
                report.retired_count,
                report.swept_chunks,
                report.chunks,
                bytes(report.swept_bytes),
                report.waiting_chunks,
                if report.cut_short {
                    "; cut short by the time limit"
                } else {
                    ""
                },
            ))
        }
    }
}

async fn fsck(global: &Global, repair: Option<String>) -> Result<(), Failure> {
    let client = connect::checkpoints(global).await?;
    let mirror = match repair {
        None => None,
        Some(endpoint) if endpoint.contains("://") => {
            let other = connect::mirror(global, &endpoint).await?;
            Some(Mirror::Registry(Box::new(other)))
        }
        Some(folder) if PathBuf::from(&folder).is_dir() => Some(Mirror::Folder(folder.into())),
        Some(other) => {
            let problem = format!("--repair {other:?}: is neither http(s)://... nor a folder");
            return Err(Failure::Usage(problem));
        }
    };
    let bar = indicatif::ProgressBar::new(0);
    let faults = client
        .fsck(mirror.as_ref(), |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })
        .await?;
    bar.finish_and_clear();
    Listing {
        header: vec!["DIGEST", "PROBLEM", "REPAIRED", "NEEDED BY"],
        rows: faults.iter().map(row).collect(),
        json: faults
            .iter()
            .map(|fault| {
                json!({
                    "digest": fault.digest,
                    "problem": fault.problem,
                    "repaired": fault.repaired,
                    "needed_by": fault.needed_by,
                })
            })
            .collect(),
    }
    .print(global.output)?;
    let left = faults.iter().filter(|fault| !fault.repaired).count();
    if left > 0 {
        return Err(anyhow!(
            "{left} objects are damaged or missing; push their checkpoints again, or repair from a mirror"
        )
        .into());
    }
    Ok(())
}

fn row(fault: &Fault) -> Vec<String> {
    vec![
        fault.digest.to_string(),
        fault.problem.clone(),
        if fault.repaired { "yes" } else { "no" }.to_owned(),
        fault.needed_by.join(", "),
    ]
}

async fn retention(global: &Global, args: RetentionArgs) -> Result<(), Failure> {
    let mut client = connect::registry(global).await?;
    let name = args.name.clone().unwrap_or_default();
    let get = || connect::unary(GetRetentionRequest { name: name.clone() });
    let asking = || Failure::rpc("asking what is kept");
    let now = client
        .get_retention(get())
        .await
        .map_err(asking())?
        .into_inner();
    let changes = args.clear
        || args.training_running.is_some()
        || args.training_ended.is_some()
        || args.models.is_some()
        || args.best.is_some();
    let now = if changes {
        let retention = changed(args, now.retention.unwrap_or_default())?;
        let request = SetRetentionRequest {
            name: name.clone(),
            retention,
        };
        client
            .set_retention(connect::unary(request))
            .await
            .map_err(Failure::rpc("setting what is kept"))?;
        client
            .get_retention(get())
            .await
            .map_err(asking())?
            .into_inner()
    } else {
        now
    };
    let kept = now.retention.unwrap_or_default();
    let count = |count: u32| match count {
        0 => "all".to_owned(),
        count => count.to_string(),
    };
    let best = kept.best.as_ref().map(|best| {
        let end = if best.smallest { ", smallest" } else { "" };
        format!("{} by {}{end}", best.count, best.field)
    });
    Listing {
        header: vec![
            "TRAINING, JOB RUNS",
            "TRAINING, JOB ENDED",
            "MODELS",
            "BEST",
            "OWN POLICY",
        ],
        rows: vec![vec![
            count(kept.training_running),
            count(kept.training_ended),
            count(kept.models),
            best.clone().unwrap_or_else(|| "-".to_owned()),
            if now.own { "yes" } else { "no" }.to_owned(),
        ]],
        json: json!({
            "name": name,
            "training_running": kept.training_running,
            "training_ended": kept.training_ended,
            "models": kept.models,
            "best": best,
            "own": now.own,
        }),
    }
    .print(global.output)
}

/// The policy with what was given changed; `None` takes it away.
fn changed(args: RetentionArgs, before: Retention) -> Result<Option<Retention>, Failure> {
    if args.clear {
        return Ok(None);
    }
    Ok(Some(Retention {
        training_running: args.training_running.unwrap_or(before.training_running),
        training_ended: args.training_ended.unwrap_or(before.training_ended),
        models: args.models.unwrap_or(before.models),
        best: match args.best.as_deref() {
            None => before.best,
            Some("none") => None,
            Some(text) => Some(best(text)?),
        },
    }))
}

fn best(text: &str) -> Result<BestBy, Failure> {
    let wrong = || {
        Failure::Usage(format!(
            "--best {text:?}: write it as COUNT:FIELD or COUNT:FIELD:smallest, such as 3:accuracy.per_sample"
        ))
    };
    let mut parts = text.split(':');
    let (Some(count), Some(field), end, None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(wrong());
    };
    if end.is_some_and(|end| end != "smallest") {
        return Err(wrong());
    }
    Ok(BestBy {
        field: field.to_owned(),
        count: count.parse().map_err(|_| wrong())?,
        smallest: end.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_are_asked_for_by_count_and_field() {
        let three = best("3:accuracy.per_sample").expect("right");
        assert_eq!(
            (three.count, three.field.as_str(), three.smallest),
            (3, "accuracy.per_sample", false)
        );
        assert!(best("1:bytes:smallest").expect("right").smallest);
        for text in ["", "3", "x:bytes", "3:bytes:largest", "3:a:smallest:b"] {
            assert!(best(text).is_err(), "{text}");
        }
    }
}
