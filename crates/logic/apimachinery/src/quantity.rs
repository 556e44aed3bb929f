//! `resource.Quantity`: an amount as Kubernetes writes it, such as `100m`, `1.5Gi`, `2e3`.
//!
//! Source: k8s.io/apimachinery `pkg/api/resource/quantity.go`. Amounts are exact to a billionth; what is finer is rounded away
//! from zero, and what is larger than 2^63-1 is taken for that, as there.

use std::{iter::Sum, ops::Add};

const NANOS: i128 = 1_000_000_000;
/// Largest amount.
const MOST: i128 = i64::MAX as i128 * NANOS;
/// Digits that count; further ones only round. Enough for the largest amount in billionths.
const DIGITS_MAX: usize = 28;
/// The same before a binary suffix: more of them times 2^60 would not fit an i128.
const DIGITS_MAX_BINARY: usize = 19;

/// An amount of something. Ordered by size: `1` and `1000m` are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    nanos: i128,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0 };

    /// So many thousandths.
    pub const fn from_millis(millis: i64) -> Self {
        Self { nanos: millis as i128 * (NANOS / 1000) }
    }

    /// A whole number.
    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANOS }
    }

    /// Reads an amount; none if it is not written as one.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, unsigned) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.len() + fraction.len() == 0 || fraction.contains('.') {
            return None;
        }
        let (binary, decimal) = scale(suffix)?;
        let size = size(whole, fraction, binary, decimal);
        Some(Self { nanos: if negative { -size } else { size } })
    }

    /// The form in which Kubernetes keeps an amount (`CanonicalizeBytes`): a whole number with the largest suffix that
    /// leaves one, binary or decimal as it was written. None if it is not written as an amount.
    pub fn canonical(text: &str) -> Option<String> {
        let amount = Self::parse(text)?;
        let suffix = text.trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '+' | '-'));
        let units = amount.nanos / NANOS;
        // Less than 1 Ki, or not whole: a binary suffix would be of no use or would lose something.
        if suffix.ends_with('i') && units.abs() >= 1024 && amount.nanos % NANOS == 0 {
            let (number, power) = without(units, 1024, BINARY.len() - 1);
            return Some(format!("{number}{}", BINARY[power]));
        }
        let (number, power) = without(amount.nanos, 1000, DECIMAL.len() - 1);
        let is_exponent = suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !suffix.ends_with('i');
        Some(match (number, 3 * i32::try_from(power).unwrap_or(0) - 9) {
            (0, _) => "0".to_owned(),
            (number, exponent) if is_exponent && exponent != 0 => format!("{number}e{exponent}"),
            _ => format!("{number}{}", DECIMAL[power]),
        })
    }

    /// In thousandths, such as of a CPU, rounded away from zero.
    pub fn millis(self) -> i64 {
        self.rounded(NANOS / 1000)
    }

    /// In whole numbers, such as bytes, rounded away from zero.
    pub fn units(self) -> i64 {
        self.rounded(NANOS)
    }

    fn rounded(self, unit: i128) -> i64 {
        let size = self.nanos.abs().div_ceil_of(unit) * self.nanos.signum();
        i64::try_from(size).unwrap_or(if size < 0 { i64::MIN } else { i64::MAX })
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { nanos: self.nanos.saturating_add(other.nanos) }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::ZERO, Add::add)
    }
}

trait DivCeil {
    fn div_ceil_of(self, by: i128) -> i128;
}

impl DivCeil for i128 {
    /// For what is not negative.
    fn div_ceil_of(self, by: i128) -> i128 {
        self / by + i128::from(self % by != 0)
    }
}

/// Suffixes by the power of 1024.
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Suffixes by the power of 1000, from billionths.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// `number` without `factor` as often as it divides it, at most `most` times; and how often that was.
fn without(mut number: i128, factor: i128, most: usize) -> (i128, usize) {
    let mut times = 0;
    while times < most && number % factor == 0 {
        number /= factor;
        times += 1;
    }
    (number, times)
}

