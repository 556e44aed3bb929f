//! [`ServiceTableTarget`]: the service table of the current network namespace.
//!
//! Invariants: the kernel is read at the start and after an error only; in between, `actual` is what it holds. A table
//! that is right is not touched. Class chains that nothing leads to any more are emptied with the change that made them
//! so and deleted after it, as kernels before 6.2 want it.

use super::{
    NftError,
    decode::{Dumps, Found, found},
    encode::Requests,
    socket::{NftSocket, SEND_BUFFER},
    wire::msg,
};
use minisvc_netstate::{
    family::Address,
    nft::{Class, Key, ServiceTable, Set, Value, text::TABLE},
};
use minisvc_reconcile::{Op, Target};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// Most elements changed by one part of a large change; parts are what a small send buffer forces.
const PART: usize = 5_000;

/// Our table of one family in the network namespace where it was opened.
pub struct ServiceTableTarget<A: Address = Ipv4Addr> {
    socket: NftSocket,
    actual: Option<ServiceTable<A>>,
    /// Whether there is a table that has to be removed first.
    broken: bool,
    /// Class chains that are in the kernel.
    chains: BTreeMap<String, ChainIs>,
    /// The kernel's generation after our last change or look; none: not known.
    generation: Option<u32>,
}

/// What is known of a class chain.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChainIs {
    /// It has its rules.
    Whole,
    /// It was found with nothing leading to it; its rules may be any.
    Stray,
    /// It has no rules and waits for its deletion.
    Empty,
}

impl<A: Address> ServiceTableTarget<A> {
    /// Opens a socket in the thread's network namespace. Changes nothing.
    ///
    /// # Errors
    /// If the socket cannot be opened.
    pub fn open() -> Result<Self, NftError> {
        Self::with_send_buffer(SEND_BUFFER)
    }

