//! Filling the network from weight files: the two frozen encoders, or the whole network.
//!
//! Loading is strict. Every tensor to be filled must be in the file, unless [`Strictness`] allows it to be missing, and every
//! tensor of the file must belong to the network. Half-precision files are converted to the network's dtype, which never
//! changes. Tensors are read one at a time.

mod encoder;
mod network;
mod peft;
mod report;

pub use encoder::{Encoder, fill_encoder, load_encoder};
pub use network::{load_network, official_names};
pub use peft::{PeftFolder, peft_tensors};
pub use report::{Cast, LoadReport, Strictness};

use tch::{Kind, Tensor};
use weight_files::{Element, Step, TensorInfo, WeightFile};

/// Why weights could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] weight_files::Error),
    /// The file does not fill this network.
    #[error("{path}: {report}")]
    Mismatch {
        /// The file.
        path: String,
        /// Everything that does not match.
        report: Box<LoadReport>,
    },
    /// The network in the file has a different architecture.
    #[error("{path}: {what}")]
    Different {
        /// The file.
        path: String,
        /// How it differs.
        what: String,
    },
    /// libtorch rejected a tensor.
    #[error("tensor `{name}`: {source}")]
    Torch {
        /// Name of the tensor.
        name: String,
        /// Error from libtorch.
        source: tch::TchError,
    },
}

/// Reads a tensor of a weight file.
///
/// # Errors
/// When the file has no tensor of this name or cannot be read.
pub fn read_tensor(file: &mut WeightFile, name: &str) -> Result<Tensor, WeightsError> {
    let bytes = file.read(name)?;
    let info =
        file.info(name).cloned().unwrap_or(TensorInfo { element: Element::U8, shape: vec![bytes.len()] });
    let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
    Tensor::f_from_data_size(&bytes, &shape, kind(info.element))
        .map_err(|source| WeightsError::Torch { name: name.to_owned(), source })
}

/// Copies one stored tensor into the network. Returns false, with an entry in the report, if the shape differs.
///
/// - stored: name in the file, and the step that turns it into the network's tensor `name` or a third of it
fn fill(
    file: &mut WeightFile,
    (stored, step): (&str, Step),
    name: &str,
    target: &Tensor,
    report: &mut LoadReport,
) -> Result<bool, WeightsError> {
    let Some(info) = file.info(stored).cloned() else { return Ok(false) };
    let mut place = match step {
        Step::Third(index) => {
            let rows = target.size()[0] / 3;
            target.narrow(0, index as i64 * rows, rows)
        }
        Step::Copy | Step::Transpose => target.shallow_clone(),
        // Without the class token's row there is one row less.
        Step::Positions if info.shape.get(1).is_some_and(|&n| n as i64 + 1 == target.size()[1]) => {
            tch::no_grad(|| drop(target.narrow(1, 0, 1).zero_()));
            target.narrow(1, 1, target.size()[1] - 1)
        }
        Step::Positions => target.shallow_clone(),
    };
    let mut expected = place.size();
    if step == Step::Transpose {
        expected.reverse();
    }
    if !info.shape.iter().map(|&n| n as i64).eq(expected.iter().copied()) {
        report.mismatched.push((name.to_owned(), info.shape, expected));
        return Ok(false);
    }
    let mut value = read_tensor(file, stored)?;
    if place.is_floating_point() && !value.is_floating_point() {
        return Err(WeightsError::Different {
            path: file.path().display().to_string(),
            what: format!(
                "`{stored}` holds whole numbers ({:?}): quantised weights are not read",
                value.kind()
            ),
        });
    }
    if value.kind() != place.kind() {
        let cast = Cast { from: info.element, to: format!("{:?}", place.kind()) };
        *report.casts.entry(cast).or_default() += 1;
    }
    if step == Step::Transpose {
        value = value.transpose(0, 1);
    }
    tch::no_grad(|| place.copy_(&value));
    Ok(true)
}

fn kind(element: Element) -> Kind {
    match element {
        Element::F16 => Kind::Half,
        Element::BF16 => Kind::BFloat16,
        Element::F32 => Kind::Float,
        Element::F64 => Kind::Double,
        Element::I8 => Kind::Int8,
        Element::I16 => Kind::Int16,
        Element::I32 => Kind::Int,
        Element::I64 => Kind::Int64,
        Element::U8 => Kind::Uint8,
        Element::Bool => Kind::Bool,
    }
}
