/// Whether `name` may name a job or a checkpoint: 1 to 63 of `a-z`, `0-9`, `-`, `_` and `.`, starting
/// with a letter or digit.
pub fn valid_name(name: &str) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    name.len() <= 63
        && name.bytes().next().is_some_and(letter)
        && name
            .bytes()
            .all(|byte| letter(byte) || b"-_.".contains(&byte))
}

/// Whether `reference` names a checkpoint of the registry: `name:alias` or `name@sha256:` and 64
/// lower-case hexadecimal digits.
pub fn valid_reference(reference: &str) -> bool {
    let digest = |digest: &str| {
        digest.len() == 64
            && digest
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    match reference.split_once("@sha256:") {
        Some((name, hex)) => valid_name(name) && digest(hex),
        None => reference
            .split_once(':')
            .is_some_and(|(name, alias)| valid_name(name) && valid_name(alias)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for name in ["a", "7", "fashion-mnist", "a_b.c", &"x".repeat(63)] {
            assert!(valid_name(name), "{name}");
        }
        for name in [
            "",
            "-a",
            ".a",
            "A",
            "a b",
            "a/b",
            "caf\u{e9}",
            &"x".repeat(64),
        ] {
            assert!(!valid_name(name), "{name}");
        }
    }

    #[test]
    fn references_name_an_alias_or_a_digest() {
        let digest = format!("a@sha256:{}", "0f".repeat(32));
        for reference in ["a:b", "fashion-mnist:small", &digest] {
            assert!(valid_reference(reference), "{reference}");
        }
        for reference in ["", "a", ":b", "a:", "a:b:c", "a@b", "a@sha256:0f", "A:b"] {
            assert!(!valid_reference(reference), "{reference}");
        }
        assert!(!valid_reference(&digest.to_uppercase()));
    }
}
