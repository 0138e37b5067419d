//! What becomes of an alias.

use espalier_proto::v1::update_alias_request::Target as Asked;
use espalier_proto::v1::{UpdateAliasRequest, UpdateAliasResponse};
use espalier_store::{Compare, Op, Outcome, Range, Txn};

use super::RegistryService;
use super::requests::{check_words, digest};
use crate::records::{
    AliasRecord, MoveRecord, alias_key, aliases_prefix, decode, encode, history_key, manifest_key,
};
use crate::rules::check_name;
use crate::{Digest, Manifest, RegistryError};

/// Tries before a change gives up because others change the same records all the time.
pub(super) const MAX_ATTEMPTS: u32 = 16;

/// Most aliases of a name.
const MAX_ALIASES: usize = 256;

/// What an alias must be before it is changed.
#[derive(Clone, Copy)]
pub(super) enum Expected {
    Any,
    Absent,
    Digest(Digest),
}

impl Expected {
    pub(super) fn parse(field: &str, text: Option<&str>) -> Result<Self, RegistryError> {
        Ok(match text {
            None => Self::Any,
            Some("") => Self::Absent,
            Some(text) => Self::Digest(digest(field, text)?),
        })
    }

    fn holds(self, found: Option<Digest>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => found.is_none(),
            Self::Digest(digest) => found == Some(digest),
        }
    }
}

/// Where an alias is to point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// Where it does.
    Same,
    /// To a checkpoint; whoever asks makes sure that it is there.
    Digest(Digest),
    /// Where it did before its last move.
    Previous,
    Nowhere,
}

/// A change of an alias, checked.
pub(super) struct Change {
    pub(super) name: String,
    pub(super) alias: String,
    pub(super) target: Target,
    pub(super) expected: Expected,
    pub(super) protect: Option<bool>,
    pub(super) force: bool,
    pub(super) reason: String,
    pub(super) actor: String,
    pub(super) job: Option<String>,
}

impl Change {
    fn check(request: UpdateAliasRequest) -> Result<Self, RegistryError> {
        let wrong = |field| move |problem| RegistryError::argument(field, problem);
        check_name(&request.name).map_err(wrong("name"))?;
        check_name(&request.alias).map_err(wrong("alias"))?;
        check_words(&request.reason, &request.actor)?;
        let target = match &request.target {
            None => Target::Same,
            Some(Asked::Digest(text)) => Target::Digest(digest("digest", text)?),
            Some(Asked::Previous(true)) => Target::Previous,
            Some(Asked::Remove(true)) => Target::Nowhere,
            Some(Asked::Previous(false) | Asked::Remove(false)) => {
                let problem = "is false: leave it out instead".to_owned();
                return Err(RegistryError::argument("target", problem));
            }
        };
        if target == Target::Same && request.protect.is_none() {
            let problem = "nothing is asked for: set target or protect";
            return Err(RegistryError::argument("target", problem));
        }
        Ok(Self {
            name: request.name,
            alias: request.alias,
            target,
            expected: Expected::parse("expected_digest", request.expected_digest.as_deref())?,
            protect: request.protect,
            force: request.force,
            reason: request.reason,
            actor: request.actor,
            job: None,
        })
    }

    fn not_found(&self) -> RegistryError {
        RegistryError::NotFound {
            what: "alias",
            name: format!("{}:{}", self.name, self.alias),
        }
    }
}

