//! Stands before all services: lets a call through or not, and notes it.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use espalier_auth::{Token, Verb};
use espalier_proto::MAX_REGISTRY_MESSAGE;
use espalier_registry::Visible;
use espalier_store::Store;
use http_body_util::{BodyExt as _, Full, Limited};
use prost::bytes::Bytes;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tower_layer::Layer;

use super::audit::{Audit, Entry};
use super::principal::Principal;
use super::refusal::Refusal;
use super::rules::{self, Method, Need, Note, Rule};
use super::{AdminToken, names, tokens};
use crate::clock::wall;

/// Bytes before a message: whether it is compressed, and its length.
const FRAME: usize = 5;

/// Longest wait for a message that has to be looked into.
const MESSAGE: Duration = Duration::from_secs(60);

/// Lets calls through. Clones share what it knows.
#[derive(Clone)]
pub(crate) struct Guard(Arc<Shared>);

struct Shared {
    store: Store,
    /// `None` when nobody is asked for a token.
    admin: Option<AdminToken>,
    audit: Audit,
}

/// A service behind the guard.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    guard: Guard,
    inner: S,
}

/// Goes with a call that was let through.
#[derive(Clone)]
pub(crate) struct Admitted {
    /// Who calls.
    pub(crate) principal: Principal,
    entry: Entry,
    audit: Audit,
}

impl Admitted {
    /// Whether the caller may do this after all, of which the call's path said nothing.
    ///
    /// # Errors
    /// The refusal, which is noted.
    pub(crate) async fn check(&self, verb: Verb, name: &str) -> Result<(), Refusal> {
        if self.principal.may(verb, name) {
            return Ok(());
        }
        let refusal = Refusal::scope(self.principal.name(), verb, Some(name));
        let mut entry = self.entry.clone();
        name.clone_into(&mut entry.target);
        self.audit.denied(entry, &refusal.clone().into()).await;
        Err(refusal)
    }
}

impl Guard {
    /// `admin` is the token that may do everything; without one nobody is asked for a token.
    pub(crate) fn new(store: Store, admin: Option<AdminToken>, audit: Audit) -> Self {
        Self(Arc::new(Shared {
            store,
            admin,
            audit,
        }))
    }

    async fn serve<S>(&self, request: http::Request<Body>, mut inner: S) -> http::Response<Body>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let audit = &self.0.audit;
        let mut entry = audit.entry(&request);
        let (method, request) = match self.admit(&mut entry, request).await {
            Ok(admitted) => admitted,
            Err(status) => {
                audit.denied(entry, &status).await;
                return status.into_http();
            }
        };
        if method.note == Note::Around
            && let Err(status) = audit.begun(&entry).await
        {
            return status.into_http();
        }
        // Noted however it ends, also when the client goes before it does.
        let open = (method.note != Note::No).then(|| audit.open(entry));
        let Ok(response) = inner.call(request).await;
        if let Some(open) = open {
            let status = Status::from_header_map(response.headers());
            open.over(status.as_ref(), method.note == Note::Around)
                .await;
        }
        response
    }

    /// Finds out who calls and whether that is allowed.
    async fn admit(
        &self,
        entry: &mut Entry,
        request: http::Request<Body>,
    ) -> Result<(&'static Method, http::Request<Body>), Status> {
        let path = request.uri().path();
        let method = rules::find(path).ok_or_else(|| Refusal::NoSuchMethod(path.to_owned()))?;
        if matches!(method.rule, Rule::Public) {
            return Ok((method, request));
        }
        let principal = self.principal(request.headers()).await?;
        principal.name().clone_into(&mut entry.who);
        let (mut parts, body) = request.into_parts();
        let body = match method.rule {
            Rule::Public | Rule::Known => body,
            Rule::Some(verbs) => {
                if !verbs.iter().any(|verb| principal.may_some(*verb)) {
                    return Err(Refusal::scope(principal.name(), verbs[0], None).into());
                }
                body
            }
            Rule::Asks(ask) => {
                let bytes = collect(body).await?;
                let ask = ask(message(&bytes)?)?;
                entry.target = ask.target;
                for need in ask.needs {
                    self.check(&principal, need).await?;
                }
                if let Some(job) = ask.job {
                    parts.extensions.insert(job);
                }
                Body::new(Full::new(bytes))
            }
        };
        let mut request = http::Request::from_parts(parts, body);
        if !principal.may_all(Verb::Read) {
            let reader = principal.clone();
            let visible = Visible::new(move |name| reader.may(Verb::Read, name));
            request.extensions_mut().insert(visible);
        }
        request.extensions_mut().insert(Admitted {
            principal,
            entry: entry.clone(),
            audit: self.0.audit.clone(),
        });
        Ok((method, request))
    }

    async fn principal(&self, headers: &http::HeaderMap) -> Result<Principal, Status> {
        let Some(admin) = &self.0.admin else {
            return Ok(Principal::Anyone);
        };
        let token = presented(headers)?;
        let known = tokens::known(&self.0.store, admin, &token, wall()).await?;
        Ok(known?)
    }

    /// Whether a caller has what is needed.
    async fn check(&self, principal: &Principal, need: Need) -> Result<(), Status> {
        if *principal == Principal::Anyone {
            return Ok(());
        }
        let store = &self.0.store;
        let (verb, name) = match need {
            Need::All(verb) if principal.may_all(verb) => return Ok(()),
            Need::All(verb) => return Err(Refusal::scope(principal.name(), verb, None).into()),
            Need::Some(verb) => (verb, None),
            Need::Name(verb, name) => (verb, Some(name)),
            Need::Checkpoint(verb, reference) => {
                (verb, names::of_checkpoint(store, &reference).await?)
            }
            Need::Pull(_) if principal.may_some(Verb::Worker) => return Ok(()),
            Need::Pull(reference) => (Verb::Read, names::of_checkpoint(store, &reference).await?),
            Need::Job(id) => (Verb::Jobs, names::of_job(store, &id).await?),
            Need::Gang(job, generation) => {
                let mut workers = names::of_gang(store, &job, generation).await?;
                let own = workers
                    .iter()
                    .position(|id| principal.may(Verb::Worker, id));
                let shown = own.unwrap_or(0);
                (
                    Verb::Worker,
                    (!workers.is_empty()).then(|| workers.swap_remove(shown)),
                )
            }
        };
        // What does not exist has no name: whoever may do this to anything is told that by the service.
        let may = match &name {
            Some(name) => principal.may(verb, name),
            None => principal.may_some(verb),
        };
        if may {
            return Ok(());
        }
        Err(Refusal::scope(principal.name(), verb, name.as_deref()).into())
    }
}

