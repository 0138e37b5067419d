//! Tokens in the store, and the one in a file.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use espalier_auth::{Scope, Token, TokenHash};
use espalier_store::{Compare, Leader, Op, Outcome, Range, Store, Txn};
use serde::{Deserialize, Serialize};

use super::principal::Principal;
use super::refusal::Refusal;
use crate::codec::{decode, encode};
use crate::error::Error;
use crate::keys;

/// Most tokens that are kept: what a list holds.
pub(super) const MAX_TOKENS: usize = 1000;

/// Name of whoever has the token in the file.
pub(super) const ADMIN: &str = "admin";

/// A token as stored under `tokens/<name>`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenRecord {
    pub(super) name: String,
    pub(super) hash: TokenHash,
    pub(super) scopes: Vec<Scope>,
    /// Milliseconds since 1970.
    pub(super) created: u64,
    /// Milliseconds since 1970.
    pub(super) expires: Option<u64>,
    pub(super) creator: String,
}

/// The hash of the token that may do everything.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AdminToken(TokenHash);

/// Why there is no such token.
#[derive(Debug, thiserror::Error)]
pub enum AdminTokenError {
    /// Its file cannot be read or written.
    #[error("admin token file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "admin token file {}: it holds no token of the name `admin`; remove it, and another is made",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

impl AdminToken {
    /// Reads it, or makes it: for its owner alone, and durably, as it is told to nobody else.
    pub(crate) fn open(path: &Path) -> Result<Self, AdminTokenError> {
        let failed = |source| AdminTokenError::File {
            path: path.to_owned(),
            source,
        };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                make(path).map_err(failed)?;
                tracing::info!(path = %path.display(), "made the token that may do everything");
                // Of several coordinators that share the folder one has made it.
                fs::read_to_string(path).map_err(failed)?
            }
            Err(e) => return Err(failed(e)),
        };
        let token: Option<Token> = text.trim().parse().ok();
        match token.filter(|token| token.name() == ADMIN) {
            Some(token) => Ok(Self(token.hash())),
            None => Err(AdminTokenError::Malformed {
                path: path.to_owned(),
            }),
        }
    }
}

fn make(path: &Path) -> io::Result<()> {
    let token = Token::generate(ADMIN)?;
    // Whole or not at all: a link to it fails when another was faster.
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut file = fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    writeln!(file, "{}", token.reveal())?;
    file.sync_all()?;
    match fs::hard_link(&new, path) {
        Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(e),
        _ => fs::remove_file(&new)?,
    }
    let folder = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Who has this token.
pub(super) async fn known(
    store: &Store,
    admin: &AdminToken,
    token: &Token,
    now: u64,
) -> Result<Result<Principal, Refusal>, Error> {
    if token.name() == ADMIN {
        let scopes = vec![Scope::everything()];
        let is_admin = admin.0.is_of(token);
        return Ok(if is_admin {
            Ok(Principal::Token {
                name: ADMIN.to_owned(),
                scopes,
            })
        } else {
            Err(Refusal::UnknownToken)
        });
    }
    let entry = store.get(&keys::token(token.name())).await?;
    let record: Option<TokenRecord> = entry.as_ref().map(decode).transpose()?;
    Ok(check(record, token, now))
}

/// Whether the record is of the token, and still counts.
fn check(record: Option<TokenRecord>, token: &Token, now: u64) -> Result<Principal, Refusal> {
    let record = record.filter(|record| record.hash.is_of(token));
    let record = record.ok_or(Refusal::UnknownToken)?;
    if record.expires.is_some_and(|end| end <= now) {
        return Err(Refusal::Expired(record.name));
    }
    Ok(Principal::Token {
        name: record.name,
        scopes: record.scopes,
    })
}

/// Makes a token known; answers the record that there is, which is another when the name is taken.
pub(super) async fn create(leader: &Leader, record: &TokenRecord) -> Result<TokenRecord, Error> {
    let key = keys::token(&record.name);
    if let Some(entry) = leader.store().get(&key).await? {
        return Ok(decode(&entry)?);
    }
    let txn = Txn::new()
        .when(Compare::Absent(key.clone()))
        .then(Op::put(&key, encode(record)));
    match leader.commit(txn).await? {
        Outcome::Committed(_) => Ok(record.clone()),
        Outcome::Conflict => Err(Error::Contended {
            what: format!("token {}", record.name),
        }),
    }
}

/// All tokens, by name.
pub(super) async fn list(store: &Store) -> Result<Vec<TokenRecord>, Error> {
    let page = store
        .range(Range::prefix(keys::TOKENS).limit(MAX_TOKENS))
        .await?;
    Ok(page
        .entries
        .iter()
        .map(decode)
        .collect::<Result<Vec<_>, _>>()?)
}

/// Forgets a token; false when there is none of this name.
pub(super) async fn revoke(leader: &Leader, name: &str) -> Result<bool, Error> {
    let key = keys::token(name);
    let txn = Txn::new()
        .when(Compare::Exists(key.clone()))
        .then(Op::delete(&key));
    Ok(matches!(leader.commit(txn).await?, Outcome::Committed(_)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn record(token: &Token, expires: Option<u64>) -> TokenRecord {
        TokenRecord {
            name: token.name().to_owned(),
            hash: token.hash(),
            scopes: vec!["read:demo".parse().unwrap()],
            created: 0,
            expires,
            creator: ADMIN.to_owned(),
        }
    }

    #[test]
    fn a_token_counts_until_it_ends() {
        let (token, other) = (
            Token::generate("ci").unwrap(),
            Token::generate("ci").unwrap(),
        );
        assert!(check(Some(record(&token, None)), &token, u64::MAX).is_ok());
        assert!(check(Some(record(&token, Some(7))), &token, 6).is_ok());
        assert_eq!(
            check(Some(record(&token, Some(7))), &token, 7),
            Err(Refusal::Expired("ci".to_owned()))
        );
        for record in [
            None,
            Some(record(&token, None)),
            Some(record(&token, Some(0))),
        ] {
            assert_eq!(check(record, &other, 7), Err(Refusal::UnknownToken));
        }
    }

    #[tokio::test]
    async fn the_admin_token_is_made_once_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin-token");
        let made = AdminToken::open(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let token: Token = fs::read_to_string(&path).unwrap().trim().parse().unwrap();
        let again = AdminToken::open(&path).unwrap();
        let store = Store::in_memory(espalier_store::Options::default())
            .await
            .unwrap();
        for admin in [made, again] {
            let principal = known(&store, &admin, &token, 0).await.unwrap().unwrap();
            assert!(principal.may_all(espalier_auth::Verb::Admin));
        }
        let forged = Token::generate(ADMIN).unwrap();
        let refused = known(&store, &made, &forged, 0).await.unwrap();
        assert_eq!(refused, Err(Refusal::UnknownToken));
        fs::write(&path, Token::generate("ci").unwrap().reveal()).unwrap();
        let error = AdminToken::open(&path).unwrap_err();
        assert!(
            matches!(error, AdminTokenError::Malformed { .. }),
            "{error}"
        );
    }
}
