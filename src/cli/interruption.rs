//! Ctrl-C, SIGTERM and SIGHUP: the work is asked to stop, and ended where it does not stop soon.

use super::output::complain;
use crate::error::{Error, Result};
use crate::text::{quoted, shown_name};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// The exit code of a command that the user stopped.
pub(super) const EXIT_CODE: u8 = 130;

/// How long the work may take to stop by itself. What is on the disk is whole at every instant, so that ending it
/// anywhere, as in the midst of a large batch or of a slow disk's answer, costs no more than what was at hand.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Whether the command that runs goes on where it was stopped.
static GOES_ON: AtomicBool = AtomicBool::new(false);

/// Listens from now on. The flag is set by the first signal; the second one ends the program at once, and so does the
/// first after a while. `goes_on` says whether the same command then goes on from there.
pub(super) fn listen(goes_on: bool) -> Result<Arc<AtomicBool>> {
    GOES_ON.store(goes_on, Ordering::SeqCst);
    let fault = |e| Error::failed(format!("cannot listen for Ctrl-C: {e}"));
    let stop = Arc::new(AtomicBool::new(false));
    let wanted = [SIGINT, SIGTERM].into_iter().chain((!hangup_is_ignored()).then_some(SIGHUP));
    let mut signals = Signals::new(wanted).map_err(fault)?;
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

/// Whether the program was started so that it outlives its terminal, as `nohup` does.
fn hangup_is_ignored() -> bool {
    let mut found = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: nothing is changed where no new action is given, and on success the old one is written whole.
    unsafe {
        libc::sigaction(SIGHUP, std::ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

fn end() -> ! {
    say_interrupted();
    low_level::exit(EXIT_CODE.into())
}

/// Says, once, that the work was stopped, and the command that goes on with it if there is one.
pub(super) fn say_interrupted() {
    static SAID: AtomicBool = AtomicBool::new(false);
    if SAID.swap(true, Ordering::SeqCst) {
        return;
    }
    if !GOES_ON.load(Ordering::SeqCst) {
        complain("interrupted");
    } else {
        let words: Vec<String> = std::env::args_os().map(|word| quoted(&shown_name(&word))).collect();
        complain(&format!("interrupted; the same command goes on from here:\n  {}", words.join(" ")));
    }
}
