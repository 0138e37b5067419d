use espalier_auth::{Scope, Verb};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Principal {
    /// Anybody: nobody is asked for a token.
    Anyone,
    /// Who has a token of this name.
    Token { name: String, scopes: Vec<Scope> },
}

impl Principal {
    /// For people.
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Anyone => "anonymous",
            Self::Token { name, .. } => name,
        }
    }

    /// Whether it may do this to something of this name.
    pub(crate) fn may(&self, verb: Verb, name: &str) -> bool {
        self.any(|scope| scope.allows(verb, name))
    }

    /// Whether it may do this to something of any name at all.
    pub(crate) fn may_some(&self, verb: Verb) -> bool {
        self.any(|scope| scope.allows_some(verb))
    }

    /// Whether it may do this whatever the name.
    pub(crate) fn may_all(&self, verb: Verb) -> bool {
        self.any(|scope| scope.allows_all(verb))
    }

    fn any(&self, allows: impl Fn(&Scope) -> bool) -> bool {
        match self {
            Self::Anyone => true,
            Self::Token { scopes, .. } => scopes.iter().any(allows),
        }
    }
}
