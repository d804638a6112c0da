//! Quantities (`100m`, `1.5Gi`, `1e3`): parsing, canonical text, comparison. Not responsible for which units a field wants.
//!
//! The canonical form is upstream's: no fraction, the largest suffix that keeps the value whole.

use std::fmt;

/// What is wrong with a quantity's text, in upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notation {
    Decimal,
    Binary,
    Exponent,
}

/// An exact amount with the notation it was written in. Compares by amount.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    notation: Notation,
}

const NANO: i128 = 1_000_000_000;
const DECIMAL: &[(i32, &str)] =
    &[(18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k"), (0, ""), (-3, "m"), (-6, "u"), (-9, "n")];
const BINARY: &[(u32, &str)] = &[(60, "Ei"), (50, "Pi"), (40, "Ti"), (30, "Gi"), (20, "Mi"), (10, "Ki")];

impl Quantity {
    /// In thousandths, rounded up.
    pub fn milli(&self) -> i128 {
        div_up(self.nanos, 1_000_000)
    }

    /// In whole units, rounded up.
    pub fn value(&self) -> i128 {
        div_up(self.nanos, NANO)
    }

    /// Whether it is a number of thousandths.
    pub fn is_whole_milli(&self) -> bool {
        self.nanos % 1_000_000 == 0
    }

    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    fn decimal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (exponent, suffix) in DECIMAL {
            let unit = 10_i128.pow((exponent + 9).unsigned_abs());
            if self.nanos % unit == 0 {
                return write!(f, "{}{suffix}", self.nanos / unit);
            }
        }
        Ok(())
    }

    fn exponent(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut mantissa, mut exponent) = (self.nanos, -9);
        while mantissa % 1000 == 0 {
            mantissa /= 1000;
            exponent += 3;
        }
        if exponent == 0 { write!(f, "{mantissa}") } else { write!(f, "{mantissa}e{exponent}") }
    }
}

fn div_up(amount: i128, unit: i128) -> i128 {
    amount.div_euclid(unit) + i128::from(amount.rem_euclid(unit) != 0)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        match self.notation {
            Notation::Exponent => self.exponent(f),
            Notation::Binary if self.nanos % NANO == 0 && (self.nanos / NANO).unsigned_abs() >= 1024 => {
                let units = self.nanos / NANO;
                let whole = BINARY.iter().find(|(bits, _)| units % (1_i128 << bits) == 0);
                match whole {
                    Some((bits, suffix)) => write!(f, "{}{suffix}", units >> bits),
                    None => write!(f, "{units}"),
                }
            }
            _ => self.decimal(f),
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        self.nanos.partial_cmp(&other.nanos)
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let number_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        if number.is_empty() || !suffix.chars().all(|c| c.is_ascii_digit() || "eEinumkKMGTP+-".contains(c)) {
            return Err(QuantityError::Format);
        }
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Format);
        }
        let digits: i128 = match format!("{whole}{fraction}").as_str() {
            all if all.len() > 36 => return Err(QuantityError::Numeric),
            all => all.parse().map_err(|_| QuantityError::Numeric)?,
        };
        let (notation, multiplier, exponent) = read_suffix(suffix).ok_or(QuantityError::Suffix)?;
        let scale = i32::try_from(fraction.len()).map_err(|_| QuantityError::Numeric)?;
        let nanos = scaled(digits, multiplier, exponent - scale + 9).ok_or(QuantityError::Numeric)?;
        Ok(Quantity { nanos: if text.starts_with('-') { -nanos } else { nanos }, notation })
    }
}

/// Notation, multiplier, and power of ten.
fn read_suffix(suffix: &str) -> Option<(Notation, i128, i32)> {
    if let Some((exponent, _)) = DECIMAL.iter().find(|(_, s)| *s == suffix) {
        return Some((Notation::Decimal, 1, *exponent));
    }
    if let Some((bits, _)) = BINARY.iter().find(|(_, s)| *s == suffix) {
        return Some((Notation::Binary, 1 << bits, 0));
    }
    let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (exponent.abs() <= 36).then_some((Notation::Exponent, 1, exponent))
}

/// `digits · multiplier · 10^power`, rounded up to a whole number.
fn scaled(digits: i128, multiplier: i128, power: i32) -> Option<i128> {
    let amount = digits.checked_mul(multiplier)?;
    let unit = 10_i128.checked_pow(power.unsigned_abs())?;
    if power >= 0 { amount.checked_mul(unit) } else { Some(div_up(amount, unit)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_forms() {
        for (text, expected) in [
            ("0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1024", "1024"),
            ("0.5Ki", "512"),
            ("1000", "1k"),
            ("128974848", "128974848"),
            ("123Mi", "123Mi"),
            ("1e3", "1e3"),
            ("-1500m", "-1500m"),
            ("+5", "5"),
            ("0.0000000001", "1n"),
            (".5", "500m"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_in_upstreams_words() {
        for text in ["", "x", "1.2.3", "1 Gi", "-"] {
            assert_eq!(text.parse::<Quantity>().unwrap_err(), QuantityError::Format, "{text}");
        }
        assert_eq!("1Xi".parse::<Quantity>().unwrap_err(), QuantityError::Format);
        assert_eq!("1mm".parse::<Quantity>().unwrap_err(), QuantityError::Suffix);
    }

    #[test]
    fn compares_by_amount_and_rounds_up() {
        let quantity = |t: &str| t.parse::<Quantity>().unwrap();
        assert_eq!(quantity("1Ki"), quantity("1024"));
        assert!(quantity("1500m") > quantity("1"));
        assert_eq!((quantity("1500m").value(), quantity("0.1m").milli()), (2, 1));
    }

    proptest::proptest! {
        #[test]
        fn canonical_text_is_stable_and_equal(text in "[+-]?[0-9]{1,12}(\\.[0-9]{0,6})?(m|u|n|k|M|G|Ki|Mi|Gi|e[0-9])?") {
            let quantity: Quantity = text.parse().unwrap();
            let again: Quantity = quantity.to_string().parse().unwrap();
            proptest::prop_assert_eq!(quantity, again);
            proptest::prop_assert_eq!(quantity.to_string(), again.to_string());
        }

        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = text.parse::<Quantity>().map(|q| q.to_string());
        }
    }
}
