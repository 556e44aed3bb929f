//! [`ServiceTableTarget`]: the service table of the current network namespace.
//!
//! Invariants: the kernel is read at the start and after an error only, and no copy of what was read is kept: the steps of
//! a change say themselves what is there. A table that is right is not touched. Class chains that nothing leads to any more are emptied with the change that made them
//! so and deleted after it, as kernels before 6.2 want it.

use super::{
    NftError,
    decode::{Dumps, Elements, Found, found},
    encode::Requests,
    socket::{NftSocket, SEND_BUFFER},
    wire::{Message, msg},
};
use minisvc_netstate::{
    family::Address,
    nft::{Class, Key, ServiceTable, Set, Value, text::TABLE},
};
use minisvc_reconcile::{Op, Target};
use std::{
    collections::{BTreeMap, BTreeSet},
    marker::PhantomData,
    net::Ipv4Addr,
    time::Duration,
};

/// Most elements changed by one part of a large change; parts are what a small send buffer forces.
const PART: usize = 5_000;
/// How often a list of elements is asked for until it is whole, and how long is waited in between.
const LISTS_MAX: u32 = 100;
const LIST_AGAIN: Duration = Duration::from_millis(10);

/// Our table of one family in the network namespace where it was opened.
pub struct ServiceTableTarget<A: Address = Ipv4Addr> {
    socket: NftSocket,
    kernel: Kernel,
    /// The classes in the kernel, by number.
    classes: BTreeMap<u16, Class>,
    /// Class chains that are in the kernel.
    chains: BTreeMap<String, ChainIs>,
    /// The kernel's generation after our last change or look; none: not known.
    generation: Option<u32>,
    family: PhantomData<A>,
}

