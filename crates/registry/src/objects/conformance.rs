//! What any place for objects must do, whatever it is.

use super::{Objects, Page};
use crate::chunks::{Encoding, Stored};
use crate::{ChunkId, Digest, RegistryError};

fn object(bytes: &[u8]) -> (Digest, Stored) {
    let stored = Stored {
        encoding: Encoding::Raw,
        size: bytes.len() as u64,
        data: bytes.to_vec().into(),
    };
    (ChunkId::of(bytes).digest, stored)
}

async fn listed(place: &impl Objects) -> Vec<(Digest, u64)> {
    let mut listed = Vec::new();
    let mut next: Option<Page> = None;
    loop {
        let page = place.list(next).await.expect("lists");
        listed.extend(page.objects);
        next = page.next;
        if next.is_none() {
            return listed;
        }
    }
}

/// `open` opens the same place each time; `damage` gives an object other bytes, behind its back.
pub(crate) async fn keeps<O: Objects>(
    open: impl AsyncFn() -> O,
    damage: impl AsyncFn(Digest, &[u8]),
) {
    let place = open().await;
    assert!(listed(&place).await.is_empty());
    let contents: Vec<Vec<u8>> = (0..25_u8).map(|i| vec![i; 1 + usize::from(i)]).collect();
    let objects: Vec<_> = contents.iter().map(|bytes| object(bytes)).collect();
    let taken: i64 = objects.iter().map(|(_, o)| 12 + o.size as i64).sum();
    let grown = place.put(objects.clone()).await.expect("puts");
    assert_eq!((grown.objects, grown.bytes), (25, taken));

    let place = open().await;
    for (digest, stored) in &objects {
        let read = place.get(*digest).await.expect("reads");
        assert_eq!(read.as_ref(), Some(stored));
    }
    let mut expected: Vec<(Digest, u64)> = objects.iter().map(|(d, o)| (*d, 12 + o.size)).collect();
    expected.sort_unstable();
    assert_eq!(listed(&place).await, expected, "in order, each once");
    let digests: Vec<Digest> = objects.iter().map(|(digest, _)| *digest).collect();
    let (absent, _) = object(b"absent");
    let asked = [&digests[..3], &[absent]].concat();
    let heads = place.head(asked).await.expect("looks");
    let sizes: Vec<Option<u64>> = heads.iter().map(|h| h.map(|h| h.size)).collect();
    assert_eq!(sizes, [Some(1), Some(2), Some(3), None]);
    assert_eq!(heads[2].map(|head| head.stored), Some(15));
    assert!(place.get(absent).await.expect("looks").is_none());

    what_is_damaged_is_missing(&place, damage).await;

    let freed = place.delete([&digests[..], &[absent]].concat()).await;
    assert_eq!(freed.expect("deletes") as i64, taken);
    assert!(listed(&place).await.is_empty());
    assert_eq!(place.delete(digests).await.expect("again"), 0);
}

async fn what_is_damaged_is_missing(place: &impl Objects, damage: impl AsyncFn(Digest, &[u8])) {
    let (digest, stored) = object(b"whole");
    for bad in [
        &b""[..],
        b"ESPC",
        b"ESPC\x07\0\0\0\x05\0\0\0whole",
        b"ESPC\0\0\0\0\x05\0\0\0who",
    ] {
        let put = || place.put(vec![(digest, stored.clone())]);
        put().await.expect("puts");
        damage(digest, bad).await;
        let head = place.head(vec![digest]).await.expect("looks");
        assert_eq!(head, [None], "{bad:?}");
        // What cannot be one is told apart; what is only short is found by its digest.
        if bad.len() < 12 || bad[4] == 7 {
            let read = place.get(digest).await;
            assert!(
                matches!(read, Err(RegistryError::Damaged { .. })),
                "{read:?}"
            );
        }
        // Writing it again restores it, and its bytes are counted once.
        let grown = put().await.expect("restores");
        let more = 12 + 5 - bad.len() as i64;
        assert_eq!((grown.objects, grown.bytes), (0, more), "{bad:?}");
        let read = place.get(digest).await.expect("reads");
        assert_eq!(read.as_ref(), Some(&stored));

        damage(digest, bad).await;
        let size = place.set_aside(digest).await.expect("moves");
        assert_eq!(size, bad.len() as u64);
        assert!(place.get(digest).await.expect("reads").is_none());
        assert_eq!(place.set_aside(digest).await.expect("is gone"), 0);
    }
}
