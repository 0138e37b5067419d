use std::fmt;
use std::io::{self, Read as _};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use crate::hex;

/// Longest name of a token, in bytes.
pub const MAX_NAME: usize = 63;

/// What every token begins with, so that one that leaked is found.
const MARK: &str = "espalier_";

/// Shows who somebody is: written `espalier_NAME_` and 64 hex digits. Whoever has it is NAME.
#[derive(Clone)]
pub struct Token {
    name: String,
    secret: [u8; 32],
}

/// SHA-256 of a token's text. A token has 256 random bits, so that nobody finds one of this hash, and a
/// slow hash would add nothing.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct TokenHash([u8; 32]);

/// Not a token; the text is not repeated, as it may be most of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no token: one is written espalier_NAME_ and 64 hex digits, as `espalier token create` printed it"
)]
pub struct InvalidToken;

/// Checks the name of a token.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.');
    if (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(plain) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not 1 to {MAX_NAME} of a-z, 0-9, `-` and `.`"
    ))
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn generate(name: &str) -> io::Result<Self> {
        let mut secret = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut secret)?;
        Ok(Self {
            name: name.to_owned(),
            secret,
        })
    }

    /// Whose it says it is.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The secret text.
    pub fn reveal(&self) -> String {
        format!("{MARK}{}_{}", self.name, hex::write(&self.secret))
    }

    /// What is kept of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.reveal()).into())
    }
}

impl TokenHash {
    /// Of these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; 32] {
        self.0
    }

    /// Whether it is of this token. How long that takes tells nothing of either.
    pub fn is_of(&self, token: &Token) -> bool {
        self.0.ct_eq(&token.hash().0).into()
    }
}

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        let rest = text.strip_prefix(MARK).ok_or(InvalidToken)?;
        let (name, secret) = rest.split_once('_').ok_or(InvalidToken)?;
        check_name(name).map_err(|_| InvalidToken)?;
        Ok(Self {
            name: name.to_owned(),
            secret: hex::read(secret).ok_or(InvalidToken)?,
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token of {}", self.name)
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::write(&self.0))
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hex::write(&hash.0)
    }
}

impl TryFrom<String> for TokenHash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::read(&text)
            .map(Self)
            .ok_or("not 64 hex digits in lower case")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_token() {
        let token = Token::generate("ci").unwrap();
        let again: Token = token.reveal().parse().unwrap();
        assert_eq!(again.name(), "ci");
        assert!(token.hash().is_of(&again));
        let other = Token::generate("ci").unwrap();
        assert!(!token.hash().is_of(&other));
        // The same secret under another name is another token.
        let renamed: Token = token.reveal().replace("_ci_", "_cd_").parse().unwrap();
        assert!(!token.hash().is_of(&renamed));
    }

    #[test]
    fn nothing_tells_the_secret() {
        let token = Token::generate("ci").unwrap();
        let text = token.reveal();
        let secret = text.rsplit('_').next().unwrap();
        assert!(!format!("{token:?} {:?}", token.hash()).contains(secret));
        let cut = &text[..text.len() - 1];
        let error = cut.parse::<Token>().unwrap_err().to_string();
        assert!(!error.contains(&secret[..8]), "{error}");
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let text = Token::generate("ci").unwrap().reveal();
        for other in [
            String::new(),
            text.to_uppercase(),
            text.replace("espalier_", ""),
            text.replace("_ci_", "__"),
            text.replace("_ci_", "_c/i_"),
            format!("{text}0"),
            format!("{text}\n"),
            text[..text.len() - 1].to_owned(),
        ] {
            assert!(other.parse::<Token>().is_err(), "{other}");
        }
    }
}
