//! `greedy predict`.

use super::args::PredictArgs;
use super::evaluate::last_stage;
use super::output::{Output, complain};
use super::progress::Terminal;
use crate::error::{Error, Result};
use crate::run::{TrainedNetwork, device};
use serde_json::{Value, json};

/// `greedy predict IMAGE…`: every image gets its line, also after one that cannot be read.
pub(super) fn predict(args: &PredictArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let network = TrainedNetwork::open(&last_stage(&args.from)?, &device(&args.device.device, false, terminal)?)?;
    let mut results = Vec::new();
    let mut bad = 0;
    for path in &args.images {
        let likely =
            network.predict(path, args.ensemble).map(|all| most_likely(&network.classes, &all, args.top.into()));
        bad += usize::from(likely.is_err());
        match likely {
            Ok(likely) if args.json => {
                let classes: Vec<Value> =
                    likely.iter().map(|(class, share)| json!({ "class": class, "probability": share })).collect();
                results.push(json!({ "image": path, "classes": classes }));
            }
            Ok(likely) => {
                let likely: Vec<String> =
                    likely.iter().map(|(class, share)| format!("{class} {:.1} %", 100.0 * share)).collect();
                output.line(&format!("{}: {}", path.display(), likely.join(", ")))?;
            }
            Err(e) if args.json => results.push(json!({ "image": path, "error": e.to_string() })),
            Err(e) => complain(&format!("error: {e}")),
        }
    }
    if args.json {
        output.json(&json!({ "images": results }))?;
    }
    match bad {
        0 => Ok(()),
        _ => Err(Error::failed(format!("{bad} of {} images could not be read", args.images.len()))),
    }
}

/// The classes with the largest probabilities, largest first.
fn most_likely(classes: &[String], probabilities: &[f64], count: usize) -> Vec<(String, f64)> {
    let mut all: Vec<(String, f64)> = classes.iter().cloned().zip(probabilities.iter().copied()).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}
