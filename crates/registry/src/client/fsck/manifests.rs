//! Manifests that a registry has lost, and what a mirror has of them.

use std::collections::HashSet;

use espalier_proto::v1::{Checkpoint, ListCheckpointsRequest, PublishCheckpointRequest};
use tonic::Code;

use super::{Fault, Mirror, Uses, if_whole, note_uses};
use crate::client::connection::unary;
use crate::client::{Client, ClientError};
use crate::{Digest, Manifest};

/// Checkpoints of a page.
const PAGE: u32 = 500;

/// A manifest that is damaged or missing.
pub(super) struct Broken {
    pub(super) fault: Fault,
    /// The mirror's.
    pub(super) whole: Option<Manifest>,
}

impl Client {
    /// Every chunk that a checkpoint refers to, and the manifests that do not say. Of those it is the
    /// mirror that says it.
    pub(super) async fn uses(
        &self,
        mirror: Option<&Mirror>,
    ) -> Result<(Uses, Vec<Broken>), ClientError> {
        let mut uses = Uses::new();
        let mut problems: Vec<(Checkpoint, String)> = Vec::new();
        let mut absent: Vec<Checkpoint> = Vec::new();
        for checkpoint in self.listed().await? {
            match self.get(&checkpoint.digest).await {
                Ok(found) => note_uses(&found.manifest, &found.digest, &mut uses),
                Err(error) if error.code() == Some(Code::NotFound) => absent.push(checkpoint),
                Err(error) if error.code() == Some(Code::DataLoss) => {
                    problems.push((checkpoint, error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
        if !absent.is_empty() {
            // Others were deleted since they were listed.
            let still = self.listed().await?.into_iter();
            let still: HashSet<String> = still.map(|checkpoint| checkpoint.digest).collect();
            let lost = absent.into_iter().filter(|c| still.contains(&c.digest));
            problems.extend(lost.map(|c| (c, "the manifest is missing".to_owned())));
        }
        let mut broken = Vec::new();
        for (checkpoint, problem) in problems {
            let Ok(digest) = checkpoint.digest.parse::<Digest>() else {
                continue;
            };
            let whole = match mirror {
                Some(Mirror::Registry(other)) => other.manifest(&checkpoint.digest).await?,
                // A folder has the files alone.
                Some(Mirror::Folder(_)) | None => None,
            };
            if let Some(manifest) = &whole {
                note_uses(manifest, &checkpoint.digest, &mut uses);
            }
            let fault = Fault {
                digest,
                problem,
                needed_by: vec![checkpoint.name],
                repaired: false,
            };
            broken.push(Broken { fault, whole });
        }
        Ok((uses, broken))
    }

    /// Every checkpoint.
    async fn listed(&self) -> Result<Vec<Checkpoint>, ClientError> {
        let mut request = ListCheckpointsRequest {
            page_size: PAGE,
            include_training: true,
            ..Default::default()
        };
        let mut all = Vec::new();
        loop {
            let page = self.list(request.clone()).await?;
            all.extend(page.checkpoints);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(all);
            }
        }
    }

    /// A manifest, if it is there and whole.
    async fn manifest(&self, digest: &str) -> Result<Option<Manifest>, ClientError> {
        Ok(if_whole(self.get(digest).await)?.map(|found| found.manifest))
    }

    /// Publishes a manifest again, which takes the place of the damaged one. False when chunks of it are
    /// missing.
    pub(super) async fn restore(&self, manifest: &Manifest) -> Result<bool, ClientError> {
        let request = PublishCheckpointRequest {
            request_id: uuid::Uuid::new_v4().to_string(),
            name: manifest.name.clone(),
            manifest: manifest.to_bytes()?.into(),
            ..Default::default()
        };
        let published = self
            .connection
            .call("restoring a manifest", |mut rpc| {
                let request = unary(request.clone());
                async move { rpc.publish_checkpoint(request).await }
            })
            .await;
        match published {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(Code::FailedPrecondition) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
