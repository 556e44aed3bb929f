//! Numbers of endpoint sets and of classes: stable while in use, read back from the table in the kernel at the start.
//!
//! Invariants: no two sets, and no two classes, have the same number; a plain class has its number of endpoints as
//! its number, so that a mark can be read by a person.

use minisvc_netstate::{
    family::Address,
    nft::{
        Class, Frontend, Key, ServiceTable, Value,
        element::{SETS_MAX, STICKY_CLASSES, class_and_set},
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// Who asks for a set's number: a frontend, and for which of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// The frontend has one set for all.
    Only,
    /// Pods and nodes.
    Internal,
    /// Everybody else.
    External,
}

/// A frontend of either kind, as in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At<A> {
    /// Address and port.
    Address(Frontend<A>),
    /// Node port.
    NodePort(minisvc_netstate::nft::Protocol, u16),
}

/// The numbers of sets.
#[derive(Clone, Debug)]
pub struct SetNumbers<A> {
    used: BTreeSet<u32>,
    /// Below this, numbers not in `used` are in `free`.
    next: u32,
    free: BTreeSet<u32>,
    /// Of the table found at the start: numbers by frontend, dropped after the first plan.
    found: BTreeMap<(At<A>, Role), u32>,
}

impl<A: Address> SetNumbers<A> {
    /// Remembers the numbers of a table for [`SetNumbers::recover`].
    pub fn of(table: &ServiceTable<A>) -> Self {
        let mut found = BTreeMap::new();
        for (key, value) in table {
            let Value::Mark(mark) = value else { continue };
            let Some((_, number)) = class_and_set(*mark) else { continue };
            let at = match key {
                Key::Frontend(frontend) => (At::Address(*frontend), Role::Only),
                // A node port's parts and a load balancer's look alike here, and both name the same set.
                Key::RangedFrontend(frontend) => (At::Address(*frontend), Role::Only),
                Key::InternalFrontend(frontend) => (At::Address(*frontend), Role::Internal),
                Key::ExternalFrontend(frontend) => (At::Address(*frontend), Role::External),
                Key::NodePort(protocol, port) => (At::NodePort(*protocol, *port), Role::Only),
                _ => continue,
            };
            found.insert(at, number);
        }
        Self { found, next: 1, used: BTreeSet::new(), free: BTreeSet::new() }
    }

    /// The number that the set had in the table found at the start, by any of its frontends.
    pub fn recover(&mut self, frontends: impl IntoIterator<Item = (At<A>, Role)>) -> Option<u32> {
        let number = frontends
            .into_iter()
            .filter_map(|frontend| self.found.get(&frontend))
            .find(|number| !self.used.contains(number))
            .copied()?;
        self.take(number);
        Some(number)
    }

    /// Forgets the table found at the start.
    pub fn recovered(&mut self) {
        self.found = BTreeMap::new();
    }

    /// A number nobody has; None if there are none left.
    pub fn allocate(&mut self) -> Option<u32> {
        let number = self.free.first().copied().unwrap_or(self.next);
        if number > SETS_MAX {
            return None;
        }
        self.take(number);
        Some(number)
    }

    /// Gives a number back.
    pub fn release(&mut self, number: u32) {
        if self.used.remove(&number) {
            self.free.insert(number);
        }
    }

    fn take(&mut self, number: u32) {
        self.free.extend(self.next..number);
        self.next = self.next.max(number.saturating_add(1));
        self.free.remove(&number);
        self.used.insert(number);
    }
}

/// The numbers of classes, with how many sets use each.
#[derive(Clone, Debug, Default)]
pub struct ClassNumbers {
    in_use: BTreeMap<Class, (u16, usize)>,
    taken: BTreeSet<u16>,
    found: BTreeMap<Class, u16>,
}

impl ClassNumbers {
    /// Remembers the numbers of a table.
    pub fn of<A: Address>(table: &ServiceTable<A>) -> Self {
        let found = table.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Class(number), Value::Class(class)) => Some((*class, *number)),
            _ => None,
        });
        Self { found: found.collect(), ..Self::default() }
    }

    /// The number of a class for one more set; true if the class is new. None if there are too many classes.
    pub fn acquire(&mut self, class: Class) -> Option<(u16, bool)> {
        if let Some((number, uses)) = self.in_use.get_mut(&class) {
            *uses += 1;
            return Some((*number, false));
        }
        let number = self.number(class)?;
        self.taken.insert(number);
        self.in_use.insert(class, (number, 1));
        Some((number, true))
    }

    fn number(&self, class: Class) -> Option<u16> {
        if class.affinity_s.is_none() {
            return Some(class.endpoints);
        }
        let wanted = STICKY_CLASSES.start() + class.endpoints;
        let found = self.found.get(&class).copied().filter(|number| STICKY_CLASSES.contains(number));
        // A number that the kernel's table gives to another class waits until that class came for it.
        let promised: BTreeSet<u16> = self.found.values().copied().collect();
        found
            .filter(|number| !self.taken.contains(number))
            .into_iter()
            .chain((wanted..=*STICKY_CLASSES.end()).filter(|number| !promised.contains(number)))
            .chain(STICKY_CLASSES.filter(|number| !promised.contains(number)))
            .find(|number| !self.taken.contains(number))
    }

    /// Forgets the table found at the start.
    pub fn recovered(&mut self) {
        self.found = BTreeMap::new();
    }

    /// One set less; the number if it was the last.
    pub fn release(&mut self, class: Class) -> Option<u16> {
        let (number, uses) = self.in_use.get_mut(&class)?;
        *uses -= 1;
        if *uses > 0 {
            return None;
        }
        let number = *number;
        self.in_use.remove(&class);
        self.taken.remove(&number);
        Some(number)
    }

    /// The number of a class in use.
    pub fn get(&self, class: &Class) -> Option<u16> {
        self.in_use.get(class).map(|(number, _)| *number)
    }
}
