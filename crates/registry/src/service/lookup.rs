use std::collections::BTreeMap;
use std::sync::Arc;

use espalier_proto::v1::{
    GetCheckpointRequest, GetCheckpointResponse, ListAliasHistoryRequest, ListAliasHistoryResponse,
    ListCheckpointsRequest, ListCheckpointsResponse,
};
use espalier_store::{Range, Store};

use super::RegistryService;
use super::requests::digest;
use crate::filter::Subject;
use crate::records::{
    AliasRecord, CheckpointRecord, MoveRecord, NoteRecord, PUBLISHED, alias_key, aliases_prefix,
    card_key, checkpoints_prefix, decode, digest_key, history_prefix, manifest_key, note_key,
    signatures_key,
};
use crate::rules::check_name;
use crate::signing::Signed;
use crate::{Digest, Filter, Kind, Manifest, RegistryError};

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 500;

/// Most records looked through for one page of a list that leaves some out; the page may be short.
const MAX_SCAN: usize = 5000;

/// Which names a caller may see. Goes with a request, in its extensions; without it all are seen.
#[derive(Clone)]
pub struct Visible(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl Visible {
    /// Those of which this is true.
    pub fn new(shows: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(shows))
    }

    fn shows(&self, name: &str) -> bool {
        (self.0)(name)
    }
}

/// Name of the checkpoint that a reference means: of what it says is to be looked up, whether or not
/// that is there; of a digest alone what the store says, `None` when it is not there.
///
/// # Errors
/// [`RegistryError::Argument`] when it is no reference; when the store fails.
pub async fn checkpoint_name(
    store: &Store,
    reference: &str,
) -> Result<Option<String>, RegistryError> {
    match Reference::parse(reference)? {
        Reference::Alias { name, .. }
        | Reference::Digest {
            name: Some(name), ..
        } => Ok(Some(name)),
        Reference::Digest { name: None, digest } => {
            if store.get(&manifest_key(digest)).await?.is_none() {
                return Ok(None);
            }
            Ok(Some(record_of(store, digest).await?.name))
        }
    }
}

async fn record_of(store: &Store, digest: Digest) -> Result<CheckpointRecord, RegistryError> {
    let key = digest_key(digest);
    let damaged = |key: &str, problem: &str| RegistryError::Record {
        key: key.to_owned(),
        problem: problem.to_owned(),
    };
    let pointer = store.get(&key).await?;
    let pointer = pointer.ok_or_else(|| damaged(&key, "it is missing"))?;
    let published =
        String::from_utf8(pointer.value).map_err(|_| damaged(&key, "it is not utf-8"))?;
    let entry = store.get(&published).await?;
    decode(&entry.ok_or_else(|| damaged(&published, "it is missing"))?)
}

/// A reference to a checkpoint, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Alias {
        name: String,
        alias: String,
    },
    Digest {
        name: Option<String>,
        digest: Digest,
    },
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, RegistryError> {
        let named = |name: &str| {
            check_name(name).map_err(|problem| {
                RegistryError::argument(
                    "reference",
                    format!("{problem}; write `name:alias`, `name@sha256:...` or `sha256:...`"),
                )
            })
        };
        if text.starts_with("sha256:") {
            return Ok(Self::Digest {
                name: None,
                digest: digest("reference", text)?,
            });
        }
        if let Some((name, text)) = text.split_once('@') {
            named(name)?;
            return Ok(Self::Digest {
                name: Some(name.to_owned()),
                digest: digest("reference", text)?,
            });
        }
        let (name, alias) = text.split_once(':').unwrap_or((text, "latest"));
        named(name)?;
        named(alias)?;
        Ok(Self::Alias {
            name: name.to_owned(),
            alias: alias.to_owned(),
        })
    }
}

impl RegistryService {
    /// The checkpoint that a reference means, with its manifest as it was published.
    pub(crate) async fn get(
        &self,
        request: &GetCheckpointRequest,
    ) -> Result<GetCheckpointResponse, RegistryError> {
        // From the look at the manifest until its chunks are pinned, none of them goes.
        let _gate = self.0.gate.read().await;
        let digest = self.resolve(&request.reference).await?;
        let (bytes, manifest) = self.manifest(digest, &request.reference).await?;
        let chunks = manifest.files.iter().flat_map(|file| &file.chunks);
        self.pin(&request.lease, chunks.map(|id| id.digest))?;
        let record = self.record_of(digest).await?;
        let aliases = self.aliases(&record.name).await?;
        let note = self.note(digest).await?;
        Ok(GetCheckpointResponse {
            checkpoint: Some(record.to_proto(pointing(&aliases, digest), note)),
            manifest: bytes.into(),
            signatures: self
                .signatures(digest)
                .await?
                .iter()
                .map(Signed::to_proto)
                .collect(),
            stale_s: 0,
        })
    }

