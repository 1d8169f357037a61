//! Recipe files and `--set` options (lines after a NUL byte): no panic, and what a record keeps means the same.
#![no_main]

use greedy::pipeline::{Manifest, Recipe};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &str| {
    let (text, overrides) = input.split_once('\0').unwrap_or((input, ""));
    let overrides: Vec<String> = overrides.lines().map(str::to_string).collect();
    match Recipe::parse("p.toml", "p", text, &overrides) {
        Ok(pipeline) => {
            let again = Recipe::parse("record", "r", &pipeline.text, &[]);
            assert_eq!(again.map_err(|fault| fault.to_string()).as_ref(), Ok(&pipeline));
            Manifest::of_images(&pipeline, "files").key();
            pipeline.stages.iter().for_each(|stage| drop(Manifest::of_stage(&pipeline, stage).key()));
        }
        Err(fault) => assert!(!fault.to_string().is_empty()),
    }
});
