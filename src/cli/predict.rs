//! `greedy predict`.

use super::evaluate::network;
use super::look_args::PredictArgs;
use super::output::{Output, complain};
use super::progress::Terminal;
use super::wording;
use crate::error::{Error, Result};
use crate::run::device;
use crate::text::shown;
use serde_json::{Value, json};

/// `greedy predict IMAGE…`: every image gets its line, also after one that cannot be read.
pub(super) fn predict(args: &PredictArgs, terminal: &Terminal, output: &mut Output) -> Result<()> {
    let network = network(&args.from, args.ensemble, &device(&args.device.device, false, terminal)?)?;
    let mut results = Vec::new();
    let mut bad = 0;
    for path in &args.images {
        let likely = network.predict(path).map(|all| most_likely(&all, args.top.into()));
        bad += usize::from(likely.is_err());
        match likely {
            Ok(likely) if args.json => {
                let class = |&(class, share): &(usize, f64)| {
                    let (name, words) = (&network.classes[class], &network.words[class]);
                    json!({ "class": name, "words": words, "probability": share })
                };
                let classes: Vec<Value> = likely.iter().map(class).collect();
                results.push(json!({ "image": shown(path), "classes": classes }));
            }
            Ok(likely) => {
                let name = |class: usize| wording::class(&network.classes[class], network.words[class].as_deref());
                let likely: Vec<String> =
                    likely.iter().map(|&(class, share)| format!("{} {:.1} %", name(class), 100.0 * share)).collect();
                output.line(&format!("{}: {}", shown(path), likely.join(", ")))?;
            }
            Err(e) if args.json => results.push(json!({ "image": shown(path), "error": e.to_string() })),
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
fn most_likely(probabilities: &[f64], count: usize) -> Vec<(usize, f64)> {
    let mut all: Vec<(usize, f64)> = probabilities.iter().copied().enumerate().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(count);
    all
}
