//! cuDNN's convolutions of feature maps in NHWC order, and their gradients.

use super::gpu::{Element, Gpu, Pointer};
use super::learning::Weights;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::cudnn::{CudnnError, result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use candle_core::{Error, Result, bail};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::sync::Arc;

/// Bytes of working memory that an algorithm may take where there are others.
const WORKSPACE: usize = 1 << 30;
/// Algorithms that cuDNN is asked to name.
const ALGORITHMS: usize = 16;

/// Which of the three convolutions of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Pass {
    /// Maps and weights → sums.
    Forward,
    /// Weights and the gradient of the sums → that of the maps.
    Input,
    /// Maps and the gradient of the sums → that of the weights.
    Weight,
}

/// A convolution: what an algorithm is chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub pass: Pass,
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub weights: Weights,
    pub stride: usize,
    pub padding: usize,
    pub element: Element,
}

/// cuDNN, and what was chosen for each shape that was met.
pub(super) struct Convolutions {
    handle: sys::cudnnHandle_t,
    stream: Arc<CudaStream>,
    plans: HashMap<Shape, Plan>,
    /// Whether gradients may have other bits at every run.
    fast: bool,
}

// SAFETY: cuDNN lets any thread use a handle, one at a time; so do those who have this by `&mut`.
unsafe impl Send for Convolutions {}

/// The descriptors of a shape. They stay for as long as the program runs.
#[derive(Clone, Copy)]
struct Descriptors {
    maps: sys::cudnnTensorDescriptor_t,
    sums: sys::cudnnTensorDescriptor_t,
    weights: sys::cudnnFilterDescriptor_t,
    convolution: sys::cudnnConvolutionDescriptor_t,
}

/// How a shape is computed: the best way first. What turns out to be refused is taken away, as cuDNN also names
/// algorithms that cannot be used.
struct Plan {
    descriptors: Descriptors,
    ways: Vec<Way>,
}

/// An algorithm, its arithmetic, and the memory that it works in.
#[derive(Clone, Copy)]
struct Way {
    algorithm: Algorithm,
    math: sys::cudnnMathType_t,
    workspace: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Forward(sys::cudnnConvolutionFwdAlgo_t),
    Input(sys::cudnnConvolutionBwdDataAlgo_t),
    Weight(sys::cudnnConvolutionBwdFilterAlgo_t),
}

/// An algorithm that cuDNN names.
struct Candidate {
    algorithm: Algorithm,
    works: bool,
    same_bits: bool,
    math: sys::cudnnMathType_t,
}

impl Convolutions {
    /// Starts cuDNN on a stream. With `fast` gradients may have other bits at every run; what is computed forward, and
    /// with it the features of a network, never has.
    pub fn new(stream: Arc<CudaStream>, fast: bool) -> Result<Self> {
        stream.context().bind_to_thread().w()?;
        let handle = result::create_handle().map_err(|e| fault("cuDNN cannot be started", e))?;
        // SAFETY: both are alive.
        unsafe { result::set_stream(handle, stream.cu_stream().cast()) }
            .map_err(|e| fault("cuDNN has no stream", e))?;
        Ok(Self { handle, stream, plans: HashMap::new(), fast })
    }

    /// Whether gradients may have other bits at every run.
    pub fn is_fast(&self) -> bool {
        self.fast
    }

