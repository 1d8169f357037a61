//! Sizes as people say them, and how much of a disk is free.

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
    fn says_sizes_as_people_do() {
        assert_eq!(words(1000), "1000 B");
        assert_eq!(words(3 << 19), "1.5 MiB");
        assert_eq!(words(u64::MAX), "16384.0 PiB");
    }
}
