//! What a plain text of YAML means: Ansible's reading, which is YAML 1.1's, without its traps for addresses and modes.

use serde_json::Number;

use super::node::Data;

/// The meaning of a text without quotes and tags.
///
/// As in Ansible, `yes`, `no`, `on` and `off` are booleans. Unlike there, `52:54:00:12:34:56` is no number to the base of 60,
/// and `0644` no octal one: both stay texts.
pub(super) fn resolve(text: &str) -> Data {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Data::Null,
        _ => {}
    }
    if let Some(value) = boolean(text) {
        return Data::Bool(value);
    }
    number(text).map_or_else(|| Data::Text(text.into()), Data::Number)
}

/// `yes`, `true`, `on` and their opposites, in the three ways of writing them.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

pub(super) fn number(text: &str) -> Option<Number> {
    let (sign, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (&text[..1], digits),
        None => ("", text),
    };
    let radix = |prefix: &str, radix| {
        let digits = digits.strip_prefix(prefix)?;
        let digits = digits.starts_with(|c: char| c.is_digit(radix)).then_some(digits)?;
        let value = i64::from_str_radix(digits, radix).ok()?;
        Some(Number::from(if sign == "-" { -value } else { value }))
    };
    if let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| radix("0b", 2)) {
        return Some(number);
    }
    let plain = |c: char| c.is_ascii_digit();
    if !digits.starts_with(|c| plain(c) || c == '.') || !digits.contains(plain) {
        return None;
    }
    if digits.chars().all(plain) {
        if digits.len() > 1 && digits.starts_with('0') {
            return None;
        }
        let unsigned = text.strip_prefix('+').unwrap_or(text);
        if let Ok(value) = unsigned.parse::<i64>() {
            return Some(value.into());
        }
        if let Ok(value) = unsigned.parse::<u64>() {
            return Some(value.into());
        }
    }
    let float = digits.chars().all(|c| plain(c) || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    float.then(|| text.parse().ok().and_then(Number::from_f64)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_mean_what_they_mean_to_ansible() {
        for (text, expected) in [
            ("", Data::Null),
            ("~", Data::Null),
            ("yes", Data::Bool(true)),
            ("Off", Data::Bool(false)),
            ("y", Data::Text("y".into())),
            ("512", Data::Number(512.into())),
            ("-3", Data::Number((-3).into())),
            ("0x10", Data::Number(16.into())),
            ("0x", Data::Text("0x".into())),
            ("1.5", Data::Number(Number::from_f64(1.5).unwrap())),
            ("1e3", Data::Number(Number::from_f64(1000.0).unwrap())),
            ("18446744073709551615", Data::Number(u64::MAX.into())),
            ("0644", Data::Text("0644".into())),
            ("52:54:00:12:34:56", Data::Text("52:54:00:12:34:56".into())),
            ("10.0.2.15", Data::Text("10.0.2.15".into())),
            ("-", Data::Text("-".into())),
            (".", Data::Text(".".into())),
            (".nan", Data::Text(".nan".into())),
            ("1-2", Data::Text("1-2".into())),
            ("é", Data::Text("é".into())),
        ] {
            assert_eq!(resolve(text), expected, "{text}");
        }
    }
}