impl RegistryService {
    pub(crate) async fn change_alias(
        &self,
        request: UpdateAliasRequest,
    ) -> Result<UpdateAliasResponse, RegistryError> {
        let change = Change::check(request)?;
        let _one_by_one = self.0.publishing.lock().await;
        for _ in 0..MAX_ATTEMPTS {
            let mut txn = Txn::new();
            let after = self.plan_alias(&change, &mut txn).await?;
            if let Some(to) = after.digest {
                self.check_target(&change, to, &mut txn).await?;
            }
            if let Outcome::Committed(_) = self.0.leader.commit(txn).await? {
                tracing::info!(
                    name = change.name,
                    alias = change.alias,
                    digest = ?after.digest,
                    protected = after.protected,
                    actor = change.actor,
                    "alias changed"
                );
                return Ok(UpdateAliasResponse {
                    digest: after.digest.map(|d| d.to_string()).unwrap_or_default(),
                    protected: after.protected,
                });
            }
        }
        Err(RegistryError::Contention(MAX_ATTEMPTS))
    }

    /// Conditions and changes that carry the change out; returns the alias as it is then.
    pub(super) async fn plan_alias(
        &self,
        change: &Change,
        txn: &mut Txn,
    ) -> Result<AliasRecord, RegistryError> {
        let key = alias_key(&change.name, &change.alias);
        let entry = self.store().get(&key).await?;
        let before: Option<AliasRecord> = entry.as_ref().map(decode).transpose()?;
        txn.compares.push(Compare::unchanged(&key, entry.as_ref()));
        let is_new = before.is_none();
        let before = before.unwrap_or_default();
        let found = before.digest;
        if !change.expected.holds(found) {
            return Err(RegistryError::AliasMoved {
                name: change.name.clone(),
                alias: change.alias.clone(),
                found,
            });
        }
        let to = match change.target {
            Target::Same if is_new => return Err(change.not_found()),
            Target::Same => found,
            Target::Digest(digest) => Some(digest),
            Target::Nowhere => None,
            Target::Previous => {
                let history = history_key(&change.name, &change.alias, before.sequence);
                let last = self.store().get(&history).await?;
                let last: MoveRecord = decode(&last.ok_or_else(|| change.not_found())?)?;
                last.from
            }
        };
        let mut after = AliasRecord {
            digest: to,
            protected: change.protect.unwrap_or(before.protected),
            ..before.clone()
        };
        if to != found {
            if before.protected && !change.force {
                return Err(RegistryError::Protected {
                    name: change.name.clone(),
                    alias: change.alias.clone(),
                });
            }
            if is_new {
                self.check_alias_count(&change.name).await?;
            }
            after.sequence += 1;
            let moved = MoveRecord {
                sequence: after.sequence,
                time_ms: self.0.clock.wall_ms(),
                from: found,
                to,
                reason: change.reason.clone(),
                job: change.job.clone(),
                actor: change.actor.clone(),
            };
            let history = history_key(&change.name, &change.alias, after.sequence);
            txn.compares.push(Compare::Absent(history.clone()));
            txn.ops.push(Op::put(&history, encode(&history, &moved)?));
        }
        if to != found || after.protected != before.protected {
            txn.ops.push(Op::put(&key, encode(&key, &after)?));
        }
        Ok(after)
    }

    /// An alias points to a checkpoint of its own name that is there.
    async fn check_target(
        &self,
        change: &Change,
        to: Digest,
        txn: &mut Txn,
    ) -> Result<(), RegistryError> {
        let key = manifest_key(to);
        let manifest = self.store().get(&key).await?;
        let found = manifest.and_then(|entry| Manifest::parse(&entry.value).ok());
        if found.is_none_or(|manifest| manifest.name != change.name) {
            return Err(RegistryError::NotFound {
                what: "checkpoint",
                name: format!("{}@{to}", change.name),
            });
        }
        txn.compares.push(Compare::Exists(key));
        Ok(())
    }

    async fn check_alias_count(&self, name: &str) -> Result<(), RegistryError> {
        let others = Range::prefix(aliases_prefix(name)).limit(MAX_ALIASES);
        if self.store().range(others).await?.entries.len() >= MAX_ALIASES {
            let problem = format!("`{name}` has {MAX_ALIASES} aliases: move one of those");
            return Err(RegistryError::argument("alias", problem));
        }
        Ok(())
    }
}
