//! `espalier job logs`: survives a restart of the coordinator by going on after the last cursor.

use espalier_proto::v1::StreamLogsRequest;
use tonic::Request;

use crate::args::{Global, Output};
use crate::exit::Failure;
use crate::follow::Patience;
use crate::{connect, output};

pub(super) async fn run(global: &Global, job_id: String, follow: bool) -> Result<(), Failure> {
    let mut after_cursor = 0;
    let mut patience = Patience::default();
    loop {
        let request = StreamLogsRequest {
            job_id: job_id.clone(),
            after_cursor,
            follow,
        };
        let seen = after_cursor;
        match stream(global, request, &mut after_cursor).await {
            Ok(()) => return Ok(()),
            Err(failure) => {
                if after_cursor > seen {
                    patience = Patience::default();
                }
                patience.wait_or(failure).await?;
            }
        }
    }
}

async fn stream(
    global: &Global,
    request: StreamLogsRequest,
    cursor: &mut u64,
) -> Result<(), Failure> {
    let operation = format!("reading the logs of job {}", request.job_id);
    let mut lines = connect::jobs(global)
        .await?
        .stream_logs(Request::new(request))
        .await
        .map_err(Failure::rpc(operation.clone()))?
        .into_inner();
    while let Some(line) = lines
        .message()
        .await
        .map_err(Failure::rpc(operation.clone()))?
    {
        *cursor = line.cursor;
        match global.output {
            Output::Table => output::text(&format!(
                "{} [{}] {}",
                output::time(line.time.as_ref()),
                line.rank,
                line.line
            ))?,
            Output::Json => output::text(
                &serde_json::json!({
                    "cursor": line.cursor,
                    "time": output::time(line.time.as_ref()),
                    "generation": line.generation,
                    "rank": line.rank,
                    "line": line.line,
                })
                .to_string(),
            )?,
        }
    }
    Ok(())
}
