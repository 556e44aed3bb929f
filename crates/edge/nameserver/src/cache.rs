//! What the node's resolvers answered, kept until it is too old.
//!
//! Invariants: never more than [`ENTRIES_MAX`] answers, nor more than [`BYTES_MAX`] as they are on the wire, the
//! oldest leave first; an answer is kept no longer than the least of its times to live (negative ones: RFC 2308,
//! section 5) nor than [`TTL_MAX`], and its times run down while it is kept. Failures are not kept.

use crate::forward::Forwarded;
use hickory_resolver::proto::{
    rr::{LowerName, RData, Record, RecordType},
    serialize::binary::BinEncodable,
};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Answers that are kept.
pub(crate) const ENTRIES_MAX: usize = 4096;
/// Their length together.
pub(crate) const BYTES_MAX: usize = 8 << 20;
/// Longest time an answer is kept, so that a mistake upstream does not stay for days.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(60);

type Key = (LowerName, RecordType);

/// A cache of forwarded answers.
#[derive(Default)]
pub(crate) struct Cache(Mutex<State>);

#[derive(Default)]
struct State {
    entries: HashMap<Key, Entry>,
    /// Keys with the number of the entry they were put in with, oldest first.
    order: VecDeque<(u64, Key)>,
    bytes: usize,
    next: u64,
}

struct Entry {
    number: u64,
    answer: Forwarded,
    bytes: usize,
    since: Instant,
    until: Instant,
}

impl Cache {
    /// The answer of earlier, with what is left of its times.
    pub(crate) fn get(&self, key: &Key, now: Instant) -> Option<Forwarded> {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.get(key).filter(|entry| now < entry.until)?;
        let age = now.saturating_duration_since(entry.since).as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let mut answer = entry.answer.clone();
        for record in answer.answers.iter_mut().chain(&mut answer.authorities) {
            record.ttl = record.ttl.saturating_sub(age);
        }
        Some(answer)
    }

    /// Keeps an answer, if it may be kept.
    pub(crate) fn put(&self, key: Key, answer: &Forwarded, now: Instant) {
        let Some(ttl) = time_to_live(answer) else { return };
        let records = answer.answers.iter().chain(&answer.authorities);
        let bytes = key.0.len() + records.map(length).sum::<usize>();
        if ttl.is_zero() || bytes > BYTES_MAX / 16 {
            return;
        }
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.next += 1;
        let number = state.next;
        let entry = Entry { number, answer: answer.clone(), bytes, since: now, until: now + ttl };
        state.order.push_back((number, key.clone()));
        state.bytes += bytes;
        if let Some(replaced) = state.entries.insert(key, entry) {
            state.bytes -= replaced.bytes;
        }
        while state.bytes > BYTES_MAX || state.order.len() > ENTRIES_MAX {
            let Some((number, key)) = state.order.pop_front() else { break };
            if state.entries.get(&key).is_some_and(|entry| entry.number == number)
                && let Some(oldest) = state.entries.remove(&key)
            {
                state.bytes -= oldest.bytes;
            }
        }
    }
}

/// How long an answer may be kept; None: not at all.
fn time_to_live(answer: &Forwarded) -> Option<Duration> {
    let seconds = match answer.answers.iter().map(|record| record.ttl).min() {
        Some(least) => least,
        None => answer.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        })?,
    };
    Some(Duration::from_secs(u64::from(seconds)).min(TTL_MAX))
}

fn length(record: &Record) -> usize {
    record.to_bytes().map_or(usize::from(u16::MAX), |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_resolver::proto::rr::{Name, rdata};

    fn key(name: &str) -> Key {
        (LowerName::new(&Name::from_ascii(name).unwrap()), RecordType::TXT)
    }

    fn answer(ttl: u32, bytes: usize) -> Forwarded {
        let text = rdata::TXT::new(vec!["x".repeat(200); bytes / 200]);
        let record = Record::from_rdata(Name::from_ascii("a.test.").unwrap(), ttl, RData::TXT(text));
        Forwarded { answers: vec![record], ..Forwarded::default() }
    }

    #[test]
    fn an_answer_is_kept_until_its_time_and_runs_down() {
        let (cache, now) = (Cache::default(), Instant::now());
        cache.put(key("A.test."), &answer(30, 200), now);
        let later = cache.get(&key("a.TEST."), now + Duration::from_secs(10)).unwrap();
        assert_eq!(later.answers[0].ttl, 20);
        assert!(cache.get(&key("a.test."), now + Duration::from_secs(30)).is_none());
        cache.put(key("b.test."), &answer(86_400, 200), now);
        assert!(cache.get(&key("b.test."), now + Duration::from_secs(59)).is_some());
        assert!(cache.get(&key("b.test."), now + TTL_MAX).is_none());
        cache.put(key("c.test."), &answer(0, 200), now);
        assert!(cache.get(&key("c.test."), now).is_none());
        // Nothing there, and nobody says for how long.
        cache.put(key("d.test."), &Forwarded::default(), now);
        assert!(cache.get(&key("d.test."), now).is_none());
    }

    #[test]
    fn that_a_name_is_not_there_is_kept_as_its_zone_says() {
        let (cache, now) = (Cache::default(), Instant::now());
        let zone = Name::from_ascii("test.").unwrap();
        let soa = rdata::SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 7);
        let none = Forwarded {
            authorities: vec![Record::from_rdata(zone, 50, RData::SOA(soa))],
            ..Forwarded::default()
        };
        cache.put(key("a.test."), &none, now);
        assert!(cache.get(&key("a.test."), now + Duration::from_secs(6)).is_some());
        assert!(cache.get(&key("a.test."), now + Duration::from_secs(7)).is_none());
    }

    #[test]
    fn neither_the_number_nor_the_length_grows_without_end() {
        let (cache, now) = (Cache::default(), Instant::now());
        let state = || cache.0.lock().unwrap();
        for i in 0..2 * ENTRIES_MAX {
            cache.put(key(&format!("{i}.test.")), &answer(60, 200), now);
            cache.put(key("same.test."), &answer(60, 200), now);
        }
        assert!(state().order.len() <= ENTRIES_MAX && state().entries.len() <= ENTRIES_MAX);
        assert!(cache.get(&key("same.test."), now).is_some() && cache.get(&key("0.test."), now).is_none());
        for i in 0..400 {
            cache.put(key(&format!("{i}.long.test.")), &answer(60, 60_000), now);
        }
        let sum: usize = state().entries.values().map(|entry| entry.bytes).sum();
        assert_eq!(state().bytes, sum);
        assert!(sum <= BYTES_MAX && cache.get(&key("399.long.test."), now).is_some());
    }
}