    /// As [`Self::open`], with a send buffer of these many bytes at most, as systems have it for those who are not root
    /// of the machine: larger changes are carried out in parts.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with_send_buffer(bytes: u32) -> Result<Self, NftError> {
        let socket = NftSocket::open(bytes)?;
        Ok(Self { socket, actual: None, broken: false, chains: BTreeMap::new(), generation: None })
    }

    /// Removes the table, if it is there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self) -> Result<(), NftError> {
        self.observe()?;
        if self.actual.is_some() || self.broken {
            let mut requests = Requests::new(A::FAMILY);
            requests.delete_table();
            self.actual = None;
            self.commit(&requests)?;
        }
        self.broken = false;
        self.chains.clear();
        Ok(())
    }

    /// Whether somebody else made a transaction since our last change or look, to our table or to any other.
    ///
    /// # Errors
    /// If the kernel does not tell.
    pub fn others_changed_something(&mut self) -> Result<bool, NftError> {
        Ok(self.generation != Some(self.socket.generation()?))
    }

    /// The kernel's generation after our last change or look; None if it is not known.
    pub fn generation(&self) -> Option<u32> {
        self.generation
    }

    /// Takes note that the table of the other family was changed by us, from one generation to another: nobody else did.
    pub fn neighbour_changed(&mut self, before: Option<u32>, after: Option<u32>) {
        if before.is_some() && self.generation == before {
            self.generation = after;
        }
    }

    /// Carries requests out; each transaction is the next generation.
    fn commit(&mut self, requests: &Requests) -> Result<(), NftError> {
        let before = self.generation.take();
        let transactions = self.socket.commit(&requests.list)?;
        let transactions = u32::try_from(transactions).unwrap_or(0);
        self.generation = before.map(|before| before.wrapping_add(transactions));
        Ok(())
    }

    /// Most bytes of one transaction here: less where the process is not root of the machine.
    pub fn transaction_bytes_max(&self) -> usize {
        self.socket.limit()
    }

    fn dumps(&mut self) -> Result<Option<Dumps>, NftError> {
        let table = |m: &mut super::wire::Message| {
            m.text(1, TABLE);
        };
        let tables = self.socket.dump("list tables", A::FAMILY, msg::GETTABLE, |_| {})?.unwrap_or_default();
        if !tables.iter().any(|found| super::wire::text(found, 1) == Some(TABLE)) {
            return Ok(None);
        }
        // Chains and rules of other tables may come along on some kernels.
        let ours = |list: Option<Vec<Vec<u8>>>| -> Vec<Vec<u8>> {
            let list = list.unwrap_or_default().into_iter();
            list.filter(|found| super::wire::text(found, 1) == Some(TABLE)).collect()
        };
        let mut dumps = Dumps {
            chains: ours(self.socket.dump("list chains", A::FAMILY, msg::GETCHAIN, table)?),
            rules: ours(self.socket.dump("list rules", A::FAMILY, msg::GETRULE, table)?),
            sets: ours(self.socket.dump("list sets", A::FAMILY, msg::GETSET, table)?),
            elements: Vec::new(),
        };
        for set in Set::ALL.into_iter().filter(|set| !set.dynamic()) {
            let lists = self.socket.dump("list elements", A::FAMILY, msg::GETSETELEM, |m| {
                m.text(1, TABLE).text(2, set.name());
            })?;
            dumps.elements.extend(lists.unwrap_or_default().into_iter().map(|list| (set, list)));
        }
        Ok(Some(dumps))
    }

    /// The requests of a change, and the class chains that are unused after it.
    fn requests(&self, ops: &[Op<Key<A>, Value<A>>]) -> (Requests, BTreeSet<String>) {
        let none = ServiceTable::new();
        let actual = self.actual.as_ref().unwrap_or(&none);
        let mut requests = Requests::new(A::FAMILY);
        if self.broken {
            requests.delete_table();
        }
        if self.actual.is_none() {
            requests.structure();
        }
        let (mut deletes, mut puts) = (BTreeSet::new(), BTreeMap::new());
        for op in ops {
            match op {
                Op::Delete(key) => {
                    puts.remove(key);
                    deletes.insert(*key);
                }
                Op::Put(key, value) => {
                    deletes.remove(key);
                    puts.insert(*key, *value);
                }
            }
        }
        deletes.retain(|key| actual.contains_key(key));
        puts.retain(|key, value| actual.get(key) != Some(value));
        let unused = self.class_chains(actual, &deletes, &puts, &mut requests);
        // Ranges may not overlap even for a moment.
        delete_all(&deletes, |set| set.interval(), &mut requests);
        let puts: Vec<_> = puts.iter().collect();
        for part in puts.chunks(PART) {
            let replaced: BTreeSet<Key<A>> =
                part.iter().map(|(key, _)| **key).filter(|key| actual.contains_key(key)).collect();
            delete_all(&replaced, |_| true, &mut requests);
            for elements in part.chunk_by(|(one, _), (other, _)| Set::of(one) == Set::of(other)) {
                if let Some((first, _)) = elements.first() {
                    requests.add_elements(Set::of(first), elements.iter().copied());
                }
            }
        }
        delete_all(&deletes, |set| !set.interval(), &mut requests);
        for name in &unused {
            requests.flush_chain(name);
        }
        (requests, unused)
    }

    /// Adds the chains of new classes; the names of those that no element leads to after the change.
    fn class_chains(
        &self,
        actual: &ServiceTable<A>,
        deletes: &BTreeSet<Key<A>>,
        puts: &BTreeMap<Key<A>, Value<A>>,
        requests: &mut Requests,
    ) -> BTreeSet<String> {
        let class = |value: &Value<A>| match value {
            Value::Class(class) => Some(*class),
            _ => None,
        };
        let all_classes = Key::Class(0)..=Key::Class(u16::MAX);
        let kept = actual
            .range(all_classes.clone())
            .filter(|(key, _)| !deletes.contains(key) && !puts.contains_key(key));
        let wanted: BTreeSet<Class> =
            kept.chain(puts.range(all_classes.clone())).filter_map(|(_, value)| class(value)).collect();
        let names: BTreeSet<String> = wanted.iter().map(Class::chain).collect();
        for (class, name) in wanted.iter().zip(wanted.iter().map(Class::chain)) {
            match self.chains.get(&name) {
                Some(ChainIs::Whole) => continue,
                Some(ChainIs::Stray) => requests.flush_chain(&name),
                Some(ChainIs::Empty) | None => {}
            }
            requests.class_chain(class);
        }
        let live = self.chains.iter().filter(|(name, is)| **is != ChainIs::Empty && !names.contains(*name));
        live.map(|(name, _)| name.clone()).collect()
    }

    /// Deletes emptied chains. What still fails stays for the next time: nothing leads there.
    fn sweep(&mut self) {
        let empty: Vec<_> = self
            .chains
            .iter()
            .filter(|(_, is)| **is == ChainIs::Empty)
            .map(|(name, _)| name.clone())
            .collect();
        for name in empty {
            let mut requests = Requests::new(A::FAMILY);
            requests.delete_chain(&name);
            match self.commit(&requests) {
                Ok(()) => {
                    self.chains.remove(&name);
                }
                Err(error) => tracing::debug!(chain = name, %error, "an unused chain stays for now"),
            }
        }
    }
}

