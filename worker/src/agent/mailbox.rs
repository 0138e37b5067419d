//! The outbox shared by the gangs that fill it and the session that empties it.

use std::collections::BTreeMap;

use espalier_proto::v1::LogLine;
use tokio::sync::watch;

use super::key::GangKey;
use super::outbox::Outbox;
use super::report::{RankStatus, Report};

/// A handle to the outbox; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox(watch::Sender<Outbox>);

impl Mailbox {
    pub(crate) fn new(outbox: Outbox) -> Self {
        Self(watch::Sender::new(outbox))
    }

    /// Tells its holder whenever the outbox changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Outbox> {
        self.0.subscribe()
    }

    /// Changes the outbox.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Outbox)) {
        self.0.send_modify(change);
    }

    /// Lets a gang report.
    pub(crate) fn open(&self, gang: GangKey, ranks: BTreeMap<u64, u32>) -> Reporter {
        self.update(|outbox| outbox.open(gang.clone()));
        Reporter {
            mailbox: self.clone(),
            place: watch::Sender::new(Place { gang, ranks }),
        }
    }

    /// Ends when everything was acknowledged.
    pub(crate) async fn drained(&self) {
        let mut changes = self.subscribe();
        // This mailbox holds the sender, so the wait ends by the condition alone.
        let _ = changes.wait_for(Outbox::is_empty).await;
    }

    /// Gangs with reports that are not acknowledged.
    pub(crate) fn unacknowledged(&self) -> std::collections::BTreeSet<GangKey> {
        self.0.borrow().unacknowledged()
    }
}

/// The way to report of the ranks of a job on this worker; clones share it. What they report after they
/// were revoked is lost, as it should be.
#[derive(Clone, Debug)]
pub(crate) struct Reporter {
    mailbox: Mailbox,
    place: watch::Sender<Place>,
}

/// Where the ranks are now.
#[derive(Clone, Debug)]
struct Place {
    gang: GangKey,
    /// The rank of each seat.
    ranks: BTreeMap<u64, u32>,
}

impl Reporter {
    /// The gang that is reported of.
    pub(crate) fn gang(&self) -> GangKey {
        self.place.borrow().gang.clone()
    }

    /// From now on reports are of this gang.
    pub(crate) fn advance(&self, gang: GangKey, ranks: BTreeMap<u64, u32>) {
        self.mailbox.update(|outbox| {
            outbox.finish(&self.gang());
            outbox.open(gang.clone());
        });
        self.place.send_replace(Place { gang, ranks });
    }

    /// Nothing more is reported.
    pub(crate) fn finish(&self) {
        self.mailbox.update(|outbox| outbox.finish(&self.gang()));
    }

    /// The rank of a seat; none of a recruit.
    pub(crate) fn rank_of(&self, seat: u64) -> Option<u32> {
        self.place.borrow().ranks.get(&seat).copied()
    }

    pub(crate) fn push(&self, report: Report) {
        self.mailbox.update(|outbox| {
            outbox.push(&self.gang(), report);
        });
    }

    pub(crate) fn rank(&self, seat: u64, status: RankStatus) {
        self.push(Report::Rank {
            rank: self.rank_or_seat(seat),
            seat,
            status,
        });
    }

    pub(crate) fn logs(&self, seat: u64, lines: Vec<LogLine>) {
        let rank = self.rank_or_seat(seat);
        self.push(Report::Logs { rank, lines });
    }

    /// Rank 0 listens at `address`.
    pub(crate) fn announce(&self, address: String) {
        self.mailbox
            .update(|outbox| outbox.announce(&self.gang(), address));
    }

    /// The ranks have met; the address is of no more use.
    pub(crate) fn settle(&self) {
        self.mailbox.update(|outbox| outbox.settle(&self.gang()));
    }

    /// A recruit has no rank yet, and is told by its seat.
    fn rank_or_seat(&self, seat: u64) -> u32 {
        self.rank_of(seat)
            .unwrap_or_else(|| u32::try_from(seat).unwrap_or(u32::MAX))
    }
}
