use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest pattern of a scope, in bytes.
const MAX_PATTERN: usize = 64;

/// What a scope allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Finding and pulling checkpoints of these names.
    Read,
    /// That, publishing under these names, and moving their aliases.
    Write,
    /// That, deleting, protecting, forcing and setting retention. For all names: everything.
    Admin,
    /// Submitting and cancelling jobs that publish under these names.
    Jobs,
    /// Being the worker of one of these names.
    Worker,
}

impl Verb {
    const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Admin,
        Self::Jobs,
        Self::Worker,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
            Self::Jobs => "jobs",
            Self::Worker => "worker",
        }
    }
}

/// What may be done to which names: `VERB:NAME`, or `VERB:PREFIX*` for all names that begin so.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Scope {
    verb: Verb,
    /// A name, or what it begins with.
    name: String,
    is_prefix: bool,
}

/// Not a scope as it is written here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a scope: it is read, write, admin, jobs or worker, a colon, and a name or the beginning of \
     names with `*` after it, such as read:* or write:team-a-*"
)]
pub struct InvalidScope(String);

impl Scope {
    /// Everything.
    pub fn everything() -> Self {
        Self {
            verb: Verb::Admin,
            name: String::new(),
            is_prefix: true,
        }
    }

    /// Whether it allows this to something of this name.
    pub fn allows(&self, verb: Verb, name: &str) -> bool {
        self.gives(verb) && self.is_of(name)
    }

    /// Whether it allows this to something of any name at all.
    pub fn allows_some(&self, verb: Verb) -> bool {
        self.gives(verb)
    }

    /// Whether it allows this whatever the name.
    pub fn allows_all(&self, verb: Verb) -> bool {
        self.gives(verb) && self.is_prefix && self.name.is_empty()
    }

    fn is_of(&self, name: &str) -> bool {
        match self.is_prefix {
            true => name.starts_with(&self.name),
            false => name == self.name,
        }
    }

    fn gives(&self, verb: Verb) -> bool {
        match (self.verb, verb) {
            // Names of workers are no names of checkpoints.
            (Verb::Admin, Verb::Worker) => self.is_prefix && self.name.is_empty(),
            (Verb::Admin, _) => true,
            (Verb::Write, Verb::Read) => true,
            (own, asked) => own == asked,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.is_prefix { "*" } else { "" };
        write!(f, "{}:{}{star}", self.verb, self.name)
    }
}

impl FromStr for Scope {
    type Err = InvalidScope;

    fn from_str(text: &str) -> Result<Self, InvalidScope> {
        let invalid = || InvalidScope(text.chars().take(2 * MAX_PATTERN).collect());
        let (verb, pattern) = text.split_once(':').ok_or_else(invalid)?;
        let verb = Verb::ALL.into_iter().find(|known| known.as_str() == verb);
        let (name, is_prefix) = match pattern.strip_suffix('*') {
            Some(prefix) => (prefix, true),
            None => (pattern, false),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if pattern.is_empty() || pattern.len() > MAX_PATTERN || !name.bytes().all(plain) {
            return Err(invalid());
        }
        Ok(Self {
            verb: verb.ok_or_else(invalid)?,
            name: name.to_owned(),
            is_prefix,
        })
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.to_string()
    }
}

impl TryFrom<String> for Scope {
    type Error = InvalidScope;

    fn try_from(text: String) -> Result<Self, InvalidScope> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().unwrap()
    }

    #[test]
    fn a_scope_allows_what_it_says_and_nothing_else() {
        for (text, verb, name, allowed) in [
            ("read:demo", Verb::Read, "demo", true),
            ("read:demo", Verb::Read, "demo2", false),
            ("read:demo", Verb::Write, "demo", false),
            ("read:team-*", Verb::Read, "team-a", true),
            ("read:team-*", Verb::Read, "tea", false),
            ("read:team-*", Verb::Read, "a-team-a", false),
            ("write:demo", Verb::Read, "demo", true),
            ("write:demo", Verb::Admin, "demo", false),
            ("write:*", Verb::Jobs, "demo", false),
            ("jobs:demo", Verb::Write, "demo", false),
            ("admin:team-*", Verb::Jobs, "team-a", true),
            ("admin:team-*", Verb::Write, "team-a", true),
            ("admin:team-*", Verb::Write, "other", false),
            ("admin:team-*", Verb::Worker, "team-a", false),
            ("admin:*", Verb::Worker, "w-0", true),
            ("worker:w-*", Verb::Worker, "w-0", true),
            ("worker:w-*", Verb::Worker, "x-0", false),
            ("worker:*", Verb::Read, "demo", false),
        ] {
            assert_eq!(
                scope(text).allows(verb, name),
                allowed,
                "{text} {verb} {name}"
            );
        }
        assert!(scope("admin:*").allows_all(Verb::Read));
        assert!(!scope("admin:a*").allows_all(Verb::Read));
        assert_eq!(scope("admin:*"), Scope::everything());
    }

    #[test]
    fn other_texts_are_refused() {
        let long = format!("read:{}", "a".repeat(65));
        for text in [
            "",
            ":",
            "read",
            "read:",
            "read:*a",
            "read:a*b",
            "read:a**",
            "Read:a",
            "delete:a",
            "read:a/b",
            "read:a b",
            "read:\u{e9}",
            "read:a:b",
            " read:a",
            &long,
        ] {
            assert!(text.parse::<Scope>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn scopes_are_read_as_they_are_written(text in "(read|write|admin|jobs|worker):([a-z0-9._-]{1,20}[*]?|[*])") {
            prop_assert_eq!(scope(&text).to_string(), text);
        }

        #[test]
        fn no_scope_reaches_a_name_that_it_does_not_spell(prefix in "[a-z-]{1,8}", name in "[a-z-]{1,12}") {
            let scope = scope(&format!("admin:{prefix}*"));
            prop_assert_eq!(scope.allows(Verb::Read, &name), name.starts_with(&prefix));
        }
    }
}
