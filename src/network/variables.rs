//! Named variables, and safetensors files of them.

use crate::error::{Error, Result};
use candle_core::{DType, Device, Tensor, Var};
use half::{bf16, f16};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::collections::HashMap;

/// What a variable is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Learned by gradient descent.
    Parameter,
    /// Gathered from the batches: running mean and variance.
    Statistic,
    /// Drawn once, and never changed: what carries gradients back.
    Feedback,
}

/// Variables of a network with their names, in a fixed order.
#[derive(Clone, Default)]
pub struct Variables {
    all: Vec<(String, Role, Var)>,
}

impl Variables {
    pub(super) fn add(&mut self, name: String, role: Role, variable: &Var) {
        self.all.push((name, role, variable.clone()));
    }

    /// Adds those of another network, whose names are others.
    pub fn append(&mut self, other: Self) {
        self.all.extend(other.all);
    }

    /// The same variables with `prefix.` before their names.
    pub fn under(mut self, prefix: &str) -> Self {
        self.all.iter_mut().for_each(|(name, _, _)| *name = format!("{prefix}.{name}"));
        self
    }

    /// All, with their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.all.iter().map(|(name, _, variable)| (name.as_str(), variable))
    }

    /// Those that gradient descent changes.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Var)> {
        self.all.iter().filter(|(_, role, _)| *role == Role::Parameter).map(|(name, _, var)| (name.as_str(), var))
    }

    /// How many values gradient descent changes.
    pub fn parameter_count(&self) -> usize {
        self.parameters().map(|(_, variable)| variable.elem_count()).sum()
    }

    /// Names and values.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        self.iter().map(|(name, variable)| (name.to_string(), variable.as_detached_tensor())).collect()
    }

    /// Sets all variables from tensors of the same names and shapes; `origin` is what errors call their source.
    ///
    /// # Errors
    /// When one is missing or has another shape. Nothing is changed then.
    pub fn set(&self, tensors: &HashMap<String, Tensor>, origin: &str) -> Result<()> {
        let find = |(name, variable): (&str, &Var)| {
            let tensor =
                tensors.get(name).ok_or_else(|| Error::failed(format!("`{origin}` holds no tensor `{name}`")))?;
            if tensor.shape() != variable.shape() {
                let (found, wanted) = (tensor.dims(), variable.dims());
                return Err(Error::failed(format!("`{name}` in `{origin}` is {found:?}, not {wanted:?}")));
            }
            Ok((variable.clone(), tensor.clone()))
        };
        let found: Vec<(Var, Tensor)> = self.iter().map(find).collect::<Result<_>>()?;
        for (variable, tensor) in found {
            variable.set(&tensor)?;
        }
        Ok(())
    }
}

/// A safetensors file of f32 tensors, as bytes; a note (its name and text) goes into the header. The same input gives
/// the same bytes, which is why there is one note at most: several would be stored in the order of a hash table.
///
/// # Errors
/// When a tensor cannot be read.
pub fn save_bytes(tensors: &[(String, Tensor)], note: Option<(&str, String)>) -> Result<Vec<u8>> {
    let mut data: Vec<(&str, Vec<usize>, Vec<u8>)> = Vec::with_capacity(tensors.len());
    for (name, tensor) in tensors {
        let values: Vec<f32> = tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        data.push((name, tensor.dims().to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }
    let fault = |e| Error::failed(format!("cannot store weights: {e}"));
    let views = data
        .iter()
        .map(|(name, shape, bytes)| Ok((*name, TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<std::result::Result<Vec<_>, safetensors::SafeTensorError>>()
        .map_err(fault)?;
    let note = note.map(|(name, text)| HashMap::from([(name.to_string(), text)]));
    safetensors::serialize(views, note).map_err(fault)
}

/// The f32 tensors of a safetensors file, from its bytes; `origin` is what errors call it.
///
/// # Errors
/// When the bytes are no such file, or hold anything but f32 tensors.
pub fn load(bytes: &[u8], origin: &str, device: &Device) -> Result<HashMap<String, Tensor>> {
    let file = SafeTensors::deserialize(bytes)
        .map_err(|e| Error::failed(format!("`{origin}` is no whole safetensors file: {e}")))?;
    let mut tensors = HashMap::new();
    for (name, view) in file.tensors() {
        if view.dtype() != Dtype::F32 {
            return Err(Error::failed(format!("`{name}` in `{origin}` is {:?}, not F32", view.dtype())));
        }
        let tensor = tensor_of(&name, &view, view.shape(), origin)?.to_device(device)?;
        tensors.insert(name, tensor);
    }
    Ok(tensors)
}

/// A tensor of a file in single precision, with these dimensions, which have as many values.
///
/// # Errors
/// When it is of a type that stands for no weights.
pub(super) fn tensor_of(name: &str, view: &TensorView<'_>, shape: &[usize], origin: &str) -> Result<Tensor> {
    let bytes = view.data();
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect(),
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        other => return Err(Error::usage(format!("`{name}` in `{origin}` is {other:?}, no type of weights"))),
    };
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
