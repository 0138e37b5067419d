//! Ed25519 signatures (RFC 8032) of checkpoints.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use espalier_proto::v1 as pb;
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Most signatures of a checkpoint.
pub(crate) const MAX_SIGNATURES: usize = 16;

/// What is signed: these words, so that a signature of something else is none, and the digest as text.
const WORDS: &str = "espalier checkpoint\n";

/// A key that signs. It is kept in a file of 64 hex digits that only its owner can read.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

/// A key by which signatures are verified, written `ed25519:` and 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or written.
    #[error("key file {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is none.
    #[error("{0}")]
    Malformed(String),
}

/// A signature and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Signed {
    /// In hex.
    key: String,
    /// In hex.
    signature: String,
}

impl SecretKey {
    /// Makes a key and writes it to a file that is not there yet.
    ///
    /// # Errors
    /// [`KeyError::File`].
    pub fn generate(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File {
            path: path.to_owned(),
            source,
        };
        let mut seed = [0; 32];
        std::fs::File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut seed))
            .map_err(failed)?;
        let mut file = std::fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        writeln!(file, "{}", hex(&seed))
            .and_then(|()| file.sync_all())
            .map_err(failed)?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a key from its file.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let text = std::fs::read_to_string(path).map_err(|source| KeyError::File {
            path: path.to_owned(),
            source,
        })?;
        let seed = bytes(text.trim()).ok_or_else(|| {
            let problem = format!("key file {} is not 64 hex digits", path.display());
            KeyError::Malformed(problem)
        })?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// The key by which its signatures are verified.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    pub(crate) fn sign(&self, checkpoint: Digest) -> Signed {
        let signature = self.0.sign(format!("{WORDS}{checkpoint}").as_bytes());
        Signed {
            key: hex(self.0.verifying_key().as_bytes()),
            signature: hex(&signature.to_bytes()),
        }
    }
}

impl Signed {
    /// The signatures of a request, each verified.
    pub(crate) fn parse_all(signatures: &[pb::Signature], of: Digest) -> Result<Vec<Self>, String> {
        if signatures.len() > MAX_SIGNATURES {
            return Err(format!(
                "at most {MAX_SIGNATURES}, not {}",
                signatures.len()
            ));
        }
        let parse = |(i, signature): (usize, &pb::Signature)| {
            let key = verified(signature, of).map_err(|problem| format!("[{i}] {problem}"))?;
            Ok(Self {
                key: hex(key.0.as_bytes()),
                signature: hex(&signature.signature),
            })
        };
        signatures.iter().enumerate().map(parse).collect()
    }

    pub(crate) fn to_proto(&self) -> pb::Signature {
        // Written by this program: what is not hex would fail to verify as nothing.
        let bytes = |text: &str| bytes_of(text).unwrap_or_default().into();
        pb::Signature {
            public_key: bytes(&self.key),
            signature: bytes(&self.signature),
        }
    }
}

/// Whether one of the trusted keys has signed the checkpoint; else what is missing.
pub(crate) fn check_signed(
    signatures: &[pb::Signature],
    checkpoint: Digest,
    trusted: &[PublicKey],
) -> Result<(), String> {
    let signers: Vec<PublicKey> = signatures
        .iter()
        .filter_map(|signature| verified(signature, checkpoint).ok())
        .collect();
    if signers.iter().any(|signer| trusted.contains(signer)) {
        return Ok(());
    }
    let names = |keys: &[PublicKey]| {
        let names: Vec<String> = keys.iter().map(PublicKey::to_string).collect();
        match names.is_empty() {
            true => "nobody".to_owned(),
            false => names.join(", "),
        }
    };
    Err(format!(
        "it is signed by {}, not by {}",
        names(&signers),
        names(trusted)
    ))
}

/// Whose signature it is, if it is one of the checkpoint.
fn verified(signature: &pb::Signature, checkpoint: Digest) -> Result<PublicKey, String> {
    let key: &[u8; 32] = (&*signature.public_key)
        .try_into()
        .map_err(|_| "public_key has not 32 bytes".to_owned())?;
    let bytes: &[u8; 64] = (&*signature.signature)
        .try_into()
        .map_err(|_| "signature has not 64 bytes".to_owned())?;
    let key = VerifyingKey::from_bytes(key).map_err(|e| format!("public_key: {e}"))?;
    // Strictly: one key and one message have one signature.
    key.verify_strict(
        format!("{WORDS}{checkpoint}").as_bytes(),
        &Signature::from_bytes(bytes),
    )
    .map_err(|_| "signature is not one of this manifest by this key".to_owned())?;
    Ok(PublicKey(key))
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ed25519:{}", hex(self.0.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {}", self.public())
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        text.strip_prefix("ed25519:")
            .and_then(bytes)
            .and_then(|key| VerifyingKey::from_bytes(&key).ok())
            .map(Self)
            .ok_or_else(|| {
                KeyError::Malformed(format!(
                    "{text:?} is not a public key: it is written `ed25519:` and 64 hex digits"
                ))
            })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Option<[u8; 32]> {
    bytes_of(text)?.try_into().ok()
}

fn bytes_of(text: &str) -> Option<Vec<u8>> {
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let digit = |d: u8| (d as char).to_digit(16);
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok();
    pairs.iter().map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_checkpoint_by_one_key() {
        let dir = tempfile::tempdir().expect("tempdir");
        let key = SecretKey::generate(&dir.path().join("key")).expect("makes");
        let other = SecretKey::generate(&dir.path().join("other")).expect("makes");
        let again = SecretKey::read(&dir.path().join("key")).expect("reads");
        assert_eq!(again.public(), key.public());
        assert_eq!(
            key.public()
                .to_string()
                .parse::<PublicKey>()
                .expect("reads"),
            key.public()
        );
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let signed = key.sign(a).to_proto();
        assert_eq!(
            check_signed(
                std::slice::from_ref(&signed),
                a,
                &[other.public(), key.public()]
            ),
            Ok(())
        );
        for (signatures, of, trusted) in [
            (vec![signed.clone()], b, vec![key.public()]),
            (vec![signed.clone()], a, vec![other.public()]),
            (vec![signed.clone()], a, vec![]),
            (vec![], a, vec![key.public()]),
        ] {
            assert!(check_signed(&signatures, of, &trusted).is_err());
        }
        // Another's name on it, a changed bit, cut short.
        let mut renamed = signed.clone();
        renamed.public_key = other.sign(a).to_proto().public_key;
        let mut flipped = signed.clone();
        let mut bytes = flipped.signature.to_vec();
        bytes[5] ^= 1;
        flipped.signature = bytes.into();
        let mut short = signed.clone();
        short.signature = short.signature.slice(..63);
        for bad in [renamed, flipped, short, pb::Signature::default()] {
            assert!(Signed::parse_all(&[bad], a).is_err());
        }
        assert_eq!(
            Signed::parse_all(&[signed], a).expect("good"),
            [key.sign(a)]
        );
    }

    #[test]
    fn keys_are_read_strictly_and_kept_from_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("key");
        SecretKey::generate(&path).expect("makes");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(
            SecretKey::generate(&path).is_err(),
            "an existing key was overwritten"
        );
        for text in ["", "ed25519:", "ed25519:zz", &"0".repeat(64)] {
            assert!(text.parse::<PublicKey>().is_err(), "{text}");
        }
        std::fs::write(&path, "12").expect("writes");
        let error = SecretKey::read(&path).expect_err("short").to_string();
        assert!(error.contains("is not 64 hex digits"), "{error}");
    }
}
