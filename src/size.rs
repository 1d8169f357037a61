//! Sizes, times and rates as people say them, and how much of a disk is free.

use std::path::Path;

/// Bytes in binary units, such as `1.5 MiB`.
pub fn words(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Seconds as a person would say them, such as `3 min 20 s`.
pub fn seconds(value: f64) -> String {
    let whole = value.round() as u64;
    match whole {
        0..=59 => format!("{value:.1} s"),
        60..=3599 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A large number with its thousands, millions and so on in one letter, such as `1.18 M`.
pub fn magnitude(value: f64) -> String {
    let units = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];
    let Some((unit, letter)) = units.into_iter().find(|(unit, _)| value >= *unit) else { return format!("{value:.0}") };
    let scaled = value / unit;
    let digits = if scaled < 10.0 {
        2
    } else if scaled < 100.0 {
        1
    } else {
        0
    };
    format!("{scaled:.digits$} {letter}")
}

/// A percentage with one digit, or a dash.
pub fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.1} %"))
}

/// Bytes that this user may still write to the disk of a path, or of the nearest folder above it that is there.
/// Nothing where the system does not say.
pub fn free(path: &Path) -> Option<u64> {
    let absolute = std::path::absolute(path).ok()?;
    let found = absolute.ancestors().find_map(|there| rustix::fs::statvfs(there).ok())?;
    found.f_bavail.checked_mul(found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_times_as_people_do() {
        assert_eq!(seconds(200.2), "3 min 20 s");
        assert_eq!(seconds(7260.0), "2 h 01 min");
    }

    #[test]
    fn says_large_numbers_with_three_digits() {
        let words = [999.0, 1000.0, 12_345.0, 885_000_000.0, 4.1e12].map(magnitude);
        assert_eq!(words, ["999", "1.00 k", "12.3 k", "885 M", "4.10 T"]);
    }

    #[test]
    fn says_sizes_as_people_do() {
        assert_eq!(words(1000), "1000 B");
        assert_eq!(words(3 << 19), "1.5 MiB");
        assert_eq!(words(u64::MAX), "16384.0 PiB");
    }
}
