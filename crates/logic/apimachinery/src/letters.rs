//! The letters of generated names: no vowels, nothing that looks alike (source: k8s.io/apimachinery `util/rand`).

/// All of them.
pub const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// So many letters from a number: equal numbers give equal letters.
pub fn letters(mut number: u64, count: usize) -> String {
    let base = ALPHABET.len() as u64;
    (0..count)
        .map(|_| {
            let letter = ALPHABET[(number % base) as usize];
            number /= base;
            char::from(letter)
        })
        .collect()
}
