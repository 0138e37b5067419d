use espalier_auth::{Scope, TokenHash, check_name};
use espalier_proto::v1::token_service_server::TokenService;
use espalier_proto::v1::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse,
    RevokeTokenRequest, RevokeTokenResponse, Token as WireToken,
};
use espalier_store::{Leader, Store};
use tonic::{Code, Request, Response, Status};

use super::guard::Admitted;
use super::tokens::{self, ADMIN, MAX_TOKENS, TokenRecord};
use crate::api::{bad_request, status};
use crate::clock::{timestamp, wall};
use crate::error::Error;
use crate::role::Role;

/// Most scopes of a token.
const MAX_SCOPES: usize = 64;

/// `TokenService`.
#[derive(Clone)]
pub(crate) struct Tokens {
    store: Store,
    writer: Writer,
}

/// Who may write.
#[derive(Clone)]
enum Writer {
    /// Whoever leads.
    Role(Role),
    /// This registry, which stands alone.
    Alone(Leader),
}

impl Tokens {
    /// Of several coordinators, of which one leads.
    pub(crate) fn new(store: Store, role: Role) -> Self {
        Self {
            store,
            writer: Writer::Role(role),
        }
    }

    /// Of a registry that stands alone.
    pub(crate) fn alone(leader: Leader) -> Self {
        Self {
            store: leader.store().clone(),
            writer: Writer::Alone(leader),
        }
    }

    async fn leader(&self) -> Result<Leader, Error> {
        match &self.writer {
            Writer::Role(role) => Ok(role.leading().await?.sessions.leader),
            Writer::Alone(leader) => Ok(leader.clone()),
        }
    }

    async fn create(
        &self,
        request: CreateTokenRequest,
        creator: &str,
    ) -> Result<TokenRecord, Status> {
        let record = checked(request, creator, wall())?;
        let leader = self.leader().await?;
        if tokens::list(&self.store).await?.len() >= MAX_TOKENS {
            let text = format!("{MAX_TOKENS} tokens are known, which is the most: revoke some");
            return Err(status(
                Code::ResourceExhausted,
                text,
                "TOO_MANY_TOKENS",
                false,
            ));
        }
        let kept = tokens::create(&leader, &record).await?;
        let same = kept.hash.bytes() == record.hash.bytes()
            && kept.scopes == record.scopes
            && kept.expires == record.expires;
        if same {
            return Ok(kept);
        }
        let text = format!("there is a token {:?} already: revoke it first", kept.name);
        Err(status(Code::AlreadyExists, text, "TOKEN_EXISTS", false))
    }
}

/// The record of a request.
fn checked(request: CreateTokenRequest, creator: &str, now: u64) -> Result<TokenRecord, Status> {
    check_name(&request.name).map_err(|problem| wrong("name", &problem))?;
    if request.name == ADMIN {
        return Err(wrong(
            "name",
            "`admin` is the token in the coordinator's file",
        ));
    }
    let hash: [u8; 32] = (&*request.sha256)
        .try_into()
        .map_err(|_| wrong("sha256", "is not 32 bytes"))?;
    if request.scopes.is_empty() || request.scopes.len() > MAX_SCOPES {
        return Err(wrong("scopes", &format!("are not 1 to {MAX_SCOPES}")));
    }
    let mut scopes: Vec<Scope> = request
        .scopes
        .iter()
        .map(|scope| scope.parse())
        .collect::<Result<_, _>>()
        .map_err(|e: espalier_auth::InvalidScope| wrong("scopes", &e.to_string()))?;
    scopes.sort();
    scopes.dedup();
    let millis = |time: prost_types::Timestamp| {
        let seconds = u64::try_from(time.seconds).ok()?;
        let nanos = u64::try_from(time.nanos).ok()?;
        seconds.checked_mul(1000)?.checked_add(nanos / 1_000_000)
    };
    let expires = match request.expire_time {
        None => None,
        Some(time) => match millis(time) {
            Some(end) if end > now => Some(end),
            _ => return Err(wrong("expire_time", "is not in the future")),
        },
    };
    Ok(TokenRecord {
        name: request.name,
        hash: TokenHash::from_bytes(hash),
        scopes,
        created: now,
        expires,
        creator: creator.to_owned(),
    })
}

fn wrong(field: &str, problem: &str) -> Status {
    let fields = [(field.to_owned(), problem.to_owned())];
    bad_request(format!("{field}: {problem}"), fields)
}

fn wire(record: TokenRecord) -> WireToken {
    WireToken {
        name: record.name,
        scopes: record.scopes.iter().map(Scope::to_string).collect(),
        create_time: Some(timestamp(record.created)),
        expire_time: record.expires.map(timestamp),
        creator: record.creator,
    }
}

#[tonic::async_trait]
impl TokenService for Tokens {
    async fn create_token(
        &self,
        request: Request<CreateTokenRequest>,
    ) -> Result<Response<CreateTokenResponse>, Status> {
        let admitted = request.extensions().get::<Admitted>();
        let creator = admitted.map_or_else(String::new, |a| a.principal.name().to_owned());
        let record = self.create(request.into_inner(), &creator).await?;
        Ok(Response::new(CreateTokenResponse {
            token: Some(wire(record)),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<ListTokensRequest>,
    ) -> Result<Response<ListTokensResponse>, Status> {
        let tokens = tokens::list(&self.store).await?;
        Ok(Response::new(ListTokensResponse {
            tokens: tokens.into_iter().map(wire).collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<RevokeTokenRequest>,
    ) -> Result<Response<RevokeTokenResponse>, Status> {
        let name = &request.get_ref().name;
        check_name(name).map_err(|problem| wrong("name", &problem))?;
        if !tokens::revoke(&self.leader().await?, name).await? {
            let text = format!("there is no token {name:?}");
            return Err(status(Code::NotFound, text, "NO_SUCH_TOKEN", false));
        }
        Ok(Response::new(RevokeTokenResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn request() -> CreateTokenRequest {
        CreateTokenRequest {
            name: "ci".to_owned(),
            sha256: vec![7; 32].into(),
            scopes: vec!["write:team-*".to_owned(), "read:*".to_owned()],
            expire_time: Some(timestamp(8000)),
        }
    }

    #[test]
    fn wrong_fields_are_named() {
        assert_eq!(
            checked(request(), "admin", 7000).unwrap().expires,
            Some(8000)
        );
        let with = |edit: fn(&mut CreateTokenRequest)| {
            let mut request = request();
            edit(&mut request);
            request
        };
        for (field, request) in [
            ("name", with(|r| r.name.clear())),
            ("name", with(|r| r.name = "C I".to_owned())),
            ("name", with(|r| r.name = ADMIN.to_owned())),
            ("sha256", with(|r| r.sha256 = vec![7; 31].into())),
            ("scopes", with(|r| r.scopes.clear())),
            ("scopes", with(|r| r.scopes = vec!["read:*".to_owned(); 65])),
            ("scopes", with(|r| r.scopes.push("all".to_owned()))),
            (
                "expire_time",
                with(|r| r.expire_time = Some(timestamp(6999))),
            ),
            (
                "expire_time",
                with(|r| r.expire_time.as_mut().unwrap().seconds = -1),
            ),
            (
                "expire_time",
                with(|r| r.expire_time.as_mut().unwrap().seconds = i64::MAX),
            ),
        ] {
            let status = checked(request, "admin", 7000).unwrap_err();
            let violations = status.get_details_bad_request().unwrap().field_violations;
            assert_eq!(violations[0].field, field, "{status}");
        }
    }
}
