//! The smallest set of gangs to take from, so that another job can start. Whoever only loses what is
//! above its fewest workers loses no step, so that as few as possible are evicted first, and then as few
//! parts as possible taken. Of sets of one size it is the one whose last member comes first in the order
//! of the candidates, then the one before it, and so on.

/// Additions and removals that a search may take; beyond them a set is found that nothing can be left
/// out of, but that need not be the smallest.
pub(super) const BUDGET: u64 = 200_000;

/// Something that can be taken: a gang, or what a gang has on one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unit {
    /// Whose it is.
    pub(super) gang: usize,
    /// Slots that it frees, by worker that could be used.
    pub(super) frees: Vec<(usize, u32)>,
    /// Slots that it frees in all.
    pub(super) slots: u64,
    /// The limit that it counts against, and the goal that it counts towards.
    pub(super) purse: usize,
}

/// What must come of it.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    /// Slots needed on each worker.
    pub(super) ranks: u32,
    /// Workers needed.
    pub(super) workers: usize,
    /// Slots that must be freed of a purse, whatever the workers.
    pub(super) slots: (usize, u64),
    /// Free slots of each worker; none where it cannot be used.
    pub(super) free: Vec<Option<u32>>,
    /// Most workers that each gang can go without.
    pub(super) spare: Vec<u32>,
    /// Most slots that may be taken of each purse.
    pub(super) purses: Vec<u64>,
}

/// What is taken, and what it makes of the workers.
struct Tally<'g> {
    goal: &'g Goal,
    extra: Vec<u32>,
    able: usize,
    shrunk: Vec<u32>,
    evicted: Vec<bool>,
    freed: Vec<u64>,
    budget: u64,
}

impl<'g> Tally<'g> {
    fn new(goal: &'g Goal, budget: u64) -> Self {
        let able = |free: &&Option<u32>| free.is_some_and(|free| free >= goal.ranks);
        Self {
            able: goal.free.iter().filter(able).count(),
            extra: vec![0; goal.free.len()],
            shrunk: vec![0; goal.spare.len()],
            evicted: vec![false; goal.spare.len()],
            freed: vec![0; goal.purses.len()],
            budget,
            goal,
        }
    }

    fn enough(&self) -> bool {
        let (purse, slots) = self.goal.slots;
        self.able >= self.goal.workers && self.freed[purse] >= slots
    }

    fn may(&self, unit: &Unit, evicts: bool) -> bool {
        let gang = unit.gang;
        let free = if evicts {
            self.shrunk[gang] == 0
        } else {
            !self.evicted[gang] && self.shrunk[gang] < self.goal.spare[gang]
        };
        free && self.freed[unit.purse] + unit.slots <= self.goal.purses[unit.purse]
    }

    fn is_able(&self, worker: usize) -> bool {
        let free = self.goal.free[worker];
        free.is_some_and(|free| free + self.extra[worker] >= self.goal.ranks)
    }

    /// Whether it brings the goal nearer by itself.
    fn helps(&self, unit: &Unit) -> bool {
        let (purse, slots) = self.goal.slots;
        (unit.purse == purse && self.freed[purse] < slots)
            || unit.frees.iter().any(|(worker, _)| !self.is_able(*worker))
    }

    fn put(&mut self, unit: &Unit, evicts: bool) {
        self.budget = self.budget.saturating_sub(1);
        for &(worker, slots) in &unit.frees {
            let before = self.is_able(worker);
            self.extra[worker] += slots;
            self.able += usize::from(!before && self.is_able(worker));
        }
        self.freed[unit.purse] += unit.slots;
        if evicts {
            self.evicted[unit.gang] = true;
        } else {
            self.shrunk[unit.gang] += 1;
        }
    }

    fn take_back(&mut self, unit: &Unit, evicts: bool) {
        for &(worker, slots) in &unit.frees {
            let before = self.is_able(worker);
            self.extra[worker] -= slots;
            self.able -= usize::from(before && !self.is_able(worker));
        }
        self.freed[unit.purse] -= unit.slots;
        if evicts {
            self.evicted[unit.gang] = false;
        } else {
            self.shrunk[unit.gang] -= 1;
        }
    }
}

/// A set of candidates, by their indices in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Gangs that are evicted.
    pub(super) evictions: Vec<usize>,
    /// Parts of others.
    pub(super) shrinks: Vec<usize>,
}

struct Search<'u, 'g> {
    evictions: &'u [Unit],
    shrinks: &'u [Unit],
    tally: Tally<'g>,
}

/// The smallest set, or with too little `budget` one that cannot be made smaller by leaving out; none if
/// there is no set at all, or with too little budget none was found. Both lists have the candidates in the
/// order in which they are preferred.
pub(super) fn smallest(
    goal: &Goal,
    evictions: &[Unit],
    shrinks: &[Unit],
    budget: u64,
) -> Option<Found> {
    let mut search = Search {
        evictions,
        shrinks,
        tally: Tally::new(goal, budget),
    };
    if search.tally.able + most(goal, evictions, shrinks) < goal.workers {
        return None;
    }
    search.least_evictions(evictions.len())?;
    for size in 0..=evictions.len() {
        let mut found = Found::default();
        if search.evict(size, evictions.len(), &mut found) {
            found.evictions.reverse();
            found.shrinks.reverse();
            return Some(found);
        }
        if search.tally.budget == 0 {
            search.tally = Tally::new(goal, 0);
            return search.greedy();
        }
    }
    None
}

