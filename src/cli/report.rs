//! `greedy report`.

use super::look_args::ReportArgs;
use super::output::complain;
use super::status;
use crate::disk;
use crate::error::{Error, Result};
use crate::pipeline::Settings;
use crate::report::{BEGINNING, NodeView, Subject, page};
use crate::run::{self, Project, StageFolder, observe, open_pipeline};
use crate::size;
use crate::text::shown;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// `greedy report [CACHE | PIPELINE…]`
pub(super) fn report(args: &ReportArgs) -> Result<()> {
    refuse_foreign(&args.to, args.force)?;
    let found = args.of.iter().map(|path| subjects(path, &args.set)).collect::<Result<Vec<_>>>()?;
    let mut found: Vec<(Subject, PathBuf)> = found.into_iter().flatten().collect();
    name_apart(&mut found);
    let subjects: Vec<Subject> = found.into_iter().map(|(subject, _)| subject).collect();
    let page = page(&subjects);
    let (place, bytes) = (shown(&args.to), size::words(page.len() as u64));
    if args.dry_run {
        complain(&format!("would write {bytes} to `{place}`"));
        return Ok(());
    }
    if let Some(folder) = args.to.parent() {
        disk::create_folder(folder)?;
    }
    disk::write(&args.to, page.as_bytes())?;
    complain(&format!("wrote {bytes} to `{place}`"));
    Ok(())
}

/// A file that is no page of ours stays as it is.
fn refuse_foreign(path: &Path, force: bool) -> Result<()> {
    let mut start = Vec::new();
    match File::open(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        file => {
            let read = file.and_then(|file| file.take(BEGINNING.len() as u64).read_to_end(&mut start));
            read.map_err(|e| Error::io("read", path, &e))?;
        }
    }
    if force || start == BEGINNING.as_bytes() {
        return Ok(());
    }
    Err(Error::usage(format!("`{}` is there, and no report of greedy", shown(path)))
        .hint("name another file with `--to FILE`, or write over it with `--force`"))
}

/// What lies at a path, and the folder of its stages. The jobs of a sweep, which made the same stage in many ways, are as
/// many subjects.
fn subjects(path: &Path, overrides: &[String]) -> Result<Vec<(Subject, PathBuf)>> {
    if path.is_dir() {
        let whole = of_cache(path)?;
        let mut titles: Vec<&str> = whole.nodes.iter().map(|node| node.title.as_str()).collect();
        titles.sort_unstable();
        if titles.windows(2).all(|pair| pair[0] != pair[1]) {
            return Ok(vec![(whole, path.to_path_buf())]);
        }
        let folders = whole.nodes.iter().map(|node| node.folder.path());
        return folders.map(|folder| Ok((of_cache(folder)?, folder.to_path_buf()))).collect();
    }
    let settings = open_pipeline(path, overrides)?;
    let cache = PathBuf::from(&settings.as_written().cache);
    Ok(vec![(of_pipeline(settings, &cache), cache)])
}

/// A pipeline's nodes, also those that are not there yet.
fn of_pipeline(settings: Settings, cache: &Path) -> Subject {
    let project = Project::open(run::resolve(settings, cache), cache, false);
    let nodes = project.nodes().map(|look| {
        let (state, reasons) = status::state(&look, project.graph());
        NodeView {
            title: look.node.title(),
            folder: look.folder.clone(),
            state: state.into(),
            reasons,
            record: look.found.map(|found| found.record.clone()),
        }
    });
    Subject { name: project.pipeline().name.clone(), nodes: nodes.collect() }
}

/// The nodes that lie in a cache, or the one in a folder.
fn of_cache(path: &Path) -> Result<Subject> {
    let nodes: Vec<NodeView> = run::stages(path)?.into_iter().map(as_found).collect();
    let named = nodes.iter().find_map(|node| node.record.as_ref()).map(|record| record.pipeline.clone());
    Ok(Subject { name: named.unwrap_or_else(|| folder_name(path)), nodes })
}

fn as_found(folder: StageFolder) -> NodeView {
    let (state, reasons, record) = match observe(&folder) {
        Ok(Some(found)) if found.seen.output.is_some() => ("finished", Vec::new(), Some(found.record)),
        Ok(Some(found)) => ("unfinished", vec![found.seen.progress], Some(found.record)),
        Ok(None) => ("trouble", vec!["it has no record".into()], None),
        Err(fault) => ("trouble", vec![fault.to_string()], None),
    };
    let title = record.as_ref().map_or_else(|| folder_name(folder.path()), |record| record.title());
    NodeView { title, folder, state: state.into(), reasons, record }
}

/// The last part of a path: what is above it may be another at another time.
fn folder_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "cache".into(), |name| shown(Path::new(name)))
}

/// Pipelines of the same name are told apart by the folder of their stages, and where that does not do by their number.
fn name_apart(found: &mut [(Subject, PathBuf)]) {
    let same = |names: &[String], name: &String| names.iter().filter(|other| *other == name).count() > 1;
    let names: Vec<String> = found.iter().map(|(subject, _)| subject.name.clone()).collect();
    for ((subject, folder), name) in found.iter_mut().zip(&names) {
        if same(&names, name) {
            subject.name = format!("{name} ({})", folder_name(folder));
        }
    }
    let names: Vec<String> = found.iter().map(|(subject, _)| subject.name.clone()).collect();
    for (at, ((subject, _), name)) in found.iter_mut().zip(&names).enumerate() {
        if same(&names, name) {
            subject.name = format!("{name}, no. {}", at + 1);
        }
    }
}
