//! HAND ON: networks and features in forms that other programs read: safetensors, ONNX, TensorBoard and its projector; and
//! pipelines in forms that engines for clusters run.

mod events;
mod kubernetes;
mod onnx;
mod onnx_graph;
mod projector;
mod protobuf;
mod slurm;
mod snakemake;
mod weights;
mod workflow;

pub use events::{events_folder, write_events};
pub use kubernetes::kubernetes_jobs;
pub use onnx::OnnxModel;
pub use projector::{Projection, projector_files, write_projector};
pub use slurm::slurm_script;
pub use snakemake::snakefile;
pub use weights::Exported;
pub use workflow::{Commands, Limits, Predicted, Step, Workflow};
