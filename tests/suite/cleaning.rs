//! `greedy clean` removes what no pipeline needs, and nothing else.

use crate::space::Space;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

#[test]
fn what_no_pipeline_needs_goes_with_its_bytes_named_first() {
    let space = Space::with_photos();
    space.run("run photos.toml --set network.blocks=3").ok();
    space.run("stage 2 --from cache/stage1 --to cache/wider --set auxiliary.width=5").ok();
    let kept = [space.files("cache/stage0"), space.files("cache/stage1")];
    space.write("cache/stage1/train/features/c/0/0/0/0/0.unfinished", "half");
    space.write("cache/notes.txt", "mine");
    space.write("cache/other/stage1/notes.txt", "another cache");
    let all = space.files("cache");

    let dry = space.run("clean photos.toml --set stage.2.training.epochs=2 --dry-run").ok().stdout;
    for part in [
        "cache/stage1/train/features/c/0/0/0/0/0.unfinished: 4 B, left over",
        "cache/stage2: ",
        "stale: training.epochs: 1 -> 2",
        "cache/stage3: ",
        "cache/wider: ",
        "no pipeline named here has this stage",
        "would be removed",
    ] {
        assert!(dry.contains(part), "`{part}` is not in:\n{dry}");
    }
    assert_eq!(dry.lines().count(), 5, "{dry}");
    space.run("clean photos.toml --set stage.2.training.epochs=2").fails(2, &["nobody can be asked", "--yes"]);
    assert_eq!(space.files("cache"), all);

    let removed = space.run("clean photos.toml --set stage.2.training.epochs=2 --yes --json").ok().json();
    let goes =
        |file: &&(PathBuf, Vec<u8>)| ["stage2", "stage3", "wider"].iter().any(|folder| file.0.starts_with(folder));
    let least = all.iter().filter(goes).map(|file| file.1.len() as u64).sum::<u64>() + 4;
    // Locks count as well.
    assert!((least..least + 100).contains(&removed["bytes"].as_u64().unwrap()), "{removed}, not {least}");
    assert_eq!(removed["removed"].as_array().unwrap().len(), 4);
    for gone in ["stage2", "stage3", "wider"] {
        assert!(!space.path("cache").join(gone).exists(), "{gone}");
    }
    assert_eq!([space.files("cache/stage0"), space.files("cache/stage1")], kept);
    assert!(space.path("cache/notes.txt").exists() && space.path("cache/other/stage1/notes.txt").exists());
    assert!(space.run("clean photos.toml --yes").ok().stdout.contains("nothing to remove"));
    space.run("run photos.toml").ok();
}

#[test]
fn every_pipeline_that_is_named_keeps_its_stages() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    let all = space.files("cache");
    fs::write(
        space.path("shallow.toml"),
        fs::read_to_string(space.path("photos.toml")).unwrap() + "[stage.2.training]\nepochs = 9\n",
    )
    .unwrap();
    assert!(space.run("clean shallow.toml photos.toml --yes").ok().stdout.contains("nothing to remove"));
    assert_eq!(space.files("cache"), all);
    // Without their images the stages are needed all the more.
    fs::remove_dir_all(space.path("photos")).unwrap();
    assert!(space.run("clean photos.toml --yes").ok().stdout.contains("nothing to remove"));
    assert_eq!(space.files("cache"), all);
}

#[test]
fn what_a_run_would_go_on_with_is_kept_under_another_name() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    fs::remove_file(space.path("cache/stage1/train/features/c/0/0/0/0/0")).unwrap();
    fs::rename(space.path("photos.toml"), space.path("renamed.toml")).unwrap();
    let all = space.files("cache");
    assert!(space.run("clean renamed.toml --yes").ok().stdout.contains("nothing to remove"));
    assert_eq!(space.files("cache"), all);
    space.run("run renamed.toml").ok();
}

#[test]
fn a_project_folder_is_not_marked_as_a_cache() {
    let space = Space::with_photos();
    space.run("run photos.toml --cache .").ok();
    assert!(space.path("stage2/record.json").exists() && !space.path("CACHEDIR.TAG").exists());
    space.run("run photos.toml --cache mixed --set network.blocks=1").ok();
    fs::remove_file(space.path("mixed/CACHEDIR.TAG")).unwrap();
    space.run("run photos.toml --cache mixed").ok();
    assert!(space.path("mixed/CACHEDIR.TAG").exists());
}

#[test]
fn features_that_are_kept_elsewhere_are_left_there_when_they_are_written_anew() {
    let space = Space::with_photos();
    space.run("run photos.toml").ok();
    fs::rename(space.path("cache/stage1/train"), space.path("elsewhere")).unwrap();
    symlink(space.path("elsewhere"), space.path("cache/stage1/train")).unwrap();
    let outside = space.files("elsewhere");
    space.run("run photos.toml --set features.dtype=\"f32\"").ok();
    assert_eq!(space.files("elsewhere"), outside);
}

#[test]
fn links_and_foreign_files_are_left_and_a_folder_that_is_no_cache_refused() {
    let space = Space::with_photos();
    space.run("run photos.toml --cache elsewhere").ok();
    space.run("run photos.toml").ok();
    let outside = space.files("elsewhere");
    symlink(space.path("elsewhere/stage2"), space.path("cache/stage7")).unwrap();
    fs::remove_dir_all(space.path("cache/stage1/train")).unwrap();
    symlink(space.path("elsewhere/stage1/train"), space.path("cache/stage1/train")).unwrap();
    space.write("cache/stage2/train/features/c/thesis.tex", "years of work");
    let stale = "photos.toml --set training.epochs=2 --set network.blocks=1";
    let clean = space.run(&format!("clean {stale} --yes")).ok();
    assert!(clean.stderr.contains("`cache/stage7` is left: it is a link out of the cache"), "{}", clean.stderr);
    assert!(
        clean.stderr.contains("`cache/stage2` is left: it holds `train/features/c/thesis.tex`"),
        "{}",
        clean.stderr
    );
    assert!(!space.path("cache/stage1").exists() && space.path("cache/stage2/train/features/c/thesis.tex").exists());
    assert_eq!(space.files("elsewhere"), outside);

    fs::write(space.path("cache/CACHEDIR.TAG"), "another program's").unwrap();
    space.run(&format!("clean {stale} --yes")).fails(1, &["no `CACHEDIR.TAG` of greedy", "nothing was removed"]);
}

#[test]
fn a_stage_in_use_is_not_removed_nor_anything_else() {
    let space = Space::new();
    space.run("run small.toml --set network.blocks=1").ok();
    let command = "run small.toml --set training.epochs=500 --set stage.1.training.epochs=3";
    let mut child = space.command(command).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !space.path("cache/stage2/checkpoint").exists() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    // What the run has begun is nobody's leftover.
    let own = space.run("clean small.toml --set training.epochs=500 --set stage.1.training.epochs=3 --dry-run");
    let clean = space.run("clean small.toml --set seed=5 --yes");
    let id = child.id().to_string();
    child.kill().unwrap();
    child.wait().unwrap();
    clean.fails(1, &["is in use by process", &id]);
    assert!(own.ok().stdout.contains("nothing to remove"));
    assert!(space.path("cache/stage1/record.json").exists() && space.path("cache/stage0/record.json").exists());
}
