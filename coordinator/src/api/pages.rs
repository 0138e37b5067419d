//! Pages of lists.

use crate::job::JobId;

/// Entries of a page when the client does not say.
const DEFAULT: u32 = 50;

/// Most entries of a page.
const MAX: u32 = 500;

/// Mark of our tokens, so that other text is told apart.
const MARK: &str = "after-";

/// Entries of a page as asked for.
pub(super) fn size(asked: u32) -> usize {
    match asked {
        0 => DEFAULT as usize,
        n => n.min(MAX) as usize,
    }
}

/// Token of the page after this job.
pub(super) fn token(last: &JobId) -> String {
    format!("{MARK}{last}")
}

/// The job that a token follows; `Err` when it is none of ours.
pub(super) fn parse(token: &str) -> Result<Option<JobId>, ()> {
    if token.is_empty() {
        return Ok(None);
    }
    let id = JobId::new(token.strip_prefix(MARK).ok_or(())?);
    if id.is_well_formed() {
        Ok(Some(id))
    } else {
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back_and_others_refused() {
        let id = JobId::numbered(12);
        assert_eq!(parse(&token(&id)), Ok(Some(id)));
        assert_eq!(parse(""), Ok(None));
        for bad in ["j00000012", "after-", "after-../x", "after-j 1"] {
            assert_eq!(parse(bad), Err(()), "{bad}");
        }
    }

    #[test]
    fn sizes_are_bounded() {
        assert_eq!([0, 1, 500, 501, u32::MAX].map(size), [50, 1, 500, 500, 500]);
    }
}
