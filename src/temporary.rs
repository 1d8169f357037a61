//! What files are called while they are written: by host, process and a random number, so that no two machines that
//! share a disk ever write to one name.
//!
//! `weights` is written as `weights.n1-4711-9f3a1c2b0.unfinished`. A file of such a name is left over once its process is
//! gone, which only its own machine can tell; of another machine's, that is taken for granted after a day without a write.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// The ending of files that are being written; one without a writer is left over from a run that was cut off.
pub const UNFINISHED: &str = "unfinished";

/// How long a file of another machine's may lie without a write before it counts as left over.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Letters of a host's name that are taken.
const HOST: usize = 48;

/// Hexadecimal digits of the number that a process draws.
const DRAWN: usize = 8;

/// What a file is called while it is written; another name at each call.
pub fn unfinished(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    let (process, drawn, next) = (std::process::id(), drawn(), NEXT.fetch_add(1, Ordering::Relaxed));
    name.push(format!(".{}-{process}-{drawn}{next:x}.{UNFINISHED}", host()));
    path.with_file_name(name)
}

/// The name that an unfinished file will have when it is whole; nothing where the name is of no unfinished file. Earlier
/// versions named no writer.
pub fn target(name: &str) -> Option<&str> {
    let name = name.strip_suffix(UNFINISHED)?.strip_suffix('.')?;
    match name.rsplit_once('.') {
        Some((target, writer)) if Writer::of(writer).is_some() => Some(target),
        _ => Some(name),
    }
}

/// Whether nobody writes an unfinished file any more.
pub fn is_abandoned(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(name) = name.strip_suffix(UNFINISHED).and_then(|name| name.strip_suffix('.')) else { return false };
    let Some(writer) = name.rsplit_once('.').and_then(|(_, writer)| Writer::of(writer)) else { return true };
    match writer.host == host() {
        // In containers every process may have the same number: the other part tells those before from this one.
        true if writer.process == std::process::id() => !writer.number.starts_with(drawn()),
        true => !is_alive(writer.process),
        false => age(path).is_ok_and(|age| age > PATIENCE),
    }
}

/// The name of this machine, of letters, digits, `-` and `_`.
pub fn host() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let mut name = [0u8; 256];
        // SAFETY: the system writes at most so many bytes into the buffer, of which the last stays zero.
        let known = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) } == 0;
        let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned();
        let plain = |letter: char| if is_plain(letter) { letter } else { '_' };
        let name: String = name.chars().map(plain).take(HOST).collect();
        if known && !name.is_empty() { name } else { "unknown".into() }
    })
}

/// Whether there is a process of a number on this machine.
pub fn is_alive(process: u32) -> bool {
    let id = i32::try_from(process).ok().and_then(rustix::process::Pid::from_raw);
    id.is_some_and(|id| rustix::process::test_kill_process(id) != Err(rustix::io::Errno::SRCH))
}

fn is_plain(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '-' || letter == '_'
}

/// Digits that this process has drawn.
fn drawn() -> &'static str {
    static DIGITS: OnceLock<String> = OnceLock::new();
    DIGITS.get_or_init(|| {
        // The one source of chance in the standard library; the time keeps apart what was cloned with its memory.
        let drawn = RandomState::new().hash_one((SystemTime::now(), std::process::id()));
        format!("{:0DRAWN$x}", drawn as u32)
    })
}

/// Who writes a file, by its name.
struct Writer<'a> {
    host: &'a str,
    process: u32,
    number: &'a str,
}

impl<'a> Writer<'a> {
    fn of(text: &'a str) -> Option<Self> {
        let (rest, number) = text.rsplit_once('-')?;
        let (host, process) = rest.rsplit_once('-')?;
        let is_number = number.len() > DRAWN && number.bytes().all(|digit| digit.is_ascii_hexdigit());
        let is_host = !host.is_empty() && host.chars().all(is_plain);
        let written = process.parse::<u32>().ok().filter(|number| number.to_string() == process)?;
        (is_number && is_host).then_some(Self { host, process: written, number })
    }
}

/// How long ago a file was last written, by the clock of the disk that it lies on: those of machines differ.
fn age(path: &Path) -> io::Result<Duration> {
    let written = fs::symlink_metadata(path)?.modified()?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let probe = unfinished(&path.with_file_name(target(&name).unwrap_or(&name)));
    fs::File::create_new(&probe)?;
    let now = fs::symlink_metadata(&probe).and_then(|probe| probe.modified());
    fs::remove_file(&probe)?;
    Ok(now?.duration_since(written).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_files_are_written_under_one_name_and_each_tells_what_it_will_be() {
        let path = Path::new("stage1/train/zarr.json");
        let names: Vec<String> =
            (0..100).map(|_| unfinished(path).file_name().unwrap().to_str().unwrap().to_string()).collect();
        assert_eq!(names.iter().collect::<std::collections::HashSet<_>>().len(), 100);
        assert!(names.iter().all(|name| target(name) == Some("zarr.json")), "{}", names[0]);
        assert!(names[0].contains(&format!(".{}-{}-", host(), std::process::id())), "{}", names[0]);
        // Of earlier versions; of others; of nobody.
        assert_eq!(target("zarr.json.unfinished"), Some("zarr.json"));
        assert_eq!(target("a.my-thesis-draft.unfinished"), Some("a.my-thesis-draft"));
        assert_eq!(target("zarr.json"), None);
        assert_eq!(target("a.n1-007-0123456789.unfinished"), Some("a.n1-007-0123456789"));
        assert_eq!(target("0.node-1_x-12-0123456789.unfinished"), Some("0"));
    }

    #[test]
    fn a_file_is_abandoned_when_its_process_is_gone_or_after_a_day_on_another_machine() {
        let folder = tempfile::tempdir().unwrap();
        let is = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "half").unwrap();
            is_abandoned(&path)
        };
        let (own, process) = (host(), std::process::id());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = child.id();
        child.wait().unwrap();
        assert!(!is(unfinished(Path::new("mine")).to_str().unwrap()));
        assert!(is(&format!("before.{own}-{process}-{:08x}0.unfinished", !u32::from_str_radix(drawn(), 16).unwrap())));
        assert!(is(&format!("gone.{own}-{gone}-012345670.unfinished")));
        assert!(!is(&format!("alive.{own}-1-012345670.unfinished")));
        assert!(is("earlier.unfinished") && !is("whole"));
        let elsewhere = "there.elsewhere-1-012345670.unfinished";
        assert!(!is(elsewhere));
        let file = fs::File::options().write(true).open(folder.path().join(elsewhere)).unwrap();
        file.set_modified(SystemTime::now() - PATIENCE - Duration::from_secs(60)).unwrap();
        assert!(is_abandoned(&folder.path().join(elsewhere)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 7, "what told the time is gone");
    }
}