    /// Runs a convolution: from two tensors, in the order of [`Pass`], to the third.
    ///
    /// # Safety
    /// The pointers lead to as many values as the shape says, of its type, aligned to 16 bytes.
    pub unsafe fn run(
        &mut self,
        gpu: &impl Gpu,
        shape: Shape,
        [first, second]: [Pointer; 2],
        to: Pointer,
    ) -> Result<()> {
        self.stream.context().bind_to_thread().w()?;
        let plan = match self.plans.entry(shape) {
            Entry::Occupied(plan) => plan.into_mut(),
            Entry::Vacant(place) => {
                let of_all = self.fast && shape.pass != Pass::Forward;
                place.insert(
                    plan(self.handle, shape, of_all).map_err(|e| fault(&format!("cuDNN cannot do {shape:?}"), e))?,
                )
            }
        };
        let mut refused = None;
        while let Some(&way) = plan.ways.first() {
            let memory = (way.workspace > 0).then(|| gpu.reserve(way.workspace)).transpose()?;
            let space = memory.as_ref().map_or(Pointer(0), |memory| gpu.pointer(memory));
            // SAFETY: the caller's promise, and a workspace as large as was asked for.
            match unsafe { way.run(self.handle, &plan.descriptors, [first, second, to, space]) } {
                Ok(()) => return Ok(()),
                Err(e) => refused = Some(e),
            }
            // The last one stays, so that its error is told again.
            if plan.ways.len() == 1 {
                break;
            }
            plan.ways.remove(0);
        }
        match refused {
            Some(e) => Err(fault(&format!("cuDNN failed at {shape:?}"), e)),
            None => bail!("cuDNN has no way of doing {shape:?} that gives the same bits at every run"),
        }
    }
}

impl Way {
    /// # Safety
    /// As of [`Convolutions::run`]; the last pointer leads to the workspace.
    unsafe fn run(
        self,
        handle: sys::cudnnHandle_t,
        descriptors: &Descriptors,
        [first, second, to, space]: [Pointer; 4],
    ) -> std::result::Result<(), CudnnError> {
        let &Descriptors { maps, sums, weights, convolution } = descriptors;
        let (one, zero) = ((&raw const ONE).cast(), (&raw const ZERO).cast());
        let (first, second, to) = (pointer(first).cast_const(), pointer(second).cast_const(), pointer(to));
        let (of, space, bytes) = (convolution, pointer(space), self.workspace);
        // SAFETY: the descriptors tell the sizes that the caller promises.
        unsafe {
            result::set_convolution_math_type(of, self.math)?;
            match self.algorithm {
                Algorithm::Forward(way) => result::convolution_forward(
                    handle, one, maps, first, weights, second, of, way, space, bytes, zero, sums, to,
                ),
                Algorithm::Input(way) => result::convolution_backward_data(
                    handle, one, weights, first, sums, second, of, way, space, bytes, zero, maps, to,
                ),
                Algorithm::Weight(way) => result::convolution_backward_filter(
                    handle, one, maps, first, sums, second, of, way, space, bytes, zero, weights, to,
                ),
            }
        }
    }

    /// The bytes that an algorithm works in with the arithmetic that the convolution is set to.
    ///
    /// # Safety
    /// Handle and descriptors are alive.
    unsafe fn workspace(
        algorithm: Algorithm,
        handle: sys::cudnnHandle_t,
        &Descriptors { maps, sums, weights, convolution: of }: &Descriptors,
    ) -> std::result::Result<usize, CudnnError> {
        // SAFETY: the caller's promise.
        unsafe {
            match algorithm {
                Algorithm::Forward(way) => {
                    result::get_convolution_forward_workspace_size(handle, maps, weights, of, sums, way)
                }
                Algorithm::Input(way) => {
                    result::get_convolution_backward_data_workspace_size(handle, weights, sums, of, maps, way)
                }
                Algorithm::Weight(way) => {
                    result::get_convolution_backward_filter_workspace_size(handle, maps, sums, of, weights, way)
                }
            }
        }
    }
}

/// The factors of result and former content; f32 for all types.
static ONE: f32 = 1.0;
static ZERO: f32 = 0.0;

fn pointer(Pointer(address): Pointer) -> *mut c_void {
    address as *mut c_void
}

fn fault(what: &str, error: CudnnError) -> Error {
    Error::msg(format!("{what}: {error}"))
}

