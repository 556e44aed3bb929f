//! A run of numbers with a static band at its lower end: what address and port pools have in common.

/// `size` numbers from `first` on, the lowest `offset` of which are the static band.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slots {
    first: u128,
    size: u128,
    offset: u128,
}

impl Slots {
    pub(crate) fn new(first: u128, size: u128, offset: u128) -> Self {
        Self { first, size, offset: offset.min(size) }
    }

    pub(crate) fn contains(&self, number: u128) -> bool {
        number.checked_sub(self.first).is_some_and(|n| n < self.size)
    }

    pub(crate) fn nth(&self, n: u128) -> Option<u128> {
        if n < self.size { self.first.checked_add(n) } else { None }
    }

    /// The first free number: upper band from a start that `seed` picks, wrapping around, then the static band
    /// alike. Asks about each number at most once.
    pub(crate) fn next(&self, is_free: impl Fn(u128) -> bool, seed: u64) -> Option<u128> {
        let upper = (self.offset, self.size - self.offset);
        let lower = (0, self.offset);
        [upper, lower].into_iter().find_map(|(from, len)| {
            let start = u128::from(seed).checked_rem(len)?;
            (start..len)
                .chain(0..start)
                .filter_map(|n| self.nth(from.checked_add(n)?))
                .find(|number| is_free(*number))
        })
    }
}
