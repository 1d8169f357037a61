//! `greedy status`.

use super::look_args::{GraphForm, StatusArgs};
use super::output::Output;
use super::run::{Opened, probe_table, project, stage_json};
use super::table::Table;
use super::wording;
use crate::error::Result;
use crate::pipeline::{Graph, Verdict};
use crate::run::{Look, Project, Record};
use crate::text::{counted, shown};
use serde_json::{Value, json};

/// `greedy status PIPELINE`: a stage in trouble has its row like the others.
pub(super) fn status(args: &StatusArgs, output: &mut Output) -> Result<()> {
    let Opened { project, cache, .. } = project(&args.pipeline, &args.set)?;
    let graph = project.graph();
    if let Some(form) = args.graph {
        return graph_text(&project, form, output);
    }
    if args.json {
        let stages: Vec<Value> = project.nodes().map(|look| look_json(&look, graph)).collect();
        return output.json(&json!({ "pipeline": project.pipeline().name, "cache": shown(&cache), "stages": stages }));
    }
    let mut table = Table::new(&["stage", "state", "accuracy", "on disk"]);
    let mut explained = Vec::new();
    for look in project.nodes() {
        let record = look.found.map(|found| &found.record);
        let (word, mut reasons) = state(&look, graph);
        reasons.extend(project.refuse_another_pipeline(&look).err().map(|refused| refused.to_string()));
        table.row([
            look.node.title(),
            word.to_string(),
            wording::percent(record.and_then(Record::accuracy)),
            record.map_or("-".into(), |record| wording::bytes(record.stored_bytes())),
        ]);
        if cache.join(&look.node.id) != look.folder.path() {
            explained.push(format!("{}: in `{}`\n", look.node.title(), look.folder.path().display()));
        }
        if args.why {
            explained.push(format!("{}: {word}\n", look.node.title()));
            let lines = reasons.into_iter().chain(background(&look));
            explained.extend(lines.map(|line| format!("  {line}\n")));
        } else {
            explained.extend(reasons.into_iter().map(|reason| format!("{}: {reason}\n", look.node.title())));
        }
    }
    output.text(&table.text())?;
    let probes = probe_table(project.nodes().filter_map(|look| look.found).map(|found| &found.record));
    if !probes.is_empty() {
        output.text(&format!("\n{probes}"))?;
    }
    if explained.is_empty() { Ok(()) } else { output.text(&format!("\n{}", explained.concat())) }
}

/// The graph, each node with its state.
fn graph_text(project: &Project, form: GraphForm, output: &mut Output) -> Result<()> {
    let graph = project.graph();
    let states: Vec<String> = project.nodes().map(|look| state(&look, graph).0.to_string()).collect();
    match form {
        GraphForm::Dot => output.text(&graph.dot(&project.pipeline().name, &states)),
        GraphForm::Text => {
            let mut table = Table::new(&["node", "state", "made of"]);
            for (node, state) in graph.nodes().iter().zip(states) {
                let inputs: Vec<&str> = node.inputs.iter().map(|&input| graph.nodes()[input].id.as_str()).collect();
                let inputs = if inputs.is_empty() { "image files".into() } else { inputs.join(", ") };
                table.row([node.id.clone(), state, inputs]);
            }
            output.text(&table.text())
        }
    }
}

fn look_json(look: &Look<'_>, graph: &Graph) -> Value {
    let (word, reasons) = state(look, graph);
    json!({
        "node": look.node.id,
        "kind": look.node.kind.word(),
        "stage": look.node.stage,
        "folder": shown(look.folder.path()),
        "state": word,
        "why": reasons,
        "record": look.found.map(|found| stage_json(&found.record)),
    })
}

/// The state of a stage in one word, and the reasons behind it.
pub(super) fn state(look: &Look<'_>, graph: &Graph) -> (&'static str, Vec<String>) {
    match look.trouble {
        Some(trouble) => {
            let hint = trouble.hint_text().map(|hint| format!("hint: {hint}"));
            ("trouble", std::iter::once(trouble.to_string()).chain(hint).collect())
        }
        None => wording::verdict(look.verdict, graph),
    }
}

/// What `--why` adds: what the state rests on, where no reason says it.
fn background(look: &Look<'_>) -> Vec<String> {
    let folder = look.folder.path().display();
    let Some(record) = look.found.map(|found| &found.record) else {
        return match look.trouble {
            Some(_) => Vec::new(),
            None => vec![format!("there is no `{folder}/record.json`")],
        };
    };
    let settings = record.manifest.len();
    let mut lines = match look.verdict {
        Verdict::Current if look.trouble.is_none() => vec![
            format!("the {settings} values it depends on are those it was made with (key {:.12})", record.key),
            "all its files are there, with their recorded lengths".into(),
        ],
        Verdict::Waiting(_) => vec!["whether it then is current depends on what comes out there".into()],
        _ => Vec::new(),
    };
    if let Some(parent) = record.parent() {
        lines.push(format!("made of the output {:.12} of `{}`", parent.output, parent.folder));
    }
    if let Some(output) = &record.output {
        lines.push(format!("its own output is {output:.12}"));
    }
    let made = &record.made_on;
    lines.push(format!(
        "made on {} with {} by greedy {}",
        made.device,
        counted(made.threads as u64, "thread"),
        made.version
    ));
    lines
}
