//! Images that lie in files and in archives below one folder.

use super::file::Shelf;
use super::folder::read_file;
use super::layout::ImageFile;
use super::members::Place;
use super::{Content, Fault, Store};
use crate::error::Result;
use crate::text::shown;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::Arc;

/// Where the bytes of an image lie.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum Where {
    /// In a file of its path.
    File,
    /// In an archive, by its number.
    Member(usize, Place),
}

/// Images of one split.
pub(super) struct Placed {
    /// What paths count from.
    pub root: PathBuf,
    /// The archives.
    pub shelf: Arc<Shelf>,
    pub images: Vec<ImageFile<Where>>,
}

impl Store for Placed {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn label(&self, index: usize) -> u32 {
        self.images[index].label
    }

    fn name(&self, index: usize) -> String {
        shown(&self.root.join(&self.images[index].path))
    }

    fn place(&self, index: usize) -> String {
        shown(&self.images[index].path)
    }

    fn placed(&self) -> Option<&Self> {
        Some(self)
    }

    fn read(&self, index: usize, most: u64) -> Result<Content, Fault> {
        let ImageFile { path, place, .. } = &self.images[index];
        match place {
            Where::File => read_file(&self.root.join(path), most),
            Where::Member(number, place) => {
                self.shelf.with(*number, |file| place.read_image(file, most)).map(Content::File)
            }
        }
    }
}
