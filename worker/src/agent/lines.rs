//! Cuts a byte stream into log lines.

/// Longest line kept, in bytes; the rest of a longer one is dropped.
pub(crate) const MAX_LINE: usize = 8 << 10;

/// Bytes of a line that has not ended yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
}

impl Lines {
    /// The lines that these bytes end.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut ended = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece {
                [text @ .., b'\n'] => (text, true),
                text => (text, false),
            };
            let room = MAX_LINE.saturating_sub(self.partial.len()).min(text.len());
            self.partial.extend_from_slice(&text[..room]);
            if ends {
                ended.push(self.take());
            }
        }
        ended
    }

    /// The last line, when it has no end.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.partial.is_empty()).then(|| self.take())
    }

    fn take(&mut self) -> String {
        let bytes = std::mem::take(&mut self.partial);
        let mut text = String::from_utf8_lossy(&bytes).into_owned();
        // A replaced byte takes three, so the text may have outgrown the bound.
        text.truncate(text.floor_char_boundary(MAX_LINE));
        text.truncate(text.trim_end_matches('\r').len());
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut lines = Lines::default();
        let mut text = vec![b'a'; 3 * MAX_LINE];
        text.extend_from_slice(b"\nnext\r\nlast");
        let ended = lines.push(&text);
        assert_eq!(ended[0].len(), MAX_LINE);
        assert_eq!(ended[1], "next");
        assert_eq!(lines.finish().as_deref(), Some("last"));
        assert_eq!(lines.finish(), None);
    }

    #[test]
    fn bytes_that_are_no_text_stay_within_the_bound() {
        let mut lines = Lines::default();
        let mut bytes = vec![0xff; MAX_LINE];
        bytes.push(b'\n');
        let ended = lines.push(&bytes);
        assert!(ended[0].len() <= MAX_LINE && ended[0].starts_with('\u{fffd}'));
    }

    proptest! {
        #[test]
        fn cuts_do_not_depend_on_how_the_bytes_arrive(
            text in "[a-z\n ]{0,200}", cuts in prop::collection::vec(0..200_usize, 0..8)
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
            cuts.sort_unstable();
            cuts.push(text.len());
            let mut lines = Lines::default();
            let mut got = Vec::new();
            let mut start = 0;
            for cut in cuts {
                got.extend(lines.push(&text.as_bytes()[start..cut]));
                start = cut;
            }
            got.extend(lines.finish());
            let expected: Vec<String> = text.lines().map(str::to_owned).collect();
            prop_assert_eq!(got, expected);
        }
    }
}
