//! espalier-coordinator