    /// The digest of the checkpoint that a reference means.
    pub(super) async fn resolve(&self, reference: &str) -> Result<Digest, RegistryError> {
        let not_found = || RegistryError::NotFound {
            what: "checkpoint",
            name: reference.to_owned(),
        };
        let (name, digest) = match Reference::parse(reference)? {
            Reference::Digest { name, digest } => (name, digest),
            Reference::Alias { name, alias } => {
                let entry = self.store().get(&alias_key(&name, &alias)).await?;
                let record: AliasRecord = decode(&entry.ok_or_else(not_found)?)?;
                (Some(name), record.digest.ok_or_else(not_found)?)
            }
        };
        if self.store().get(&manifest_key(digest)).await?.is_none() {
            return Err(not_found());
        }
        match name {
            Some(name) if self.record_of(digest).await?.name != name => Err(not_found()),
            _ => Ok(digest),
        }
    }

    /// The bytes of a manifest, verified, and what they say.
    async fn manifest(
        &self,
        digest: Digest,
        reference: &str,
    ) -> Result<(Vec<u8>, Manifest), RegistryError> {
        let entry = self.store().get(&manifest_key(digest)).await?;
        let bytes = entry.map(|entry| entry.value);
        let bytes = bytes.ok_or_else(|| RegistryError::NotFound {
            what: "checkpoint",
            name: reference.to_owned(),
        })?;
        let damaged = |problem: String| RegistryError::Damaged { digest, problem };
        if Digest::of(&bytes) != digest {
            return Err(damaged("the manifest has another digest".to_owned()));
        }
        let manifest = Manifest::parse(&bytes).map_err(|e| damaged(e.to_string()))?;
        Ok((bytes, manifest))
    }

    /// A page of checkpoints, newest first.
    pub(crate) async fn list(
        &self,
        request: ListCheckpointsRequest,
        visible: Option<&Visible>,
    ) -> Result<ListCheckpointsResponse, RegistryError> {
        let prefix = if request.name.is_empty() {
            PUBLISHED.to_owned()
        } else {
            check_name(&request.name).map_err(|p| RegistryError::argument("name", p))?;
            checkpoints_prefix(&request.name)
        };
        let filter = match request.filter.as_str() {
            "" => None,
            text => Some(Filter::parse(text).map_err(|e| RegistryError::argument("filter", e))?),
        };
        let size = page_size(request.page_size);
        let mut before = page_token(&request.page_token)?;
        let mut records: Vec<CheckpointRecord> = Vec::new();
        let mut scanned = 0;
        let mut more = true;
        while more && records.len() < size && scanned < MAX_SCAN {
            let range = newest(&prefix, before, size - records.len());
            let page = self.store().range(range).await?;
            more = page.more;
            scanned += page.entries.len();
            for entry in &page.entries {
                let record: CheckpointRecord = decode(entry)?;
                before = Some(record.sequence);
                let of_kind = request.include_training || record.kind == Kind::Model;
                let shown = visible.is_none_or(|visible| visible.shows(&record.name));
                if of_kind && shown && self.matches(filter.as_ref(), &record).await? {
                    records.push(record);
                }
            }
        }
        let mut aliases: BTreeMap<String, Vec<(String, Digest)>> = BTreeMap::new();
        for record in &records {
            if !aliases.contains_key(&record.name) {
                let found = self.aliases(&record.name).await?;
                aliases.insert(record.name.clone(), found);
            }
        }
        let mut checkpoints = Vec::with_capacity(records.len());
        for record in &records {
            let of_name = aliases.get(&record.name).map_or(&[][..], Vec::as_slice);
            let note = self.note(record.digest).await?;
            checkpoints.push(record.to_proto(pointing(of_name, record.digest), note));
        }
        Ok(ListCheckpointsResponse {
            checkpoints,
            next_page_token: next_page_token(more, before),
            stale_s: 0,
        })
    }

    async fn matches(
        &self,
        filter: Option<&Filter>,
        record: &CheckpointRecord,
    ) -> Result<bool, RegistryError> {
        let Some(filter) = filter else {
            return Ok(true);
        };
        let note = self.note(record.digest).await?;
        let report = self.report(record.digest).await?;
        Ok(filter.matches(&Subject {
            record,
            note: &note,
            report: &report,
        }))
    }

    /// The report card of a checkpoint; null when it has none.
    pub(crate) async fn report(&self, digest: Digest) -> Result<serde_json::Value, RegistryError> {
        let card = self.store().get(&card_key(digest)).await?;
        Ok(card.as_ref().map(decode).transpose()?.unwrap_or_default())
    }

    /// Who signed a checkpoint.
    pub(super) async fn signatures(&self, digest: Digest) -> Result<Vec<Signed>, RegistryError> {
        let entry = self.store().get(&signatures_key(digest)).await?;
        Ok(entry.as_ref().map(decode).transpose()?.unwrap_or_default())
    }

