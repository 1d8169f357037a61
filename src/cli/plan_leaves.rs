//! What `greedy plan` says of nodes that are made of stages: probes, the ensemble, a classifier in the place of the last.

use super::plan_table::{Plan, said};
use super::table::{TERMINAL, Table};
use super::wording::{bytes, seconds};
use crate::pipeline::{Estimate, Memory, Node, ProbeKind, footprint};
use crate::run::Record;
use serde_json::{Value, json};

/// What is predicted of a probe, the ensemble or a classifier in the place of the last.
pub(super) struct LeafRow {
    node: String,
    fed: String,
    samples: usize,
    values: usize,
    bytes: u64,
    seconds: f64,
    actual: Option<f64>,
    memory: Option<Memory>,
}

impl LeafRow {
    pub(super) fn json(&self) -> Value {
        json!({
            "node": self.node, "fed_by": self.fed, "samples": self.samples, "values_of_each": self.values, "bytes": self.bytes,
            "seconds": self.seconds, "actual_seconds": self.actual, "host_bytes": self.memory.map(|memory| memory.host),
            "device_bytes": self.memory.map(|memory| memory.device),
        })
    }
}

impl Plan<'_> {
    /// What says something about stages: probes and the ensemble; nothing where there are none.
    pub(super) fn leaves(&self) -> String {
        let all = self.leaf_rows();
        if all.is_empty() {
            return String::new();
        }
        let mut table = Table::new(&[
            "measured",
            "fed by",
            "samples",
            "values of each",
            "on disk",
            "in all",
            "actual",
            "host",
            "device",
        ]);
        for row in all {
            let mut cells = vec![row.node, row.fed, row.samples.to_string(), row.values.to_string(), bytes(row.bytes)];
            cells.extend([seconds(row.seconds), row.actual.map_or("-".into(), seconds)]);
            cells.extend(row.memory.map_or(["-".into(), "-".into()], said));
            table.row(cells);
        }
        table.folded(TERMINAL)
    }

    pub(super) fn leaf_rows(&self) -> Vec<LeafRow> {
        let (estimate, pipeline) = (&self.estimate, self.estimate.pipeline);
        let size = (estimate.images, self.classes, estimate.machine.processor);
        let mut rows = Vec::new();
        if pipeline.ensemble.is_some() {
            rows.push(LeafRow {
                node: Node::ENSEMBLE.into(),
                fed: "logits".into(),
                samples: estimate.images[1],
                values: self.classes,
                bytes: estimate.ensemble_bytes(self.classes),
                seconds: estimate.ensemble(self.classes),
                actual: self.ensemble.map(Record::total_seconds),
                memory: None,
            });
        }
        for (at, (probed, record)) in pipeline.probed().zip(&self.probes).enumerate() {
            let from = Estimate::fed_from(probed.stage, &self.cached);
            let learned = probed.learns_from(estimate.images[0]);
            let iterations = record.and_then(|record| record.measures.get("iterations").copied());
            rows.push(LeafRow {
                node: probed.probe.id(probed.stage),
                fed: if from == 0 { "images".into() } else { from.to_string() },
                samples: if learned > 0 { learned } else { estimate.images[1] },
                values: probed.width(),
                bytes: match &probed.probe.kind {
                    ProbeKind::Classifier { layers, .. } => (layers.weights(self.classes) * footprint::VALUE) as u64,
                    _ => 0,
                },
                seconds: estimate.probe(at, from, iterations),
                actual: record.map(Record::total_seconds),
                memory: Some(Memory::of_probe(pipeline, &probed, from, size)),
            });
        }
        rows
    }
}
