//! HAND ON: networks and features in forms that other programs read: safetensors, ONNX, TensorBoard and its projector.

mod events;
mod onnx;
mod onnx_graph;
mod projector;
mod protobuf;
mod weights;

pub use events::{events_folder, write_events};
pub use onnx::OnnxModel;
pub use projector::{Projection, projector_files, write_projector};
pub use weights::Exported;