/// The one token of a call.
fn presented(headers: &http::HeaderMap) -> Result<Token, Refusal> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::NoToken)?;
    if values.next().is_some() {
        return Err(Refusal::Unreadable("it has more than one token"));
    }
    let text = value.to_str().map_err(|_| Refusal::UnknownToken)?;
    let token = text.strip_prefix("Bearer ").ok_or(Refusal::NoToken)?;
    token.parse().map_err(|_| Refusal::UnknownToken)
}

async fn collect(body: Body) -> Result<Bytes, Status> {
    let limited = Limited::new(body, MAX_REGISTRY_MESSAGE + FRAME);
    match tokio::time::timeout(MESSAGE, limited.collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(_)) => Err(Refusal::Unreadable("it is too large, or was cut off").into()),
        Err(_) => Err(Status::deadline_exceeded(
            "the message did not come within 60 s",
        )),
    }
}

/// The only message of a body. Of two, the service might take the other.
fn message(body: &Bytes) -> Result<Bytes, Refusal> {
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<FRAME>() else {
        return Err(Refusal::Unreadable("it has no frame"));
    };
    if compressed != 0 {
        return Err(Refusal::Unreadable("it is compressed"));
    }
    if u32::from_be_bytes([a, b, c, d]) as usize != message.len() {
        return Err(Refusal::Unreadable("it is not one whole message"));
    }
    Ok(body.slice(FRAME..))
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            guard: self.clone(),
            inner,
        }
    }
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let guard = self.guard.clone();
        // The one that is ready goes, its clone stays.
        let next = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, next);
        Box::pin(async move { Ok(guard.serve(request, ready).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_whole_message_is_read() {
        let framed = |compressed: u8, length: u32, message: &[u8]| {
            let mut body = vec![compressed];
            body.extend(length.to_be_bytes());
            body.extend(message);
            Bytes::from(body)
        };
        assert_eq!(message(&framed(0, 3, b"abc")).unwrap(), "abc");
        assert_eq!(message(&framed(0, 0, b"")).unwrap(), "");
        let two = [framed(0, 3, b"abc"), framed(0, 1, b"d")].concat();
        for body in [
            Bytes::new(),
            Bytes::from_static(b"\0\0\0\0"),
            framed(1, 3, b"abc"),
            framed(0, 2, b"abc"),
            framed(0, 4, b"abc"),
            framed(0, u32::MAX, b"abc"),
            two.into(),
        ] {
            assert!(message(&body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn a_call_has_one_token_or_none() {
        let text = Token::generate("ci").unwrap().reveal();
        let headers = |values: &[&str]| {
            let mut headers = http::HeaderMap::new();
            for value in values {
                headers.append("authorization", value.parse().unwrap());
            }
            headers
        };
        let good = format!("Bearer {text}");
        assert_eq!(presented(&headers(&[&good])).unwrap().name(), "ci");
        for (values, refusal) in [
            (&[][..], Refusal::NoToken),
            (&["Basic abc"], Refusal::NoToken),
            (&[text.as_str()], Refusal::NoToken),
            (&["Bearer "], Refusal::UnknownToken),
            (&["Bearer espalier_ci_00"], Refusal::UnknownToken),
        ] {
            assert_eq!(
                presented(&headers(values)).unwrap_err(),
                refusal,
                "{values:?}"
            );
        }
        let twice = presented(&headers(&[&good, &good])).unwrap_err();
        assert!(matches!(twice, Refusal::Unreadable(_)));
    }
}
