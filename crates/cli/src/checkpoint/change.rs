//! Labels and deletion.

use std::collections::HashMap;

use espalier_proto::v1::{DeleteCheckpointRequest, UpdateCheckpointRequest};
use serde_json::json;

use super::value;
use crate::args::{Global, LabelArgs, Output};
use crate::exit::Failure;
use crate::{connect, output};

pub(super) async fn label(global: &Global, args: LabelArgs) -> Result<(), Failure> {
    let request = UpdateCheckpointRequest {
        reference: args.reference.clone(),
        set_labels: labels(&args.set)?,
        remove_labels: args.remove,
        keep: args.keep,
    };
    let checkpoint = connect::registry(global)
        .await?
        .update_checkpoint(connect::unary(request))
        .await
        .map_err(Failure::rpc(format!("labelling {}", args.reference)))?
        .into_inner()
        .checkpoint
        .unwrap_or_default();
    match global.output {
        Output::Json => output::json(&value(&checkpoint)),
        Output::Table => output::text(&super::labels(&checkpoint)),
    }
}

pub(super) async fn delete(global: &Global, reference: String) -> Result<(), Failure> {
    let operation = format!("deleting {reference}");
    let request = DeleteCheckpointRequest {
        reference: reference.clone(),
    };
    connect::registry(global)
        .await?
        .delete_checkpoint(connect::unary(request))
        .await
        .map_err(Failure::rpc(operation))?;
    match global.output {
        Output::Json => output::json(&json!({ "deleted": reference })),
        Output::Table => output::text(&format!("deleted {reference}")),
    }
}

/// Labels as they are written on the command line.
pub(super) fn labels(words: &[String]) -> Result<HashMap<String, String>, Failure> {
    let pair = |word: &String| match word.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
        None => Err(Failure::Usage(format!(
            "label {word:?}: write it as NAME=VALUE"
        ))),
    };
    words.iter().map(pair).collect()
}

/// Who runs this command, for histories: `user@host`, as the environment says.
pub(super) fn actor() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME"));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    let or_unknown = |word: Option<String>| word.unwrap_or_else(|| "unknown".to_owned());
    format!("{}@{}", or_unknown(user.ok()), or_unknown(host.ok()).trim())
}
