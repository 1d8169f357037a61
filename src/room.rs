//! The room on a disk and in memory: what is taken, and what does not fit.

use crate::error::{Error, Result};
use crate::size::{self, free};
use std::fs;
use std::path::Path;

/// Bytes of all files below a path; links are not followed, and what cannot be read counts nothing.
pub fn taken(path: &Path) -> u64 {
    let Ok(found) = fs::symlink_metadata(path) else { return 0 };
    if !found.is_dir() {
        return found.len();
    }
    fs::read_dir(path).into_iter().flatten().flatten().map(|entry| taken(&entry.path())).sum()
}

/// Fails where what is to be written below a folder does not fit on its disk. What lies there already counts as
/// written, or will be removed first.
///
/// # Errors
/// With the bytes that are needed and the bytes that are free.
pub fn require(folder: &Path, bytes: u64) -> Result<()> {
    let needed = bytes.saturating_sub(taken(folder));
    match free(folder) {
        Some(free) if free < needed => Err(Error::failed(format!(
            "not enough room for `{}`: {} more are needed ({needed} bytes), and {} are free ({free} bytes)",
            folder.display(),
            size::words(needed),
            size::words(free)
        ))
        .hint("free some of that disk (`greedy clean` removes stages that no pipeline needs), or use another with `--cache DIR`")),
        _ => Ok(()),
    }
}

/// Bytes of memory that can be taken without harm to others; one GiB where the system does not say.
pub fn free_memory() -> u64 {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let of_machine = || {
        let text = fs::read_to_string("/proc/meminfo").ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    let of_group = || {
        let most = number("/sys/fs/cgroup/memory.max")?;
        Some(most.saturating_sub(number("/sys/fs/cgroup/memory.current")?))
    };
    let machine = of_machine().unwrap_or(1 << 30);
    of_group().map_or(machine, |group| group.min(machine))
}

/// Gives a buffer a length; bytes that are new are zero.
///
/// # Errors
/// When there is no memory for it, where a plain `resize` would end the program.
pub fn resize(buffer: &mut Vec<u8>, bytes: usize) -> Result<()> {
    buffer.try_reserve_exact(bytes.saturating_sub(buffer.len())).map_err(|_| {
        Error::failed(format!("not enough memory: {} ({bytes} bytes) are needed at once", size::words(bytes as u64)))
            .hint("end other programs, or take smaller samples (`data.size`, `network.width`)")
    })?;
    buffer.resize(bytes, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_sizes() {
        let folder = tempfile::tempdir().unwrap();
        let stage = folder.path().join("not/there/yet");
        let free = free(&stage).unwrap();
        assert!(require(&stage, 0).is_ok());
        let error = require(&stage, 1 << 60).unwrap_err();
        assert!(error.to_string().contains("1024.0 PiB more"), "{error}");
        assert!(error.to_string().contains("are free") && free < 1 << 60, "{error}");
    }

    #[test]
    fn memory_that_is_not_there_is_an_error_with_the_bytes() {
        let mut buffer = vec![7; 3];
        resize(&mut buffer, 5).unwrap();
        assert_eq!(buffer, [7, 7, 7, 0, 0]);
        let error = resize(&mut buffer, 1 << 60).unwrap_err();
        assert!(error.to_string().contains("1024.0 PiB") && error.hint_text().is_some(), "{error}");
        assert_eq!(buffer.len(), 5);
    }

    #[test]
    fn what_links_lead_to_is_not_counted() {
        let folder = tempfile::tempdir().unwrap();
        let (stage, other) = (folder.path().join("stage"), folder.path().join("other"));
        fs::create_dir_all(stage.join("deep")).unwrap();
        fs::create_dir_all(&other).unwrap();
        fs::write(stage.join("deep/a"), [0; 100]).unwrap();
        fs::write(other.join("b"), [0; 100_000]).unwrap();
        std::os::unix::fs::symlink(&other, stage.join("link")).unwrap();
        assert!((100..1000).contains(&taken(&stage)));
        assert_eq!(taken(&folder.path().join("missing")), 0);
    }
}
