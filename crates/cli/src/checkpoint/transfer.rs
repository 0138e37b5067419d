//! Pushing, pulling and verifying folders, with what it took.

use std::path::Path;

use anyhow::anyhow;
use espalier_registry::{
    Alias, Expected, KeyError, Kind, Moved, PublicKey, PublishRequest, SecretKey,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::change::labels;
use crate::args::{Global, Output, PushArgs};
use crate::connect;
use crate::exit::Failure;
use crate::output::{self, bytes};

pub(super) async fn push(global: &Global, args: PushArgs) -> Result<(), Failure> {
    let (name, alias) = match args.target.split_once(':') {
        Some((name, alias)) => (name, Some(alias)),
        None => (args.target.as_str(), None),
    };
    if alias.is_none() && (args.expect.is_some() || args.force) {
        let problem = "--expect and --force are about an alias: write NAME:ALIAS";
        return Err(Failure::Usage(problem.to_owned()));
    }
    let expected = expected(args.expect.as_deref())?;
    let request = PublishRequest {
        alias: alias.map(|alias| Alias {
            name: alias.to_owned(),
            expected,
            reason: args.reason.clone(),
        }),
        actor: super::change::actor(),
        labels: labels(&args.labels)?.into_iter().collect(),
        force: args.force,
        sign: args
            .sign
            .as_deref()
            .map(SecretKey::read)
            .transpose()
            .map_err(|e| Failure::Usage(format!("--sign: {e}")))?,
        ..PublishRequest::new(name, Kind::Model)
    };
    let bar = bar(&args.target);
    let client = connect::checkpoints(global).await?;
    let pushed = client
        .push_folder(&args.dir, &request, advance(&bar))
        .await?;
    bar.finish_and_clear();
    if pushed.alias_kept {
        eprintln!("warning: the alias is protected and was left where it is");
    }
    match global.output {
        Output::Json => output::json(&json!({
            "digest": pushed.digest,
            "transfer": value(&pushed.moved),
        })),
        Output::Table => {
            eprintln!("{}", words("sent", &pushed.moved));
            output::text(&pushed.digest)
        }
    }
}

/// What an alias must point to before it is moved.
fn expected(text: Option<&str>) -> Result<Expected, Failure> {
    Ok(match text {
        None => Expected::Any,
        Some("none") => Expected::Absent,
        Some(digest) => {
            let wrong = |e| Failure::Usage(format!("--expect: {e}, or `none`"));
            Expected::Digest(digest.parse().map_err(wrong)?)
        }
    })
}

pub(super) async fn pull(
    global: &Global,
    reference: &str,
    dir: &Path,
    signed_by: &[String],
) -> Result<(), Failure> {
    let keys: Vec<PublicKey> = signed_by
        .iter()
        .map(|key| key.parse())
        .collect::<Result<_, _>>()
        .map_err(|e: KeyError| Failure::Usage(format!("--signed-by: {e}")))?;
    let (digest, moved) = fetch_counted(global, reference, dir, keys).await?;
    match global.output {
        Output::Json => output::json(&json!({
            "digest": digest,
            "dir": dir,
            "transfer": value(&moved),
        })),
        Output::Table => {
            eprintln!("{}", words("received", &moved));
            output::text(&digest)
        }
    }
}

/// Pulls `reference` into `dir` with a progress bar; returns the checkpoint's digest.
pub(crate) async fn fetch(global: &Global, reference: &str, dir: &Path) -> Result<String, Failure> {
    Ok(fetch_counted(global, reference, dir, Vec::new()).await?.0)
}

async fn fetch_counted(
    global: &Global,
    reference: &str,
    dir: &Path,
    trusted: Vec<PublicKey>,
) -> Result<(String, Moved), Failure> {
    let bar = bar(reference);
    let mut client = connect::checkpoints(global).await?;
    if !trusted.is_empty() {
        client = client.trusting(trusted);
    }
    let pulled = client.pull(reference, dir, advance(&bar)).await?;
    bar.finish_and_clear();
    output::warn_stale(pulled.stale_s);
    Ok((pulled.digest, pulled.moved))
}

pub(super) async fn verify(global: &Global, reference: &str, dir: &Path) -> Result<(), Failure> {
    let client = connect::checkpoints(global).await?;
    let (found, difference) = client.compare(reference, dir).await?;
    output::warn_stale(found.stale_s);
    if let Some(difference) = difference {
        return Err(anyhow!(
            "{} is not {reference} ({}): {difference}",
            dir.display(),
            found.digest
        )
        .into());
    }
    match global.output {
        Output::Json => output::json(&json!({ "digest": found.digest, "dir": dir })),
        Output::Table => output::text(&found.digest),
    }
}

pub(super) fn keygen(global: &Global, file: &Path) -> Result<(), Failure> {
    let key = SecretKey::generate(file).map_err(anyhow::Error::new)?;
    let public = key.public().to_string();
    match global.output {
        Output::Json => output::json(&json!({ "file": file, "public_key": public })),
        Output::Table => output::text(&public),
    }
}

fn bar(what: &str) -> ProgressBar {
    let template = "{bar:24} {decimal_bytes}/{decimal_total_bytes} {msg}";
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bar = ProgressBar::new(0).with_style(style);
    bar.set_message(what.to_owned());
    bar
}

fn advance(bar: &ProgressBar) -> impl Fn(u64, u64) + Send + Sync + 'static {
    let bar = bar.clone();
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}

fn words(verb: &str, moved: &Moved) -> String {
    format!(
        "{verb} {} for {} in {} of {} chunks: {} saved",
        bytes(moved.moved_bytes),
        bytes(moved.total_bytes),
        moved.moved_chunks,
        moved.chunks,
        bytes(moved.saved_bytes())
    )
}

fn value(moved: &Moved) -> Value {
    json!({
        "total_bytes": moved.total_bytes,
        "moved_bytes": moved.moved_bytes,
        "saved_bytes": moved.saved_bytes(),
        "chunks": moved.chunks,
        "moved_chunks": moved.moved_chunks,
    })
}
