//! What can go wrong between ranks, and telling it from an engine's text.

use std::fmt;
use std::time::Duration;

/// What a rank was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Forming the group.
    Connect,
    /// [`crate::Collective::all_reduce_sum`].
    AllReduce,
    /// [`crate::Collective::broadcast`].
    Broadcast,
    /// [`crate::Collective::all_gather`].
    AllGather,
    /// [`crate::Collective::barrier`].
    Barrier,
    /// Looking after the group while no operation is waited for.
    Watch,
    /// Leaving the group in good order.
    Finalize,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::AllReduce => "all-reduce",
            Self::Broadcast => "broadcast",
            Self::AllGather => "all-gather",
            Self::Barrier => "barrier",
            Self::Watch => "watch",
            Self::Finalize => "finalize",
        })
    }
}

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A rank of the group.
    Rank(u32),
    /// An address, where the engine knows no more.
    Address(String),
    /// The engine did not say.
    Unknown,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rank(rank) => write!(f, "rank {rank}"),
            Self::Address(address) => write!(f, "the peer at {address}"),
            Self::Unknown => f.write_str("a peer"),
        }
    }
}

/// An operation between ranks that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// The rendezvous could not be hosted or reached.
    #[error("rendezvous at {address}: {reason}")]
    Rendezvous {
        /// Where it is.
        address: String,
        /// What is wrong.
        reason: String,
    },
    /// A connection broke. In a group of more than two, the peer may itself have left because of a
    /// third one.
    #[error("{operation} on rank {rank}: lost {peer}: {reason}")]
    PeerLost {
        /// What was going on.
        operation: Operation,
        /// The rank that noticed.
        rank: u32,
        /// The other end.
        peer: Peer,
        /// The engine's words.
        reason: String,
    },
    /// The deadline passed.
    #[error(
        "{operation} on rank {rank}: not done after {after:?}{}",
        waiting_for(missing)
    )]
    Timeout {
        /// What was going on.
        operation: Operation,
        /// The rank that waited.
        rank: u32,
        /// How long it waited.
        after: Duration,
        /// The ranks that never came, where that is known.
        missing: Vec<u32>,
    },
    /// The group was aborted on this rank, or had already failed.
    #[error("{operation} on rank {rank}: the group was aborted: {reason}")]
    Aborted {
        /// What was going on.
        operation: Operation,
        /// This rank.
        rank: u32,
        /// Why.
        reason: String,
    },
    /// The caller's tensors or arguments do not fit the operation; the group is unharmed.
    #[error("{operation} on rank {rank}: {problem}")]
    Tensor {
        /// The operation asked for.
        operation: Operation,
        /// This rank.
        rank: u32,
        /// What does not fit, and what would.
        problem: String,
    },
    /// The engine cannot run on this machine.
    #[error("the {engine} engine cannot run here: {reason}")]
    Unavailable {
        /// Name of the engine.
        engine: &'static str,
        /// What is missing and how to provide it.
        reason: String,
    },
    /// Any other failure of the engine.
    #[error("{operation} on rank {rank}: {reason}")]
    Engine {
        /// What was going on.
        operation: Operation,
        /// This rank.
        rank: u32,
        /// The first line of the engine's words.
        reason: String,
    },
}

impl CollectiveError {
    /// The group has failed by what became of its ranks or of the links between them, so that another
    /// group, of whoever is left, may go on.
    pub fn is_loss(&self) -> bool {
        match self {
            Self::Rendezvous { .. }
            | Self::PeerLost { .. }
            | Self::Timeout { .. }
            | Self::Aborted { .. }
            | Self::Engine { .. } => true,
            Self::Tensor { .. } | Self::Unavailable { .. } => false,
        }
    }
}

fn waiting_for(missing: &[u32]) -> String {
    match missing {
        [] => String::new(),
        [rank] => format!(", waiting for rank {rank}"),
        many => {
            let ranks: Vec<String> = many.iter().map(u32::to_string).collect();
            format!(", waiting for ranks {}", ranks.join(", "))
        }
    }
}

/// Who speaks: the context that an engine's text is understood in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Speaker {
    pub(crate) operation: Operation,
    pub(crate) rank: u32,
    pub(crate) world_size: u32,
}

