//! Pools made of ranges of addresses, for load balancers.

use crate::{Error, address, number};
use std::net::IpAddr;

/// Ranges of addresses, both ends inclusive, in the order in which they are used up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangePool {
    ranges: Vec<(IpAddr, IpAddr)>,
}

impl RangePool {
    /// The pool of these ranges; none at all is an empty pool.
    ///
    /// # Errors
    /// [`Error::MixedFamilies`] and [`Error::Reversed`] name the faulty range.
    pub fn new(ranges: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Result<Self, Error> {
        let mut checked = Vec::new();
        for (first, last) in ranges {
            if first.is_ipv4() != last.is_ipv4() {
                return Err(Error::MixedFamilies { first, last });
            }
            if first > last {
                return Err(Error::Reversed { first: first.to_string(), last: last.to_string() });
            }
            checked.push((first, last));
        }
        Ok(Self { ranges: checked })
    }

    /// Whether the address is in one of the ranges.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.ranges.iter().any(|(first, last)| {
            first.is_ipv4() == address.is_ipv4() && *first <= address && address <= *last
        })
    }

    /// The lowest free address of the first range that has one. No random start: people want to foresee which
    /// address their load balancer gets.
    pub fn next(&self, is_used: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        self.ranges.iter().find_map(|(first, last)| {
            (number(*first)..=number(*last)).filter_map(|n| address(n, *first)).find(|ip| !is_used(*ip))
        })
    }
}
