//! Quantities (`100m`, `64Mi`, `1e3`) as whole numbers.

/// The value in thousandths, rounded up; none when it's no quantity.
pub fn millis(text: &str) -> Option<u64> {
    let (number, suffix) = split(text)?;
    // In millionths of a unit, so that three more decimal places than asked for take part in rounding.
    let micros = decimal_micros(number)?;
    let scaled = match suffix {
        "n" => micros / 1_000_000_000,
        "u" => micros / 1_000_000,
        "m" => micros / 1_000,
        "" => micros,
        other => micros.checked_mul(multiplier(other)?)?,
    };
    let rest = match suffix {
        "n" | "u" | "m" if scaled == 0 && micros > 0 => 1,
        _ => scaled,
    };
    u64::try_from(rest.div_ceil(1_000)).ok()
}

/// The value in whole units, rounded up.
pub fn units(text: &str) -> Option<u64> {
    millis(text).map(|value| value.div_ceil(1000))
}

fn split(text: &str) -> Option<(&str, &str)> {
    let text = text.trim().strip_prefix('+').unwrap_or(text.trim());
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    if end == 0 { None } else { Some((&text[..end], &text[end..])) }
}

fn decimal_micros(number: &str) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut digits: String = fraction.chars().take(6).collect();
    while digits.len() < 6 {
        digits.push('0');
    }
    whole.checked_mul(1_000_000)?.checked_add(digits.parse::<u128>().ok()?)
}

fn multiplier(suffix: &str) -> Option<u128> {
    let power = |base: u128, index: usize| base.checked_pow(u32::try_from(index).ok()? + 1);
    if let Some(index) = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"].iter().position(|known| *known == suffix) {
        return power(1024, index);
    }
    if let Some(index) = ["k", "M", "G", "T", "P", "E"].iter().position(|known| *known == suffix) {
        return power(1000, index);
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<u32>().ok()?;
    10u128.checked_pow(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_counts_right() {
        let table = [
            ("0", Some(0)),
            ("1", Some(1000)),
            ("100m", Some(100)),
            ("0.5", Some(500)),
            ("1.5", Some(1500)),
            (".25", Some(250)),
            ("1n", Some(1)),
            ("250u", Some(1)),
            ("64Mi", Some(64 * 1024 * 1024 * 1000)),
            ("1k", Some(1_000_000)),
            ("1e3", Some(1_000_000)),
            ("2E2", Some(200_000)),
            ("100E", None),
            ("", None),
            ("Mi", None),
            ("1Zi", None),
            ("-1", None),
            ("99999999999999999999999999999999999999999", None),
        ];
        for (text, expected) in table {
            assert_eq!(millis(text), expected, "{text}");
        }
        assert_eq!(units("1500m"), Some(2));
        assert_eq!(units("64Mi"), Some(64 * 1024 * 1024));
    }
}