    pub(crate) async fn note(&self, digest: Digest) -> Result<NoteRecord, RegistryError> {
        let entry = self.store().get(&note_key(digest)).await?;
        Ok(entry.as_ref().map(decode).transpose()?.unwrap_or_default())
    }

    /// A page of the moves of an alias, newest first.
    pub(super) async fn history(
        &self,
        request: ListAliasHistoryRequest,
    ) -> Result<ListAliasHistoryResponse, RegistryError> {
        check_name(&request.name).map_err(|p| RegistryError::argument("name", p))?;
        check_name(&request.alias).map_err(|p| RegistryError::argument("alias", p))?;
        let prefix = history_prefix(&request.name, &request.alias);
        let before = page_token(&request.page_token)?;
        let range = newest(&prefix, before, page_size(request.page_size));
        let page = self.store().range(range).await?;
        if page.entries.is_empty() && before.is_none() {
            return Err(RegistryError::NotFound {
                what: "alias",
                name: format!("{}:{}", request.name, request.alias),
            });
        }
        let moves: Vec<MoveRecord> = page.entries.iter().map(decode).collect::<Result<_, _>>()?;
        Ok(ListAliasHistoryResponse {
            next_page_token: next_page_token(page.more, moves.last().map(|m| m.sequence)),
            moves: moves.iter().map(MoveRecord::to_proto).collect(),
        })
    }

    pub(super) async fn record_of(
        &self,
        digest: Digest,
    ) -> Result<CheckpointRecord, RegistryError> {
        record_of(self.store(), digest).await
    }

    /// The aliases of a name: publishing keeps them below a page.
    pub(crate) async fn aliases(&self, name: &str) -> Result<Vec<(String, Digest)>, RegistryError> {
        let prefix = aliases_prefix(name);
        let page = self.store().range(Range::prefix(&prefix)).await?;
        let mut aliases = Vec::new();
        for entry in &page.entries {
            let record: AliasRecord = decode(entry)?;
            let alias = entry.key[prefix.len()..].to_owned();
            aliases.extend(record.digest.map(|digest| (alias, digest)));
        }
        Ok(aliases)
    }
}

pub(super) fn pointing(aliases: &[(String, Digest)], to: Digest) -> Vec<String> {
    aliases
        .iter()
        .filter(|(_, digest)| *digest == to)
        .map(|(alias, _)| alias.clone())
        .collect()
}

fn newest(prefix: &str, before: Option<u64>, limit: usize) -> Range {
    let range = Range::prefix(prefix).reverse().limit(limit);
    match before {
        Some(sequence) => range.after(format!("{prefix}{sequence:020}")),
        None => range,
    }
}

fn page_size(asked: u32) -> usize {
    match asked as usize {
        0 => DEFAULT_PAGE,
        asked => asked.min(MAX_PAGE),
    }
}

/// Tokens hold the sequence of the last record of their page.
fn next_page_token(more: bool, last: Option<u64>) -> String {
    match last {
        Some(last) if more => format!("before-{last}"),
        _ => String::new(),
    }
}

fn page_token(token: &str) -> Result<Option<u64>, RegistryError> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .strip_prefix("before-")
        .and_then(|sequence| sequence.parse().ok())
        .map(Some)
        .ok_or_else(|| {
            let problem = "is not the next_page_token of a page before";
            RegistryError::argument("page_token", problem)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read() {
        let digest = Digest::of(b"");
        let alias = |name: &str, alias: &str| Reference::Alias {
            name: name.to_owned(),
            alias: alias.to_owned(),
        };
        for (text, expected) in [
            ("demo".to_owned(), alias("demo", "latest")),
            ("demo:v1.2".to_owned(), alias("demo", "v1.2")),
            (digest.to_string(), Reference::Digest { name: None, digest }),
            (
                format!("demo@{digest}"),
                Reference::Digest {
                    name: Some("demo".to_owned()),
                    digest,
                },
            ),
        ] {
            assert_eq!(Reference::parse(&text).expect("valid"), expected);
        }
    }

    #[test]
    fn other_references_are_refused() {
        for text in [
            "",
            ":",
            "demo:",
            ":latest",
            "demo:a:b",
            "Demo",
            "../x",
            "demo@",
            "demo@latest",
            "sha256:",
            "sha256:00",
            "@sha256:00",
            "a/b:latest",
        ] {
            let error = Reference::parse(text).expect_err(text);
            assert!(error.to_string().starts_with("reference: "), "{error}");
        }
    }

    #[test]
    fn page_tokens_are_ours_or_refused() {
        assert_eq!(page_token("").expect("first"), None);
        let token = next_page_token(true, Some(7));
        assert_eq!(page_token(&token).expect("ours"), Some(7));
        assert_eq!(next_page_token(false, Some(7)), "");
        for token in ["7", "before-", "before--1", "before-x", "after-7"] {
            assert!(page_token(token).is_err(), "{token}");
        }
    }
}
