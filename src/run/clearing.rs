//! What may be removed from the folder of a node, and what keeps it from being emptied.

use super::contents::{RECORD, SPARE, TOP, is_leftover};
use super::folder::{StageFolder, files};
use super::receipt_file::PARTS;
use super::verify::{Flaw, survey};
use crate::disk;
use crate::error::{Error, Result};
use crate::features::Split;
use crate::lock::LOCK;
use crate::temporary;
use std::path::Path;

impl StageFolder {
    /// Removes everything that this program has put here.
    ///
    /// # Errors
    /// When the folder holds something else: then it is nobody's to empty.
    pub(super) fn clear(&self) -> Result<()> {
        self.refuse_foreign()?;
        TOP.iter().try_for_each(|name| disk::remove(&self.path().join(name)))
    }

    /// Removes the feature arrays and their receipts, but not what was learned. A split that is kept elsewhere loses its link only.
    ///
    /// # Errors
    /// When the folder holds something else.
    pub(super) fn clear_features(&self) -> Result<()> {
        self.refuse_foreign()?;
        Split::BOTH.iter().try_for_each(|split| {
            let group = self.path().join(split.name());
            disk::remove(&if group.is_symlink() { group } else { group.join("features") })
        })?;
        disk::remove(&self.path().join(PARTS))
    }

    /// Removes what runs that were cut off have left over, but not what others write at this moment.
    pub(super) fn sweep(&self) -> Result<()> {
        let leftovers = files(self.path()).into_iter().filter(|name| is_leftover(name));
        let mut paths = leftovers.map(|name| self.path().join(name)).filter(|path| temporary::is_abandoned(path));
        paths.try_for_each(|path| disk::remove(&path))
    }

    /// Fails where something lies here, at whatever depth, that this program has not written. Without a record nothing
    /// here is ours but what a run that was cut off may have left of one.
    fn refuse_foreign(&self) -> Result<()> {
        let seen = survey(self);
        let mut foreign =
            seen.findings.iter().filter(|finding| finding.flaw == Flaw::Foreign).map(|finding| &finding.name);
        let (found, fault, hint) = match &seen.record {
            Some(_) => (
                foreign.next().cloned(),
                "which is not part of a stage",
                "give the stages a folder of their own with `--cache DIR`",
            ),
            None => (
                files(self.path()).into_iter().find(|name| name != Path::new(LOCK) && !is_of_record(name)),
                "but no `record.json`",
                "if it is a stage that lost its record, remove it; else use another folder",
            ),
        };
        let Some(name) = found else { return Ok(()) };
        let (place, name) = (self.path().display(), name.display());
        Err(Error::failed(format!("`{place}` holds `{name}`, {fault}; nothing was removed")).hint(hint))
    }
}

/// Whether a file is a record that was never finished.
fn is_of_record(name: &Path) -> bool {
    let target = name.to_str().and_then(temporary::target);
    is_leftover(name) && target.is_some_and(|target| [RECORD, SPARE].contains(&target))
}
