//! Work that is asked of a GPU over and over: its launches are recorded once, as a CUDA graph, and from then on asked for at
//! once, which costs the host next to nothing.

use super::engine::{Engine, engine};
use super::gpu::Pointer;
use super::memory::{self, Lease, Store};
use super::pointers::{in_place, with_pointers};
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{result, sys};
use candle_core::{DType, Result, Tensor, bail};
use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};

/// Recordings that are kept at most: of full and of last batches, at the few places where batches come to lie.
const MOST: usize = 8;
/// How often it is tried to record the same.
const TRIES: usize = 4;

/// Held for writing while launches are recorded: what other threads ask of the GPU meanwhile would be recorded too.
static RECORDING: RwLock<()> = RwLock::new(());

/// As [`ops::aside`].
pub(crate) fn aside<T>(f: impl FnOnce() -> T) -> T {
    let _held = RECORDING.read().unwrap_or_else(PoisonError::into_inner);
    f()
}

/// Recordings of one piece of work on batches of one kind.
pub(crate) struct Recordings<T> {
    /// What the work depends on beside its input and what lies on the GPU.
    setting: u64,
    all: HashMap<Input, State<T>>,
}

/// Where an input lies, its sizes and its type: a recording is of no other.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Input(u64, Vec<usize>, DType);

enum State<T> {
    /// Such an input was met so often, without being recorded: all that is made but once is there.
    Met(usize),
    Recorded(Recording<T>),
}

struct Recording<T> {
    graph: Graph,
    /// The labels that are read.
    labels: Tensor,
    /// The results, which every run writes anew.
    results: T,
    /// The memory that it works in.
    lease: Lease,
}

/// A graph that can be launched.
struct Graph(sys::CUgraphExec);

// SAFETY: the driver lets any thread launch a graph, one at a time; so do those who have this.
unsafe impl Send for Graph {}

impl<T> Default for Recordings<T> {
    fn default() -> Self {
        Self { setting: 0, all: HashMap::new() }
    }
}

impl<T: Clone> Recordings<T> {
    /// As [`ops::Repeated::run`]. The first time some input is met the work is done as it is; then it is recorded.
    pub fn run(
        &mut self,
        (x, labels): (&Tensor, &Tensor),
        setting: u64,
        work: impl Fn(&Tensor, &Tensor) -> Result<T>,
    ) -> Result<T> {
        if !memory::is_kept() || !x.is_contiguous() || !labels.is_contiguous() {
            return work(x, labels);
        }
        let engine = engine(x.device())?;
        if self.setting != setting || self.all.len() > MOST {
            self.all.clear();
            self.setting = setting;
        }
        let place = with_pointers(&engine, [x], |[place]| Ok(place.0))?;
        let input = Input(place, x.dims().to_vec(), x.dtype());
        let met = match self.all.get(&input) {
            Some(State::Recorded(recording)) if recording.replay(&engine, labels)? => {
                return Ok(recording.results.clone());
            }
            Some(State::Met(met)) => *met,
            // Its memory was given back.
            Some(State::Recorded(_)) => 1,
            None => 0,
        };
        if (1..TRIES).contains(&met)
            && let Ok(recording) = record(&engine, (x, labels), &work)
            && recording.replay(&engine, labels)?
        {
            let results = recording.results.clone();
            self.all.insert(input, State::Recorded(recording));
            return Ok(results);
        }
        // Nothing of it was run yet. Where memory was all that was missing, it is there from now on.
        self.all.insert(input, State::Met(met + 1));
        memory::within(Store::Recorded, || work(x, labels))
    }
}

/// Records what work asks for on an input at its place and labels at a place of their own.
fn record<T>(
    engine: &Engine,
    (x, labels): (&Tensor, &Tensor),
    work: impl Fn(&Tensor, &Tensor) -> Result<T>,
) -> Result<Recording<T>> {
    let (stream, labels) = (engine.device.cuda_stream(), labels.copy()?);
    let lease = memory::lease();
    stream.context().bind_to_thread().w()?;
    let _alone = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    // SAFETY: the stream lives as long as its device.
    unsafe { result::stream::begin_capture(stream.cu_stream(), mode) }.w()?;
    let results = memory::within(Store::RecordedOnly, || work(x, &labels));
    // SAFETY: as before. It ends also where the work failed.
    let graph = unsafe { result::stream::end_capture(stream.cu_stream()) }.w()?;
    if graph.is_null() {
        bail!("the launches were not recorded")
    }
    let mut ready = std::ptr::null_mut();
    // SAFETY: the graph was just made, and is not used once it is destroyed.
    let made = unsafe {
        let made = sys::cuGraphInstantiateWithFlags(&mut ready, graph, 0).result();
        result::graph::destroy(graph).w()?;
        made
    };
    made.w()?;
    Ok(Recording { graph: Graph(ready), labels, results: results?, lease })
}

impl<T> Recording<T> {
    /// Runs it for other labels, unless its memory was given back.
    fn replay(&self, engine: &Engine, labels: &Tensor) -> Result<bool> {
        let stream = engine.device.cuda_stream();
        stream.context().bind_to_thread().w()?;
        let bytes = labels.elem_count() * labels.dtype().size_in_bytes();
        let launched = self.lease.hold(|| {
            with_pointers(engine, [labels], |[Pointer(from)]| {
                in_place(&self.labels, "labels", |Pointer(to)| {
                    // SAFETY: as many bytes on both sides, on the one stream.
                    unsafe { result::memcpy_dtod_async(to, from, bytes, stream.cu_stream()) }.w()
                })
            })?;
            // SAFETY: what the graph reads and writes is there: weights and results are held by those who have them, the
            // input by the caller, the rest is leased.
            unsafe { result::graph::launch(self.graph.0, stream.cu_stream()) }.w()
        });
        launched.transpose().map(|launched| launched.is_some())
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: nobody has it any more; the driver waits for what still runs of it. One that fails has lost it anyway.
        let _ = unsafe { result::graph::exec_destroy(self.0) };
    }
}