impl Speaker {
    /// Understands the text of a C++ exception of Gloo or c10d, which has no finer type. `after` is
    /// the limit that the engine was given.
    pub(crate) fn understand(self, text: &str, after: Duration) -> CollectiveError {
        let Self {
            operation, rank, ..
        } = self;
        let reason = first_line(text);
        let lower = reason.to_ascii_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| lower.contains(phrase));
        if says(&[
            "connection closed by peer",
            "connection reset",
            "broken pipe",
            "socket closed",
        ]) {
            CollectiveError::PeerLost {
                operation,
                rank,
                peer: self.peer(&reason),
                reason,
            }
        } else if says(&["timed out", "timeout"]) {
            CollectiveError::Timeout {
                operation,
                rank,
                after,
                missing: Vec::new(),
            }
        } else {
            CollectiveError::Engine {
                operation,
                rank,
                reason,
            }
        }
    }

    /// In a group of two the other end is the other rank; else Gloo's text may hold an address,
    /// written as `[127.0.0.1]:4242`.
    fn peer(self, reason: &str) -> Peer {
        if self.world_size == 2 && self.rank < 2 {
            return Peer::Rank(1 - self.rank);
        }
        reason
            .split_whitespace()
            .map(|word| word.trim_end_matches([':', ',', '.']))
            .find(|word| word.starts_with('[') && word.contains("]:") && !word.contains('/'))
            .map_or(Peer::Unknown, |word| Peer::Address(word.to_owned()))
    }
}

/// The first line of an exception's text, which may go on with a backtrace, without Gloo's source
/// position in front.
fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    let line = match line.split_once("] ") {
        Some((position, rest)) if position.starts_with('[') && position.contains(".cc:") => rest,
        _ => line,
    };
    if line.is_empty() {
        "the engine gave no reason".to_owned()
    } else {
        line.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn speaker(world_size: u32) -> Speaker {
        Speaker {
            operation: Operation::AllReduce,
            rank: 0,
            world_size,
        }
    }

    #[test]
    fn a_broken_connection_names_the_other_rank_of_two_and_the_address_of_more() {
        let text = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:542] Connection closed by \
                    peer [127.0.0.1]:4242. This often indicates\nframe #0";
        let lost = |peer| CollectiveError::PeerLost {
            operation: Operation::AllReduce,
            rank: 0,
            peer,
            reason: "Connection closed by peer [127.0.0.1]:4242. This often indicates".into(),
        };
        assert_eq!(speaker(2).understand(text, LIMIT), lost(Peer::Rank(1)));
        assert_eq!(
            speaker(3).understand(text, LIMIT),
            lost(Peer::Address("[127.0.0.1]:4242".into()))
        );
    }

    #[test]
    fn a_broken_connection_without_an_address_has_an_unknown_peer() {
        let error = speaker(3).understand("Read error: Connection reset by peer", LIMIT);
        assert!(matches!(
            error,
            CollectiveError::PeerLost {
                peer: Peer::Unknown,
                ..
            }
        ));
    }

    #[test]
    fn the_engines_own_limit_is_a_timeout() {
        let text = "[x.cc:81] Timed out waiting 5000ms for recv operation to complete";
        assert_eq!(
            speaker(2).understand(text, LIMIT).to_string(),
            "all-reduce on rank 0: not done after 5s"
        );
    }

    #[test]
    fn other_texts_keep_their_first_line() {
        assert_eq!(
            speaker(2).understand("Invalid scalar type\nbacktrace", LIMIT),
            CollectiveError::Engine {
                operation: Operation::AllReduce,
                rank: 0,
                reason: "Invalid scalar type".into()
            }
        );
        assert!(
            speaker(2)
                .understand("", LIMIT)
                .to_string()
                .contains("no reason")
        );
    }

    #[test]
    fn a_timeout_names_who_is_missing() {
        let error = CollectiveError::Timeout {
            operation: Operation::Connect,
            rank: 0,
            after: LIMIT,
            missing: vec![2, 5],
        };
        assert_eq!(
            error.to_string(),
            "connect on rank 0: not done after 5s, waiting for ranks 2, 5"
        );
    }
}