/// Most workers that taking can make usable: each part is of one.
fn most(goal: &Goal, evictions: &[Unit], shrinks: &[Unit]) -> usize {
    let mut by_gang = vec![0; goal.spare.len()];
    for unit in shrinks {
        by_gang[unit.gang] += unit.frees.len();
    }
    for (parts, spare) in by_gang.iter_mut().zip(&goal.spare) {
        *parts = (*parts).min(*spare as usize);
    }
    for unit in evictions {
        by_gang[unit.gang] = unit.frees.len();
    }
    by_gang.iter().sum()
}

impl Search<'_, '_> {
    /// How many of the first `n` evictions would be enough together with all parts, limits aside. None of
    /// them has been chosen yet.
    fn least_evictions(&mut self, n: usize) -> Option<usize> {
        let tally = &mut self.tally;
        for unit in self.shrinks {
            tally.put(unit, false);
        }
        let least = least(tally, &self.evictions[..n], true);
        for unit in self.shrinks {
            tally.take_back(unit, false);
        }
        least
    }

    /// Chooses so many of the first `n` evictions, and then parts.
    fn evict(&mut self, size: usize, n: usize, found: &mut Found) -> bool {
        if size == 0 {
            return self.shrink_least(found);
        }
        let Some(least) = self.least_evictions(n) else {
            return false;
        };
        for last in least.max(size) - 1..n {
            let unit = &self.evictions[last];
            if self.tally.budget == 0 {
                return false;
            }
            if !self.tally.may(unit, true) {
                continue;
            }
            self.tally.put(unit, true);
            found.evictions.push(last);
            if self.evict(size - 1, last, found) {
                return true;
            }
            found.evictions.pop();
            self.tally.take_back(unit, true);
        }
        false
    }

    fn shrink_least(&mut self, found: &mut Found) -> bool {
        let n = self.shrinks.len();
        if self.tally.enough() {
            return true;
        }
        // A part is of one worker.
        let short = self.tally.goal.workers.saturating_sub(self.tally.able);
        for size in short.max(1)..=n {
            if self.shrink(size, n, found) {
                return true;
            }
            if self.tally.budget == 0 {
                return false;
            }
        }
        false
    }

    /// Chooses so many of the first `n` parts.
    fn shrink(&mut self, size: usize, n: usize, found: &mut Found) -> bool {
        if size == 0 {
            return self.tally.enough();
        }
        let Some(least) = least(&mut self.tally, &self.shrinks[..n], false) else {
            return false;
        };
        for last in least.max(size) - 1..n {
            let unit = &self.shrinks[last];
            if self.tally.budget == 0 {
                return false;
            }
            if !self.tally.may(unit, false) {
                continue;
            }
            self.tally.put(unit, false);
            found.shrinks.push(last);
            if self.shrink(size - 1, last, found) {
                return true;
            }
            found.shrinks.pop();
            self.tally.take_back(unit, false);
        }
        false
    }

    /// What helps, in order, until it is enough; then whatever can be left out is, the dearest first.
    fn greedy(&mut self) -> Option<Found> {
        let tally = &mut self.tally;
        let mut found = Found::default();
        for (index, unit) in self.shrinks.iter().enumerate() {
            if tally.enough() {
                break;
            }
            if tally.helps(unit) && tally.may(unit, false) {
                tally.put(unit, false);
                found.shrinks.push(index);
            }
        }
        for (index, unit) in self.evictions.iter().enumerate() {
            if tally.enough() {
                break;
            }
            // All of it goes, with the parts that would have been taken.
            let (parts, others): (Vec<usize>, Vec<usize>) = found
                .shrinks
                .iter()
                .partition(|&&part| self.shrinks[part].gang == unit.gang);
            for &part in &parts {
                tally.take_back(&self.shrinks[part], false);
            }
            if tally.helps(unit) && tally.may(unit, true) {
                tally.put(unit, true);
                found.evictions.push(index);
                found.shrinks = others;
            } else {
                for &part in &parts {
                    tally.put(&self.shrinks[part], false);
                }
            }
        }
        if !tally.enough() {
            return None;
        }
        found.evictions = trim(tally, self.evictions, true, found.evictions);
        found.shrinks = trim(tally, self.shrinks, false, found.shrinks);
        Some(found)
    }
}

fn trim(tally: &mut Tally<'_>, units: &[Unit], evicts: bool, chosen: Vec<usize>) -> Vec<usize> {
    let mut kept: Vec<usize> = chosen
        .into_iter()
        .rev()
        .filter(|&index| {
            tally.take_back(&units[index], evicts);
            let needed = !tally.enough();
            if needed {
                tally.put(&units[index], evicts);
            }
            needed
        })
        .collect();
    kept.reverse();
    kept
}

/// How many of these, in order, it takes until it is enough, limits aside; what was put before stays.
fn least(tally: &mut Tally<'_>, units: &[Unit], evicts: bool) -> Option<usize> {
    let mut taken = 0;
    while !tally.enough() && taken < units.len() {
        tally.put(&units[taken], evicts);
        taken += 1;
    }
    let enough = tally.enough();
    for unit in &units[..taken] {
        tally.take_back(unit, evicts);
    }
    enough.then_some(taken)
}

#[cfg(test)]
#[path = "search_tests.rs"]
mod tests;