/// What is in the kernel under our name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kernel {
    /// Not read yet, or not since something failed.
    Unknown,
    /// Nothing.
    Nothing,
    /// A table that is not as we build it and has to be removed first.
    Broken,
    /// A table of ours.
    Ours,
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
        Ok(Self {
            socket,
            kernel: Kernel::Unknown,
            classes: BTreeMap::new(),
            chains: BTreeMap::new(),
            generation: None,
            family: PhantomData,
        })
    }

    /// Removes the table, if it is there.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&mut self) -> Result<(), NftError> {
        self.observe()?;
        if matches!(self.kernel, Kernel::Ours | Kernel::Broken) {
            let mut requests = Requests::new(A::FAMILY);
            requests.delete_table();
            self.commit(&requests)?;
        }
        let generation = self.generation;
        self.forget();
        (self.kernel, self.generation) = (Kernel::Nothing, generation);
        Ok(())
    }

    /// Nothing is known any more.
    fn forget(&mut self) {
        self.kernel = Kernel::Unknown;
        self.classes.clear();
        self.chains.clear();
        self.generation = None;
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
        let table = |m: &mut Message| {
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
        Ok(Some(Dumps {
            chains: ours(self.socket.dump("list chains", A::FAMILY, msg::GETCHAIN, table)?),
            rules: ours(self.socket.dump("list rules", A::FAMILY, msg::GETRULE, table)?),
            sets: ours(self.socket.dump("list sets", A::FAMILY, msg::GETSET, table)?),
        }))
    }

    /// All elements; None if some are not as we write them.
    fn elements(&mut self) -> Result<Option<ServiceTable<A>>, NftError> {
        let mut table = ServiceTable::new();
        for set in Set::ALL.into_iter().filter(|set| !set.dynamic()) {
            match self.elements_of(set)?.finish() {
                Some(elements) => table.extend(elements),
                None => return Ok(None),
            }
        }
        Ok(Some(table))
    }

    /// The elements of a set. For a while after many were added, the kernel moves them to a larger hash table: a list made
    /// meanwhile has some twice and others not at all, and says nothing of it.
    fn elements_of(&mut self, set: Set) -> Result<Elements<A>, NftError> {
        const OPERATION: &str = "list elements";
        for _ in 0..LISTS_MAX {
            let mut message = Message::new(A::FAMILY, msg::GETSETELEM, 0);
            message.text(1, TABLE).text(2, set.name());
            let mut elements = Elements::new(set);
            match self.socket.dump_of(message, OPERATION, &mut |payload| elements.read(payload)) {
                Ok(()) if !elements.moved() => return Ok(elements),
                Ok(()) => {}
                Err(error) if error.errno() == Some(libc::ENOENT) => return Ok(Elements::new(set)),
                Err(error) if error.errno() == Some(libc::EINTR) => {}
                Err(error) => return Err(error),
            }
            std::thread::sleep(LIST_AGAIN);
        }
        let source = std::io::Error::other("they are never at rest");
        Err(NftError::Receive { operation: OPERATION, source })
    }

    /// The requests of a change, and the class chains that are unused after it.
    fn requests(&self, ops: &[Op<Key<A>, Value<A>>]) -> (Requests, BTreeSet<String>) {
        let mut requests = Requests::new(A::FAMILY);
        if self.kernel == Kernel::Broken {
            requests.delete_table();
        }
        if self.kernel != Kernel::Ours {
            requests.structure();
        }
        let (mut deletes, mut puts) = (Vec::new(), Vec::new());
        for op in ops {
            match op {
                Op::Delete(key) => deletes.push(key),
                Op::Put(key, value) | Op::Replace(key, value) => puts.push((key, value)),
            }
        }
        let replaces: BTreeSet<&Key<A>> =
            ops.iter().filter(|op| matches!(op, Op::Replace(..))).map(Op::key).collect();
        let unused = self.class_chains(&deletes, &puts, &mut requests);
        // Ranges may not overlap even for a moment.
        delete_all(&deletes, |set| set.interval(), &mut requests);
        for part in puts.chunks(PART) {
            let replaced: Vec<&Key<A>> =
                part.iter().rev().map(|(key, _)| *key).filter(|key| replaces.contains(key)).collect();
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
        deletes: &[&Key<A>],
        puts: &[(&Key<A>, &Value<A>)],
        requests: &mut Requests,
    ) -> BTreeSet<String> {
        let mut classes = self.classes.clone();
        for key in deletes {
            if let Key::Class(number) = key {
                classes.remove(number);
            }
        }
        classes.extend(puts.iter().filter_map(|(key, value)| class(key, value)));
        let wanted: BTreeSet<Class> = classes.into_values().collect();
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

/// A class and its number, if the element is one.
fn class<A: Address>(key: &Key<A>, value: &Value<A>) -> Option<(u16, Class)> {
    match (key, value) {
        (Key::Class(number), Value::Class(class)) => Some((*number, *class)),
        _ => None,
    }
}

/// Deletes these keys, in their order; the caller has those first that lead to others.
fn delete_all<A: Address>(keys: &[&Key<A>], wanted: impl Fn(Set) -> bool, requests: &mut Requests) {
    let keys: Vec<_> = keys.iter().copied().filter(|key| wanted(Set::of(key))).collect();
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
        self.forget();
        // Read first: what happens while the rest is read counts as news.
        let generation = self.socket.generation()?;
        let found = match self.dumps()? {
            None => Found::Nothing,
            Some(dumps) => {
                let table = self.elements()?;
                found(&dumps, table)
            }
        };
        self.generation = Some(generation);
        match found {
            Found::Nothing => self.kernel = Kernel::Nothing,
            Found::Broken => self.kernel = Kernel::Broken,
            Found::Table(table, unused) => {
                self.kernel = Kernel::Ours;
                self.classes = table
                    .range(Key::Class(0)..=Key::Class(u16::MAX))
                    .filter_map(|(key, value)| class(key, value))
                    .collect();
                self.chains = self.classes.values().map(|class| (class.chain(), ChainIs::Whole)).collect();
                self.chains.extend(unused.into_iter().map(|name| (name, ChainIs::Stray)));
                return Ok(table);
            }
        }
        Ok(ServiceTable::new())
    }

    /// Carries the steps out in one transaction where the send buffer allows. They start from what the last `observe`
    /// or change left; after an error the kernel's table is to be observed again.
    fn apply(&mut self, ops: &[Op<Key<A>, Value<A>>]) -> Result<(), NftError> {
        if self.kernel == Kernel::Unknown {
            self.observe()?;
        }
        let (requests, unused) = self.requests(ops);
        if requests.list.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.commit(&requests) {
            self.forget();
            return Err(error);
        }
        if self.kernel != Kernel::Ours {
            self.kernel = Kernel::Ours;
            self.chains.clear();
        }
        for op in ops {
            match op {
                Op::Delete(Key::Class(number)) => drop(self.classes.remove(number)),
                Op::Delete(_) => {}
                Op::Put(key, value) | Op::Replace(key, value) => self.classes.extend(class(key, value)),
            }
        }
        self.chains.extend(self.classes.values().map(|class| (class.chain(), ChainIs::Whole)));
        self.chains.extend(unused.into_iter().map(|name| (name, ChainIs::Empty)));
        self.sweep();
        Ok(())
    }
}
