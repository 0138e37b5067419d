use proptest::prelude::*;

use super::*;
use crate::agent::report::RankStatus;

fn gang(generation: u64) -> GangKey {
    GangKey::new("j1", generation)
}

fn logs(size: usize) -> Report {
    Report::Logs {
        rank: 0,
        lines: vec![LogLine {
            time: None,
            text: "x".repeat(size),
        }],
    }
}

fn done(rank: u32) -> Report {
    Report::Rank {
        rank,
        seat: u64::from(rank) + 1,
        status: RankStatus::Done,
    }
}

fn pending(outbox: &Outbox) -> Vec<(u64, Message)> {
    let mut sent = Vec::new();
    let mut cursor = 0;
    while let Some((sequence, message)) = outbox.next_after(cursor) {
        sent.push((sequence, message));
        cursor = sequence;
    }
    sent
}

#[test]
fn a_closed_gang_reports_nothing() {
    let mut outbox = Outbox::new(1 << 20);
    assert!(!outbox.push(&gang(1), done(0)));
    outbox.open(gang(1));
    outbox.open(gang(2));
    assert!(outbox.push(&gang(1), done(0)));
    assert!(outbox.push(&gang(2), done(1)));
    outbox.announce(&gang(1), "a:1".to_owned());
    outbox.retract(&gang(1));
    assert!(!outbox.push(&gang(1), done(0)));
    assert_eq!(outbox.announcements().count(), 0);
    let left: Vec<u64> = pending(&outbox)
        .into_iter()
        .map(|(number, _)| number)
        .collect();
    assert_eq!(left, [2]);
}

#[test]
fn what_is_dropped_is_counted_once_per_gang() {
    let mut outbox = Outbox::new(1000);
    outbox.open(gang(1));
    for _ in 0..10 {
        assert!(outbox.push(&gang(1), logs(300)));
    }
    let sent = pending(&outbox);
    let Message::Logs(notice) = &sent[0].1 else {
        panic!("the first message is no notice: {:?}", sent[0]);
    };
    assert!(notice.lines[0].text.contains("8 log lines"), "{notice:?}");
    assert_eq!(sent.len(), 3);
}

#[derive(Clone, Debug)]
enum Step {
    Push {
        generation: u64,
        kind: u8,
        size: usize,
    },
    Acknowledge {
        back: u64,
    },
    Retract {
        generation: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..4_u64, 0..3_u8, 0..400_usize)
            .prop_map(|(generation, kind, size)| Step::Push { generation, kind, size }),
        2 => (0..20_u64).prop_map(|back| Step::Acknowledge { back }),
        1 => (1..4_u64).prop_map(|generation| Step::Retract { generation }),
    ]
}

proptest! {
    #[test]
    fn rank_reports_arrive_once_in_order_whatever_happens(steps in prop::collection::vec(step(), 0..120)) {
        const LIMIT: usize = 2000;
        let mut outbox = Outbox::new(LIMIT);
        let mut open: BTreeSet<u64> = (1..4).collect();
        for &generation in &open {
            outbox.open(gang(generation));
        }
        let mut last = 0;
        let mut expected: BTreeMap<u64, u64> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Push { generation, kind, size } => {
                    let report = match kind {
                        0 => done(0),
                        1 => logs(size),
                        _ => Report::Metrics(Box::default()),
                    };
                    let taken = outbox.push(&gang(generation), report);
                    prop_assert_eq!(taken, open.contains(&generation));
                    last += u64::from(taken);
                    if taken && kind == 0 {
                        expected.insert(last, generation);
                    }
                }
                Step::Acknowledge { back } => {
                    let sequence = last.saturating_sub(back);
                    outbox.acknowledge(sequence);
                    expected.retain(|&number, _| number > sequence);
                }
                Step::Retract { generation } => {
                    outbox.retract(&gang(generation));
                    open.retain(|of| *of > generation);
                    expected.retain(|_, of| *of > generation);
                }
            }
            let sent = pending(&outbox);
            let ranks: BTreeMap<u64, u64> = sent
                .iter()
                .filter_map(|(number, message)| match message {
                    Message::RankReport(report) => {
                        assert_eq!(report.sequence, *number);
                        Some((*number, report.generation))
                    }
                    _ => None,
                })
                .collect();
            prop_assert_eq!(&ranks, &expected);
            prop_assert!(outbox.droppable <= LIMIT);
            let weight: usize = outbox.entries.values().map(Entry::weight).sum();
            prop_assert_eq!(weight, outbox.droppable);
            let notices = outbox
                .entries
                .values()
                .filter(|entry| matches!(entry.body, Body::Dropped(_)))
                .count();
            prop_assert!(notices <= 3);
        }
        outbox.acknowledge(u64::MAX);
        prop_assert!(outbox.is_empty());
    }
}
