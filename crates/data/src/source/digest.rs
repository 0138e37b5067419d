use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

/// A SHA-256 in the making.
#[derive(Default)]
pub(crate) struct Digest(Sha256);

impl Digest {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes a text with its end, so that no two lists of texts give the same bytes.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.update(text);
        self.0.update([0]);
    }

    /// The digest as `sha256:` and hexadecimal digits.
    pub(crate) fn finish(self) -> String {
        let mut shown = "sha256:".to_owned();
        for byte in self.0.finalize() {
            // Writing to a string cannot fail.
            let _ = write!(shown, "{byte:02x}");
        }
        shown
    }
}
