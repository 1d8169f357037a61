//! Results on the standard output; a reader that has gone away is no error.

use crate::error::{Error, Result};
use crate::text::printable;
use serde_json::Value;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;

/// What lays out a text; other control characters, as names of files can hold them, are escaped.
const LAYOUT: [char; 2] = ['\n', '\t'];

/// Says a line on the standard error stream; where nobody listens any more, nothing is said.
pub(super) fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "{}", printable(line, &LAYOUT));
}

/// A file that is there is not written over, unless that is asked for.
pub(super) fn refuse_present(path: &Path, force: bool) -> Result<()> {
    if path.symlink_metadata().is_ok() && !force {
        return Err(Error::usage(format!("`{}` is there already", path.display())).hint("`--force` writes over it"));
    }
    Ok(())
}

/// The standard output.
pub(super) struct Output {
    stream: std::io::Stdout,
    is_heard: bool,
}

impl Output {
    pub fn new() -> Self {
        Self { stream: std::io::stdout(), is_heard: true }
    }

    /// Whether somebody looks at it.
    pub fn is_terminal(&self) -> bool {
        self.stream.is_terminal()
    }

    /// Prints a text as it is.
    pub fn text(&mut self, text: &str) -> Result<()> {
        let mut stream = self.stream.lock();
        let text = printable(text, &LAYOUT);
        match stream.write_all(text.as_bytes()).and_then(|()| stream.flush()) {
            Err(e) if e.kind() == ErrorKind::BrokenPipe => self.is_heard = false,
            Err(e) => return Err(Error::failed(format!("cannot print: {e}"))),
            Ok(()) => {}
        }
        Ok(())
    }

    /// Whether there is still a reader, as far as was noticed.
    pub fn is_heard(&self) -> bool {
        self.is_heard
    }

    /// Prints a line.
    pub fn line(&mut self, line: &str) -> Result<()> {
        self.text(&format!("{line}\n"))
    }

    /// Prints a value as JSON over several lines.
    pub fn json(&mut self, value: &Value) -> Result<()> {
        self.line(&format!("{value:#}"))
    }
}
