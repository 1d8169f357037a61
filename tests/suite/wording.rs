//! What is said to one who has named the wrong thing, or whose run does something that he may not expect.

use crate::space::Space;

#[test]
fn several_pipelines_are_run_one_after_the_other_and_compared_in_one_table() {
    let space = Space::new();
    let small = std::fs::read_to_string(space.path("small.toml")).unwrap();
    let named = |name: &str| small.replace("name = \"small\"", &format!("name = \"{name}\"\ncache = \"{name}\""));
    space.write("one.toml", named("one"));
    space.write("two.toml", named("two").replace("blocks = 2", "blocks = 1"));
    let run = space.run("run one.toml two.toml").ok();
    let table: Vec<&str> = run.stdout.lines().rev().take(3).collect();
    assert!(table[2].starts_with("pipeline  stage 1  stage 2"), "{}", run.stdout);
    assert!(table[1].starts_with("one") && table[0].starts_with("two"), "{}", run.stdout);
    let [two, one] = [table[0], table[1]].map(|line| line.split_whitespace().collect::<Vec<_>>());
    assert!(one[1] == two[1] && two[3] == "-" && one[3] != "-", "{}", run.stdout);
    let all = space.run("run one.toml two.toml --json").ok().json();
    let names: Vec<&str> =
        all["pipelines"].as_array().unwrap().iter().map(|one| one["pipeline"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert!(space.run("run one.toml two.toml --dry-run").ok().stdout.contains("nothing to be done"));
    space.run("run one.toml two.toml stage1").fails(2, &["`stage1`, which is none", "hint:"]);
    space.run("run one.toml two.toml --cache c").fails(2, &["`--cache` names the folder of one pipeline", "hint:"]);
    space.run("run one.toml three.toml").fails(2, &["three.toml", "no such file"]);
}

#[test]
fn a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file_are_told_apart() {
    let space = Space::new();
    space.run("run small.toml --cache caches/small").ok();
    for command in ["inspect small.toml", "verify small.toml", "evaluate small.toml", "stage 2 --from small.toml"] {
        space.run(command).fails(2, &["`small.toml` is a file, not a folder of stages", "greedy status FILE"]);
    }
    space.run("status caches/small").fails(2, &["is a directory", "stages of pipeline `small`: name its file"]);
    for command in ["verify caches", "evaluate caches"] {
        space.run(command).fails(1, &["`caches` is neither a stage nor", "there are stages in `caches/small`"]);
    }
    space.run("stage 2 --from caches/small").fails(2, &["not of one", "`greedy stage 2 --from caches/small/stage1`"]);
}

#[test]
fn what_a_run_does_otherwise_than_one_may_think_is_said() {
    let space = Space::with_photos();
    let run = space.run("run photos.toml --set training.batch=16").ok();
    assert!(run.stderr.contains("stage 1: each step takes all 4 training images"), "{}", run.stderr);
    let run = space.run("run photos.toml --set data.train_images=3 --cache few").ok();
    assert!(run.stderr.contains("6 files found, 6 images taken"), "{}", run.stderr);
    assert!(run.stderr.contains("3 training and 2 validation images are used"), "{}", run.stderr);
    assert!(!run.stderr.contains("each step takes all"), "{}", run.stderr);
    // Two classes: the right one is always among five.
    assert!(!run.stdout.contains("100.0 %  100.0 %"), "{}", run.stdout);
    space.run("run photos.toml --device tpu").fails(2, &["`tpu` is no device"]);
    space
        .run("run photos.toml --set data.path=nowhere --cache other")
        .fails(1, &["nowhere", "`data.path` is taken from"]);
}

#[test]
fn words_of_other_programs_get_the_word_that_is_used_here() {
    let space = Space::new();
    space
        .run("status small.toml --set training.lr=0.1")
        .fails(2, &["unknown key", "here it is `training.learning_rate`"]);
    space.run("status small.toml --set training.batch_size=8").fails(2, &["here it is `training.batch`"]);
    space
        .run("status small.toml --set training.epochs=-1")
        .fails(2, &["must be a whole number between 1 and 100000, not -1"]);
    space
        .run("status small.toml --set auxiliary.layers=[\"flatten\",{linear=\"classes\"}]")
        .fails(2, &["`auxiliary.k` has no meaning beside `layers`"]);
    let wrong = space.run("status small.toml --set training.precision=tf32");
    assert_eq!(
        wrong.stderr.matches("\"bf16\"").count() + wrong.stderr.matches("known here").count(),
        1,
        "{}",
        wrong.stderr
    );
}

#[test]
fn a_stage_of_another_pipeline_is_said_to_be_one_before_it_is_refused() {
    let space = Space::new();
    space.run("run small.toml").ok();
    let other = "small.toml --set name=other --set training.epochs=4";
    let status = space.run(&format!("status {other}")).ok();
    assert!(status.stdout.contains("belongs to pipeline `small`, and `other` would overwrite it"), "{}", status.stdout);
    space.run(&format!("run {other}")).fails(1, &["belongs to pipeline `small`"]);
}

#[test]
fn files_that_are_nobodys_are_not_said_to_be_repairable() {
    let space = Space::new();
    space.run("run small.toml").ok();
    space.write("cache/stage1/notes.txt", "mine");
    let run = space.run("verify cache").fails(1, &["foreign", "move foreign files elsewhere"]);
    assert!(!run.stderr.contains("--repair"), "{}", run.stderr);
}
