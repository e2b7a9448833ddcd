//! Spans of time as people write and read them.

use std::time::Duration;

use jiff::{SignedDuration, Span, SpanRelativeTo, SpanRound, Unit};

/// The longest span that can be written: ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Reads a span of time in jiff's friendly format (`30d`, `12h`, `1 day 2 hours`). Days have 24 hours; months and years are
/// refused, as they have no length of their own. The error says what is wrong with it.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let expected = "expected a time such as `90s`, `30m`, `12h` or `7d`";
    let span: Span = text.parse().map_err(|_| format!("`{}`: {expected}", text.escape_debug()))?;
    let duration = span
        .to_duration(SpanRelativeTo::days_are_24_hours())
        .map_err(|_| format!("`{}`: {expected}; months and years differ in length", text.escape_debug()))?;
    let duration = Duration::try_from(duration).map_err(|_| format!("`{text}` is less than nothing"))?;
    if duration > LONGEST { Err(format!("`{text}` is more than ten years")) } else { Ok(duration) }
}

/// A span of time for people, with its two greatest units: `8d 3h`, `2m 5s`.
pub fn in_words(duration: Duration) -> String {
    let smallest = match duration.as_secs() {
        0..3600 => Unit::Second,
        3600..86_400 => Unit::Minute,
        _ => Unit::Hour,
    };
    let round = SpanRound::new().largest(Unit::Day).smallest(smallest).days_are_24_hours();
    let span = SignedDuration::try_from(duration)
        .ok()
        .and_then(|duration| Span::try_from(duration).ok())
        .and_then(|span| span.round(round).ok());
    span.map_or_else(|| format!("{} s", duration.as_secs()), |span| format!("{span:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        for (text, seconds) in [
            ("90s", 90),
            ("30 min", 1800),
            ("12h", 43_200),
            ("7d", 604_800),
            ("1w", 604_800),
            ("1 day 2h", 93_600),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "7", "soon", "1mo", "2y", "-3d", "4000d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn times_as_people_read_them() {
        for (seconds, text) in
            [(0, "0s"), (125, "2m 5s"), (7260, "2h 1m"), (700_000, "8d 2h"), (604_800, "7d")]
        {
            assert_eq!(in_words(Duration::from_secs(seconds)), text);
        }
    }
}