/// The powers of two and of ten that a suffix stands for.
fn scale(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "" => (0, 0),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => (0, suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

/// `whole.fraction` times these powers, in billionths.
fn size(whole: &str, fraction: &str, binary: u32, decimal: i32) -> i128 {
    let digits = || whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0');
    let length = digits().count();
    let used = length.min(if binary == 0 { DIGITS_MAX } else { DIGITS_MAX_BINARY });
    let mantissa = digits().take(used).fold(0_i128, |sum, digit| sum * 10 + i128::from(digit - b'0'));
    if mantissa == 0 {
        return 0;
    }
    let rest = digits().skip(used).any(|digit| digit != b'0');
    // At most the length of a request: it fits.
    let shift = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let power = i64::from(decimal) + 9 + shift(length - used) - shift(fraction.len());
    let scaled = mantissa << binary;
    let ten = |power: i64| u32::try_from(power).ok().and_then(|power| 10_i128.checked_pow(power));
    if power >= 0 {
        let size = ten(power).and_then(|ten| scaled.checked_mul(ten));
        return size.map_or(MOST, |size| size + i128::from(rest)).min(MOST);
    }
    match ten(-power) {
        Some(ten) if scaled % ten == 0 => (scaled / ten + i128::from(rest)).min(MOST),
        Some(ten) => scaled.div_ceil_of(ten).min(MOST),
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|| panic!("{text:?}"))
    }

    #[test]
    fn amounts_are_read_as_kubernetes_does() {
        for (text, millis) in [
            ("0", 0),
            ("1", 1000),
            ("100m", 100),
            ("0.1", 100),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("-2", -2000),
            ("1500u", 2),
            ("1n", 1),
            ("-1n", -1),
            ("2e3", 2_000_000),
            ("2E3", 2_000_000),
            ("2e-3", 2),
            ("1E+2", 100_000),
            ("1k", 1_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("128974848", 128_974_848_000),
            ("129e6", 129_000_000_000),
            ("123Mi", 128_974_848_000),
            ("0.0000000001", 1),
            ("00000000000000000000000000000007", 7000),
        ] {
            assert_eq!(read(text).millis(), millis, "{text}");
        }
        for text in [
            "", "m", ".", "+", "1.2.3", "1Q", "1ki", "1KiB", "Mi", "1e", "1e1.5", "1 ", " 1", "1m1", "0x1",
            "--1",
        ] {
            assert_eq!(Quantity::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn amounts_are_kept_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("-0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("+2", "2"),
            ("2000", "2k"),
            ("1024", "1024"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("-2048Ki", "-2Mi"),
            ("1.0001Ki", "1024102400u"),
            ("2e3", "2e3"),
            ("2E4", "20e3"),
            ("5e0", "5"),
            ("1e-3", "1e-3"),
            ("1E", "1E"),
            ("1Ei", "1Ei"),
            ("0.0000000001", "1n"),
        ] {
            assert_eq!(Quantity::canonical(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(Quantity::canonical("1Q"), None);
    }

    #[test]
    fn what_is_too_fine_or_too_large_is_rounded_or_capped() {
        assert_eq!(read("0.00000000000000000000000000000000000000000000001"), read("1n"));
        assert_eq!(read("1e-2000000000"), read("1n"));
        assert_eq!(read("10Ei"), Quantity { nanos: MOST });
        assert_eq!(read("1e2000000000").units(), i64::MAX);
        assert_eq!(read("-9e99").units(), -i64::MAX);
        assert_eq!(read("9223372036854775807").units(), i64::MAX);
        assert_eq!(read("1.0000000000000000000000000000001"), read("1.000000001"));
        assert_eq!(read("0.1Ki"), read("102.4"));
        assert!(read("999m") < read("1") && read("1") == read("1000m"));
        assert_eq!([read("100m"), read("1.9")].into_iter().sum::<Quantity>(), read("2"));
        assert_eq!((read("1n").units(), Quantity::from_units(3)), (1, read("3")));
    }

    proptest! {
        #[test]
        fn what_a_number_says_is_exact(whole in 0_i64..1_000_000_000_000, nanos in 0_i64..1_000_000_000) {
            let expected = i128::from(whole) * NANOS + i128::from(nanos);
            prop_assert_eq!(read(&format!("{whole}.{nanos:09}")).nanos, expected);
            prop_assert_eq!(read(&format!("{whole}Ki")), read(&format!("{}", whole * 1024)));
            prop_assert_eq!(read(&format!("{whole}e9")), read(&format!("{whole}G")));
        }

        #[test]
        fn no_text_is_a_panic(text in "[-+]?[0-9.]{0,60}[eEinumkKMGTP]{0,2}[-+]?[0-9]{0,12}") {
            if let Some(written) = Quantity::canonical(&text) {
                prop_assert_eq!(Quantity::parse(&written), Quantity::parse(&text));
                prop_assert_eq!(Quantity::canonical(&written), Some(written));
            }
        }
    }
}
