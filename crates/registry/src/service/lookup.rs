use std::collections::BTreeMap;

use espalier_proto::v1::{
    GetCheckpointResponse, ListAliasHistoryRequest, ListAliasHistoryResponse,
    ListCheckpointsRequest, ListCheckpointsResponse,
};
use espalier_store::Range;

use super::{RegistryService, digest};
use crate::records::{
    AliasRecord, CheckpointRecord, MoveRecord, PUBLISHED, alias_key, aliases_prefix,
    checkpoints_prefix, decode, digest_key, history_prefix, manifest_key,
};
use crate::rules::check_name;
use crate::{Digest, Kind, Manifest, RegistryError};

const DEFAULT_PAGE: usize = 50;
const MAX_PAGE: usize = 500;

/// Most records looked through for one page of a list that leaves some out; the page may be short.
const MAX_SCAN: usize = 5000;

/// A reference to a checkpoint, as people write it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reference {
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
    fn parse(text: &str) -> Result<Self, RegistryError> {
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
    pub(super) async fn find(
        &self,
        reference: &str,
    ) -> Result<GetCheckpointResponse, RegistryError> {
        let not_found = || RegistryError::NotFound {
            what: "checkpoint",
            name: reference.to_owned(),
        };
        let store = self.leader.store();
        let (name, digest) = match Reference::parse(reference)? {
            Reference::Digest { name, digest } => (name, digest),
            Reference::Alias { name, alias } => {
                let entry = store.get(&alias_key(&name, &alias)).await?;
                let record: AliasRecord = decode(&entry.ok_or_else(not_found)?)?;
                (Some(name), record.digest)
            }
        };
        let entry = store.get(&manifest_key(digest)).await?;
        let manifest = entry.ok_or_else(not_found)?.value;
        if Digest::of(&manifest) != digest {
            return Err(RegistryError::Damaged {
                digest,
                problem: "the manifest has another digest".to_owned(),
            });
        }
        if name.is_some_and(|name| Manifest::parse(&manifest).is_ok_and(|m| m.name != name)) {
            return Err(not_found());
        }
        let record = self.record_of(digest).await?;
        let aliases = self.aliases(&record.name).await?;
        Ok(GetCheckpointResponse {
            checkpoint: Some(record.to_proto(pointing(&aliases, digest))),
            manifest: manifest.into(),
        })
    }

    /// A page of checkpoints, newest first.
    pub(super) async fn list(
        &self,
        request: ListCheckpointsRequest,
    ) -> Result<ListCheckpointsResponse, RegistryError> {
        let prefix = if request.name.is_empty() {
            PUBLISHED.to_owned()
        } else {
            check_name(&request.name).map_err(|p| RegistryError::argument("name", p))?;
            checkpoints_prefix(&request.name)
        };
        let size = page_size(request.page_size);
        let mut before = page_token(&request.page_token)?;
        let mut records: Vec<CheckpointRecord> = Vec::new();
        let mut scanned = 0;
        let mut more = true;
        while more && records.len() < size && scanned < MAX_SCAN {
            let range = newest(&prefix, before, size - records.len());
            let page = self.leader.store().range(range).await?;
            more = page.more;
            scanned += page.entries.len();
            for entry in &page.entries {
                let record: CheckpointRecord = decode(entry)?;
                before = Some(record.sequence);
                if request.include_training || record.kind == Kind::Model {
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
        Ok(ListCheckpointsResponse {
            checkpoints: records
                .iter()
                .map(|record| {
                    let of_name = aliases.get(&record.name).map_or(&[][..], Vec::as_slice);
                    record.to_proto(pointing(of_name, record.digest))
                })
                .collect(),
            next_page_token: next_page_token(more, before),
        })
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
        let page = self.leader.store().range(range).await?;
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

    async fn record_of(&self, digest: Digest) -> Result<CheckpointRecord, RegistryError> {
        let key = digest_key(digest);
        let damaged = |key: &str, problem: &str| RegistryError::Record {
            key: key.to_owned(),
            problem: problem.to_owned(),
        };
        let pointer = self.leader.store().get(&key).await?;
        let pointer = pointer.ok_or_else(|| damaged(&key, "it is missing"))?;
        let published =
            String::from_utf8(pointer.value).map_err(|_| damaged(&key, "it is not utf-8"))?;
        let entry = self.leader.store().get(&published).await?;
        decode(&entry.ok_or_else(|| damaged(&published, "it is missing"))?)
    }

    /// The aliases of a name: publishing keeps them below a page.
    async fn aliases(&self, name: &str) -> Result<Vec<(String, Digest)>, RegistryError> {
        let prefix = aliases_prefix(name);
        let page = self.leader.store().range(Range::prefix(&prefix)).await?;
        page.entries
            .iter()
            .map(|entry| {
                let record: AliasRecord = decode(entry)?;
                Ok((entry.key[prefix.len()..].to_owned(), record.digest))
            })
            .collect()
    }
}

fn pointing(aliases: &[(String, Digest)], to: Digest) -> Vec<String> {
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
