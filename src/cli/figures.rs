//! Figures of machines as people write them: `2TB`, `6GB/s`, `100TFLOPS`.

use crate::pipeline::{Profile, bytes};

/// A number of bytes.
pub(super) fn size(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| "expected a size such as 2TB or 512GiB".into())
}

/// Bytes a second.
pub(super) fn throughput(text: &str) -> Result<f64, String> {
    let found = bytes(text.strip_suffix("/s").unwrap_or(text)).filter(|rate| *rate > 0);
    found.map(|rate| rate as f64).ok_or_else(|| "expected bytes a second, such as 6GB/s".into())
}

/// Floating-point operations a second.
pub(super) fn operations(text: &str) -> Result<f64, String> {
    let upper = text.trim().to_ascii_uppercase();
    let units = [("GFLOP", 1e9), ("TFLOP", 1e12), ("PFLOP", 1e15)];
    let found = units.into_iter().find_map(|(unit, factor)| {
        let (number, rest) = upper.split_once(unit)?;
        let known = ["", "S", "/S"].contains(&rest);
        number.trim().parse::<f64>().ok().filter(|_| known).map(|number| number * factor)
    });
    found.filter(|rate| (1.0..=1e21).contains(rate)).ok_or_else(|| "expected a rate such as 100TFLOPS".into())
}

/// Something counted a second.
pub(super) fn count(text: &str) -> Result<f64, String> {
    let found = text.trim().parse().ok().filter(|rate| (1e-3..=1e12).contains(rate));
    found.ok_or_else(|| "expected a number a second, such as 20000".into())
}

/// A profile by its name.
pub(super) fn profile(name: &str) -> Result<Profile, String> {
    let names: Vec<&str> = Profile::ALL.iter().map(|profile| profile.name).collect();
    let found = Profile::ALL.into_iter().find(|profile| profile.name == name);
    found.ok_or_else(|| format!("profiles are {}", names.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_people_write_them() {
        let operations = ["100TFLOPS", "1.5 tflop/s", "300 GFLOPs"].map(|text| operations(text).unwrap());
        assert_eq!(operations, [1e14, 1.5e12, 3e11]);
        assert_eq!(["6GB/s", "1.5GiB", "70MB/s"].map(|text| throughput(text).unwrap()), [6e9, 1_610_612_736.0, 7e7]);
        assert_eq!(count("20000"), Ok(20_000.0));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "fast", "TFLOPS", "-3TFLOPS", "3TFLOPS/h", "NaN TFLOPS", "0GFLOPS", "inf PFLOPS"] {
            assert!(operations(text).is_err(), "{text}");
        }
        assert!(["0", "0GB/s", "6GB/h", ""].iter().all(|text| throughput(text).is_err()));
        assert!(["0", "-1", "nan", "inf"].iter().all(|text| count(text).is_err()));
        assert!(profile("h300").unwrap_err().contains("h200"));
    }
}