/// Describes a shape to cuDNN and orders the ways of computing it: the fastest by its own judgement of those that give
/// the same bits at every run, or of all; and last the one that is always there.
fn plan(handle: sys::cudnnHandle_t, shape: Shape, of_all: bool) -> std::result::Result<Plan, CudnnError> {
    let Shape { pass, batch, height, width, weights, stride, padding, element } = shape;
    let Weights { outputs, inputs, kernel } = weights;
    let out = |size: usize| (size + 2 * padding - kernel) / stride + 1;
    let descriptors = Descriptors {
        maps: tensor(element, [batch, inputs, height, width])?,
        sums: tensor(element, [batch, outputs, out(height), out(width)])?,
        weights: filter(element, [outputs, inputs, kernel, kernel])?,
        convolution: convolution(element, stride, padding)?,
    };
    let found = candidates(handle, pass, &descriptors)?;
    // f32 is never rounded to fewer bits first, whatever cuDNN proposes.
    let exact = |found: &Candidate| element == Element::Bf16 || found.math == own_math(element);
    let usable = |found: &Candidate| found.works && (of_all || found.same_bits) && exact(found);
    let named = found.iter().filter(|found| usable(found)).map(|found| (found.algorithm, found.math));
    let last = (pass.last_resort(), own_math(element));
    let mut ways: Vec<Way> = Vec::new();
    for (is_last, (algorithm, math)) in named.map(|way| (false, way)).chain([(true, last)]) {
        if ways.iter().any(|way| way.algorithm == algorithm && way.math == math) {
            continue;
        }
        // SAFETY: handle and descriptors are alive.
        let workspace = unsafe {
            result::set_convolution_math_type(descriptors.convolution, math)?;
            Way::workspace(algorithm, handle, &descriptors)
        };
        // What is always there may take more, or there would be nothing for large maps.
        if let Ok(workspace) = workspace
            && (workspace <= WORKSPACE || (is_last && ways.is_empty()))
        {
            ways.push(Way { algorithm, math, workspace });
        }
    }
    Ok(Plan { descriptors, ways })
}

impl Pass {
    /// What computes every shape, with the same bits at every run.
    fn last_resort(self) -> Algorithm {
        match self {
            Self::Forward => {
                Algorithm::Forward(sys::cudnnConvolutionFwdAlgo_t::CUDNN_CONVOLUTION_FWD_ALGO_IMPLICIT_PRECOMP_GEMM)
            }
            Self::Input => Algorithm::Input(sys::cudnnConvolutionBwdDataAlgo_t::CUDNN_CONVOLUTION_BWD_DATA_ALGO_1),
            Self::Weight => {
                Algorithm::Weight(sys::cudnnConvolutionBwdFilterAlgo_t::CUDNN_CONVOLUTION_BWD_FILTER_ALGO_1)
            }
        }
    }
}

/// bf16 is multiplied on tensor cores, f32 without rounding to fewer bits first.
fn own_math(element: Element) -> sys::cudnnMathType_t {
    match element {
        Element::F32 => sys::cudnnMathType_t::CUDNN_FMA_MATH,
        Element::Bf16 => sys::cudnnMathType_t::CUDNN_TENSOR_OP_MATH,
    }
}

const NHWC: sys::cudnnTensorFormat_t = sys::cudnnTensorFormat_t::CUDNN_TENSOR_NHWC;

fn data_type(element: Element) -> sys::cudnnDataType_t {
    match element {
        Element::F32 => sys::cudnnDataType_t::CUDNN_DATA_FLOAT,
        Element::Bf16 => sys::cudnnDataType_t::CUDNN_DATA_BFLOAT16,
    }
}

/// Sizes in cuDNN's order (batch, channels, height, width), whatever the order in memory.
fn sizes(sizes: [usize; 4]) -> std::result::Result<[c_int; 4], CudnnError> {
    let too_large = CudnnError(sys::cudnnStatus_t::CUDNN_STATUS_NOT_SUPPORTED);
    let mut all = [0; 4];
    for (out, size) in all.iter_mut().zip(sizes) {
        *out = c_int::try_from(size).map_err(|_| too_large)?;
    }
    Ok(all)
}

fn tensor(element: Element, of: [usize; 4]) -> std::result::Result<sys::cudnnTensorDescriptor_t, CudnnError> {
    let (of, made) = (sizes(of)?, result::create_tensor_descriptor()?);
    // SAFETY: it was just made.
    unsafe { result::set_tensor4d_descriptor(made, NHWC, data_type(element), of) }.map(|()| made)
}

