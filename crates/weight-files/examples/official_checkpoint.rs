//! Lists the tensors of an official checkpoint (`best_model.pth`) or any other weight file: names, shapes, norms.
//! `cargo run --release --package weight-files --example official_checkpoint -- best_model.pth`
#![allow(clippy::print_stdout, missing_docs)]

use std::path::PathBuf;

use weight_files::{Element, WeightFile};

/// Values of a tensor as float64; `None` for dtypes that this example does not know.
fn values(element: Element, bytes: &[u8]) -> Option<Vec<f64>> {
    Some(match element {
        Element::F32 => bytes.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
        Element::F64 => bytes.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
        Element::I64 => bytes.as_chunks().0.iter().map(|&b| i64::from_le_bytes(b) as f64).collect(),
        _ => return None,
    })
}

fn main() -> anyhow::Result<()> {
    let Some(path) = std::env::args_os().nth(1).map(PathBuf::from) else {
        anyhow::bail!("name a weight file: .pth, .pt, .safetensors, or a folder of Hugging Face's");
    };
    let mut file = WeightFile::open(&path)?;
    for (name, scalar) in file.scalars() {
        println!("{name} = {scalar:?}");
    }
    let tensors: Vec<_> = file.tensors().map(|(name, info)| (name.to_owned(), info.clone())).collect();
    for (name, info) in &tensors {
        // One tensor is in memory at a time.
        let norm = values(info.element, &file.read(name)?)
            .map(|values| values.iter().map(|value| value * value).sum::<f64>().sqrt());
        println!("{name} {:?} {:?}, norm {norm:?}", info.element, info.shape);
    }
    println!("{} tensors", tensors.len());
    Ok(())
}