fn delete_all<A: Address>(keys: &BTreeSet<Key<A>>, wanted: impl Fn(Set) -> bool, requests: &mut Requests) {
    // In reverse: what leads to other elements goes first.
    let keys: Vec<_> = keys.iter().rev().filter(|key| wanted(Set::of(key))).collect();
    for part in keys.chunk_by(|one, other| Set::of(one) == Set::of(other)) {
        if let Some(first) = part.first() {
            requests.delete_elements(Set::of(first), part.iter().copied());
        }
    }
}

impl<A: Address> Target<Key<A>, Value<A>> for ServiceTableTarget<A> {
    type Error = NftError;

    /// Reads the table from the kernel. A table that is not as we build it counts as none, and is replaced by the next
    /// change.
    fn observe(&mut self) -> Result<ServiceTable<A>, NftError> {
        // Read first: what happens while the rest is read counts as news.
        self.generation = None;
        let generation = self.socket.generation()?;
        let found = match self.dumps()? {
            None => Found::Nothing,
            Some(dumps) => found(&dumps),
        };
        self.generation = Some(generation);
        self.chains.clear();
        self.broken = matches!(found, Found::Broken);
        self.actual = match found {
            Found::Nothing | Found::Broken => None,
            Found::Table(table, unused) => {
                let classes = minisvc_netstate::nft::text::classes(&table);
                self.chains = classes.map(|(_, class)| (class.chain(), ChainIs::Whole)).collect();
                self.chains.extend(unused.into_iter().map(|name| (name, ChainIs::Stray)));
                Some(table)
            }
        };
        Ok(self.actual.clone().unwrap_or_default())
    }

    /// Carries the steps out in one transaction where the send buffer allows. After an error the kernel's table is read
    /// again before the next change.
    fn apply(&mut self, ops: &[Op<Key<A>, Value<A>>]) -> Result<(), NftError> {
        if self.actual.is_none() && !self.broken {
            self.observe()?;
        }
        let (requests, unused) = self.requests(ops);
        if requests.list.is_empty() {
            return Ok(());
        }
        let actual = self.actual.take();
        if let Err(error) = self.commit(&requests) {
            self.broken = false;
            return Err(error);
        }
        if actual.is_none() {
            self.chains.clear();
        }
        self.broken = false;
        let mut actual = actual.unwrap_or_default();
        for op in ops {
            match op {
                Op::Delete(key) => {
                    actual.remove(key);
                }
                Op::Put(key, value) => {
                    actual.insert(*key, *value);
                    if let Value::Class(class) = value {
                        self.chains.insert(class.chain(), ChainIs::Whole);
                    }
                }
            }
        }
        self.actual = Some(actual);
        self.chains.extend(unused.into_iter().map(|name| (name, ChainIs::Empty)));
        self.sweep();
        Ok(())
    }
}
