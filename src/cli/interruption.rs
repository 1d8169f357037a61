//! Ctrl-C and SIGTERM: the work is asked to stop, and ended where it does not stop soon.

use super::output::complain;
use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The exit code of a command that the user stopped.
pub(super) const EXIT_CODE: u8 = 130;

/// How long the work may take to stop by itself. What is on the disk is whole at every instant, so that ending it
/// anywhere, as in the midst of a large batch or of a slow disk's answer, costs no more than what was at hand.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Listens from now on. The flag is set by the first signal; the second one ends the program at once, and so does the
/// first after a while.
pub(super) fn listen() -> Result<Arc<AtomicBool>> {
    let fault = |e| Error::failed(format!("cannot listen for Ctrl-C: {e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM]).map_err(fault)?;
    let wish = Arc::clone(&stop);
    let listener = move || {
        for _ in signals.forever() {
            if wish.swap(true, Ordering::SeqCst) {
                end();
            }
            thread::spawn(|| {
                thread::sleep(PATIENCE);
                end()
            });
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listener).map_err(fault)?;
    Ok(stop)
}

fn end() -> ! {
    say_how_to_go_on();
    low_level::exit(EXIT_CODE.into())
}

/// Says, once, that the work was stopped, and the command that goes on with it.
pub(super) fn say_how_to_go_on() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::SeqCst) {
        let words: Vec<String> = std::env::args_os().map(|word| quoted(&word.to_string_lossy())).collect();
        complain(&format!("interrupted; the same command goes on from here:\n  {}", words.join(" ")));
    }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_./=:,+@%".contains(letter);
    if !word.is_empty() && word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn words_are_quoted_where_a_shell_would_change_them() {
        assert_eq!(quoted("training.epochs=5"), "training.epochs=5");
        assert_eq!(quoted("network.space_to_depth=[1, 2]"), "'network.space_to_depth=[1, 2]'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