fn filter(element: Element, of: [usize; 4]) -> std::result::Result<sys::cudnnFilterDescriptor_t, CudnnError> {
    let (of, made) = (sizes(of)?, result::create_filter_descriptor()?);
    // SAFETY: it was just made.
    unsafe { result::set_filter4d_descriptor(made, data_type(element), NHWC, of) }.map(|()| made)
}

/// Sums are f32 for all types.
fn convolution(
    element: Element,
    stride: usize,
    padding: usize,
) -> std::result::Result<sys::cudnnConvolutionDescriptor_t, CudnnError> {
    let ([stride, padding, ..], made) = (sizes([stride, padding, 0, 0])?, result::create_convolution_descriptor()?);
    let (mode, sums) = (sys::cudnnConvolutionMode_t::CUDNN_CROSS_CORRELATION, sys::cudnnDataType_t::CUDNN_DATA_FLOAT);
    // SAFETY: it was just made.
    unsafe {
        result::set_convolution2d_descriptor(made, padding, padding, stride, stride, 1, 1, mode, sums)?;
        result::set_convolution_math_type(made, own_math(element))?;
    }
    Ok(made)
}

/// What cuDNN proposes for a pass, best first.
fn candidates(
    handle: sys::cudnnHandle_t,
    pass: Pass,
    descriptors: &Descriptors,
) -> std::result::Result<Vec<Candidate>, CudnnError> {
    let Descriptors { maps, sums, weights, convolution } = *descriptors;
    macro_rules! ask {
        ($way:ident, $found:ident, $ask:ident, $($of:ident),+) => {
            list(
                Algorithm::$way,
                |found: &sys::$found| (found.algo, found.status, found.determinism, found.mathType),
                |count, all| result::$ask(handle, $($of,)+ ALGORITHMS as c_int, count, all),
            )
        };
    }
    // SAFETY: handle and descriptors are alive, and each list has room for as many results as are asked for.
    unsafe {
        match pass {
            Pass::Forward => ask!(
                Forward,
                cudnnConvolutionFwdAlgoPerf_t,
                get_convolution_forward_algorithm,
                maps,
                weights,
                convolution,
                sums
            ),
            Pass::Input => ask!(
                Input,
                cudnnConvolutionBwdDataAlgoPerf_t,
                get_convolution_backward_data_algorithm,
                weights,
                sums,
                convolution,
                maps
            ),
            Pass::Weight => ask!(
                Weight,
                cudnnConvolutionBwdFilterAlgoPerf_t,
                get_convolution_backward_filter_algorithm,
                maps,
                sums,
                convolution,
                weights
            ),
        }
    }
}

/// What is told of an algorithm: itself, whether it works, whether its bits are always the same, and its arithmetic.
type Told<A> = (A, sys::cudnnStatus_t, sys::cudnnDeterminism_t, sys::cudnnMathType_t);

/// Asks for a list of algorithms.
///
/// # Safety
/// `ask` writes as many results as it counts, [`ALGORITHMS`] at most.
unsafe fn list<P, A>(
    algorithm: impl Fn(A) -> Algorithm,
    told: impl Fn(&P) -> Told<A>,
    ask: impl FnOnce(*mut c_int, *mut P) -> std::result::Result<(), CudnnError>,
) -> std::result::Result<Vec<Candidate>, CudnnError> {
    let mut results: [MaybeUninit<P>; ALGORITHMS] = [const { MaybeUninit::uninit() }; ALGORITHMS];
    let mut count = 0;
    ask(&mut count, results.as_mut_ptr().cast())?;
    let found = results.iter().take(usize::try_from(count).unwrap_or(0));
    let candidate = |found: &MaybeUninit<P>| {
        // SAFETY: one of the results that were written.
        let (way, status, determinism, math) = told(unsafe { found.assume_init_ref() });
        Candidate {
            algorithm: algorithm(way),
            works: status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS,
            same_bits: determinism == sys::cudnnDeterminism_t::CUDNN_DETERMINISTIC,
            math,
        }
    };
    Ok(found.map(candidate).collect())
}
