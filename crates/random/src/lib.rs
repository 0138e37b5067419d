//! espalier-random
